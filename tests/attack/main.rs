//! The attack: what a stranger, a guest and a user with one token can do to a node, with bounds on what it may cost.
//!
//! The cases are those of the attack on version 0.1 (S1, S2, S7 and S13). What holds in each: memory stays within 64 MB of what it
//! was, the attacker is ended and counted, and neighbours and the API are served as before. Nodes are the binary that `cargo test`
//! built, or `SWITCHBOARD_BIN`; the tests run one after the other, as they measure. `SWITCHBOARD_TEST_SLACK` scales the bounds in
//! time, `SWITCHBOARD_TEST_ATTACK` is how many seconds the crowd of `crowd` attacks.
//!
//! - `connects`: floods of CONNECT packets, and a second CONNECT; `floods`: floods of everything else that is no event.
//! - `payloads`: messages, bodies, credentials, attachments and heads that are too large, and never finished.
//! - `idle`: connections that begin and don't go on.
//! - `crowd`: 2,000 connections of one stranger and 700 of one user against a fleet.
//! - `cost`: what each kind of connection costs a node, as a table; run by hand.
//! - `siege`: a node under attack, its neighbours and the toll; `pulse`: how fast it serves them; `wire`: bytes by hand.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod connects;
mod cost;
mod crowd;

mod floods;
#[allow(dead_code)]
#[path = "../load/ground.rs"]
mod ground;
mod idle;
mod payloads;
#[allow(dead_code)]
#[path = "../load/pollers.rs"]
mod pollers;
mod pulse;
#[allow(dead_code)]
#[path = "../load/regulars.rs"]
mod regulars;
mod siege;
#[path = "../support/mod.rs"]
mod support;
mod wire;
