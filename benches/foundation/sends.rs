//! A send to a user with two devices on two nodes, asked of a node that holds neither where there is one; receipts included.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::{
    Bench,
    caller::{Caller, another, calls},
    crowd::{Crowd, holders_of},
    meter::{Cost, Meter, is_message, is_script},
};

/// The users of a fleet, each with two devices.
pub(crate) const USERS: usize = 800;
/// Bytes of a payload.
const PAYLOAD: usize = 128;
/// Sends at once.
const AT_ONCE: usize = 32;
/// Seconds in which it is seen what an idle fleet spends: two heartbeats.
const IDLE: f64 = 6.0;

pub(crate) async fn measure(bench: &mut Bench<'_>) {
    let nodes = bench.options.nodes;
    let bars = Bars {
        redis: "≤ 14",
        nodes: "≤ 85",
    };
    fleet(bench, Shape::of(nodes), &bars).await;
    fleet(bench, Shape::of(2), &Bars::default()).await;
    if bench.options.wide {
        fleet(bench, Shape::of(4), &Bars::default()).await;
        let four = Shape {
            nodes: 16,
            ..Shape::of(4)
        };
        let all = Shape {
            callers: 16,
            ..four
        };
        let bars = Bars {
            redis: "≤ 1.1 × 4 nodes",
            nodes: "",
        };
        fleet(bench, four, &bars).await;
        fleet(bench, all, &bars).await;
    }
}

#[derive(Default)]
struct Bars {
    redis: &'static str,
    nodes: &'static str,
}

/// A fleet, and what its nodes do.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    nodes: usize,
    /// The first ones, which hold users.
    holders: usize,
    /// The first ones, which are asked to send.
    callers: usize,
}

impl Shape {
    /// A fleet whose nodes all do everything.
    pub(crate) fn of(nodes: usize) -> Self {
        Self {
            nodes,
            holders: nodes,
            callers: nodes,
        }
    }

    fn name(self) -> String {
        let Self {
            nodes,
            holders,
            callers,
        } = self;
        match (holders == nodes, callers == nodes) {
            (true, _) => format!("a send, {nodes} nodes"),
            (false, true) => format!("a send, {nodes} nodes, {holders} hold, all are asked"),
            (false, false) => format!("a send, {nodes} nodes, {holders} hold and are asked"),
        }
    }
}

async fn fleet(bench: &mut Bench<'_>, shape: Shape, bars: &Bars) {
    let Shape { nodes, holders, .. } = shape;
    let fleet = bench.fleet(nodes).await;
    let crowd = Crowd::of_pairs(&fleet, USERS, holders).await;
    let caller = Caller::new(&fleet);
    let mut meter = Meter::new(&fleet.redis, &fleet.nodes).await;
    // Opens the callers' connections, and loads the scripts.
    send(&caller, &crowd, shape, bench.options.sends / 10).await;
    let idle = meter.idle(IDLE).await;
    let sends = bench.options.sends;
    let work = send(&caller, &crowd, shape, sends);
    let (amiss, cost) = meter.cost(work).await;
    if let Some(amiss) = amiss {
        bench
            .table
            .note(bench.column, format!("{nodes} nodes: {amiss}"));
    }
    let name = shape.name();
    tell(bench, &name, &cost.beyond(&idle).per(sends as f64), bars);
    let idle = idle.per(idle.seconds);
    let name = format!(
        "a second of {nodes} idle nodes with {} connections",
        2 * USERS
    );
    bench.put(&format!("{name}: Redis, µs"), "", idle.redis);
    bench.put(&format!("{name}: nodes, µs"), "", idle.nodes);
}

fn tell(bench: &mut Bench<'_>, name: &str, send: &Cost, bars: &Bars) {
    bench.put(&format!("{name}: Redis, µs"), bars.redis, send.redis);
    bench.put(&format!("{name}: nodes, µs"), bars.nodes, send.nodes);
    bench.put(&format!("{name}: commands"), "", send.calls(|_| true));
    bench.put(&format!("{name}: scripts"), "", send.calls(is_script));
    bench.put(&format!("{name}: messages"), "", send.calls(is_message));
    let dearest = format!("{name}: {}", send.dearest());
    bench.table.latest(bench.column, name, &dearest);
}

/// Sends, and waits until everything has come. Returns what the answers said that they should not.
pub(crate) async fn send(
    caller: &Caller,
    crowd: &Crowd,
    shape: Shape,
    count: usize,
) -> Option<String> {
    let (short, unconfirmed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let before = crowd.events();
    let body = json!({ "event": "bench", "data": "x".repeat(PAYLOAD) });
    calls(count, AT_ONCE, async |number| {
        let user = number % USERS;
        let node = another(number, shape.callers, holders_of(user, shape.holders));
        let path = format!("/v1/users/user-{user}/events");
        let answer = caller.post(node, &path, &body).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        if answer["unconfirmed"].as_u64().unwrap_or(0) > 0 {
            unconfirmed.fetch_add(1, Ordering::Relaxed);
        } else if answer["connections"] != 2 {
            short.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    crowd.heard(before + 2 * count).await;
    let (short, unconfirmed) = (short.into_inner(), unconfirmed.into_inner());
    (short + unconfirmed > 0).then(|| {
        format!(
            "of {count} sends {unconfirmed} were unconfirmed, and {short} did not say 2 connections"
        )
    })
}
