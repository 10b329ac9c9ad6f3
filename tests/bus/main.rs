//! The bus against a real Redis that is killed, restarted, stopped and cut off under it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behind_a_name;
mod channels;
#[path = "../support/cluster.rs"]
mod cluster;
mod in_a_cluster;
mod links;
#[path = "../support/name.rs"]
mod name;
mod node;
mod outage;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis_server.rs"]
mod redis_server;
mod seals;
use redis_server as server;
