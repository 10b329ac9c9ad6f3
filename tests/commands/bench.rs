//! `switchboard bench`: each kind of load does what it says against a node, and reports it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    Outcome, SWITCHBOARD, run,
    support::{
        fleet::{Fleet, Plan},
        run::Run,
    },
};

async fn bench(fleet: &Fleet, words: &[&str]) -> Outcome {
    let urls = fleet
        .nodes
        .iter()
        .map(|node| format!("http://{}", node.addr));
    let urls: Vec<_> = urls.collect();
    let mut all = vec![SWITCHBOARD, "bench"];
    all.extend(words);
    all.extend([
        "--json",
        "--connections",
        "6",
        "--rate",
        "40",
        "--duration",
        "500ms",
    ]);
    for url in &urls {
        all.extend(["--url", url]);
    }
    run(&all, &[]).await
}

/// The report of a load in which nothing failed, with this many operations and these times.
async fn load(fleet: &Fleet, words: &[&str], operations: u64, times: &[(&str, u64)]) -> Value {
    let outcome = bench(fleet, words).await;
    assert_eq!(
        outcome.code,
        Some(0),
        "{}{}",
        outcome.stdout,
        outcome.stderr
    );
    let report = outcome.json();
    assert_eq!(report["work"], words[0]);
    assert_eq!(report["operations"], operations, "{report}");
    assert_eq!(report["succeeded"], operations, "{report}");
    assert_eq!(report["failures"], json!({}), "{report}");
    for (what, count) in times {
        let times = &report["milliseconds"][*what];
        assert_eq!(times["count"], *count, "{what}: {report}");
        let at = |name: &str| times[name].as_f64().unwrap();
        assert!(
            at("min") > 0.0 && at("p50") <= at("p99") && at("p99") <= at("max"),
            "{report}"
        );
    }
    let pids: Vec<_> = fleet
        .nodes
        .iter()
        .map(|node| u64::from(node.process.pid()))
        .collect();
    let servers = report["servers"].as_array().unwrap();
    assert_eq!(servers.len(), pids.len(), "{report}");
    for server in servers {
        assert!(pids.contains(&server["pid"].as_u64().unwrap()), "{report}");
        assert!(
            server["memoryAfter"].as_u64().unwrap() > 1_000_000,
            "{report}"
        );
    }
    report
}

#[tokio::test]
async fn every_load_does_what_it_says_on_all_nodes() {
    let run = Run::begin("bench");
    let fleet = Fleet::start(&run, Plan::brisk(2)).await;

    load(&fleet, &["connect"], 6, &[("ready", 6), ("begun", 6)]).await;
    load(&fleet, &["idle"], 6, &[("ready", 6)]).await;
    load(&fleet, &["churn", "--stay", "100ms"], 20, &[("ready", 20)]).await;
    load(
        &fleet,
        &["send"],
        20,
        &[("answered", 20), ("delivered", 20)],
    )
    .await;
    load(
        &fleet,
        &["broadcast"],
        20,
        &[("answered", 20), ("delivered", 120)],
    )
    .await;
    load(
        &fleet,
        &["room"],
        20,
        &[("answered", 20), ("delivered", 120)],
    )
    .await;
    load(&fleet, &["call"], 20, &[("acknowledged", 20)]).await;
    load(&fleet, &["kick"], 6, &[("answered", 6), ("ended", 6)]).await;
    // Nothing of it is left.
    fleet
        .finish(Vec::new(), std::time::Duration::from_secs(20))
        .await;
}

/// Calls reach a backend, and each is acknowledged by what that answers.
#[tokio::test]
async fn calls_are_answered_by_a_backend() {
    let run = Run::begin("bench-backend");
    let called = Arc::new(AtomicU64::new(0));
    let config = tempfile::NamedTempFile::new().unwrap();
    let backend = format!(
        "[[backends]]\nname = \"app\"\nurl = \"{}\"\nsecret = \"whsec_{}\"\nevents = [\"chat:*\"]\n",
        backend(called.clone()).await,
        "c3dpdGNoYm9hcmQ".repeat(4),
    );
    fs::write(config.path(), backend).unwrap();
    let plan = Plan::brisk(2).with("CONFIG", config.path().to_str().unwrap());
    let fleet = Fleet::start(&run, plan).await;
    let words = ["call", "--event", "chat:say"];
    load(&fleet, &words, 20, &[("acknowledged", 20)]).await;
    assert_eq!(called.load(Ordering::Relaxed), 20);
}

/// A backend that acknowledges every event, and counts them. Returns its URL.
async fn backend(called: Arc<AtomicU64>) -> String {
    let answer = async move |Json(call): Json<Value>| {
        assert_eq!(call["data"]["event"], "chat:say", "{call}");
        called.fetch_add(1, Ordering::Relaxed);
        Json(json!({ "ack": "said" }))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test]
async fn a_load_whose_operations_fail_is_1_and_says_how_often() {
    let run = Run::begin("bench-failing");
    let plan = Plan::brisk(1).with("LIMITS__CONNECTIONS", "2");
    let fleet = Fleet::start(&run, plan).await;
    let outcome = bench(&fleet, &["connect"]).await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    let report = outcome.json();
    let failures = report["failures"].as_object().unwrap();
    let failed: u64 = failures.values().filter_map(Value::as_u64).sum();
    assert_eq!(
        failed + report["succeeded"].as_u64().unwrap(),
        6,
        "{report}"
    );
    assert!(failures.keys().all(|why| why.contains("503")), "{report}");
}

#[tokio::test]
async fn load_on_other_machines_and_without_bounds_is_refused() {
    let remote = ["--url", "http://192.0.2.1:3000"];
    for (words, named) in [
        (&[&["connect"], &remote[..]].concat()[..], "--allow-remote"),
        (&["send", "--api", "http://192.0.2.1"], "--allow-remote"),
        (&["connect", "--connections", "1000000"], "--connections"),
        (&["send", "--rate", "50000", "--duration", "1h"], "--rate"),
        (&["connect", "--rate", "0.01"], "--rate"),
        (&["send", "--duration", "2h"], "--duration"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let all = [&[SWITCHBOARD, "bench"], words].concat();
        let outcome = run(&all, &[]).await;
        assert_eq!(outcome.code, Some(64), "{words:?}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains(named),
            "{words:?}: {}",
            outcome.stderr
        );
        assert_eq!(outcome.stdout, "", "{words:?}");
    }
}
