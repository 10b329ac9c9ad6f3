//! One node can't reach Redis, and the others can (F6).

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::{
    scene::{PAIR, Scene},
    support::{
        bounds::{ensure, is_strict, seconds, within},
        client::Client,
        fleet::Plan,
        proxy::Weather,
        run::Run,
    },
    watch::Watch,
};

async fn cut_off(name: &'static str, weather: Weather) {
    let run = Run::begin(name);
    let mut scene = Scene::set(&run, Plan::brisk(3).proxied(), 30).await;
    // One who is on the cut node alone, and will be disconnected by another one while it is cut off.
    let kicked = Client::of(scene.fleet[0].addr, "kicked").await;
    let others: Vec<_> = scene.fleet.nodes[1..]
        .iter()
        .map(|node| node.api.clone())
        .collect();
    let watch = Watch::over(others, vec![PAIR.to_owned()]);

    let cut = Instant::now();
    scene.fleet.nodes[0].proxy.as_ref().unwrap().set(weather);
    run.note(format!("node-0: {weather:?}"));
    // Nobody is asked to speak for it.
    scene.fleet.nodes[0].silent = true;
    let others = scene.clients.iter();
    let others: Vec<_> = others.filter(|client| client.node != "node-0").collect();
    let asked = &scene.fleet[1].api;
    let (answer, (), gone) = tokio::join!(
        asked.disconnect("kicked", json!({ "revokeTokens": true })),
        scene.away([0]),
        async {
            // Out of the answers, and by the next heartbeat of another node reaped. A node that is heard renews its lease until it
            // knows that it hears nothing: a second after its last PING, and 0.8 s that it waits for the answer to the next.
            let plan = &scene.fleet.plan;
            let renews = match weather == Weather::NO_ANSWERS {
                true => seconds(1.8),
                false => Duration::ZERO,
            };
            let limit = renews + plan.lease + seconds(2.0) + plan.heartbeat;
            scene.fleet.exact(others, limit).await;
            cut.elapsed()
        }
    );
    run.tell(format!("out of the others' answers {gone:?} after the cut"));
    let answer = answer.unwrap();
    run.note(format!("disconnect by another node: {answer:?}"));
    assert_eq!(
        (answer.status, &answer.body["remaining"]),
        (202, &json!([kicked.id])),
        "{answer:?}"
    );
    assert!(answer.took < seconds(6.0), "{answer:?}");
    sleep(Duration::from_secs(2)).await;
    scene.nobody_dropped();
    // It knows, and goes on saying so.
    scene.fleet.nodes[0].silent = false;
    scene.away([0]).await;

    scene.fleet.nodes[0]
        .proxy
        .as_ref()
        .unwrap()
        .set(Weather::FAIR);
    run.note("node-0 is healed");
    scene.back().await;
    let end = kicked.ended(seconds(5.0)).await;
    assert!(matches!(end.code(), 4500 | 4502), "{end:?}");
    let seen = watch.seen();
    assert!(seen.looks > 50, "{seen:?}");
    assert!(seen.offline.is_empty(), "{PAIR} flapped: {seen:?}");
    assert!(seen.failed.is_empty() || !is_strict(), "{seen:?}");
    scene.close().await;
}

#[tokio::test]
async fn f6_a_node_whose_links_are_reset_and_refused() {
    cut_off("f6 cut", Weather::CUT).await;
}

#[tokio::test]
async fn f6_a_node_whose_links_are_half_open() {
    cut_off("f6 half-open", Weather::HALF_OPEN).await;
}

#[tokio::test]
async fn f6_a_node_that_is_heard_and_hears_nothing() {
    cut_off("f6 no answers", Weather::NO_ANSWERS).await;
}

/// Slow is not away: nothing is refused, and nobody loses a lease.
#[tokio::test]
async fn f6_a_node_whose_way_to_redis_is_slow() {
    let run = Run::begin("f6 slow");
    let mut scene = Scene::set(&run, Plan::of(2).proxied(), 10).await;
    let slow = Weather {
        delay: Duration::from_millis(100),
        ..Weather::FAIR
    };
    scene.fleet[0].proxy.as_ref().unwrap().set(slow);
    scene.clients.extend(scene.fleet.crowd("late", 20).await);
    let answers = async || {
        let answer = scene.fleet[0].api.get("/v1/users/late-3").await?;
        let count = answer.body["connections"].as_array().map_or(0, Vec::len);
        ensure(answer.status == 200 && count == 1, || format!("{answer:?}"))
    };
    within(seconds(2.0), "an answer over a slow link", answers).await;
    scene.fleet[0].proxy.as_ref().unwrap().set(Weather::FAIR);
    scene.back().await;
    scene.no_lease_lost();
    scene.close().await;
}
