//! Nodes around Redis in each of its modes: one server, sentinels, a cluster. What they promise is the same in all of them, and
//! also holds when a master dies and another server takes its place.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behind_a_name;
mod emitters;
mod everyday;
mod failover;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use support::{cluster, name, node, redis_server, sentinel};
