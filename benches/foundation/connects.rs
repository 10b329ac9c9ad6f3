//! A connect of a user who has connections already, to one node.

use std::time::{Duration, Instant};

use crate::{
    Bench,
    crowd::{Comer, Crowd},
    meter::{Cost, Meter},
    support::fleet::Fleet,
};

/// Users with one connection, each of which gets a second one.
const FEW: usize = 1_000;
/// Connects that are measured of a user with many.
const MORE: usize = 50;
/// A user with many connections comes in steps.
const STEP: usize = 250;
/// How many of them at once: each may take 40 ms of Redis, and a node waits 800 ms for it.
const AT_ONCE: usize = 4;

pub(crate) async fn measure(bench: &mut Bench<'_>) {
    let fleet = bench.fleet(1).await;
    let mut meter = Meter::new(&fleet.redis, &fleet.nodes).await;
    let idle = meter.idle(3.0).await;

    let users = || (0..FEW).map(|user| Comer::of(0, format!("few-{user}")));
    let first = Crowd::come(&fleet, users()).await;
    let (second, cost) = meter.cost(Crowd::come(&fleet, users())).await;
    tell(bench, 1, &cost.beyond(&idle).per(FEW as f64));

    let mut many = Vec::new();
    let start = Instant::now();
    let patience = Duration::from_secs(bench.options.patience);
    for goal in [1_000, bench.options.crowded] {
        while count(&many) < goal && start.elapsed() < patience {
            let step = STEP.min(goal - count(&many));
            many.push(Crowd::come_by(AT_ONCE, &fleet, of_many(step)).await);
        }
        let earlier = count(&many);
        let (more, cost) = meter
            .cost(Crowd::come_by(AT_ONCE, &fleet, of_many(MORE)))
            .await;
        many.push(more);
        let cost = cost.beyond(&idle).per(MORE as f64);
        match earlier >= goal {
            true => tell(bench, goal, &cost),
            false => {
                let note = format!(
                    "{earlier} of {goal} connections of one user came within {} s; the next cost Redis {:.0} µs each",
                    patience.as_secs(),
                    cost.redis
                );
                bench.table.note(bench.column, note);
                break;
            }
        }
    }
    leave(fleet);
    drop((first, second, many));
}

fn tell(bench: &mut Bench<'_>, earlier: usize, cost: &Cost) {
    let bar = if earlier > 1_000 { "≤ 1000" } else { "" };
    let name = format!("a connect, user with {earlier} connections: ");
    bench.put(&format!("{name}Redis, µs"), bar, cost.redis);
    bench.put(&format!("{name}node, µs"), "", cost.nodes);
}

fn of_many(count: usize) -> impl Iterator<Item = Comer> {
    (0..count).map(|_| Comer::of(0, "many".to_owned()))
}

fn count(crowds: &[Crowd]) -> usize {
    crowds.iter().map(|crowd| crowd.members.len()).sum()
}

/// Kills the nodes before their clients go: nobody waits for thousands of departures.
pub(crate) fn leave(fleet: Fleet) {
    drop(fleet);
}
