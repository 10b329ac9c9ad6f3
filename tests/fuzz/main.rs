//! A real node fed what no client, backend or peer would send, beside a neighbour that must not be hurt.
//!
//! Everything random comes from one seed, which is printed. `SWITCHBOARD_TEST_SEED=N` repeats a run, `SWITCHBOARD_FUZZ_CASES=N`
//! makes it longer: it is the number of cases of each test.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bus;
mod calls;
mod frames;
mod heads;
mod node;
mod noise;
#[path = "../support/mod.rs"]
mod support;

use support::redis_server;

use rand::{SeedableRng, rngs::StdRng};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// How many cases a test makes if nobody says.
fn cases(default: u64) -> u64 {
    number("SWITCHBOARD_FUZZ_CASES").unwrap_or(default)
}

/// The seed of this run.
fn seed() -> u64 {
    let seed = number("SWITCHBOARD_TEST_SEED").unwrap_or_else(rand::random);
    println!("SWITCHBOARD_TEST_SEED={seed}");
    seed
}

/// What one case is made of: the same for the same seed, whatever order the cases run in.
fn random(seed: u64, case: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
