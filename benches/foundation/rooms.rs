//! Rooms: what it costs to put a user into one, to send to one with members on two nodes, and what a large one costs on one node
//! beside a broadcast.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::{
    Bench,
    caller::{Caller, another, calls},
    crowd::{Comer, Crowd, holders_of},
    meter::{Cost, Meter},
    sends::USERS,
};

/// Calls at once.
const AT_ONCE: usize = 32;
/// Seconds in which it is seen what an idle fleet spends.
const IDLE: f64 = 6.0;
/// Messages to a large room.
const MESSAGES: usize = 50;
/// Reads of a large room.
const READS: usize = 500;

pub(crate) async fn measure(bench: &mut Bench<'_>) {
    small(bench).await;
    large(bench).await;
}

/// A room for each user with two devices, on two nodes.
async fn small(bench: &mut Bench<'_>) {
    let nodes = bench.options.nodes;
    let fleet = bench.fleet(nodes).await;
    let crowd = Crowd::of_pairs(&fleet, USERS, nodes).await;
    let caller = Caller::new(&fleet);
    let mut meter = Meter::new(&fleet.redis, &fleet.nodes).await;
    let idle = meter.idle(IDLE).await;
    let asked = |number: usize| another(number, nodes, holders_of(number % USERS, nodes));
    let put = async |number: usize| {
        let path = format!("/v1/users/user-{number}/rooms/room-{number}");
        let answer = caller.put(asked(number), &path).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["connections"], 2, "{path}: {answer}");
    };
    let ((), cost) = meter.cost(calls(USERS, AT_ONCE, put)).await;
    let name = format!("a user with two devices into a room, {nodes} nodes");
    tell(bench, &name, &cost.beyond(&idle).per(USERS as f64));

    let amiss = AtomicUsize::new(0);
    let body = json!({ "event": "bench", "data": "x".repeat(128) });
    let send = async |number: usize| {
        let path = format!("/v1/rooms/room-{}/events", number % USERS);
        let answer = caller.post(asked(number), &path, &body).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let all = answer["connections"] == 2 && answer["unconfirmed"] == 0;
        amiss.fetch_add(usize::from(!all), Ordering::Relaxed);
    };
    calls(bench.options.sends / 10, AT_ONCE, send).await;
    let (sends, before) = (bench.options.sends, crowd.events());
    let work = async {
        calls(sends, AT_ONCE, send).await;
        crowd.heard(before + 2 * sends).await;
    };
    let ((), cost) = meter.cost(work).await;
    let name = format!("a send to a room on 2 of {nodes} nodes");
    tell(bench, &name, &cost.beyond(&idle).per(sends as f64));
    let amiss = amiss.into_inner();
    if amiss > 0 {
        let note = format!("{amiss} sends to rooms did not reach both connections for sure");
        bench.table.note(bench.column, note);
    }
}

/// One room with many members on one node of two; the other one is asked.
async fn large(bench: &mut Bench<'_>) {
    let members = bench.options.crowded;
    let fleet = bench.fleet(2).await;
    let comers = (0..members).map(|user| Comer::of(0, format!("user-{user}")));
    let crowd = Crowd::come(&fleet, comers).await;
    let caller = Caller::new(&fleet);
    let put = async |number: usize| {
        let path = format!("/v1/users/user-{number}/rooms/all");
        caller.put(1, &path).await;
    };
    calls(members, AT_ONCE, put).await;
    let mut meter = Meter::new(&fleet.redis, &fleet.nodes).await;
    let idle = meter.idle(IDLE).await;
    let body = json!({ "event": "bench", "data": "x".repeat(128) });
    for (what, path) in [
        ("a broadcast to", "/v1/broadcast"),
        ("a send to a room of", "/v1/rooms/all/events"),
    ] {
        let before = crowd.events();
        let work = async {
            calls(MESSAGES, 1, async |_| {
                caller.post(1, path, &body).await;
            })
            .await;
            crowd.heard(before + MESSAGES * members).await;
        };
        let ((), cost) = meter.cost(work).await;
        let each = cost.beyond(&idle).per(MESSAGES as f64);
        let name = format!("{what} {members} connections");
        bench.put(&format!("{name}: Redis, µs"), "", each.redis);
        let name = format!("{name}: nodes, µs for a connection");
        bench.put(&name, "", each.nodes / members as f64);
    }
    for (what, path) in [
        ("GET a room", "/v1/rooms/all"),
        (
            "a page of 1,000 members",
            "/v1/rooms/all/members?limit=1000",
        ),
        ("the rooms", "/v1/rooms"),
    ] {
        let get = async |_| {
            caller.get(1, path).await;
        };
        let ((), cost) = meter.cost(calls(READS, 8, get)).await;
        let each = cost.beyond(&idle).per(READS as f64);
        let name = format!("{what}, {members} members: Redis, µs");
        bench.put(&name, "", each.redis);
    }
    let empty = async {
        caller.delete(1, "/v1/rooms/all").await;
    };
    let ((), cost) = meter.cost(empty).await;
    let each = cost.beyond(&idle).per(members as f64);
    let name = format!("emptying a room of {members}: Redis, µs for a member");
    bench.put(&name, "", each.redis);
}

fn tell(bench: &mut Bench<'_>, name: &str, cost: &Cost) {
    bench.put(&format!("{name}: Redis, µs"), "", cost.redis);
    bench.put(&format!("{name}: nodes, µs"), "", cost.nodes);
    bench.put(&format!("{name}: commands"), "", cost.calls(|_| true));
    let dearest = format!("{name}: {}", cost.dearest());
    bench.table.latest(bench.column, name, &dearest);
}
