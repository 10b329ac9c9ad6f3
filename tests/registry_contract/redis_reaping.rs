//! Who is taken for dead in Redis, and who reaps it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::AsyncCommands;
use switchboard::{
    config::{Backend, Config, Fact, Presence, RegistryTiming, RunningConfig},
    registry::{
        Member, NotificationId, Room,
        keys::{Keys, room_field},
    },
};

use super::{
    home::{
        LONG, Peer, Redis, RedisServer, SHORT, entry, eventually, fleet, fleet_by, fleet_telling,
        timing,
    },
    redis::raw,
};

const USER: &str = "42";

async fn another(home: &Redis, timing: &RegistryTiming, name: &str) -> Peer {
    let registry = home.registry(timing, &Presence::default());
    Peer::join(Arc::new(registry), name).await
}

async fn is_to_reap(peer: &Peer, gone: &Peer) -> bool {
    let beat = peer.registry.heartbeat(&peer.lease, &peer.report).await;
    beat.unwrap().lapsed.contains(&gone.lease)
}

#[tokio::test]
async fn a_dead_node_is_reaped_by_one_and_then_by_the_next() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, SHORT, LONG).await;
    let c = another(&home, &timing(LONG), "c").await;
    a.connect(USER).await;
    assert!(a.beat().await);
    let turns = [[&b, &c], [&c, &b]];
    let begun = Instant::now();
    let [first, next] = loop {
        let mut due = Vec::new();
        for peers in turns {
            if is_to_reap(peers[0], &a).await {
                due.push(peers);
            }
        }
        match due.as_slice() {
            [] => assert!(begun.elapsed() < Duration::from_secs(60)),
            [one] => break *one,
            _ => panic!("both reap at once"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let totals = next.registry.totals().await.unwrap();
    let left = next.held_by(&a.lease).await.len();
    // On a machine that was too slow to look in time it is the next one's turn by now.
    assert!(left == 1 || is_to_reap(next, &a).await);
    assert_eq!(totals.connections, left as u64);
    eventually("the next one's turn comes", async || {
        is_to_reap(next, &a).await
    })
    .await;
    assert!(is_to_reap(first, &a).await);
    assert_eq!(next.registry.totals().await.unwrap().connections, 0);
    assert_eq!(next.held_by(&a.lease).await, []);
}

#[tokio::test]
async fn after_a_stall_a_newcomer_that_comes_first_takes_nobody_for_dead() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let timing = RegistryTiming {
        heartbeat: Duration::from_millis(500),
        lease: Duration::from_millis(1500),
        ..RegistryTiming::default()
    };
    let [a, b] = fleet_by(&home, [timing.clone(), timing.clone()]).await;
    a.connect(USER).await;
    b.connect(USER).await;
    assert!(a.beat().await && b.beat().await);
    server.signal("STOP");
    let since = Instant::now();
    eventually("longer than a lease", async || {
        since.elapsed() > Duration::from_secs(3)
    })
    .await;
    server.signal("CONT");
    let c = another(&home, &timing, "c").await;
    assert_eq!(c.ids(USER).await.len(), 2);
    for peer in [&a, &b] {
        eventually("it wakes", async || {
            let woken = peer.registry.heartbeat(&peer.lease, &peer.report).await;
            woken.is_ok_and(|woken| woken.held)
        })
        .await;
    }
}

/// As where the table was lost after a node had died: nobody has ever to reap it.
#[tokio::test]
async fn entries_of_a_lease_that_no_table_has_are_reaped() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let timing = RegistryTiming {
        heartbeat: Duration::from_millis(500),
        lease: Duration::from_millis(1500),
        ..RegistryTiming::default()
    };
    let [a, b] = fleet_by(&home, [timing.clone(), timing]).await;
    a.connect(USER).await;
    let guest = a.guest();
    a.register(&guest).await;
    b.connect("43").await;
    let table = Keys::new("switchboard").tables(false).remove(0).1;
    let mut raw = raw(&home).await;
    let removed: u64 = raw.hdel(&table, a.lease.to_string()).await.unwrap();
    assert_eq!(removed, 1);
    eventually("nothing is left of it", async || {
        assert!(b.beat().await);
        let totals = b.registry.totals().await.unwrap();
        totals.connections == 1 && b.held_by(&a.lease).await.is_empty()
    })
    .await;
    // Whose lease that was comes back under another one.
    let beat = a.registry.heartbeat(&a.lease, &a.report).await.unwrap();
    assert!(!beat.held);
}

/// As where a version that knows no rooms has buried and reaped a node of this one.
#[tokio::test]
async fn members_of_a_node_that_was_reaped_without_them_are_found_without_a_read() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let timing = RegistryTiming {
        heartbeat: Duration::from_millis(500),
        lease: Duration::from_millis(1500),
        ..RegistryTiming::default()
    };
    let told = backends();
    let presence = Presence::default();
    let [a, b] = fleet_telling(&home, [timing.clone(), timing], &presence, Some(&told)).await;
    let keys = Keys::new("switchboard");
    let mut raw = raw(&home).await;
    let room = Room::new("/", "left");
    let shard = a.registry.shards().of_room(&room);
    let connection = a.connect(USER).await;
    let (users, guest) = (a.connect("43").await, a.guest());
    a.register(&guest).await;
    for connection in [&connection, &users, &guest] {
        let member = Member {
            room: room.clone(),
            entry: entry(connection),
        };
        let changes = [(member, true)];
        let changed = a.registry.change_members(&a.lease, shard, &changes);
        changed.await.unwrap();
    }
    a.unregister(&[&connection, &users, &guest]).await;
    let table = keys.tables(false).remove(0).1;
    let removed: u64 = raw.hdel(&table, a.lease.to_string()).await.unwrap();
    assert_eq!(removed, 1);

    let members = keys.members(shard);
    assert_eq!(raw.zcard::<_, u64>(&members).await.unwrap(), 3);
    eventually("nothing is left of them", async || {
        // What a node does with each heartbeat.
        let beat = b.registry.heartbeat(&b.lease, &b.report).await.unwrap();
        assert!(beat.held);
        for lease in &beat.lapsed {
            b.registry.reap(lease).await.unwrap();
        }
        raw.clone().zcard::<_, u64>(&members).await.unwrap() == 0
    })
    .await;
    for key in [
        keys.rooms(shard),
        keys.joined(shard, &a.lease),
        String::from_utf8(keys.room_holders(shard, &room_field(&room))).unwrap(),
    ] {
        assert!(!raw.exists::<_, bool>(&key).await.unwrap(), "{key}");
    }
    let none = NotificationId::default();
    let kept = b.registry.kept(shard, "app", none, 100).await.unwrap();
    let kinds: Vec<_> = kept.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, ["room.occupied", "room.vacated"]);
}

/// A backend that is told of rooms.
fn backends() -> RunningConfig {
    RunningConfig::new(Config {
        backends: vec![Backend {
            name: "app".to_owned(),
            notify: vec![Fact::Occupied, Fact::Vacated],
            ..Backend::default()
        }],
        ..Config::default()
    })
}
