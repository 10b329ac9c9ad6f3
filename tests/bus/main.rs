//! The bus against a real Redis that is killed, restarted, stopped and cut off under it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod adapter;
mod channels;
mod links;
mod node;
mod outage;
#[path = "../support/redis_server.rs"]
mod server;
