//! L5: clients that do nothing. Each takes a descriptor and some memory, neither of which grows or stays.
//!
//! The long run: `SWITCHBOARD_BIN=target/release/switchboard cargo test --release --test load an_hour -- --ignored --nocapture`;
//! `SWITCHBOARD_TEST_CLIENTS` and `SWITCHBOARD_TEST_MINUTES` say how many there are, and how long.

use std::time::Duration;

use crate::{
    ground::{MORE_TO_REDIS, alone, crowd_at, given, on_given_binary, sign},
    support::{
        bounds::{ensure, seconds, within},
        client::Client,
        fleet::{Fleet, Node, Plan},
        oracle,
        run::Run,
    },
};

/// How many do nothing, in rounds, and for an hour.
const IDLE: usize = 2_000;
const MANY: usize = 10_000;

/// Pings of an hour are those of five hours with the default interval.
const PING: Duration = Duration::from_secs(5);

/// From when on memory is compared, in minutes. The engine's queue of a connection takes its memory by the 32 packets, and keeps
/// what it took: a second block with the 33rd ping (measured: 19.5 KB a connection before, 24.8 KB from then on).
const SETTLED: u64 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_take_a_descriptor_each_and_leave_nothing() {
    let _alone = alone().await;
    let run = Run::begin("idle");
    let fleet = Fleet::start(&run, on_given_binary(Plan::of(1))).await;
    sign("idle", IDLE);
    let mut after = Vec::new();
    for round in 1..=given("IDLE_ROUNDS", 3) {
        let before = rss(&fleet[0]);
        let clients = crowd_at(fleet[0].addr, "idle", IDLE).await;
        fleet.exact(&clients, seconds(20.0)).await;
        one_descriptor_each(&fleet[0], IDLE).await;
        let with = rss(&fleet[0]);
        drop(clients);
        let look = async || oracle::empty(&fleet).await;
        within(seconds(20.0), "nothing is left", look).await;
        after.push(rss(&fleet[0]));
        run.tell(format!(
            "round {round}: RSS {before} KB, with {IDLE} {with} KB ({:.1} KB each), after {} KB",
            with.saturating_sub(before) as f64 / IDLE as f64,
            after[round - 1]
        ));
    }
    assert!(
        after.last() < Some(&(after[0] + after[0] / 10 + 4 * 1024)),
        "it grows with each crowd: {after:?} KB"
    );
    fleet.finish(Vec::new(), seconds(10.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "an hour long, on a machine that does nothing else"]
async fn idle_connections_cost_the_same_after_an_hour() {
    let _alone = alone().await;
    let run = Run::begin("an hour");
    let (count, minutes) = (
        given("SWITCHBOARD_TEST_CLIENTS", MANY),
        given("SWITCHBOARD_TEST_MINUTES", 60_u64).max(SETTLED + 1),
    );
    let plan = Plan::of(1).with("PING__INTERVAL", &format!("{}s", PING.as_secs()));
    let fleet = Fleet::start(&run, on_given_binary(plan)).await;
    sign("idle", count);
    let before = rss(&fleet[0]);
    let clients = crowd_at(fleet[0].addr, "idle", count).await;
    fleet.exact(&clients, seconds(60.0)).await;
    let mut settled = 0;
    for minute in 0..=minutes {
        let now = rss(&fleet[0]);
        if minute == SETTLED {
            settled = now;
        }
        run.tell(format!(
            "minute {minute}: RSS {now} KB, {:.1} KB each; {} file descriptors",
            now.saturating_sub(before) as f64 / count as f64,
            fleet[0].process.descriptors()
        ));
        if minute < minutes {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
    let last = rss(&fleet[0]);
    let growth = (last as f64 / settled as f64 - 1.0) * 60.0 / (minutes - SETTLED) as f64;
    run.tell(format!("grows by {:.2} % an hour", growth * 100.0));
    assert!(growth < 0.01, "from {settled} to {last} KB");
    one_descriptor_each(&fleet[0], count).await;
    fleet.exact(&clients, seconds(10.0)).await;
    assert!(clients.iter().all(Client::is_open), "one was dropped");
    fleet.finish(clients, seconds(30.0)).await;
}

/// Memory of a node, in KB.
fn rss(node: &Node) -> u64 {
    node.process.status("VmRSS")
}

/// Waits until a node has a file descriptor for each of so many connections.
async fn one_descriptor_each(node: &Node, count: usize) {
    let look = async || {
        let (now, base) = (node.process.descriptors(), node.base());
        ensure(
            (count..=base + count + MORE_TO_REDIS).contains(&now),
            || format!("{now} file descriptors, at the beginning {base}"),
        )
    };
    within(seconds(5.0), "a descriptor for each", look).await;
}
