//! Faults: Redis that goes away, lies down or refuses; nodes that die or hang; clients that vanish. What holds all along, and
//! that everything is exact again in time.
//!
//! The cases are those of the plan: F1–F13 are faults, K1–K8 kicks. Every run is seeded (`SWITCHBOARD_TEST_SEED`), and ends with
//! one oracle. `SWITCHBOARD_TEST_SLACK` scales the bounds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calm;
#[path = "../support/mod.rs"]
mod support;
