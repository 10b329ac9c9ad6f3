//! Switchboard: a Socket.IO gateway for fleets.
//!
//! Stateless nodes let users in, keep presence and each user's connections in Redis, and one HTTP call reaches, lists
//! or removes a user on every node.
//!
//! # Layout
//!
//! Arrows go one way: [`connection`] ← [`auth`], [`registry`], [`bus`] ← [`gateway`] ← [`api`] ← [`app`] ← `main`.
//!
//! - [`connection`] — the nouns that everybody passes on: user, connection, node.
//! - [`ending`] — the one table of reasons for which the server ends a connection.
//! - [`config`] — every key, its default, and when to change it.
//! - [`auth`] — credentials of a handshake → an identity, or a typed refusal.
//! - [`registry`] — who is connected, where: in process memory or in Redis.
//! - [`link`] — connects to Redis: one server, Sentinel or Cluster.
//! - [`bus`] — node to node: sealed messages, over channels of each node's own and one of all.
//! - [`transport`] — the TCP side: accept loop, WebSocket upgrade, polling sessions, the kill switch.
//! - [`gateway`] — the life of a connection, and the verbs a backend has.
//! - [`api`] — HTTP: `/v1`, health, metrics, OpenAPI.
//! - [`app`] — builds a node from a configuration and runs it until it is told to stop.

pub mod api;
pub mod app;
pub mod auth;
pub mod bus;
pub mod cli;
pub mod config;
pub mod connection;
pub mod ending;
pub mod gateway;
pub mod link;
pub mod metrics;
pub mod registry;
pub mod telemetry;
pub mod transport;

pub use app::App;
pub use config::Config;
