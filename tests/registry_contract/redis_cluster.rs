//! What becomes of the registry when a part of it is lost, or is somewhere else. Shards are parts also on one server.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use switchboard::{
    connection::Connection,
    ending::Ending,
    registry::{
        Admission, EndOrder, EndTarget, Grant, RegistryError,
        keys::{Shard, Shards},
    },
};

use super::{
    cluster::Cluster,
    home::{Home, InCluster, LONG, Peer, entry, eventually, fleet},
};

/// One user of each shard.
pub(super) fn users() -> Vec<String> {
    let found = Shards::default().all().map(|shard| {
        let mut users = (0..).map(|n| format!("user-{n}"));
        users.find(|user| Shards::default().of_user(&user.as_str().into()) == shard)
    });
    found.flatten().collect()
}

#[tokio::test]
async fn a_server_that_has_lost_its_data_is_filled_again_and_the_others_notice_nothing() {
    let cluster = Cluster::start(0).await;
    let home = InCluster::of(&cluster);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let mut connections = Vec::new();
    for user in users() {
        connections.push(a.connect(&user).await);
    }
    let () = cluster.run(0, "FLUSHALL").await;
    let () = cluster.run(0, "SCRIPT FLUSH").await;
    let mut lost = Vec::new();
    for user in users() {
        match b.registry.user(&user.as_str().into()).await {
            Ok(found) => assert_eq!(found.connections.len(), 1, "{user}"),
            Err(_) => lost.push(user),
        }
    }
    assert!((1..16).contains(&lost.len()), "{lost:?}");
    let mut lacking = BTreeSet::new();
    for peer in [&a, &b] {
        let heartbeat = peer.registry.heartbeat(&peer.lease, &peer.report).await;
        let heartbeat = heartbeat.unwrap();
        assert!(heartbeat.held && heartbeat.lost);
        assert_eq!(heartbeat.lapsed, []);
        lacking = heartbeat.lacking.into_iter().collect();
    }
    let user_of = |connection: &Connection| connection.user_id.clone().unwrap();
    let shards_of_lost = lost
        .iter()
        .map(|user| Shards::default().of_user(&user.as_str().into()));
    assert_eq!(lacking, shards_of_lost.collect());
    let (put_back, there): (Vec<_>, Vec<_>) = connections
        .iter()
        .partition(|it| lacking.contains(&Shards::default().of_user(&user_of(it))));
    assert_eq!(a.held().await.len(), there.len());
    // What is lost is said to be so until each node has put back what was there.
    let not_whole = async || {
        for connection in &put_back {
            let asked = b.registry.user(&user_of(connection)).await;
            assert!(matches!(asked, Err(RegistryError::Unavailable(_))));
        }
        assert!(b.registry.totals().await.is_err());
    };
    not_whole().await;
    for shard in &lacking {
        assert!(b.entered(*shard).await.unwrap());
    }
    not_whole().await;
    for connection in &put_back {
        a.back(connection).await;
    }
    not_whole().await;
    for shard in &lacking {
        assert!(a.entered(*shard).await.unwrap());
    }
    for user in users() {
        assert_eq!(b.ids(&user).await.len(), 1, "{user}");
    }
    let totals = b.registry.totals().await.unwrap();
    assert_eq!(
        (totals.nodes, totals.connections, totals.users),
        (2, 16, 16)
    );
    let heartbeat = a.registry.heartbeat(&a.lease, &a.report).await.unwrap();
    assert!(heartbeat.held && !heartbeat.lost);
    assert_eq!(heartbeat.lacking, []);
}

/// Starts three masters that go on without one of them, and two nodes with a user of a's in each shard.
async fn of_three() -> (Cluster, InCluster, [Peer; 2]) {
    let cluster = Cluster::start(0).await;
    for server in 0..3 {
        let keep_on = "CONFIG SET cluster-require-full-coverage no";
        let () = cluster.run(server, keep_on).await;
    }
    let home = InCluster::of(&cluster);
    let fleet = fleet(&home, LONG, LONG).await;
    for user in users() {
        fleet[0].connect(&user).await;
    }
    for peer in &fleet {
        assert!(peer.beat().await);
        peer.registry.totals().await.unwrap();
    }
    (cluster, home, fleet)
}

#[tokio::test]
async fn without_a_copy_of_the_table_the_others_will_do() {
    let (cluster, home, [a, b]) = of_three().await;
    for (copy, (slot, _)) in home.keys().tables(true).into_iter().enumerate() {
        let stopped = cluster.master_of(slot).await.unwrap();
        cluster.signal(stopped, "STOP");
        let mut elsewhere = Vec::new();
        for user in users() {
            let slot = home.slot_of(Shards::default().of_user(&user.as_str().into()));
            if cluster.master_of(slot).await != Some(stopped) {
                elsewhere.push(user);
            }
        }
        assert!((1..16).contains(&elsewhere.len()), "{elsewhere:?}");
        // What is asked for while the machine is busy with other things may take longer than it should.
        eventually("it is noticed", async || {
            !a.registry.away().is_empty() && !b.registry.away().is_empty()
        })
        .await;
        for peer in [&a, &b] {
            eventually("it lives", async || {
                let heartbeat = peer.registry.heartbeat(&peer.lease, &peer.report).await;
                heartbeat.is_ok_and(|it| {
                    assert!(it.held && !it.lost, "copy {copy}");
                    assert_eq!(it.lapsed, []);
                    true
                })
            })
            .await;
        }
        for user in &elsewhere {
            let count = async |peer: &Peer| {
                let found = peer.registry.user(&user.as_str().into()).await.ok()?;
                Some(found.connections.len())
            };
            eventually("it is there", async || {
                count(&b).await.is_some_and(|count| {
                    assert_eq!(count, 1, "{user}");
                    true
                })
            })
            .await;
            let newcomer = b.connection(user);
            eventually("another one comes", async || {
                b.try_register(&newcomer).await.is_ok()
            })
            .await;
            eventually("it is seen", async || count(&a).await == Some(2)).await;
            let target = EndTarget::Connection(entry(&newcomer));
            let order = EndOrder {
                target: &target,
                fence: None,
                ending: &Ending::of(4500),
            };
            eventually("it is ordered to end", async || {
                let ordered = a.registry.order_end(order).await;
                ordered.is_ok_and(|it| it.connections == [b.lists(&newcomer)])
            })
            .await;
            let (entries, none) = ([entry(&newcomer)], Grant::default());
            eventually("it learns of that", async || {
                let again = b.assert(&newcomer, &none, 1, None, true).await;
                again.is_ok_and(|it| matches!(it, Admission::Ended(_)))
            })
            .await;
            eventually("it goes", async || {
                b.registry.unregister(&b.lease, &entries).await.is_ok()
            })
            .await;
        }
        eventually("both are listed", async || {
            let nodes = b.registry.nodes().await;
            nodes.is_ok_and(|nodes| nodes.len() == 2)
        })
        .await;
        cluster.signal(stopped, "CONT");
        cluster.all_say("cluster_state:ok").await;
        eventually("all is as before", async || {
            let totals = b.registry.totals().await;
            totals.is_ok_and(|it| (it.nodes, it.connections, it.users) == (2, 16, 16))
        })
        .await;
    }
}

#[tokio::test]
async fn without_one_of_its_servers_the_rest_works_on() {
    let (mut cluster, _home, [a, b]) = of_three().await;
    eventually("it is up", async || b.registry.is_up()).await;
    cluster.kill(1);
    eventually("it is noticed", async || !b.registry.away().is_empty()).await;
    let mut lost = 0;
    for user in users() {
        let asked = Instant::now();
        match b.registry.user(&user.as_str().into()).await {
            Ok(found) => assert_eq!(found.connections.len(), 1, "{user}"),
            Err(RegistryError::Unavailable(_)) => lost += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "{:?}",
            asked.elapsed()
        );
    }
    assert!((1..16).contains(&lost), "{lost} of 16");
    // What needs all of them says so, and what can go on does.
    assert!(a.registry.totals().await.is_err());
    for peer in [&a, &b] {
        assert!(peer.beat().await);
    }
    cluster.launch(1).await;
    eventually("it is up again", async || b.registry.away().is_empty()).await;
    eventually("what it had is seen to be lost", async || {
        let heartbeat = a.registry.heartbeat(&a.lease, &a.report).await;
        heartbeat.is_ok_and(|it| it.held && it.lacking.len() == lost)
    })
    .await;
    assert_eq!(a.held().await.len(), 16 - lost);
}

#[tokio::test]
async fn calls_follow_a_slot_that_moves() {
    let cluster = Cluster::start(0).await;
    let home = InCluster::of(&cluster);
    let presence = switchboard::config::Presence::default();
    let timings = [LONG, LONG].map(super::home::timing);
    let handles = home.open(&timings, &presence);
    let a = Peer::join(Arc::clone(&handles[0]), "a").await;
    let b = Peer::join(Arc::clone(&handles[1]), "b").await;
    let user = users().remove(0);
    let slot = home.slot_of(Shard::FIRST);
    let from = cluster.master_of(slot).await.unwrap();
    let mut count = 0;
    let moving = async {
        for to in [(from + 1) % 3, (from + 2) % 3] {
            let from = cluster.master_of(slot).await.unwrap();
            cluster.move_slot(slot, from, to).await;
            eventually("it has moved", async || {
                cluster.master_of(slot).await == Some(to)
            })
            .await;
        }
    };
    let mut done = std::pin::pin!(moving);
    loop {
        let connection = a.connection(&user);
        tokio::select! {
            () = &mut done => break,
            () = eventually("it is registered", async || a.try_register(&connection).await.is_ok()) => count += 1,
        }
    }
    // The last one may have been cut short; it can be registered again, as any.
    assert!(count > 1, "{count}");
    let listed = b.ids(&user).await.len();
    assert!(
        listed == count || listed == count + 1,
        "{listed} of {count}"
    );
    let totals = b.registry.totals().await.unwrap();
    assert_eq!(totals.connections, listed as u64);
}
