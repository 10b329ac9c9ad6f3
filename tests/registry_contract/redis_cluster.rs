//! What becomes of the registry when a part of it is lost, or is somewhere else. Shards are parts also on one server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use switchboard::registry::{
    NodeReport, RegistryError,
    keys::{Keys, Place, Shard},
};

use super::{
    cluster::Cluster,
    home::{Home, InCluster, LONG, Peer, Redis, RedisServer, eventually, fleet, tally},
    redis::raw,
};

/// One user of each shard.
fn users() -> Vec<String> {
    let found = Shard::all().map(|shard| {
        let mut users = (0..).map(|n| format!("user-{n}"));
        users.find(|user| Shard::of_user(&user.as_str().into()) == shard)
    });
    found.flatten().collect()
}

/// Has a lease run out in one shard, as if that had been on a server that was away for long.
async fn lapse(raw: &mut MultiplexedConnection, peer: &Peer, shard: Shard) {
    let leases = Keys::new("switchboard").leases(Place::Shard(shard));
    let mut run_out = redis::cmd("ZADD");
    run_out
        .arg(leases)
        .arg("XX")
        .arg(1)
        .arg(peer.lease.to_string());
    let () = run_out.query_async(raw).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_has_run_out_in_one_shard_is_taken_up_again_there() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let mut connections = Vec::new();
    for user in users() {
        connections.push(a.connect(&user).await);
    }
    let (shard, user) = (Shard::FIRST, &users()[0]);
    let mut raw = raw(&home).await;
    lapse(&mut raw, &a, shard).await;
    assert_eq!(b.ids(user).await, [""; 0]);
    let refused = a.try_register(&a.connection(user)).await;
    assert!(
        matches!(refused, Err(RegistryError::Unavailable(_))),
        "{refused:?}"
    );
    for user in &users()[1..] {
        assert_eq!(b.ids(user).await.len(), 1, "{user} is in another shard");
    }

    // Its node is there all the same, so nobody reaps it.
    let heartbeat = b.registry.heartbeat(&b.lease, &b.report).await.unwrap();
    assert_eq!(heartbeat.lapsed, []);
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections), (2, 16));
    let heartbeat = a.registry.heartbeat(&a.lease, &a.report).await.unwrap();
    assert!(heartbeat.held && heartbeat.partly);
    assert_eq!(b.ids(user).await, [""; 0], "it is the node that resumes");
    a.registry.resume(&a.lease, &a.report).await.unwrap();
    assert_eq!(b.ids(user).await, [connections[0].id.to_string()]);
    let heartbeat = a.registry.heartbeat(&a.lease, &a.report).await.unwrap();
    assert!(heartbeat.held && !heartbeat.partly);

    // If somebody does begin to, the node finds out what is missing.
    lapse(&mut raw, &a, shard).await;
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 1);
    let heartbeat = a.registry.heartbeat(&a.lease, &a.report).await.unwrap();
    assert!(heartbeat.held && heartbeat.partly);
    a.registry.resume(&a.lease, &a.report).await.unwrap();
    assert_eq!(a.registry.held(&a.lease).await.unwrap().len(), 15);
    assert_eq!(a.register(&connections[0]).await, tally(1, 1));
    assert_eq!(b.registry.totals().await.unwrap(), totals);
}

#[tokio::test]
async fn a_reaper_closes_the_lease_for_good_before_it_takes_anything() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let user = &users()[0];
    a.connect(user).await;
    let mut raw = raw(&home).await;
    lapse(&mut raw, &a, Shard::FIRST).await;
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 1);
    let leases = Keys::new("switchboard").leases(Place::Shard(Shard::FIRST));
    let mut score = redis::cmd("ZSCORE");
    score.arg(leases).arg(a.lease.to_string());
    let score: Option<f64> = score.query_async(&mut raw).await.unwrap();
    assert_eq!(score, None, "closed, and with its last entry forgotten");
    assert!(a.try_register(&a.connection(user)).await.is_err());
    // Where it holds, it is left alone.
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 0);
    a.connect(&users()[1]).await;
    assert!(a.beat().await);
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
    for peer in [&a, &b] {
        let heartbeat = peer.registry.heartbeat(&peer.lease, &peer.report).await;
        let heartbeat = heartbeat.unwrap();
        assert!(heartbeat.held && heartbeat.partly);
        assert_eq!(heartbeat.lapsed, []);
    }
    // What is lost is said to be so until each node has taken its lease up again, and then has put back what was there.
    let settled = async || {
        let mut settled = a.registry.settled().await.unwrap().wholly;
        settled.sort();
        settled
    };
    assert_eq!(settled().await, []);
    let behind = NodeReport {
        settled: false,
        ..a.report.clone()
    };
    a.registry.resume(&a.lease, &behind).await.unwrap();
    b.registry.resume(&b.lease, &b.report).await.unwrap();
    assert_eq!(settled().await, std::slice::from_ref(&b.lease.instance));
    assert!(a.beat().await);
    let mut both = [&a, &b].map(|peer| peer.lease.instance.clone());
    both.sort();
    assert_eq!(settled().await, both);
    for peer in [&a, &b] {
        let heartbeat = peer.registry.heartbeat(&peer.lease, &peer.report).await;
        assert!(!heartbeat.unwrap().partly);
    }
    let held = a.registry.held(&a.lease).await.unwrap();
    assert_eq!(held.len(), 16 - lost.len());
    for connection in &connections {
        assert_eq!(a.register(connection).await, tally(1, 1));
    }
    for user in users() {
        assert_eq!(b.ids(&user).await.len(), 1, "{user}");
    }
    let totals = b.registry.totals().await.unwrap();
    assert_eq!(
        (totals.nodes, totals.connections, totals.users),
        (2, 16, 16)
    );
}

#[tokio::test]
async fn without_one_of_its_servers_the_rest_works_on() {
    let mut cluster = Cluster::start(0).await;
    for server in 0..3 {
        let keep_on = "CONFIG SET cluster-require-full-coverage no";
        let () = cluster.run(server, keep_on).await;
    }
    let home = InCluster::of(&cluster);
    let [a, b] = fleet(&home, LONG, LONG).await;
    for user in users() {
        a.connect(&user).await;
    }
    eventually("it is up", async || b.registry.is_up()).await;
    cluster.kill(1);
    eventually("it is noticed", async || !b.registry.is_up()).await;
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
    // What needs all of them says so, and what it could do is done.
    assert!(a.registry.totals().await.is_err());
    assert!(a.registry.heartbeat(&a.lease, &a.report).await.is_err());
    cluster.launch(1).await;
    eventually("it is up again", async || b.registry.is_up()).await;
    eventually("the lease is taken up there", async || {
        let heartbeat = a.registry.heartbeat(&a.lease, &a.report).await;
        heartbeat.is_ok_and(|heartbeat| heartbeat.held && heartbeat.partly)
    })
    .await;
    let held = a.registry.held(&a.lease).await.unwrap();
    assert_eq!(held.len(), 16 - lost);
}

#[tokio::test]
async fn calls_follow_a_slot_that_moves() {
    let cluster = Cluster::start(0).await;
    let home = InCluster::of(&cluster);
    let presence = switchboard::config::Presence::default();
    let timings = [LONG, LONG].map(super::home::timing);
    let [registry, other] = home.open(timings, &presence);
    let a = Peer::join(Arc::clone(&registry), "a").await;
    let b = Peer::join(other, "b").await;
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
