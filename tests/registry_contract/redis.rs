//! What only the registry in Redis has: its weight, its round trips, and outages.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use redis::{AsyncCommands, aio::MultiplexedConnection};
use switchboard::{
    config::{Presence, RegistryTiming},
    connection::Connection,
    ending::Ending,
    registry::{
        Admission, Bar, EndTarget, Grant, LimitPolicy, RegistryError, UserLimit,
        keys::{Keys, Shards},
    },
};

use crate::redis_server::patient;

use super::home::{
    Home, LONG, Peer, Redis, RedisServer, all_of, entry, eventually, fleet, is_in, tally, timing,
};

const BROWSER: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";

const LIMIT: Option<UserLimit> = Some(UserLimit {
    max: 10,
    policy: LimitPolicy::EvictOldest,
    newcomers: 0,
});

pub(super) async fn raw(home: &Redis) -> MultiplexedConnection {
    patient(&home.client()).await.unwrap()
}

pub(super) async fn info(
    raw: &mut MultiplexedConnection,
    section: &str,
) -> HashMap<String, String> {
    let text: String = redis::cmd("INFO")
        .arg(section)
        .query_async(raw)
        .await
        .unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

pub(super) async fn reset_stats(raw: &mut MultiplexedConnection) {
    let mut reset = redis::cmd("CONFIG");
    let _: () = reset.arg("RESETSTAT").query_async(raw).await.unwrap();
}

/// How often a command was called, by `INFO commandstats`; none if not at all.
pub(super) fn calls(stats: &HashMap<String, String>, command: &str) -> Option<u64> {
    let stat = stats.get(&format!("cmdstat_{command}"))?;
    let calls = stat.strip_prefix("calls=")?.split(',').next()?;
    calls.parse().ok()
}

async fn used_memory(raw: &mut MultiplexedConnection) -> u64 {
    info(raw, "memory").await["used_memory"].parse().unwrap()
}

pub(super) async fn key_names(raw: &mut MultiplexedConnection) -> Vec<Vec<u8>> {
    redis::cmd("KEYS").arg("*").query_async(raw).await.unwrap()
}

#[tokio::test]
async fn a_connection_weighs_at_most_400_bytes() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    // Warm: scripts loaded, connections open, first entries in every shard.
    for n in 0..200 {
        a.connect(&format!("warm{n}")).await;
        b.connect(&format!("warm{n}")).await;
    }
    let mut raw = raw(&home).await;
    let before = used_memory(&mut raw).await;
    stream::iter(0..10_000_u32)
        .for_each_concurrent(50, |n| {
            let peer = [&a, &b][n as usize % 2];
            let connection = Connection {
                connected_at: Timestamp::now(),
                expires_at: Some(Timestamp::now() + Duration::from_secs(900)),
                // Two users of three have one connection, one of four names its device.
                device_id: (n % 4 == 0).then(|| format!("9b2fc0de-7c1e-4c39-9d5b-{n:012}")),
                remote_addr: Some(format!("203.0.{}.{}", n / 256 % 256, n % 256)),
                user_agent: Some(BROWSER.into()),
                rooms: Vec::new(),
                ..peer.connection(&format!("{:010}", n - u32::from(n % 3 == 2)))
            };
            let grant = Grant {
                issued_at: Some(connection.connected_at - Duration::from_secs(u64::from(n % 900))),
                token_id: Some(format!("6f1d8c1e-4f0a-4b8e-9a51-{n:012}")),
                // One of four, but not the ones with a device alone.
                session: (n % 4 == n / 4 % 4).then(|| format!("session-{n}").into()),
                ahead: None,
            };
            async move {
                let admission = peer.admit(&connection, &grant, LIMIT).await.unwrap();
                assert!(is_in(&admission));
            }
        })
        .await;
    let each = (used_memory(&mut raw).await - before) as f64 / 10_000.0;
    println!("{each:.1} bytes of Redis memory for each of 10,000 connections");
    assert!(each <= 400.0, "{each:.1} bytes");
}

/// A user who connects again and again is refused before its entries are read.
#[tokio::test]
async fn a_refusal_for_coming_too_often_costs_the_same_at_any_number() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    for _ in 0..255 {
        a.connect("42").await;
    }
    let limit = Some(UserLimit {
        max: 256,
        policy: LimitPolicy::Reject,
        newcomers: 1,
    });
    let mut raw = raw(&home).await;
    reset_stats(&mut raw).await;
    let admission = a.admit(&a.connection("42"), &Grant::default(), limit).await;
    assert!(is_in(&admission.unwrap()));
    println!(
        "admitted: {}",
        info(&mut raw, "commandstats").await["cmdstat_evalsha"]
    );
    reset_stats(&mut raw).await;
    for _ in 0..100 {
        let admission = a.admit(&a.connection("42"), &Grant::default(), limit).await;
        assert_eq!(admission.unwrap(), Admission::Refused(Bar::TooOften));
    }
    let stats = info(&mut raw, "commandstats").await;
    println!("refused: {}", stats["cmdstat_evalsha"]);
    assert_eq!(calls(&stats, "evalsha"), Some(100));
    // Each looks whether it is there already.
    assert_eq!(calls(&stats, "zrangebylex"), Some(100));
    for other in ["zlexcount", "zcard", "zadd"] {
        assert_eq!(calls(&stats, other), None, "{other}");
    }
}

#[tokio::test]
async fn registering_is_one_command() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    let limit = LIMIT.map(|limit| UserLimit { max: 2, ..limit });
    let grant = Grant {
        issued_at: Some(Timestamp::now()),
        token_id: Some("t".into()),
        session: Some("s".into()),
        ahead: None,
    };
    a.admit(&a.connection("42"), &grant, limit).await.unwrap();
    let mut raw = raw(&home).await;
    reset_stats(&mut raw).await;
    let mut made_room = 0;
    for n in 0..100 {
        let connection = a.connection(&format!("user{}", n % 30));
        let admission = a.admit(&connection, &grant, limit).await.unwrap();
        made_room += match admission {
            Admission::Admitted { evicted, .. } => evicted.len(),
            other => panic!("{other:?}"),
        };
    }
    assert!(made_room > 0);
    let stats = info(&mut raw, "commandstats").await;
    assert_eq!(calls(&stats, "evalsha"), Some(100));
    for other in ["eval", "script|load", "multi"] {
        assert_eq!(calls(&stats, other), None, "{other}");
    }
}

/// Whatever a user has, a newcomer of its is answered in a few words.
#[tokio::test]
async fn an_answer_does_not_grow_with_what_its_user_has() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    let raw = raw(&home).await;
    let sent = async |mut raw: MultiplexedConnection| -> u64 {
        let stats = info(&mut raw, "stats").await;
        stats["total_net_output_bytes"].parse().unwrap()
    };
    let mut costs = Vec::new();
    for there in [10, 3000] {
        let user = format!("user{there}");
        stream::iter(0..there)
            .for_each_concurrent(50, |_| async {
                a.connect(&user).await;
            })
            .await;
        let limit = LIMIT.map(|limit| UserLimit {
            max: there + 1000,
            ..limit
        });
        let (mut last, mut least) = (0, u64::MAX);
        // The least of several: PINGs are answered meanwhile, the more of them the slower the machine is.
        for _ in 0..10 {
            let before = sent(raw.clone()).await;
            for _ in 0..10 {
                let connection = a.connection(&user);
                let admission = a.admit(&connection, &Grant::default(), limit).await;
                match admission.unwrap() {
                    Admission::Admitted { tally, .. } => last = tally.connections,
                    other => panic!("{other:?}"),
                }
                a.back(&connection).await;
            }
            least = least.min(sent(raw.clone()).await - before);
        }
        assert_eq!(last, u64::from(there) + 100);
        costs.push(least);
    }
    // The numbers in them have more digits.
    assert!(costs[1] < costs[0] + 10 * 20, "{costs:?}");
}

/// Every key begins with the prefix, and the tag of the nodes or of a shard.
pub(super) fn assert_named(names: &[Vec<u8>], prefix: &str) {
    for name in names {
        let shown = String::from_utf8_lossy(name).into_owned();
        let rest = shown
            .strip_prefix(&format!("{prefix}:2:{{"))
            .unwrap_or_else(|| panic!("{shown}"));
        let (tag, _) = rest.split_once("}:").unwrap_or_else(|| panic!("{shown}"));
        let digit = tag.strip_prefix('s').filter(|it| it.len() == 1);
        assert!(
            ["nodes", "n1", "n2"].contains(&tag)
                || digit.is_some_and(|it| it.parse::<u8>().is_ok() || "abcdef".contains(it)),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn every_key_carries_the_prefix_and_a_hash_tag() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let timing = RegistryTiming {
        prefix: "gw-7".into(),
        ..timing(LONG)
    };
    let registry = home.registry(&timing, &Presence::default());
    let a = Peer::join(Arc::new(registry), "a").await;
    let mut kept = Vec::new();
    for user in ["42", "{nodes}", "}{", "\0", "gw-8:{s0}:conns"] {
        let gone = a.connect(user).await;
        a.unregister(&[&gone]).await;
        kept.push(a.connect(user).await);
        a.order(&all_of(user), None, &Ending::of(4500)).await;
    }
    a.register(&a.guest()).await;
    let mut raw = raw(&home).await;
    let names = key_names(&mut raw).await;
    assert!(names.len() > 20, "all kinds of keys are there");
    assert_named(&names, "gw-7");
    // Nothing is left behind but what is to be: what is forgotten in the end, and what says that the rest is whole.
    a.unregister(&kept.iter().collect::<Vec<_>>()).await;
    a.registry.leave(&a.lease).await.unwrap();
    for name in key_names(&mut raw).await {
        let shown = String::from_utf8_lossy(&name).into_owned();
        let (_, part) = shown.split_once("}:").unwrap();
        match part {
            "users" => {
                let count: String = raw.get(&name).await.unwrap();
                assert_eq!(count, "0");
            }
            "leases" => {
                let fields: Vec<String> = raw.hkeys(&name).await.unwrap();
                assert!(!fields.contains(&a.lease.to_string()), "{fields:?}");
            }
            "generation" | "carried" => {}
            _ => {
                let ttl: i64 = raw.ttl(&name).await.unwrap();
                assert!(ttl > 0, "{shown}: {ttl}");
            }
        }
    }
}

#[tokio::test]
async fn scripts_come_back_after_a_flush() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect("42").await;
    let raw = raw(&home).await;
    let flush = async |mut raw: MultiplexedConnection| {
        let _: () = redis::cmd("SCRIPT")
            .arg("FLUSH")
            .query_async(&mut raw)
            .await
            .unwrap();
    };
    flush(raw.clone()).await;
    assert_eq!(a.register(&connection).await, tally(1, 1));
    flush(raw.clone()).await;
    assert!(a.beat().await);
    flush(raw.clone()).await;
    assert_eq!(b.ids("42").await, [connection.id.to_string()]);
    flush(raw.clone()).await;
    a.unregister(&[&connection]).await;
    assert_eq!(b.ids("42").await, [""; 0]);
}

#[tokio::test]
async fn scripts_that_are_forgotten_again_and_again_are_carried_out() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    let mut raw = raw(&home).await;
    let forgetting = tokio::spawn(async move {
        loop {
            // So that one comes between a script's being loaded and its being called.
            let since = Instant::now();
            for _ in 0..20 {
                let mut flush = redis::cmd("SCRIPT");
                let () = flush.arg("FLUSH").query_async(&mut raw).await.unwrap();
            }
            // Half of the time is a call's, however slow the machine.
            tokio::time::sleep(since.elapsed().max(Duration::from_millis(5))).await;
        }
    });
    for number in 0..300 {
        let connection = a.connection("42");
        let registered = a.try_register(&connection).await;
        assert!(registered.is_ok(), "call {number}: {registered:?}");
    }
    forgetting.abort();
}

/// As a Redis does that is told to make room, by a `maxmemory-policy` that it should not have.
#[tokio::test]
async fn a_count_that_is_lost_is_right_again_once_its_shard_is_empty() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let first = a.connect("42").await;
    let mut raw = raw(&home).await;
    let count = Keys::new("switchboard").users(Shards::default().of_user(&"42".into()));
    let () = redis::cmd("DEL")
        .arg(&count)
        .query_async(&mut raw)
        .await
        .unwrap();
    a.unregister(&[&first]).await;
    assert_eq!(b.registry.totals().await.unwrap().users, 0);
    // One that is too low already, and one that is too high.
    for wrong in [-3, 5] {
        let connection = a.connect("42").await;
        let () = redis::cmd("SET")
            .arg(&count)
            .arg(wrong)
            .query_async(&mut raw)
            .await
            .unwrap();
        b.registry.totals().await.unwrap();
        a.unregister(&[&connection]).await;
        assert_eq!(b.registry.totals().await.unwrap().users, 0);
    }
    a.connect("42").await;
    assert_eq!(b.registry.totals().await.unwrap().users, 1);
}

#[tokio::test]
async fn what_timed_out_can_be_made_again() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    let connection = a.connection("42");
    let mut raw = raw(&home).await;
    let _: () = redis::cmd("CLIENT")
        .arg("PAUSE")
        .arg(60_000)
        .arg("WRITE")
        .query_async(&mut raw)
        .await
        .unwrap();
    let late = a.try_register(&connection).await;
    assert!(
        matches!(late, Err(RegistryError::Unavailable(_))),
        "{late:?}"
    );
    let _: () = redis::cmd("CLIENT")
        .arg("UNPAUSE")
        .query_async(&mut raw)
        .await
        .unwrap();
    // Redis carries out the first call now, before the second one of the same connection.
    eventually("it is registered", async || {
        a.try_register(&connection)
            .await
            .is_ok_and(|it| it == tally(1, 1))
    })
    .await;
    let totals = a.registry.totals().await.unwrap();
    assert_eq!((totals.connections, totals.users), (1, 1));
}

#[tokio::test]
async fn orders_to_end_are_kept_for_an_hour() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect("42").await;
    let target = EndTarget::Connection(entry(&connection));
    a.order(&target, None, &Ending::of(4500)).await;
    a.order(&all_of("42"), None, &Ending::of(4500)).await;
    let (keys, shard) = (
        Keys::new("switchboard"),
        Shards::default().of_entry(&entry(&connection)).unwrap(),
    );
    let mut raw = raw(&home).await;
    for key in [
        keys.end(shard, connection.id.as_str().as_bytes()),
        keys.kicks(shard, b"42"),
    ] {
        let ttl: i64 = raw.ttl(&key).await.unwrap();
        assert!((3500..=3600).contains(&ttl), "{ttl}");
    }
}

/// As written by a Redis whose clock was set back since.
#[tokio::test]
async fn a_clock_that_is_set_back_puts_nobody_on_the_wrong_side_of_a_kick() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let (keys, shard) = (
        Keys::new("switchboard"),
        Shards::default().of_user(&"42".into()),
    );
    let mut raw = raw(&home).await;
    let before = a.connect("42").await;
    a.order(&all_of("42"), None, &Ending::of(4500)).await;
    let kicks = keys.kicks(shard, b"42");
    let kick: Vec<Vec<u8>> = raw.lrange(&kicks, 0, -1).await.unwrap();
    let [kick] = kick.as_slice() else {
        panic!("{kick:?}");
    };
    let rest = kick.iter().position(|byte| *byte == 0).unwrap();
    let soon = (Timestamp::now() + Duration::from_secs(600)).as_millisecond();
    let ahead = [soon.to_string().as_bytes(), &kick[rest..]].concat();
    let () = raw.lset(&kicks, 0, ahead).await.unwrap();

    let newcomer = b.connect("42").await;
    assert!(b.start_of(&newcomer).unwrap().as_millisecond() > soon);
    assert_eq!(b.end_of(&newcomer).await, None);
    assert!(a.end_of(&before).await.is_some());
    // Also those that the next one meets, whether or not their entries are there.
    let missing = b.connect("42").await;
    b.unregister(&[&newcomer, &missing]).await;
    let code = async |peer: &Peer, connection| peer.end_of(connection).await.map(|it| it.code);
    b.order(&all_of("42"), None, &Ending::of(4501)).await;
    assert_eq!(code(&b, &missing).await, Some(4501));
    let last = b.connect("42").await;
    assert_eq!(code(&b, &last).await, None);
    b.order(&all_of("42"), None, &Ending::of(4502)).await;
    assert_eq!(code(&b, &last).await, Some(4502));
}

#[tokio::test]
async fn redis_may_go_and_come_back() {
    let mut server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect("42").await;
    a.registry.users(None, 10).await.unwrap();
    eventually("it is up", async || a.registry.is_up()).await;

    server.kill();
    eventually("it is noticed", async || !a.registry.is_up()).await;
    let refused = a.try_register(&connection).await;
    assert!(
        matches!(refused, Err(RegistryError::Unavailable(_))),
        "{refused:?}"
    );
    // The breaker is open, or a connection is refused: no call waits for its deadline.
    let asked = Instant::now();
    for _ in 0..20 {
        assert!(a.registry.user(&"42".into()).await.is_err());
        assert!(a.registry.users(None, 10).await.is_err());
        assert!(a.registry.presence(&["42".into()]).await.is_err());
    }
    assert!(
        asked.elapsed() < Duration::from_secs(30),
        "60 calls of a second each did not wait"
    );

    server.launch().await;
    eventually("it is up again", async || {
        a.registry.is_up() && b.registry.is_up()
    })
    .await;
    // This Redis is empty.
    for peer in [&a, &b] {
        let heartbeat = peer.registry.heartbeat(&peer.lease, &peer.report).await;
        let heartbeat = heartbeat.unwrap();
        assert!(heartbeat.held && heartbeat.lost);
        assert_eq!(heartbeat.lacking.len(), Shards::default().count());
    }
    b.enter().await;
    a.back(&connection).await;
    a.enter().await;
    assert_eq!(b.ids("42").await, [connection.id.to_string()]);
    assert_eq!(b.registry.users(None, 10).await.unwrap().users.len(), 1);
}

#[tokio::test]
async fn a_node_can_start_before_redis_does() {
    let mut server = RedisServer::absent();
    let home = Redis::of(&server);
    let registry = home.open(&[timing(LONG)], &Presence::default()).remove(0);
    assert!(!registry.is_up());
    assert!(registry.totals().await.is_err());
    server.launch().await;
    eventually("it is up", async || registry.is_up()).await;
    let a = Peer::join(registry, "a").await;
    a.connect("42").await;
}

#[tokio::test]
async fn a_redis_that_hangs_is_left_and_found_again() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    eventually("it is up", async || a.registry.is_up()).await;
    server.signal("STOP");
    eventually("it is noticed", async || !a.registry.is_up()).await;
    eventually("calls fail at once", async || {
        let asked = Instant::now();
        a.registry.nodes().await.is_err() && asked.elapsed() < Duration::from_millis(500)
    })
    .await;
    server.signal("CONT");
    eventually("it is up again", async || a.registry.is_up()).await;
    a.connect("42").await;
}

#[tokio::test]
async fn what_redis_refuses_is_an_error_and_no_outage() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect("42").await;
    eventually("it is up", async || a.registry.is_up()).await;
    let mut raw = raw(&home).await;
    let set = async |mut raw: MultiplexedConnection, name: &str, value: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg(name).arg(value);
        let _: () = command.query_async(&mut raw).await.unwrap();
    };
    // A replica that refuses writes.
    let _: () = redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(1)
        .query_async(&mut raw)
        .await
        .unwrap();
    let refused = a.try_register(&a.connection("42")).await;
    assert!(
        matches!(refused, Err(RegistryError::Unavailable(_))),
        "{refused:?}"
    );
    let _: () = redis::cmd("REPLICAOF")
        .arg("NO")
        .arg("ONE")
        .query_async(&mut raw)
        .await
        .unwrap();
    eventually("it writes again", async || {
        a.try_register(&connection).await.is_ok()
    })
    .await;
    // A Redis that is full.
    set(raw.clone(), "maxmemory", "1").await;
    assert!(a.try_register(&a.connection("43")).await.is_err());
    set(raw.clone(), "maxmemory", "0").await;
    a.connect("44").await;
    let totals = a.registry.totals().await.unwrap();
    assert_eq!((totals.connections, totals.users), (2, 2));
}
