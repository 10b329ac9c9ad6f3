//! The registry in a real Redis against the one in memory, which is the model: random operations, crashes and losses in both, with
//! what every call says compared, and every read after each step; and the plan that fails made as short as it can be.
//!
//! `PROPTEST_CASES` says how many plans each test, and each part of one, makes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod home;
mod interleaved;
mod plan;
#[path = "../support/mod.rs"]
mod support;
mod texts;
mod world;

use std::thread;

use support::redis_server;

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use tokio::runtime::Runtime;

use home::Home;
use plan::Op;
use world::World;

fn cases(default: u32) -> u32 {
    let said = std::env::var("PROPTEST_CASES");
    said.ok().and_then(|it| it.parse().ok()).unwrap_or(default)
}

fn runner(default_cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases: cases(default_cases),
        max_shrink_iters: 4000,
        max_shrink_time: 120_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

async fn carry_out(home: &Home, plan: &[Op]) -> Result<(), TestCaseError> {
    let mut world = World::new(home).await?;
    for (number, op) in plan.iter().enumerate() {
        world
            .step(op)
            .await
            .map_err(|why| TestCaseError::fail(format!("step {number}: {why}")))?;
    }
    world.end().await
}

fn with_redis() -> (Runtime, redis_server::Server) {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(redis_server::Server::start());
    (runtime, server)
}

/// In two parts at once, each with a Redis of its own: one part waits for Redis half of the time.
#[test]
fn redis_is_what_memory_is() {
    let part = || {
        let (runtime, server) = with_redis();
        let told = runner(50).run(&plan::plan(), |plan| {
            runtime.block_on(async { carry_out(&Home::compared(&server).await, &plan).await })
        });
        if let Err(error) = told {
            panic!("{error}");
        }
    };
    thread::scope(|parts| {
        parts.spawn(part);
        part();
    });
}

#[test]
fn memory_keeps_its_promises_to_many_at_once() {
    let runtime = Runtime::new().unwrap();
    let told = runner(400).run(&interleaved::rush(), |rush| {
        runtime.block_on(interleaved::carry_out(&Home::memory(), &rush))
    });
    if let Err(error) = told {
        panic!("{error}");
    }
}

#[test]
fn redis_keeps_its_promises_to_many_at_once() {
    let (runtime, server) = with_redis();
    let told = runner(200).run(&interleaved::rush(), |rush| {
        runtime.block_on(async { interleaved::carry_out(&Home::redis(&server).await, &rush).await })
    });
    if let Err(error) = told {
        panic!("{error}");
    }
}

/// Text that looks like a cursor, an id or a key, or like nothing.
fn any_text() -> impl Strategy<Value = String> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    prop_oneof![
        any::<String>(),
        any::<Vec<u8>>()
            .prop_map(|bytes| URL_SAFE_NO_PAD.encode([b"u1:", bytes.as_slice()].concat())),
        "[0-9a-f][A-Za-z0-9_-]{22}",
        "[a-z{}:\\x00\\x01]{1,12}",
    ]
}

#[test]
fn memory_takes_any_text() {
    let runtime = Runtime::new().unwrap();
    let home = Home::memory();
    let told = runner(300).run(&any_text(), |text| {
        runtime.block_on(texts::carry_out(&home, &text))
    });
    if let Err(error) = told {
        panic!("{error}");
    }
}

#[test]
fn redis_takes_any_text() {
    let (runtime, server) = with_redis();
    let home = runtime.block_on(Home::redis(&server));
    let told = runner(200).run(&any_text(), |text| {
        runtime.block_on(texts::carry_out(&home, &text))
    });
    if let Err(error) = told {
        panic!("{error}");
    }
}
