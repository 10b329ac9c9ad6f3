//! What becomes of the registry when Redis stalls, or loses a part of what it holds.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use redis::{AsyncCommands, aio::MultiplexedConnection};
use switchboard::{
    config::RegistryTiming,
    connection::{Connection, TransportKind},
    ending::Ending,
    registry::{
        EndOrder, Grant, Heartbeat, RegistryError,
        keys::{Keys, Shard, Shards},
    },
};

use super::{
    home::{
        LONG, Peer, Redis, RedisServer, all_of, entry, eventually, fleet, fleet_by, is_in, tally,
    },
    leases::{NODES, asked_by},
    redis::raw,
};

const USER: &str = "42";

fn keys() -> Keys {
    Keys::new("switchboard")
}

fn shard() -> Shard {
    Shards::default().of_user(&USER.into())
}

async fn heartbeat(peer: &Peer) -> Heartbeat {
    let heartbeat = peer.registry.heartbeat(&peer.lease, &peer.report).await;
    heartbeat.unwrap()
}

async fn flush(raw: &mut MultiplexedConnection) {
    let () = redis::cmd("FLUSHALL").query_async(raw).await.unwrap();
}

/// Another user of the same shard.
fn neighbour() -> String {
    let mut names = (0..).map(|n| format!("neighbour-{n}"));
    let found = names.find(|it| Shards::default().of_user(&it.as_str().into()) == shard());
    found.unwrap()
}

/// Reads are refused: the registry does not know who is connected.
async fn assert_unavailable(peer: &Peer) {
    for (number, answer) in asked_by(peer, &neighbour()).await.into_iter().enumerate() {
        assert!(
            matches!(answer, Err(RegistryError::Unavailable(_))),
            "question {number}: {answer:?}"
        );
    }
}

/// The same where all nodes are known again, and their connections are not.
async fn assert_not_whole(peer: &Peer) {
    let mut answers = asked_by(peer, &neighbour()).await;
    assert!(answers.remove(NODES).is_ok());
    for (number, answer) in answers.into_iter().enumerate() {
        assert!(
            matches!(answer, Err(RegistryError::Unavailable(_))),
            "question {number}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn after_a_stall_whoever_wakes_first_buries_nobody() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let timing = RegistryTiming {
        heartbeat: Duration::from_millis(500),
        lease: Duration::from_millis(1500),
        ..RegistryTiming::default()
    };
    let [a, b] = fleet_by(&home, [timing.clone(), timing]).await;
    let [mine, theirs] = [a.connect(USER).await, b.connect(USER).await];
    let table = keys().tables(false).remove(0).1;
    let mut raw = raw(&home).await;
    for (first, second) in [(&a, &b), (&b, &a)] {
        assert!(first.beat().await && second.beat().await);
        let entries: Vec<Vec<u8>> = raw.zrange(keys().conns(shard()), 0, -1).await.unwrap();
        server.signal("STOP");
        let since = Instant::now();
        eventually("longer than a lease", async || {
            since.elapsed() > Duration::from_secs(3)
        })
        .await;
        server.signal("CONT");
        // The first may be turned away while its link comes back.
        let mut woken = None;
        while woken.is_none() {
            woken = first
                .registry
                .heartbeat(&first.lease, &first.report)
                .await
                .ok();
        }
        let woken = woken.unwrap();
        assert!(woken.held && !woken.lost);
        assert_eq!((woken.lacking, woken.lapsed), (vec![], vec![]));
        // Whatever the first does now, the other one is not dead.
        assert_eq!(first.registry.reap(&second.lease).await.unwrap(), 0);
        assert_eq!(first.ids(USER).await.len(), 2);
        let totals = first.registry.totals().await.unwrap();
        assert_eq!((totals.nodes, totals.connections, totals.users), (2, 2, 1));
        eventually("the other one wakes", async || {
            let woken = second.registry.heartbeat(&second.lease, &second.report);
            woken.await.is_ok_and(|it| {
                assert!(it.held && !it.lost);
                it.lapsed.is_empty() && it.lacking.is_empty()
            })
        })
        .await;
        let after: Vec<Vec<u8>> = raw.zrange(keys().conns(shard()), 0, -1).await.unwrap();
        assert_eq!(after, entries);
        let rows: Vec<String> = raw.hkeys(&table).await.unwrap();
        for peer in [&a, &b] {
            assert!(rows.contains(&peer.lease.to_string()), "{rows:?}");
            assert_eq!(peer.ids(USER).await.len(), 2);
        }
        assert_eq!(
            rows.len(),
            5,
            "two leases, the generation, the schema and the beat"
        );
    }
    for (peer, connection) in [(&a, &mine), (&b, &theirs)] {
        assert_eq!(peer.held().await, [entry(connection)]);
    }
}

#[tokio::test]
async fn what_is_lost_between_an_assert_and_its_mark_is_not_said_to_be_there() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect(USER).await;
    assert_eq!(b.ids(USER).await.len(), 1);
    let mut raw = raw(&home).await;
    flush(&mut raw).await;
    for peer in [&a, &b] {
        assert_unavailable(peer).await;
        // Nothing is put under the name of what is lost, neither.
        let refused = peer.try_register(&peer.connection(USER)).await;
        assert!(matches!(refused, Err(RegistryError::Unavailable(_))));
        assert!(!peer.entered(shard()).await.unwrap());
    }
    let seen = heartbeat(&a).await;
    assert!(seen.held && seen.lost);
    assert_eq!(seen.lacking.len(), Shards::default().count());
    let meant = a.registry.generation(shard()).unwrap();
    a.back(&connection).await;
    flush(&mut raw).await;
    assert!(!a.entered(shard()).await.unwrap());
    assert_unavailable(&a).await;
    let seen = heartbeat(&b).await;
    assert!(seen.held && seen.lost);
    b.enter().await;
    assert_unavailable(&b).await;

    // Until all are back that were there.
    let seen = heartbeat(&a).await;
    assert!(seen.held && seen.lost);
    assert_not_whole(&b).await;
    assert!(!heartbeat(&b).await.lost);
    // What was asserted under the one before is not in this one, though the node has seen it since.
    let late = a.registry.entered(&a.lease, shard(), &meant).await;
    assert!(!late.unwrap());
    assert!(heartbeat(&a).await.lacking.contains(&shard()));
    assert_not_whole(&b).await;
    a.back(&connection).await;
    assert_not_whole(&b).await;
    a.enter().await;
    for peer in [&a, &b] {
        for (number, answer) in asked_by(peer, "43").await.into_iter().enumerate() {
            assert!(answer.is_ok(), "question {number}: {answer:?}");
        }
        assert_eq!(peer.ids(USER).await, [connection.id.to_string()]);
        let seen = heartbeat(peer).await;
        assert!(seen.held && !seen.lost);
        assert_eq!(seen.lacking, []);
        assert_eq!(seen.lapsed, [], "it is the same lease");
    }
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections, totals.users), (2, 1, 1));
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 0);
}

/// An order to end, where data was lost, is answered with an error, as nobody knows which connections it meets; it holds against them all the same.
#[tokio::test]
async fn what_is_ordered_in_a_shard_that_is_not_whole_holds_for_who_comes_back() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let [met, stays] = [a.connect(USER).await, a.connect("43").await];
    let mut raw = raw(&home).await;
    flush(&mut raw).await;
    heartbeat(&b).await;
    heartbeat(&a).await;
    b.enter().await;
    let target = all_of(USER);
    let ending = Ending::of(Ending::DISCONNECTED);
    let order = EndOrder {
        target: &target,
        fence: None,
        ending: &ending,
    };
    let ordered = b.registry.order_end(order).await;
    assert!(matches!(ordered, Err(RegistryError::Unavailable(_))));
    let again = a.again(&met, &Grant::default(), 1).await;
    assert_eq!(again, switchboard::registry::Admission::Ended(ending));
    a.back(&stays).await;
    a.enter().await;
    assert_eq!(b.ids(USER).await, [""; 0]);
    assert_eq!(b.ids("43").await.len(), 1);
}

/// A node that does not know yet whether a shard is whole runs `order_end.lua` twice. A connection that only the first run finds has
/// ended by it all the same.
#[tokio::test]
async fn who_is_gone_while_a_shard_is_looked_at_counts_as_ordered_to_end() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let ending = Ending::of(Ending::DISCONNECTED);
    let mut looked_at = HashSet::new();
    let users = (0..200).map(|number| number.to_string());
    for user in users.filter(|it| looked_at.insert(Shards::default().of_user(&it.as_str().into())))
    {
        let connection = a.connect(&user).await;
        let target = all_of(&user);
        let sees_its_end = async {
            while is_in(&a.again(&connection, &Grant::default(), 1).await) {}
            a.unregister(&[&connection]).await;
        };
        let (ordered, ()) = tokio::join!(b.order(&target, None, &ending), sees_its_end);
        assert_eq!(ordered.connections, [a.lists(&connection)], "user {user}");
    }
}

#[tokio::test]
async fn a_node_that_died_with_the_data_is_given_up_after_a_lease() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let short = RegistryTiming {
        heartbeat: Duration::from_millis(500),
        lease: Duration::from_millis(2000),
        ..RegistryTiming::default()
    };
    let [a, b] = fleet_by(&home, [short.clone(), short]).await;
    a.connect(USER).await;
    let connection = b.connect(USER).await;
    assert!(b.beat().await);
    assert_eq!(b.ids(USER).await.len(), 2);
    let mut raw = raw(&home).await;
    flush(&mut raw).await;
    let since = Instant::now();
    // It is a that never comes back.
    assert!(heartbeat(&b).await.lost);
    b.back(&connection).await;
    b.enter().await;
    assert!(b.registry.user(&USER.into()).await.is_err());
    eventually("it is given up", async || {
        assert!(b.beat().await);
        b.registry.user(&USER.into()).await.is_ok()
    })
    .await;
    assert!(since.elapsed() >= Duration::from_millis(2000));
    assert_eq!(b.ids(USER).await, [connection.id.to_string()]);
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections, totals.users), (1, 1, 1));
}

#[tokio::test]
async fn a_table_of_leases_that_is_lost_alone_is_filled_again() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let [mine, theirs] = [a.connect(USER).await, b.connect(USER).await];
    assert_eq!(b.ids(USER).await.len(), 2);
    let mut raw = raw(&home).await;
    let table = keys().tables(false).remove(0).1;
    for _ in 0..2 {
        let () = raw.unlink(&table).await.unwrap();
        let seen = heartbeat(&b).await;
        assert!(seen.held && seen.lost);
        assert_eq!((seen.lacking, seen.lapsed), (vec![], vec![]));
        // Nobody says of a's connections that they are gone.
        assert_unavailable(&b).await;
        let seen = heartbeat(&a).await;
        assert!(seen.held && seen.lost);
        assert_eq!(seen.lapsed, []);
        for peer in [&a, &b] {
            eventually("both are back", async || {
                let found = peer.registry.user(&USER.into()).await;
                found.is_ok_and(|it| {
                    assert_eq!(it.connections.len(), 2);
                    true
                })
            })
            .await;
        }
    }
    for (peer, connection) in [(&a, &mine), (&b, &theirs)] {
        assert_eq!(peer.held().await, [entry(connection)]);
        let seen = heartbeat(peer).await;
        assert!(seen.held && !seen.lost);
        assert_eq!(seen.lapsed, []);
    }
}

/// What a node does in a shard once it has asserted what it has.
async fn repair(peer: &Peer, connections: &[&Connection]) {
    let heartbeat = heartbeat(peer).await;
    assert!(heartbeat.held);
    for connection in connections {
        peer.back(connection).await;
    }
    let has: Vec<_> = connections.iter().map(|it| entry(it)).collect();
    for shard in Shards::default().all() {
        let mut stale = peer.registry.held(&peer.lease, shard).await.unwrap();
        stale.retain(|entry| !has.contains(entry));
        let removed = peer.registry.unregister(&peer.lease, &stale).await;
        removed.unwrap();
    }
    for shard in heartbeat.lacking {
        assert!(peer.entered(shard).await.unwrap());
    }
}

#[tokio::test]
async fn whichever_key_is_lost_what_is_asserted_again_makes_it_exact() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    // Another one of the shard, so that it is never empty.
    let neighbour = neighbour();
    let guest = loop {
        let guest = a.guest();
        if Shards::default().of_id(&guest.id) == Some(shard()) {
            break guest;
        }
    };
    a.register(&guest).await;
    let phone = Connection {
        device_id: Some("phone".into()),
        ..a.connection(USER)
    };
    a.register(&phone).await;
    let mut mine = vec![phone, a.connect(USER).await, guest];
    let mut theirs = vec![b.connect(USER).await, b.connect(&neighbour).await];
    assert_eq!(b.ids(USER).await.len(), 3);
    let mut raw = raw(&home).await;
    let generation = async |mut raw: MultiplexedConnection| -> String {
        raw.get(keys().generation(shard())).await.unwrap()
    };
    let names = async |raw: MultiplexedConnection| {
        let generation = generation(raw).await;
        vec![
            keys().conns(shard()),
            keys().held(shard(), &a.lease),
            keys().held(shard(), &b.lease),
            keys().users(shard()),
            keys().generation(shard()),
            keys().entered(shard(), &generation),
        ]
    };
    for which in 0..6 {
        // One goes while the key is missing, and one that went is still there.
        let name = names(raw.clone()).await.swap_remove(which);
        let stale = a.connect(USER).await;
        let removed: u64 = raw.unlink(&name).await.unwrap();
        assert_eq!(removed, 1, "{name}");
        if which == 1 {
            // Nobody could tell that it is stale: the list that says so is the one that is lost.
            a.unregister(&[&stale]).await;
        }
        if which != 4 {
            b.unregister(&[&theirs[1]]).await;
        }
        for peer in [&a, &b] {
            let of_peer = if peer.lease == a.lease {
                &mine
            } else {
                &theirs
            };
            if which != 4 && peer.lease == b.lease {
                repair(peer, &[&of_peer[0]]).await;
            } else {
                repair(peer, &of_peer.iter().collect::<Vec<_>>()).await;
            }
        }
        let users = if which == 4 { 2 } else { 1 };
        let reader = &b;
        eventually("it is whole", async || {
            reader.registry.user(&USER.into()).await.is_ok()
        })
        .await;
        let presence = [USER.into(), neighbour.as_str().into()];
        let presence = reader.registry.presence(&presence).await.unwrap();
        assert_eq!(presence[0].tally, tally(3, 3), "{name}");
        assert_eq!(presence[1].tally.connections, users - 1, "{name}");
        let totals = reader.registry.totals().await.unwrap();
        let expected = (2, 3 + users, users);
        let found = (totals.nodes, totals.connections, totals.users);
        assert_eq!(found, expected, "{name}");
        let page = reader.registry.users(None, 100).await.unwrap();
        assert_eq!(page.users.len() as u64, users, "{name}");
        for connection in mine.iter().chain(&theirs[..users as usize]) {
            let found = reader.registry.connection(&connection.id).await.unwrap();
            assert_eq!(found.as_ref(), Some(connection), "{name}");
        }
        let found = reader.registry.connection(&stale.id).await.unwrap();
        assert_eq!(found, None, "{name}");
        assert_eq!(a.held().await.len(), 3, "{name}");
        // And goes on to be so.
        let one = mine.swap_remove(1);
        a.unregister(&[&one]).await;
        mine.insert(1, a.connect(USER).await);
        theirs[1] = match users {
            1 => b.connect(&neighbour).await,
            _ => theirs[1].clone(),
        };
        let totals = reader.registry.totals().await.unwrap();
        let found = (totals.nodes, totals.connections, totals.users);
        assert_eq!(found, (2, 5, 2), "{name}");
    }
}

/// The socket of the first call was slow: what it says is old by the time that Redis hears it.
#[tokio::test]
async fn what_was_said_of_an_earlier_version_changes_nothing() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let connection = a.connect(USER).await;
    let grant = |session: &str| Grant {
        session: Some(session.into()),
        ..Grant::default()
    };
    let refreshed = Connection {
        transport: TransportKind::Polling,
        ..connection.clone()
    };
    for again in [true, false] {
        assert!(is_in(&a.again(&refreshed, &grant("new"), 7).await));
        let old = grant("old");
        for version in [0, 1, 6] {
            let late = a.assert(&connection, &old, version, None, again);
            assert!(is_in(&late.await.unwrap()));
        }
        let found = b.registry.connection(&connection.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(&refreshed));
        let mut raw = raw(&home).await;
        let entries: Vec<Vec<u8>> = raw.zrange(keys().conns(shard()), 0, -1).await.unwrap();
        assert_eq!(entries.len(), 1);
    }
    // The session that counts is the one of the last version.
    let target = |session: &str| switchboard::registry::EndTarget::Session {
        user: USER.into(),
        session: session.into(),
    };
    let ending = Ending::of(Ending::SESSION_ENDED);
    let ordered = b.order(&target("old"), None, &ending).await;
    assert_eq!(ordered.connections, []);
    let ordered = b.order(&target("new"), None, &ending).await;
    assert_eq!(ordered.connections, [a.lists(&connection)]);
}
