//! What a subscriber misses: links that are killed (F9, K5), and a backlog that Redis throws away (F10).

use std::{collections::HashSet, time::Duration};

use rand::Rng;
use serde_json::json;
use switchboard::{
    connection::Instance,
    registry::keys::{Keys, Shard},
};
use tokio::time::sleep;

use crate::{
    scene::{PAIR, Scene},
    support::{
        bounds::{ensure, seconds, within},
        client::Client,
        fleet::Plan,
        proxy::{Flow, Weather},
        run::Run,
        stored::Stored,
    },
};

const KILLS: usize = 100;

/// How soon after the last gap a kick that was not confirmed is carried out.
const RESYNC: f64 = 2.0;

#[tokio::test]
async fn f9_k5_subscribers_are_killed_a_hundred_times_and_no_kick_is_lost() {
    let run = Run::begin("f9 k5");
    let scene = Scene::set(&run, Plan::of(3), 20).await;
    let mut admin = scene.fleet.redis.connection().await;
    let mut pauses = run.random("kills");
    let killing = tokio::spawn(async move {
        let mut killed = 0;
        for _ in 0..KILLS {
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("pubsub");
            killed += kill.query_async::<u64>(&mut admin).await.unwrap();
            let pause = pauses.random_range(30..300);
            sleep(Duration::from_millis(pause)).await;
        }
        killed
    });
    let mut random = run.random("kicks");
    let (mut kicks, mut unconfirmed, mut claimed) = (0, Vec::new(), 0);
    while !killing.is_finished() {
        let user = format!("kicked-{kicks}");
        let first = random.random_range(0..3);
        let doors = [0, 1].map(|step| scene.fleet[(first + step) % 3].addr);
        let clients = [
            Client::of(doors[0], &user).await,
            Client::of(doors[1], &user).await,
        ];
        let asked = &scene.fleet[random.random_range(0..3)].api;
        let answer = asked.send(PAIR, "numbered", json!(kicks)).await.unwrap();
        claimed += answer.body["connections"].as_u64().unwrap_or(0);
        let answer = asked.disconnect(&user, json!({})).await.unwrap();
        run.note(format!(
            "kick {kicks}: {} in {:?}",
            answer.body, answer.took
        ));
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        let remaining: HashSet<_> = answer.body["remaining"]
            .as_array()
            .unwrap()
            .iter()
            .collect();
        for client in clients {
            if remaining.contains(&json!(client.id)) {
                unconfirmed.push(client);
            } else {
                assert_eq!(client.ended(seconds(1.0)).await.code(), 4500);
            }
        }
        kicks += 1;
    }
    let killed = killing.await.unwrap();
    assert!(
        killed >= KILLS as u64 && kicks > 5,
        "{killed} links killed, {kicks} kicks"
    );
    for client in &unconfirmed {
        assert_eq!(client.ended(seconds(RESYNC)).await.code(), 4500);
    }
    scene.back().await;
    let heard = scene.clients[..2].iter().flat_map(Client::heard);
    let heard = heard.filter(|heard| heard.name == "numbered").count() as u64;
    assert!(
        claimed <= heard,
        "{claimed} were said to be handed over, {heard} came"
    );
    run.tell(format!(
        "measured: {killed} links killed, {kicks} kicks, {} not confirmed at once; {claimed} of {} sends confirmed, {heard} came",
        unconfirmed.len(),
        2 * kicks
    ));
    for node in scene.fleet.up() {
        let reconnects = node
            .api
            .metrics()
            .await
            .unwrap()
            .sum("switchboard_bus_reconnects_total", &[]);
        assert!(reconnects > 10.0, "{} counts {reconnects}", node.name);
    }
    scene.close().await;
}

/// A node does not read for a while; Redis throws its backlog away, and the link with it. An order was in it.
#[tokio::test]
async fn f10_redis_throws_the_backlog_of_a_subscriber_away() {
    const PIECES: usize = 48;
    let run = Run::begin("f10");
    let scene = Scene::set(&run, Plan::of(2).proxied(), 20).await;
    let redis = &scene.fleet.redis;
    let mut admin = redis.connection().await;
    let mut limit = redis::cmd("CONFIG");
    limit
        .arg("SET")
        .arg("client-output-buffer-limit")
        .arg("pubsub 1mb 0 0");
    limit.query_async::<()>(&mut admin).await.unwrap();
    let kicked = Client::of(scene.fleet[0].addr, "kicked").await;

    let deaf = Weather {
        back: Flow::Hold,
        ..Weather::FAIR
    };
    scene.fleet[0].proxy.as_ref().unwrap().set(deaf);
    let stored = Stored::read(redis, "switchboard").await.unwrap();
    let lease = stored
        .live
        .iter()
        .find(|(_, name)| *name == "node-0")
        .unwrap()
        .0;
    let (instance, _) = lease.rsplit_once('.').unwrap();
    let instance: Instance = instance.into();
    let channel = Keys::new("switchboard").node_channel(Shard::FIRST, &instance);
    assert_eq!(redis.subscribers(&channel).await, 1);
    for _ in 0..PIECES {
        redis.publish(&channel, &[0xff; 1 << 20]).await;
    }
    let thrown = async || {
        let heard = redis.subscribers(&channel).await;
        ensure(heard == 0, || format!("{heard} subscribers"))
    };
    within(seconds(5.0), "Redis throws the subscriber out", thrown).await;
    let ordered = scene.fleet[1].api.disconnect("kicked", json!({}));
    let heal = async {
        sleep(Duration::from_secs(1)).await;
        scene.fleet[0].proxy.as_ref().unwrap().set(Weather::FAIR);
        run.note("healed");
    };
    let (answer, ()) = tokio::join!(ordered, heal);
    run.note(format!("{answer:?}"));
    assert_eq!(kicked.ended(seconds(RESYNC + 1.0)).await.code(), 4500);
    scene.back().await;
    scene.close().await;
}
