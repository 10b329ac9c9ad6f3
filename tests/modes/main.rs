//! Nodes around Redis in each of its modes: one server, sentinels, a cluster. What they promise is the same in all of them, and
//! also holds when a master dies and another server takes its place.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behind_a_name;
#[path = "../support/cluster.rs"]
mod cluster;
mod everyday;
mod failover;
#[path = "../support/name.rs"]
mod name;
#[path = "../fleet/node.rs"]
mod node;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis_server.rs"]
mod redis_server;
#[path = "../support/sentinel.rs"]
mod sentinel;
mod tls;
