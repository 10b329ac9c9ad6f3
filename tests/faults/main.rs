//! Faults: Redis that goes away, lies down or refuses; nodes that die or hang; clients that vanish. What holds all along, and
//! that everything is exact again in time.
//!
//! The cases are those of the plan: F1–F14 are faults, K1–K8 kicks. Every run is seeded (`SWITCHBOARD_TEST_SEED`), and ends with
//! one oracle. `SWITCHBOARD_TEST_SLACK` scales the bounds.
//!
//! - `calm`: no fault, which tests the harness; `scene` and `watch` are what the others share.
//! - `redis_away`: F3, F4, F5; `forgotten`: F3, in the moments between; `cut_off`: F6; `gaps`: F9, F10; `refusals`: F11 and READONLY.
//! - `nodes`: F1, F12; `clients`: F7; `clocks`, `jumps`: F13; `greedy`: F14.
//! - `crowds`: K1; `late`: K2; `kicks`: K3, K6, K7, K8; `hung`: K4. K5 is in `gaps`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calm;
mod clients;
mod clocks;
mod crowds;
mod cut_off;
mod forgotten;
mod gaps;
mod greedy;
mod hung;
mod jumps;
mod kicks;
mod late;
mod nodes;
mod redis_away;
mod refusals;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod watch;
