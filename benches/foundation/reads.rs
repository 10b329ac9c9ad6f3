//! Reads, and a send to one connection, asked of nodes that hold neither; in the usual fleet and in a large one.

use serde_json::json;

use crate::{
    Bench,
    caller::{Caller, another, calls},
    crowd::{Crowd, Member, holders_of},
    heartbeats,
    meter::{Cost, Meter},
    sends::USERS,
    support::fleet::Fleet,
};

/// Calls of a kind that costs little, and of one that costs much.
const CHEAP: usize = 4_000;
const DEAR: usize = 200;
/// Calls at once.
const AT_ONCE: usize = 8;
/// Seconds in which it is seen what an idle fleet spends.
const IDLE: f64 = 6.0;

pub(crate) async fn measure(bench: &mut Bench<'_>) {
    let fleet = bench.fleet(bench.options.nodes).await;
    of(bench, &fleet, ["", "", ""]).await;
    drop(fleet);
    let fleet = bench.fleet(bench.options.leases).await;
    heartbeats::of(bench, &fleet).await;
    of(bench, &fleet, ["≤ 10", "≤ 10", "≤ 2000"]).await;
}

async fn of(bench: &mut Bench<'_>, fleet: &Fleet, bars: [&'static str; 3]) {
    let holders = bench.options.nodes;
    let crowd = Crowd::of_pairs(fleet, USERS, holders).await;
    let caller = Caller::new(fleet);
    let mut meter = Meter::new(&fleet.redis, &fleet.nodes).await;
    let idle = meter.idle(IDLE).await;
    let nodes = fleet.nodes.len();
    // Only nodes of the usual fleet are asked: with others, the calls of each would be fewer.
    let asked = |number, held: [usize; 2]| another(number, holders, held);
    let member = |number: usize| -> &Member { &crowd.members[number % crowd.members.len()] };
    let everybody: Vec<_> = (0..1_000).map(|user| format!("user-{user}")).collect();
    let everybody = json!({ "users": everybody });

    let get = async |number: usize| {
        let user = number % USERS;
        let node = asked(number, holders_of(user, holders));
        caller.get(node, &format!("/v1/users/user-{user}")).await;
    };
    let connection = async |number: usize| {
        let Member { id, node } = member(number);
        let node = asked(number, [*node, *node]);
        caller.get(node, &format!("/v1/connections/{id}")).await;
    };
    let send = async |number: usize| {
        let Member { id, node } = member(number);
        let node = asked(number, [*node, *node]);
        let event = json!({ "connection": id, "event": "bench", "data": 1 });
        let body = json!({ "messages": [event] });
        caller.post(node, "/v1/events", &body).await;
    };
    let presence = async |number: usize| {
        caller
            .post(number % holders, "/v1/presence", &everybody)
            .await;
    };
    let list = async |number: usize| {
        caller.get(number % holders, "/v1/users?limit=1000").await;
    };
    let stats = async |number: usize| {
        caller.get(number % holders, "/v1/stats").await;
    };

    let [user_bar, connection_bar, presence_bar] = bars;
    let mut tell = |what: &str, bar: &str, cost: &Cost| {
        let name = format!("{what}, {nodes} leases: Redis, µs");
        bench.put(&name, bar, cost.redis);
        let name = format!("{what}, {nodes} leases");
        let dearest = format!("{name}: {}", cost.dearest());
        bench.table.latest(bench.column, &name, &dearest);
    };
    let cost = round(&mut meter, &idle, CHEAP, get).await;
    tell("GET a user", user_bar, &cost);
    let cost = round(&mut meter, &idle, CHEAP, connection).await;
    tell("GET a connection", connection_bar, &cost);
    let cost = round(&mut meter, &idle, CHEAP, send).await;
    tell("a send to a connection", "", &cost);
    let cost = round(&mut meter, &idle, DEAR, presence).await;
    tell("presence of 1,000", presence_bar, &cost);
    let cost = round(&mut meter, &idle, DEAR, list).await;
    tell("a page of 1,000 (800 are online)", "", &cost);
    let cost = round(&mut meter, &idle, CHEAP, stats).await;
    tell("stats", "", &cost);
}

/// What one of many calls costs.
async fn round(
    meter: &mut Meter<'_>,
    idle: &Cost,
    count: usize,
    call: impl AsyncFn(usize),
) -> Cost {
    // Opens the callers' connections, and loads the scripts.
    calls(AT_ONCE * 8, AT_ONCE, &call).await;
    let ((), cost) = meter.cost(calls(count, AT_ONCE, &call)).await;
    cost.beyond(idle).per(count as f64)
}
