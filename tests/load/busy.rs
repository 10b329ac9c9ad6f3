//! A node whose runtime is saturated does not take Redis for dead: the links have a thread of their own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use switchboard::{
    link::{DEADLINE, Link, Slot},
    metrics::Metrics,
};

use crate::{
    ground::alone,
    support::{
        bounds::{ensure, seconds, within},
        redis_server::Server,
        run::Run,
    },
};

/// Tasks that are always ready, and how long each has the thread: everybody's turn comes once in 0.6 s.
const TASKS: u32 = 300;
const TURN: Duration = Duration::from_millis(2);

/// One thread for all, as a node has it whose tasks have grown beyond its cores.
#[tokio::test]
async fn a_saturated_node_does_not_take_redis_for_dead() {
    let _alone = alone().await;
    let run = Run::begin("busy");
    let server = Server::start().await;
    let link = Link::new(&server.servers_of(""), Metrics::new().unwrap()).unwrap();
    let up = async || ensure(link.is_up(), || "not heard of yet".to_owned());
    within(seconds(5.0), "Redis answers", up).await;

    let over = Arc::<AtomicBool>::default();
    for _ in 0..TASKS {
        let over = over.clone();
        tokio::spawn(async move {
            while !over.load(Ordering::Acquire) {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "this is what saturates the runtime"
                )]
                std::thread::sleep(TURN);
                tokio::task::yield_now().await;
            }
        });
    }
    let (mut slowest, mut calls) = (Duration::ZERO, 0);
    let start = Instant::now();
    // As long as it takes three PINGs to be missed.
    while start.elapsed() < 3 * (DEADLINE + Duration::from_secs(1)) {
        let asked = Instant::now();
        let (slot, ping) = (Slot::of(b""), redis::cmd("PING"));
        let answer: String = link.query("ping", slot, &ping).await.unwrap();
        assert_eq!(answer, "PONG");
        assert!(link.is_up(), "Redis is taken for dead");
        slowest = slowest.max(asked.elapsed());
        calls += 1;
    }
    over.store(true, Ordering::Release);
    run.tell(format!("{calls} calls, the slowest {slowest:.2?}"));
    assert!(calls > 1, "more than one call was made");
}
