//! Nodes that die (F1), and nodes that hang and come back (F12).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::sleep;

use crate::{
    scene::{EXACT, PAIR, Scene},
    support::{
        bounds::{PATIENCE, bound, ensure, seconds, within},
        client::Client,
        fleet::Plan,
        run::Run,
    },
    watch::Watch,
};

/// Beyond the lease, until a node that is gone is out of every answer.
const MORE: Duration = Duration::from_secs(2);

const CLIENTS: usize = 300;

#[tokio::test]
async fn f1_a_node_is_killed_and_the_others_say_so_in_time() {
    let run = Run::begin("f1");
    let mut scene = Scene::set(&run, Plan::of(3), CLIENTS).await;
    let lease = scene.fleet.plan.lease;
    let others: Vec<_> = scene.fleet.nodes[1..]
        .iter()
        .map(|node| node.api.clone())
        .collect();
    let watch = Watch::over(others, vec![PAIR.to_owned()]);

    let (killed, wall) = (Instant::now(), Timestamp::now());
    scene.fleet.kill(0);
    let (mut gone, stay): (Vec<_>, Vec<_>) = scene
        .clients
        .into_iter()
        .partition(|client| client.node == "node-0");
    for client in &gone {
        client.ended(bound(PATIENCE)).await;
    }
    let limit = (lease + bound(MORE)).saturating_sub(killed.elapsed());
    scene.fleet.exact(&stay, limit).await;
    run.tell(format!(
        "out of the answers {:?} after kill -9, lease {lease:?}",
        killed.elapsed()
    ));

    // The heartbeat after the lease reaps, or an earlier count.
    let reaped = async || {
        let lines = scene
            .fleet
            .up()
            .flat_map(|node| node.logged(&["reaped a node that is gone"]));
        let counts = lines.filter_map(|line| {
            let (_, count) = line.rsplit_once("connections=")?;
            count.trim().parse::<usize>().ok()
        });
        let counts: Vec<_> = counts.collect();
        let all = counts.iter().sum::<usize>();
        assert!(
            all <= gone.len(),
            "reaped {counts:?}, more than the {} there were",
            gone.len()
        );
        ensure(all == gone.len(), || {
            format!("{counts:?} of {}", gone.len())
        })
    };
    let limit = (lease + scene.fleet.plan.heartbeat + bound(MORE)).saturating_sub(killed.elapsed());
    within(limit, "each of its connections is reaped, once", reaped).await;

    // Last seen when the node was last heard of: at most a heartbeat before it died.
    gone.retain(|client| client.user != PAIR);
    let heartbeat = scene.fleet.plan.heartbeat;
    for client in gone.iter().take(20) {
        let body = scene.fleet[1]
            .api
            .read(&format!("/v1/users/{}", client.user))
            .await
            .unwrap();
        let seen: Timestamp = body["lastSeen"].as_str().unwrap().parse().unwrap();
        let before = wall.as_millisecond() - seen.as_millisecond();
        let most = bound(heartbeat + Duration::from_secs(1)).as_millis() as i64;
        assert!(
            (-100..most).contains(&before),
            "{}: last seen {before} ms before it died",
            client.user
        );
    }
    let seen = watch.seen();
    assert!(
        seen.looks > 100 && seen.offline.is_empty(),
        "{PAIR} flapped: {seen:?}"
    );
    for client in &stay {
        assert!(client.is_open(), "{:?}", client.end());
    }
    scene.fleet.finish(stay, Duration::from_secs(10)).await;
}

async fn hang(name: &'static str, plan: Plan, hang: Duration) {
    let run = Run::begin(name);
    let mut scene = Scene::set(&run, plan, 60).await;
    let lease = scene.fleet.plan.lease;
    let others: Vec<_> = scene.fleet.nodes[1..]
        .iter()
        .map(|node| node.api.clone())
        .collect();
    let watch = Watch::over(others, vec![PAIR.to_owned()]);

    let stopped = Instant::now();
    scene.fleet.freeze(0);
    let here: Vec<&Client> = scene
        .clients
        .iter()
        .filter(|client| client.node != "node-0")
        .collect();
    let took = scene.fleet.exact(here, lease + bound(MORE)).await;
    run.tell(format!(
        "out of the answers {took:?} after SIGSTOP, lease {lease:?}"
    ));
    sleep((stopped + hang).saturating_duration_since(Instant::now())).await;
    let seen = watch.seen();

    scene.fleet.wake(0);
    let took = scene.fleet.exact(&scene.clients, seconds(EXACT)).await;
    run.tell(format!("exact {took:?} after SIGCONT"));
    scene.nobody_dropped();
    assert!(seen.looks > 50, "{seen:?}");
    let after = watch.seen();
    assert!(after.offline.is_empty(), "{PAIR} flapped: {after:?}");
    // No answer of the others waits for a node that is gone.
    assert!(seen.slowest < seconds(1.0), "{seen:?}");
    scene.close().await;
}

#[tokio::test]
async fn f12_a_node_hangs_for_twenty_seconds_at_the_default_lease() {
    hang("f12 default", Plan::of(3), Duration::from_secs(20)).await;
}

#[tokio::test]
async fn f12_a_node_hangs_for_longer_than_a_short_lease() {
    hang("f12 brisk", Plan::brisk(3), seconds(5.0)).await;
}

/// Nobody takes a pause for an end.
#[tokio::test]
async fn f12_a_node_hangs_for_less_than_the_lease() {
    let run = Run::begin("f12 shorter");
    let mut scene = Scene::set(&run, Plan::of(2), 20).await;
    scene.fleet.freeze(0);
    sleep(Duration::from_secs(3)).await;
    scene.fleet.wake(0);
    scene.back().await;
    scene.no_lease_lost();
    scene.close().await;
}
