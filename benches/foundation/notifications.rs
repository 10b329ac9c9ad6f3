//! Notifications: what it costs to keep a client's event for a backend and to deliver it, and how many a second come.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode, routing::post};
use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    Bench,
    crowd::arrive,
    meter::Meter,
    support::{
        bounds::{ensure, seconds, within},
        fleet::Plan,
    },
    wire::{Wire, text},
};

/// Users, each of whom waits for an acknowledgement before the next event: of one user, notifications come one after another.
const USERS: usize = 256;
/// Seconds in which it is seen what an idle fleet spends.
const IDLE: f64 = 6.0;
/// A key of no use anywhere else.
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

pub(crate) async fn measure(bench: &mut Bench<'_>) {
    let (nodes, each) = (bench.options.nodes, bench.options.events.div_ceil(USERS));
    let count = each * USERS;
    let backend = Backend::start().await;
    let backends = json!([{ "name": "bench", "url": backend.url, "secret": SECRET, "queue": ["track"], "in_flight": 256 }]);
    let plan = Plan::of(nodes)
        .with("BACKENDS", &backends.to_string())
        .with("LIMITS__EVENTS_PER_SECOND", "100000");
    let fleet = bench.start(plan).await;
    let mut clients = Vec::with_capacity(USERS);
    for user in 0..USERS {
        let users = [format!("user-{user}")];
        let door = fleet[user % nodes].addr;
        let come = async || arrive(door, user, &users).await;
        let (_, (wire, _)) = within(seconds(60.0), "a client comes", come).await;
        clients.push(wire);
    }
    // Until somebody delivers: the nodes share that out when they start.
    say(&mut clients, 1, "warm").await;
    backend.heard(USERS).await;
    let mut meter = Meter::new(&fleet.redis, &fleet.nodes).await;
    let idle = meter.idle(IDLE).await;
    let began = Instant::now();
    let work = async {
        say(&mut clients, each, "event").await;
        let kept = began.elapsed();
        backend.heard(USERS + count).await;
        kept
    };
    let (kept, cost) = meter.cost(work).await;
    let rate = |took: Duration| count as f64 / took.as_secs_f64();
    let cost = cost.beyond(&idle).per(count as f64);
    let name = format!("a notification, kept and delivered, {nodes} nodes");
    bench.put(&format!("{name}: Redis, µs"), "", cost.redis);
    bench.put(&format!("{name}: nodes, µs"), "", cost.nodes);
    bench.put(&format!("{name}: commands"), "", cost.calls(|_| true));
    let dearest = format!("{name}: {}", cost.dearest());
    bench.table.latest(bench.column, &name, &dearest);
    let note = format!(
        "notifications a second: {:.0} kept, {:.0} delivered; {} of {count} more than once",
        rate(kept),
        rate(Duration::from_secs_f64(cost.seconds * count as f64)),
        backend.calls() - USERS - count,
    );
    bench.table.note(bench.column, note);
}

/// Has each client send so many events, one after another.
async fn say(clients: &mut [Wire], each: usize, what: &str) {
    let all = clients.iter_mut().map(async |wire| {
        for number in 0..each {
            let event = json!(["track", { "what": what, "number": number }]);
            wire.send(&text(format!("42{number}{event}")))
                .await
                .unwrap();
            let answer = wire.until("43").await.expect("the connection stays");
            assert!(answer.ends_with(br#"[{"ok":true}]"#), "{answer:?}");
        }
    });
    join_all(all).await;
}

/// What takes notifications, and does nothing with them.
struct Backend {
    url: String,
    calls: Arc<AtomicUsize>,
    ids: Arc<Mutex<BTreeSet<String>>>,
}

impl Backend {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let calls = Arc::<AtomicUsize>::default();
        let ids = Arc::<Mutex<BTreeSet<String>>>::default();
        let (counted, kept) = (Arc::clone(&calls), Arc::clone(&ids));
        let take = async move |headers: axum::http::HeaderMap| {
            let id = headers["webhook-id"].to_str().unwrap().to_owned();
            kept.lock().unwrap().insert(id);
            counted.fetch_add(1, Ordering::Relaxed);
            StatusCode::NO_CONTENT
        };
        let router: Router = Router::new().route("/", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, calls, ids }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Waits until so many different notifications have come.
    async fn heard(&self, count: usize) {
        let look = async || {
            let come = self.ids.lock().unwrap().len();
            ensure(come == count, || format!("{come} notifications"))
        };
        within(seconds(120.0), "all notifications come", look).await;
    }
}
