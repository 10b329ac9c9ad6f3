//! What the Rust suites share: real node processes, a real Redis, clients that can misbehave, and one oracle.
//!
//! A test binary mounts all of it in one line, and uses its part:
//!
//! ```ignore
//! #![allow(clippy::unwrap_used, clippy::expect_used)]
//! #[path = "../support/mod.rs"]
//! mod support;
//! ```
//!
//! - `run`: one run of a test: its seed, its history, and a fleet; prints all three when it fails.
//! - `redis_server`: Redis alone; `sentinel`, `cluster`: Redis in the other modes; `name`: behind a name that moves.
//! - `node`: a node in the test's process. `fleet`: node processes, each on a port of its own, with or without a [`proxy`] to Redis.
//! - `client`: a client over a raw WebSocket; `returning`: one that comes back, as the stock client does; `polling`: one
//!   without a WebSocket; `token`: what they show at the door.
//! - `api`: the HTTP API of a node; `scrape` reads its metrics.
//! - `oracle`: the registry, and every node's answers, are exactly the set of live connections; `stored` reads Redis raw.
//! - `bounds`: every bound in time, scaled by `SWITCHBOARD_TEST_SLACK`.

#![allow(dead_code)]

pub(crate) mod api;
pub(crate) mod bounds;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod fleet;
pub(crate) mod name;
pub(crate) mod node;
pub(crate) mod oracle;
pub(crate) mod polling;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod redis_server;
pub(crate) mod returning;
pub(crate) mod run;
pub(crate) mod scrape;
pub(crate) mod sentinel;
pub(crate) mod stored;
pub(crate) mod token;
