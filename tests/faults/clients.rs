//! Clients that vanish without a word (F7).

use std::time::{Duration, Instant};

use crate::support::{
    bounds::{seconds, within},
    client::{Client, Hello},
    fleet::{Fleet, Plan},
    oracle,
    polling::Polling,
    proxy::{Proxy, Weather},
    run::Run,
};

/// `ping.interval` and `ping.timeout` of these nodes, in seconds.
const PING: (f64, f64) = (1.0, 1.5);

#[tokio::test]
async fn f7_clients_vanish_behind_a_dead_network() {
    let run = Run::begin("f7");
    let plan = Plan::of(2)
        .with("PING__INTERVAL", "1s")
        .with("PING__TIMEOUT", "1500ms");
    let fleet = Fleet::start(&run, plan).await;
    let network = Proxy::start(fleet[0].addr).await;
    let stay = fleet.crowd("stays", 20).await;
    let mut vanish = Vec::new();
    for number in 0..20 {
        vanish.push(Client::of(network.addr(), &format!("vanishes-{number}")).await);
    }
    let polling = Polling::open(network.addr()).await.unwrap();
    polling.connect(&Hello::user("polls")).await.unwrap();
    let poll = tokio::spawn({
        let polling = polling.clone();
        async move { polling.poll().await }
    });
    // One that hears everything and says nothing.
    let mute = Client::of(fleet[0].addr, "mute").await;
    within(seconds(5.0), "all are there", async || {
        let stats = fleet[1].api.read("/v1/stats").await?;
        let all = stay.len() + vanish.len() + 2;
        crate::support::bounds::ensure(stats["connections"] == all, || stats.to_string())
    })
    .await;

    let gone = Instant::now();
    network.set(Weather::HALF_OPEN);
    mute.ignore_pings();
    let here: Vec<_> = stay.iter().collect();
    let limit = seconds(PING.0 + PING.1 + 1.0);
    let look = async || oracle::exact(&fleet, &here).await;
    within(limit, "those that vanished are gone", look).await;
    run.tell(format!(
        "measured: gone {:?} after they vanished, ping {PING:?}",
        gone.elapsed()
    ));
    assert!(
        vanish.iter().all(Client::is_open),
        "they believe that they are connected"
    );
    mute.ended(seconds(1.0)).await;
    poll.abort();
    drop((vanish, network));
    fleet.finish(stay, Duration::from_secs(10)).await;
}
