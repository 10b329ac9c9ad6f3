//! Load: many clients at once, slow ones, rude ones, nodes that are restarted under them, and all of it together for a long
//! time. What holds is that nobody starves, that neighbours do not notice, and that the registry is exact at the end.
//!
//! The cases are those of the plan: L1–L8, F2 and F14. The tests run one after the other, as they measure. Nodes are the binary
//! that `cargo test` built, or `SWITCHBOARD_BIN`. `SWITCHBOARD_TEST_SEED` repeats what is random, `SWITCHBOARD_TEST_SLACK`
//! scales the bounds in time.
//!
//! - `storm`: a node dies, or Redis forgets, and thousands are to be registered at once.
//! - `busy`: a runtime that is saturated; `million`: a registry of very many connections; `latency`: how long messages take.
//! - `drain`, `rolling`: nodes that end and come back under traffic.
//! - `slow`, `rude`, `churn`, `idle`: clients that do not read, write too much, begin and don't go on, go at any moment, or do
//!   nothing.
//! - `soak`: all of it, with a random fault every 30 s, for a long time; `tests/soak` starts it.
//! - `ground`: what all of them stand on; `asker`: the API asked all along; `regulars`, `pollers`: clients that come back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod asker;
mod busy;
mod churn;
mod drain;
mod ground;
mod idle;
mod latency;
mod million;
mod pollers;
mod regulars;
mod rolling;
mod rude;
mod slow;
mod soak;
mod storm;
#[path = "../support/mod.rs"]
mod support;
