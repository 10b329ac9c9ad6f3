//! What the nodes of a fleet without clients cost.

use crate::{
    Bench,
    meter::{Cost, Meter, is_script},
    support::{fleet::Fleet, redis_server::Server},
};

/// Three heartbeats of everybody.
const IDLE: f64 = 9.0;

pub(crate) async fn measure(bench: &mut Bench<'_>) {
    let fleet = bench.fleet(bench.options.nodes).await;
    of(bench, &fleet).await;
}

/// Measures the heartbeats of a fleet. Returns what it spends when it is idle.
pub(crate) async fn of(bench: &mut Bench<'_>, fleet: &Fleet) -> Cost {
    let alone = alone().await;
    let mut meter = Meter::new(&fleet.redis, &fleet.nodes).await;
    let idle = meter.idle(IDLE).await;
    let size = fleet.nodes.len();
    let beats = size as f64 * IDLE / fleet.plan.heartbeat.as_secs_f64();
    let beat = idle.beyond(&alone).per(beats);
    let name = format!("a heartbeat, {size} leases");
    bench.put(&format!("{name}: Redis, µs"), "", beat.redis);
    let scripts = beat.micros(is_script);
    bench.put(&format!("{name}: Redis, µs in scripts"), "≤ 60", scripts);
    bench.put(&format!("{name}: nodes, µs"), "", beat.nodes);
    bench.put(&format!("{name}: scripts"), "1", beat.calls(is_script));
    bench
        .table
        .latest(bench.column, &name, &format!("{name}: {}", beat.dearest()));
    idle
}

/// What Redis spends on itself.
async fn alone() -> Cost {
    let redis = Server::start().await;
    Meter::new(&redis, &[]).await.idle(3.0).await
}
