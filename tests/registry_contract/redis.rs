//! What only the registry in Redis has: its weight, its round trips, and outages.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use redis::aio::MultiplexedConnection;
use switchboard::{
    config::{Presence, RegistryTiming},
    connection::Connection,
    ending::Ending,
    registry::{
        Admission, Bar, EndTarget, Grant, LimitPolicy, RegistryError, UserLimit,
        keys::{Keys, Shard},
    },
};

use crate::redis_server::patient;

use super::{
    home::{Home, LONG, Peer, Redis, RedisServer, all_of, entry, eventually, fleet, tally, timing},
    leases::asked_by,
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
                ..peer.connection(&format!("{:010}", n - u32::from(n % 3 == 2)))
            };
            let grant = Grant {
                issued_at: Some(connection.connected_at - Duration::from_secs(u64::from(n % 900))),
                token_id: Some(format!("6f1d8c1e-4f0a-4b8e-9a51-{n:012}")),
                // One of four, but not the ones with a device alone.
                session: (n % 4 == n / 4 % 4).then(|| format!("session-{n}").into()),
            };
            async move {
                let admission = peer.admit(&connection, &grant, LIMIT).await.unwrap();
                assert!(matches!(admission, Admission::Admitted { .. }));
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
    assert!(matches!(admission, Ok(Admission::Admitted { .. })));
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
    assert_eq!(calls(&stats, "zrangebylex"), None);
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
            Admission::Refused(bar) => panic!("{bar:?}"),
        };
    }
    assert!(made_room > 0);
    let stats = info(&mut raw, "commandstats").await;
    assert_eq!(calls(&stats, "evalsha"), Some(100));
    for other in ["eval", "script|load", "multi"] {
        assert_eq!(calls(&stats, other), None, "{other}");
    }
}

/// Every key begins with the prefix, and the tag of the nodes or of a shard.
pub(super) fn assert_named(names: &[Vec<u8>], prefix: &str) {
    for name in names {
        let shown = String::from_utf8_lossy(name).into_owned();
        let rest = shown
            .strip_prefix(&format!("{prefix}:{{"))
            .unwrap_or_else(|| panic!("{shown}"));
        let (tag, _) = rest.split_once("}:").unwrap_or_else(|| panic!("{shown}"));
        let digit = tag.strip_prefix('s').filter(|it| it.len() == 1);
        assert!(
            tag == "nodes"
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
    // Nothing is left behind but what is to be: the times at which users were last seen.
    a.unregister(&kept.iter().collect::<Vec<_>>()).await;
    a.registry.leave(&a.lease).await.unwrap();
    for name in key_names(&mut raw).await {
        let shown = String::from_utf8_lossy(&name).into_owned();
        let value: Option<String> = redis::cmd("GET")
            .arg(&name)
            .query_async(&mut raw)
            .await
            .unwrap();
        assert!(
            shown.contains("}:seen:") || value.as_deref() == Some("0"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn scripts_come_back_after_a_flush() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect("42").await;
    let mut raw = raw(&home).await;
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
    assert_eq!(b.ids("42").await, [connection.id.to_string()]);
    flush(raw.clone()).await;
    a.unregister(&[&connection]).await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut raw).await.unwrap();
    flush(raw.clone()).await;
    assert!(!a.beat().await);
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
            for _ in 0..20 {
                let mut flush = redis::cmd("SCRIPT");
                let () = flush.arg("FLUSH").query_async(&mut raw).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    for number in 0..300 {
        let connection = a.connection("42");
        let registered = a.try_register(&connection).await;
        assert!(registered.is_ok(), "call {number}: {registered:?}");
    }
    forgetting.abort();
}

#[tokio::test]
async fn an_emptied_redis_confirms_nothing_to_nodes_that_have_not_noticed() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect("42").await;
    let mut raw = raw(&home).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut raw).await.unwrap();
    for peer in [&a, &b] {
        for (number, answer) in asked_by(peer, "42").await.into_iter().enumerate() {
            assert!(
                matches!(answer, Err(RegistryError::Unavailable(_))),
                "question {number}: {answer:?}"
            );
        }
    }
    assert!(!a.beat().await);
    let a = a.rejoin_with(&a).await;
    a.register(&connection).await;
    assert_eq!(a.ids("42").await, [connection.id.to_string()]);
}

/// As a Redis does that is told to make room, by a `maxmemory-policy` that it should not have.
#[tokio::test]
async fn a_count_that_is_lost_is_right_again_once_its_shard_is_empty() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let first = a.connect("42").await;
    let mut raw = raw(&home).await;
    let count = Keys::new("switchboard").users(Shard::of_user(&"42".into()));
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
async fn a_node_that_comes_back_to_an_empty_redis_leaves_nothing_of_its_old_lease() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect("42").await;
    let mut raw = raw(&home).await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut raw).await.unwrap();
    assert!(a.try_register(&connection).await.is_err(), "no lease");
    assert!(!a.beat().await);
    let again = a.rejoin_with(&a).await;
    again.register(&connection).await;
    assert!(!b.beat().await);
    let b = b.rejoin_with(&b).await;
    let lapsed = b
        .registry
        .heartbeat(&b.lease, &b.report)
        .await
        .unwrap()
        .lapsed;
    assert_eq!(lapsed.len(), 2, "the lease before of either");
    for lease in &lapsed {
        assert_eq!(b.registry.reap(lease).await.unwrap(), 0);
    }
    assert_eq!(b.ids("42").await, [connection.id.to_string()]);
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections, totals.users), (2, 1, 1));
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
async fn orders_that_nobody_fetched_are_cleared_away() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect("42").await;
    let mut old = entry(&connection);
    old.id = a.registry.new_id(old.user.as_ref());
    let key = Keys::new("switchboard").ending(Shard::of_entry(&old).unwrap());
    let mut raw = raw(&home).await;
    // As if it had been given in 1970.
    let mut order = redis::cmd("HSET");
    order.arg(&key).arg(old.id.as_str()).arg("1:whatever");
    let _: () = order.query_async(&mut raw).await.unwrap();
    assert_eq!(
        a.registry.orders(std::slice::from_ref(&old)).await.unwrap(),
        []
    );

    let target = EndTarget::Connection(entry(&connection));
    a.order(&target, None, &Ending::of(4500)).await;
    let left: Vec<String> = redis::cmd("HKEYS")
        .arg(&key)
        .query_async(&mut raw)
        .await
        .unwrap();
    assert_eq!(left, [connection.id.to_string()]);
    let ttl: i64 = redis::cmd("TTL")
        .arg(&key)
        .query_async(&mut raw)
        .await
        .unwrap();
    assert!((1..=3600).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn redis_may_go_and_come_back() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect("42").await;
    a.registry.users(None, 10).await.unwrap();
    eventually("it is up", async || a.registry.is_up()).await;

    let port = server.port();
    drop(server);
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

    let _server = RedisServer::start_again_on(port).await;
    eventually("it is up again", async || a.registry.is_up()).await;
    assert!(!a.beat().await, "this Redis is empty");
    let again = a.rejoin_with(&a).await;
    assert_eq!(again.register(&connection).await, tally(1, 1));
    assert_eq!(again.ids("42").await, [connection.id.to_string()]);
    assert_eq!(again.registry.users(None, 10).await.unwrap().users.len(), 1);
}

#[tokio::test]
async fn a_node_can_start_before_redis_does() {
    let port = RedisServer::start().await.port();
    let server = RedisServer::start_again_on(port).await;
    let home = Redis::of(&server);
    drop(server);
    let [registry, _] = home.open([timing(LONG), timing(LONG)], &Presence::default());
    assert!(!registry.is_up());
    assert!(registry.totals().await.is_err());
    let _server = RedisServer::start_again_on(port).await;
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
    server.hang();
    eventually("it is noticed", async || !a.registry.is_up()).await;
    eventually("calls fail at once", async || {
        let asked = Instant::now();
        a.registry.nodes().await.is_err() && asked.elapsed() < Duration::from_millis(500)
    })
    .await;
    server.go_on();
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
