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
//! - [`engine`] answers `transport.path`: upgrades to WebSocket itself, and passes long-polling on.
//! - [`wire`] is the TCP stream under a WebSocket. Writes never block: what the peer does not take is queued, and counted
//!   against a limit of bytes and of age.
//! - `probe` tries a WebSocket beside a session that polls, which goes on until its client moves over.
//! - [`session`] is the [`Session`]: one Engine.IO session, its handshake, and the one way to end it.
//! - [`parted`] keeps a session going of which a namespace was ended.
//! - [`namespaces`] are those that a client may ask for.
//! - [`bundle`] serves the client to pages.
//! - [`origin`] says which pages may bring a browser's cookies.
//! - [`peer`] tells the client's address behind trusted proxies.
//!
//! What a client sends, and what it is told, is read and rewritten on the way, and nowhere else:
//!
//! ```text
//!  WebSocket ─▶ recoder ─▶ frames ─┐                       ┌─▶ outgoing ─▶ WebSocket, frames
//!               once needed        ├─▶ gate ─▶ the engine ─┤
//!  POST ─────▶ packets ────────────┘   judges              └─▶ outgoing ─▶ a poll's body
//!
//!  in:  b… → an attachment (WebSocket) · 42[1] → 42["1"] · too many, too large, no frame, another parser → the end
//!  out: 0{…} its own maxPayload · 40{sid} the connection's id · 44{…} with a code · the first ping withheld
//!       · an attachment → b… (if asked for) · the last frame
//! ```
//!
//! - `packets` tells what a packet is by its first bytes, and has all that is made in place of one. It parses nothing that the engine
//!   parses.
//! - `frames` follows a client's WebSocket frames; `recoder` makes those anew that the engine can't read.
//! - `gate` judges what a client sends before the engine acts on it.
//! - `outgoing` rewrites what the engine says, as the gate has it, and counts the messages in what never leaves.
//! - `past` takes messages for many clients past the engine; `unwritten` knows where they would overtake something.

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
mod past;
pub mod peer;
mod probe;
mod recoder;
mod request;
pub mod session;
mod turn_away;
mod unwritten;
pub mod wire;

pub use engine::Engine;
pub use gate::{MessageSizes, PATIENCE};
pub use past::{EventFrames, Writes};
pub use session::{Handshake, Session, SessionEvents, SessionGuard, SessionId};
