//! Nodes whose clocks are wrong (F13): leases and revocations go by the clock of Redis.
//!
//! Needs `faketime` (Debian's package of that name), which shifts the wall clock of one process. Where it is missing the test
//! says so and proves nothing.

use std::{process::Command, time::Duration};

use serde_json::json;

use crate::support::{
    bounds::seconds,
    client::{Client, Hello, Refused},
    fleet::{Fleet, Plan},
    run::Run,
    token::fresh_token,
};

/// How much each node's clock is off.
const SKEWS: [&str; 3] = ["-5m", "+0", "+5m"];

/// A node that is behind takes what it is shown for issued in its future, and one that is ahead for expired sooner: that is what
/// `auth.jwt.leeway` is for.
const LEEWAY: &str = "10m";

/// What `faketime` has its programs load. It stays in between itself, so that a signal would not reach the node.
pub(crate) fn library() -> Option<String> {
    let mut print = Command::new("faketime");
    let printed = print
        .args(["-f", "+0", "printenv", "LD_PRELOAD"])
        .output()
        .ok()?;
    let library = String::from_utf8(printed.stdout).ok()?.trim().to_owned();
    (!library.is_empty()).then_some(library)
}

#[tokio::test]
async fn f13_clocks_that_are_five_minutes_off_change_nothing() {
    let run = Run::begin("f13");
    let Some(library) = library() else {
        run.tell("SKIPPED: faketime is not installed");
        return;
    };
    let mut plan = Plan::brisk(0).with("AUTH__JWT__LEEWAY", LEEWAY);
    let mut fleet = Fleet::start(&run, plan.clone()).await;
    for skew in SKEWS {
        // Durations are of the monotonic clock, which no skew moves.
        let settings = [
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME={skew}"),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        plan.wrapper = ["env".to_owned()].into_iter().chain(settings).collect();
        fleet.plan.wrapper.clone_from(&plan.wrapper);
        fleet.add().await;
    }
    let mut clients = fleet.crowd("skewed", 30).await;
    fleet.exact(&clients, seconds(5.0)).await;

    // A revocation by either wrong node means what came before it, and nothing that comes after.
    for (number, user) in [(0, "behind"), (2, "ahead")] {
        let old = fresh_token(user);
        let before = Client::connect(fleet[1].addr, &Hello::with(&old))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let answer = fleet[number]
            .api
            .disconnect(user, json!({ "revokeTokens": true }));
        let answer = answer.await.unwrap();
        assert_eq!(answer.body["disconnected"], 1, "{answer:?}");
        before.ended(seconds(1.0)).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let fresh = fresh_token(user);
        for node in fleet.up() {
            let again = Client::connect(node.addr, &Hello::with(&old)).await.err();
            assert_eq!(
                again,
                Some(Refused::Connect("Token revoked".into())),
                "{}",
                node.name
            );
        }
        for node in &fleet.nodes {
            clients.push(
                Client::connect(node.addr, &Hello::with(&fresh))
                    .await
                    .unwrap(),
            );
        }
    }

    // The one that is ahead dies: its lease is over when Redis says so.
    fleet.kill(2);
    clients.retain(|client| client.node != "node-2");
    let lease = fleet.plan.lease + seconds(2.0);
    let took = fleet.exact(&clients, lease).await;
    run.tell(format!("measured: out of the answers after {took:?}"));
    fleet.finish(clients, Duration::from_secs(10)).await;
}
