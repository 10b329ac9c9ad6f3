//! The life of a connection, and the verbs a backend has.
//!
//! ```text
//!  CONNECT ─▶ arriving ─▶ registry.assert ──▶ ack, `ready` ─▶ in the table of connections
//!                                                               │  delivery ◀── send, broadcast (API, other nodes)
//!                                                               │  endings ◀── disconnect, limits, drain
//!  whatever ends it ───────────────────────────────────────▶ departing ─▶ registry.unregister
//! ```
//!
//! The gateway is made of parts. Each is a struct with what it needs of the parts below it, and knows nothing above:
//!
//! ```text
//!  above it         handlers (a program's own)
//!  face             Gateway: verbs, local_verbs, access, settings, scrape      start builds the parts, from the lowest up
//!  what drives      drain   memory   notifications   session_events   commands (of other nodes)   sessions (of refresh tokens)
//!  the way in       arriving
//!  operators        operators (the page of @socket.io/admin-ui)
//!  what clients say clients   calls (to backends)
//!  what is done     delivery   endings: orders, expiry, recheck   rooms   watching
//!  the fleet        membership: heartbeats ─▶ repair ─▶ registrar
//!  who is there     peers   lanes (of an application)   connections
//!  nouns            lease   readiness   refusal   message   arg   error   tasks   tail
//! ```
//!
//! A part tells a higher one through what it was given when it was built: departures call back into the watch over tokens, a
//! connection has a `ConnectionObserver`, its lane, and an [`Application`] is handlers that somebody above has made.
//!
//! An end has five verbs. An *order* is written into the registry before anybody is told (`endings`). *End*: the client is told,
//! and nothing more is sent to it. *Close*: its transport goes. *Depart*: it is out of the table, and is counted. *Unregister*:
//! the registry no longer has it (`connections`).

pub mod access;
mod application;
mod arg;
mod arriving;
mod calls;
mod clients;
mod commands;
mod connections;
mod delivery;
mod drain;
mod endings;
mod error;
pub mod handlers;
mod lanes;
mod lease;
mod local_verbs;
mod membership;
mod memory;
pub mod message;
mod notifications;
mod operators;
mod peers;
mod readiness;
mod refusal;
pub mod requests;
mod room_verbs;
mod rooms;
mod scrape;
mod session_events;
mod sessions;
mod settings;
mod start;
pub mod tail;
mod tasks;
mod verbs;
mod watching;

use std::sync::Arc;

use self::{
    arriving::Arrivals,
    clients::admin::AdminVerbs,
    connections::LocalConnections,
    delivery::Deliverer,
    drain::Drain,
    endings::{expiry::ExpiryWatch, orders::EndOrders},
    lease::OwnLease,
    membership::heartbeats::Heartbeats,
    notifications::Notifications,
    operators::Operators,
    readiness::Readiness,
    rooms::RoomChanges,
    sessions::RefreshSessions,
    tasks::Tasks,
};
use crate::{
    auth::Authenticator,
    backend::Backends,
    bus::{Bus, Inbox},
    config::RunningConfig,
    connection::{Instance, NodeId},
    metrics::Metrics,
    registry::Registry,
    telemetry::traces::Traces,
    transport::door::Door,
};

pub use application::Application;
pub use clients::admin::{TokenBearer, TokenRefused};
pub(crate) use clients::inbound::is_own_event;
pub use error::GatewayError;
pub use message::{
    AckError, AckReply, Acked, Delivery, Disconnected, Json, Message, RESERVED_EVENTS, RoomChanged,
    Target, TokenRevoked,
};
pub(crate) use message::{Selection, is_sendable};
pub(crate) use tasks::contain;

/// What a gateway is made of.
pub struct Parts {
    /// The configuration, which a reload replaces.
    pub config: RunningConfig,
    /// The node's name.
    pub node_id: NodeId,
    /// The run of its process.
    pub instance: Instance,
    /// Who is let in.
    pub auth: Authenticator,
    /// Who is connected.
    pub registry: Arc<dyn Registry>,
    /// The way to the other nodes.
    pub bus: Bus,
    /// What comes from them.
    pub inbox: Inbox,
    /// What is counted.
    pub metrics: Metrics,
    /// What an application does about its clients.
    pub application: Application,
    /// What is called about clients.
    pub backends: Arc<Backends>,
    /// What makes spans.
    pub traces: Traces,
}

/// A node's gateway; clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Composition>,
}

/// The parts of a node that its face asks. Each part has what it needs of the others; none sees this.
struct Composition {
    config: RunningConfig,
    node_id: NodeId,
    metrics: Metrics,
    registry: Arc<dyn Registry>,
    bus: Arc<Bus>,
    door: Arc<Door>,
    lease: Arc<OwnLease>,
    readiness: Arc<Readiness>,
    connections: Arc<LocalConnections>,
    delivery: Arc<Deliverer>,
    orders: Arc<EndOrders>,
    expiry: Arc<ExpiryWatch>,
    rooms: Arc<RoomChanges>,
    heartbeats: Arc<Heartbeats>,
    admin_verbs: Arc<AdminVerbs>,
    backends: Arc<Backends>,
    sessions: RefreshSessions,
    drain: Drain,
    notifications: Arc<Notifications>,
    traces: Traces,
    operators: Arc<Operators>,
    /// Held for the namespaces, which know it weakly.
    _arrivals: Arc<Arrivals>,
    tasks: Tasks,
}

impl Gateway {
    /// Sends every client away at a steady pace, waits for the application's handlers, and leaves the cluster. Nobody is let in
    /// from the moment of the call.
    pub async fn drain(&self) {
        self.inner.drain.run().await;
        self.inner.operators.end_all();
        self.inner.connections.tail.end_all();
    }

    /// Stops the node's tasks. Connections that are left are cut with the process.
    pub async fn stop(&self) {
        self.inner.tasks.stop();
        self.inner.notifications.hand_over().await;
        self.inner.bus.close().await;
    }

    /// Which newcomers there is a place for: for the listener that clients connect to, and for calls without an identity.
    pub fn door(&self) -> &Arc<Door> {
        &self.inner.door
    }

    /// The node's name.
    pub fn node_id(&self) -> &NodeId {
        &self.inner.node_id
    }

    /// The node's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// What makes the node's spans.
    pub fn traces(&self) -> &Traces {
        &self.inner.traces
    }
}
