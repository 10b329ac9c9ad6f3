//! Switchboard: a Socket.IO gateway for fleets.
//!
//! Stateless nodes let users in, keep presence and each user's connections in Redis, and one HTTP call reaches, lists
//! or removes a user on every node.
//!
//! # A node with handlers of your own
//!
//! [`Builder`] takes a [`Config`] and handlers, and builds the node that the binary runs: what it promises to clients, backends and
//! operators holds for this one too.
//!
//! ```no_run
//! use serde_json::json;
//! use switchboard::{
//!     Builder, Config, Decision, Message, Target,
//!     config::{AuthRule, Namespace},
//! };
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     let config = Config {
//!         // Anybody may come; `AuthRule::Required` asks for a token, which `config.auth` verifies.
//!         namespaces: vec![Namespace::new("/", AuthRule::None, &[])],
//!         ..Config::default()
//!     };
//!     let app = Builder::new(config)
//!         .on_connect("/", |newcomer| async move {
//!             Ok(match newcomer.auth.get("name") {
//!                 Some(_) => Decision::admit(),
//!                 None => Decision::refuse("A name is required"),
//!             })
//!         })
//!         .on_event("/", "say", |event| async move {
//!             let (text,): (String,) = event.read()?;
//!             let from = &event.connection.id;
//!             let said = Message::new("/", "said").with(&json!({ "from": from, "text": text }))?;
//!             event.gateway.send(Target::All, said).await?;
//!             Ok(vec![json!({ "ok": true }).into()])
//!         })
//!         .on_disconnect(|departed| async move {
//!             println!("{} has gone: {}", departed.connection.id, departed.reason);
//!             Ok(())
//!         })
//!         .bind()
//!         .await?;
//!     println!("listening on http://{}", app.addr()?);
//!     let interrupted = async {
//!         tokio::signal::ctrl_c().await.ok();
//!     };
//!     app.run(interrupted, std::future::pending()).await;
//!     Ok(())
//! }
//! ```
//!
//! - [`ClientEvent`], [`Newcomer`] and [`Departed`] are what handlers get, [`Arg`] is what events carry.
//! - [`Gateway`] sends to a user, a connection, a room or a namespace on whatever node, looks up who is online, disconnects and bans.
//!   Each of the three above has one, and [`App::gateway`] gives it to the rest of the program.
//! - [`config::Sources`] reads the configuration from a file and the environment, as the binary does, and
//!   [`config::Effective`] makes up secrets for development.
//!
//! # Layout
//!
//! Arrows go one way: [`connection`] ← [`auth`], [`registry`], [`bus`], [`backend`] ← [`gateway`] ← [`api`] ← [`console`], `ingress` ←
//! [`app`] ← [`Builder`] ← `main`.
//!
//! - [`connection`] — the nouns that everybody passes on: user, connection, node.
//! - [`ending`] — the one table of reasons for which the server ends a connection.
//! - [`config`] — every key, its default, and when to change it.
//! - [`auth`] — credentials of a handshake → an identity, or a typed refusal.
//! - [`backend`] — calls your code over HTTP about what clients say, and signs the calls.
//! - [`registry`] — who is connected, where: in process memory or in Redis.
//! - [`link`] — connects to Redis: one server, Sentinel or Cluster.
//! - [`bus`] — node to node: sealed messages, over channels of each node's own and one of all.
//! - [`transport`] — the TCP side: accept loop, WebSocket upgrade, polling sessions, the kill switch.
//! - [`gateway`] — the life of a connection, and the verbs a backend has.
//! - [`api`] — HTTP: `/v1`, health, metrics, OpenAPI.
//! - `ingress` — what emitters of Socket.IO servers publish in Redis, carried out on this node.
//! - [`console`] — the operators' page, which calls `/v1`.
//! - [`app`] — builds a node from a configuration and runs it until it is told to stop.

pub mod api;
pub mod app;
pub mod auth;
pub mod backend;
mod builder;
pub mod bus;
pub mod cli;
pub mod config;
pub mod connection;
pub mod console;
pub mod ending;
pub mod gateway;
mod ingress;
pub mod link;
pub mod metrics;
pub mod registry;
mod shard;
pub mod telemetry;
pub mod transport;

pub use app::App;
pub use builder::{BuildError, Builder};
pub use config::Config;
pub use gateway::{
    Gateway, Json, Message, Target,
    handlers::{Arg, ClientEvent, Decision, Departed, EmitError, Mismatch, Newcomer},
};

#[cfg(test)]
mod tests {
    mod arrows;
}
