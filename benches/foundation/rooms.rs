//! Rooms: what it costs to put a user into one, to send to one with members on two nodes, and what a large one costs on one node
//! beside a broadcast, and beside a WebSocket server without Socket.IO.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use serde_json::{Value, json};

use crate::{
    Bench, bare,
    caller::{Caller, another, calls},
    crowd::{Comer, Crowd, holders_of},
    loss::Slow,
    meter::{Cost, Meter},
    sends::USERS,
    support::redis_server::Server,
    wire::{Wire, text},
};

/// Calls at once.
const AT_ONCE: usize = 32;
/// Seconds in which it is seen what an idle fleet spends.
const IDLE: f64 = 6.0;
/// Messages to a large room: so many deliveries, and a message more than that is for.
const DELIVERIES: usize = 500_000;
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
    let messages = DELIVERIES / members + 1;
    let mut delivery = 0.0;
    let () = fleet
        .redis
        .run("CONFIG SET slowlog-log-slower-than 1000")
        .await;
    let () = fleet.redis.run("CONFIG SET slowlog-max-len 10000").await;
    let () = fleet.redis.run("SLOWLOG RESET").await;
    for (what, path) in [
        ("a broadcast to", "/v1/broadcast"),
        ("a send to a room of", "/v1/rooms/all/events"),
    ] {
        let before = crowd.events();
        // One after another, so that no message shares a write with the next.
        let work = calls(messages, 1, async |number| {
            caller.post(1, path, &body).await;
            crowd.heard(before + (number + 1) * members).await;
        });
        let ((), cost) = meter.cost(work).await;
        let each = cost.beyond(&idle).per(messages as f64);
        let name = format!("{what} {members} connections");
        bench.put(&format!("{name}: Redis, µs"), "", each.redis);
        let name = format!("{name}: nodes, µs for a connection");
        delivery = each.nodes / members as f64;
        bench.put(&name, "", delivery);
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
    let leave = async |number: usize| {
        let path = format!("/v1/users/user-{number}/rooms/all");
        caller.delete(1, &path).await;
    };
    let leaving = READS.min(members / 2);
    let ((), cost) = meter.cost(calls(leaving, 8, leave)).await;
    let each = cost.beyond(&idle).per(leaving as f64);
    let name = format!("a user out of a room of {members}: Redis, µs");
    bench.put(&name, "", each.redis);
    let name = format!("{members} members, but for emptying: slowest command, ms");
    bench.put(&name, "", slowest(&fleet.redis).await);
    let empty = async {
        caller.delete(1, "/v1/rooms/all").await;
    };
    let began = Instant::now();
    let ((), cost) = meter.cost(empty).await;
    let each = cost.beyond(&idle).per((members - leaving) as f64);
    let name = format!("emptying a room of {members}: Redis, µs for a member");
    bench.put(&name, "", each.redis);
    let name = format!("emptying a room of {members}: s");
    bench.put(&name, "", began.elapsed().as_secs_f64());
    let name = format!("emptying a room of {members}: slowest command, ms");
    bench.put(&name, "", slowest(&fleet.redis).await);
    drop((crowd, fleet));
    let bare = bare(members, messages).await;
    let name = format!("a bare WebSocket server to {members} connections: µs for a connection");
    bench.put(&name, "", bare);
    let name = format!("a send to a room of {members} connections beside that: times");
    bench.put(&name, "≤ 1.15", delivery / bare);
}

/// The time, in µs for a connection, that a WebSocket server without Socket.IO takes to hand on the same event.
async fn bare(members: usize, messages: usize) -> f64 {
    let (server, door) = bare::start().await;
    let crowd = Crowd::bare(door, members).await;
    let mut sender = Wire::open(door, "").await.unwrap();
    let event = text(format!("42{}", json!(["bench", "x".repeat(128)])));
    let before = server.cpu();
    for number in 1..=messages {
        sender.send(&event).await.unwrap();
        crowd.heard(number * members).await;
    }
    (server.cpu() - before).as_micros() as f64 / (messages * members) as f64
}

/// The slowest command that Redis has had since this was last asked, in ms; 0 if all took less than one.
pub(crate) async fn slowest(redis: &Server) -> f64 {
    let slow: Vec<Slow> = redis.run("SLOWLOG GET 10000").await;
    let () = redis.run("SLOWLOG RESET").await;
    let slowest = slow.iter().map(|entry| entry.2).max();
    slowest.unwrap_or_default() as f64 / 1e3
}

fn tell(bench: &mut Bench<'_>, name: &str, cost: &Cost) {
    bench.put(&format!("{name}: Redis, µs"), "", cost.redis);
    bench.put(&format!("{name}: nodes, µs"), "", cost.nodes);
    bench.put(&format!("{name}: commands"), "", cost.calls(|_| true));
    let dearest = format!("{name}: {}", cost.dearest());
    bench.table.latest(bench.column, name, &dearest);
}
