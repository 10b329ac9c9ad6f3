//! The TCP side: what carries a session's bytes, and how it ends.
//!
//! Socket.IO's own crate can't really close a connection: its writer waits for a peer that reads nothing, and while it
//! waits nobody is told that the session is over. So the bytes go through here, and nothing here waits for a peer:
//!
//! ```text
//!            listener            engine                     wire
//!  TCP ──▶ accept, limits ──▶ /socket.io/ ──┬─ WebSocket ─▶ EngineStream ◀──▶ socketioxide
//!          header timeout       handshake   │               queue, deadline
//!          write deadline                   └─ polling ───▶ socketioxide's HTTP service
//! ```
//!
//! - [`listener`] accepts connections and serves HTTP on them; `turn_away` answers those for which there is no place.
//! - [`door`] says which newcomers there is a place for; `addresses` counts them by their address.
//! - [`engine`] answers `/socket.io/`: upgrades to WebSocket itself, and passes long-polling on.
//! - [`wire`] is the TCP stream under a WebSocket. Writes never block: what the peer does not take is queued, and counted
//!   against a limit of bytes and of age.
//! - `probe` tries a WebSocket beside a session that polls, which goes on until its client moves over.
//! - [`session`] is the [`Session`]: one Engine.IO session, its handshake, and the one way to end it.
//! - [`parted`] keeps a session going of which a namespace was ended.
//! - [`namespaces`] are those that a client may ask for.
//! - `gate` judges what a client sends before the engine acts on it, by what `packets` and `frames` tell of it.
//! - `outgoing` rewrites what the engine says, as the gate has it, and counts the messages in what never leaves.
//! - [`bundle`] serves the client to pages.
//! - [`origin`] says which pages may bring a browser's cookies.
//! - [`peer`] tells the client's address behind trusted proxies.

mod addresses;
pub mod bundle;
pub mod door;
pub mod engine;
mod frames;
#[cfg(test)]
mod fuzz;
mod gate;
pub mod listener;
pub mod namespaces;
pub mod origin;
mod outgoing;
mod packets;
pub mod parted;
pub mod peer;
mod probe;
mod request;
pub mod session;
mod turn_away;
pub mod wire;

pub use engine::Engine;
pub use gate::{MessageSizes, PATIENCE};
pub use session::{Handshake, Session, SessionEvents, SessionGuard, SessionId};
