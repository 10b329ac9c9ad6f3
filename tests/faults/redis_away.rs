//! Redis is gone, empty, or stands still (F3, F4, F5).

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::{
    scene::Scene,
    support::{
        bounds::{ensure, seconds, within},
        client::Client,
        fleet::Plan,
        run::Run,
    },
};

#[tokio::test]
async fn f3_redis_restarts_with_its_data_and_with_entries_of_clients_that_left_meanwhile() {
    let run = Run::begin("f3 with data");
    let mut scene = Scene::set(&run, Plan::of(3), 40).await;
    let _: () = scene.fleet.redis.run("SAVE").await;
    scene.fleet.redis.kill();
    scene.away(0..3).await;
    for _ in 0..10 {
        scene.clients.pop();
    }
    scene.fleet.redis.launch().await;
    scene.back().await;
    scene.close().await;
}

#[tokio::test]
async fn f3_redis_restarts_empty_and_clients_that_left_meanwhile_are_not_listed() {
    let run = Run::begin("f3 empty");
    let mut scene = Scene::set(&run, Plan::of(3), 40).await;
    scene.fleet.redis.kill();
    scene.away(0..3).await;
    for _ in 0..10 {
        scene.clients.pop();
    }
    scene.fleet.redis.launch().await;
    scene.back().await;
    scene.close().await;
}

#[tokio::test]
async fn f3_flushall_is_mended_by_the_next_heartbeats() {
    let run = Run::begin("f3 flushall");
    let scene = Scene::set(&run, Plan::of(3), 40).await;
    for _ in 0..3 {
        let _: () = scene.fleet.redis.run("FLUSHALL").await;
        scene.back().await;
    }
    scene.close().await;
}

/// Until its next heartbeat a node does not know that Redis has lost everything, and says neither that somebody has gone nor that
/// nobody is there.
#[tokio::test]
async fn f3_nothing_is_confirmed_that_an_emptied_redis_has_forgotten() {
    let run = Run::begin("f3 forgotten");
    let mut scene = Scene::set(&run, Plan::of(2), 4).await;
    let kicked = Client::of(scene.fleet[1].addr, "kicked").await;
    scene.clients.push(kicked);
    let api = &scene.fleet[0].api;
    let heartbeat = async || {
        let nodes = api.read("/v1/nodes").await?;
        let all = nodes["nodes"].as_array().cloned().unwrap_or_default();
        let it = all.iter().find(|node| node["nodeId"] == "node-0");
        let it = it.ok_or_else(|| nodes.to_string())?;
        Ok::<_, String>(it["lastHeartbeat"].clone())
    };
    // Right after a heartbeat, so that the next one is far.
    let before = heartbeat().await.unwrap();
    let next = async || ensure(heartbeat().await? != before, || "no heartbeat".into());
    within(seconds(10.0), "the next heartbeat", next).await;

    let () = scene.fleet.redis.run("FLUSHALL").await;
    let (kick, read, sent) = tokio::join!(
        api.disconnect("kicked", json!({})),
        api.get("/v1/users/kicked"),
        api.send("kicked", "any", json!(1)),
    );
    for answer in [kick, read, sent].map(Result::unwrap) {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.retry_after.is_some(), "{answer:?}");
    }
    // The kick could not be confirmed, and is written down all the same: its node carries it out when it puts back what it has.
    let kicked = scene.clients.pop().unwrap();
    assert_eq!(kicked.ended(seconds(8.0)).await.code(), 4500);
    scene.back().await;
    let answer = scene.fleet[0].api.disconnect("kicked", json!({})).await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.status, &answer.body["disconnected"]),
        (200, &json!(0))
    );
    scene.close().await;
}

/// The subscriber hears nothing and says nothing for a minute, and Redis is away all that time.
#[tokio::test]
async fn f4_redis_is_away_for_a_minute_without_traffic() {
    let run = Run::begin("f4");
    let mut scene = Scene::set(&run, Plan::of(2), 4).await;
    scene.fleet.redis.kill();
    sleep(Duration::from_secs(60)).await;
    scene.nobody_dropped();
    scene.fleet.redis.launch().await;
    scene.back().await;
    scene.close().await;
}

/// By the clock of Redis all leases have run out when it goes on.
#[tokio::test]
async fn f5_redis_stands_still_for_longer_than_the_lease() {
    let run = Run::begin("f5 longer");
    let scene = Scene::set(&run, Plan::brisk(3), 40).await;
    scene.fleet.redis.signal("STOP");
    scene.away(0..3).await;
    sleep(seconds(4.0)).await;
    scene.fleet.redis.signal("CONT");
    scene.back().await;
    scene.close().await;
}

#[tokio::test]
async fn f5_redis_stands_still_for_ten_seconds_at_the_default_lease() {
    let run = Run::begin("f5 ten seconds");
    let scene = Scene::set(&run, Plan::of(2), 10).await;
    scene.fleet.redis.signal("STOP");
    sleep(Duration::from_secs(10)).await;
    scene.away(0..2).await;
    scene.fleet.redis.signal("CONT");
    scene.back().await;
    scene.close().await;
}

/// A pause that nobody takes for an end: leases hold all along.
#[tokio::test]
async fn f5_redis_stands_still_for_less_than_the_lease() {
    let run = Run::begin("f5 shorter");
    let scene = Scene::set(&run, Plan::of(2), 40).await;
    scene.fleet.redis.signal("STOP");
    sleep(Duration::from_secs(3)).await;
    scene.fleet.redis.signal("CONT");
    scene.back().await;
    scene.no_lease_lost();
    scene.close().await;
}
