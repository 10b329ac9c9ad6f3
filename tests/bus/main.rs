//! The bus against a real Redis that is killed, restarted, stopped and cut off under it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behind_a_name;
mod channels;
mod in_a_cluster;
mod links;
mod node;
mod outage;
mod seals;
#[path = "../support/mod.rs"]
mod support;

use support::{cluster, name, redis_server as server};
