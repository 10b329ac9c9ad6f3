//! The life of a connection, and the verbs a backend has.
//!
//! ```text
//!  CONNECT ─▶ arriving ─▶ registry.assert ──▶ ack, `ready` ─▶ in the table of connections
//!                                                               │  delivery ◀── send, broadcast (API, other nodes)
//!                                                               │  endings ◀── disconnect, limits, drain
//!  whatever ends it ───────────────────────────────────────▶ departing ─▶ registry.unregister
//! ```
//!
//! - `arriving` is the one way in, with the Socket.IO server underneath; `refusal` is why somebody is not let in.
//! - `connections` are those of this node, and the one way out; `session_events` is what their sessions tell.
//! - `clients` is what clients may say. `handlers` are an application's.
//! - `verbs` is what a backend asks for, `access` and `sessions` what it asks about a user's right to be connected.
//! - `delivery` hands messages out, `endings` ends connections, `commands` does both for other nodes. `peers` is what goes
//!   between nodes, `message` what is sent.
//! - `membership` keeps the node's lease, and the registry true to the node; `lease` is what the node knows of it. `drain` is
//!   how a node goes.
//! - `memory` keeps the node below `limits.memory`.
//! - `settings` is what a reload changes, `readiness` whether the node takes connections, `scrape` what the metrics read of
//!   its state.

pub mod access;
mod arg;
mod arriving;
mod clients;
mod commands;
mod connections;
mod delivery;
mod drain;
mod endings;
pub mod handlers;
mod lease;
mod membership;
mod memory;
pub mod message;
mod peers;
mod readiness;
mod refusal;
mod scrape;
mod session_events;
mod sessions;
mod settings;
mod verbs;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use futures_util::FutureExt;
use governor::DefaultDirectRateLimiter;
use jiff::Timestamp;
use parking_lot::Mutex;
use socketioxide::SocketIo;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    connections::{departing, local::LocalConnection, table::ConnectionTable},
    endings::expiry::Watch,
    handlers::Handlers,
    lease::LeaseState,
    membership::repair,
    peers::receipts::Requests,
    session_events::SessionListener,
};
use crate::{
    auth::{Authenticator, token::MintError},
    bus::{Bus, BusError, Inbox},
    config::RunningConfig,
    connection::{Instance, NodeId},
    metrics::Metrics,
    registry::{Registry, RegistryError, keys::Shard},
    transport::{Engine, door::Door, engine::Adapter},
};

pub use clients::admin::{TokenBearer, TokenRefused};
pub(crate) use clients::inbound::is_own_event;
pub use message::{
    AckError, AckReply, Acked, Delivery, Disconnected, Json, Message, RESERVED_EVENTS, Target,
    TokenRevoked,
};

/// Why a verb can't be carried out.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The registry can't answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The bus can't carry it.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// No such namespace in the configuration.
    #[error("no such namespace: {0}")]
    UnknownNamespace(String),
    /// No token can be issued.
    #[error(transparent)]
    Mint(#[from] MintError),
}

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
    pub handlers: Handlers,
}

/// A node's gateway; clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    config: RunningConfig,
    node_id: NodeId,
    instance: Instance,
    started_at: Timestamp,
    auth: Authenticator,
    registry: Arc<dyn Registry>,
    bus: Bus,
    metrics: Metrics,
    handlers: Handlers,
    table: ConnectionTable,
    /// Which newcomers there is a place for.
    door: Arc<Door>,
    requests: Requests,
    /// Set once, when the namespaces are mounted.
    io: OnceLock<SocketIo<Adapter>>,
    departures: mpsc::UnboundedSender<Arc<LocalConnection>>,
    watches: mpsc::UnboundedSender<Watch>,
    ended_lines: DefaultDirectRateLimiter,
    membership: Mutex<LeaseState>,
    /// When all nodes were last told that something was lost.
    told: Mutex<Option<Instant>>,
    /// Has the next heartbeat sent at once.
    beat_now: Notify,
    /// The shards that may not hold just this node's connections, or orders that this node has not seen.
    inexact: Mutex<BTreeSet<Shard>>,
    /// The connections that are to be asserted once more, in turn.
    to_repair: Mutex<repair::Repair>,
    draining: AtomicBool,
    /// Ends the heartbeats: a node that has left must not join again.
    leaving: CancellationToken,
    /// Stops the node's tasks.
    stop: CancellationToken,
}

impl Gateway {
    /// Builds the gateway and its engine, and starts its tasks. It takes nobody in before it has joined the cluster.
    pub async fn start(parts: Parts) -> (Self, Arc<Engine>) {
        let Parts {
            config,
            node_id,
            instance,
            auth,
            registry,
            bus,
            inbox,
            metrics,
            handlers,
        } = parts;
        let (departures, departing) = mpsc::unbounded_channel();
        let (watches, watching) = mpsc::unbounded_channel();
        let first = config.now();
        let inner = Arc::new(Inner {
            node_id,
            membership: Mutex::new(LeaseState::new(instance.clone())),
            instance,
            started_at: Timestamp::now(),
            auth,
            registry,
            table: ConnectionTable::new(metrics.clone()),
            door: Door::new(
                &first.limits,
                first.trusted_proxies.clone(),
                metrics.clone(),
            ),
            requests: Requests::default(),
            io: OnceLock::new(),
            departures,
            watches,
            ended_lines: departing::limit_lines(),
            told: Mutex::default(),
            beat_now: Notify::new(),
            inexact: Mutex::new(Shard::all().collect()),
            to_repair: Mutex::default(),
            draining: AtomicBool::new(false),
            leaving: CancellationToken::new(),
            stop: CancellationToken::new(),
            config,
            bus,
            metrics,
            handlers,
        });
        inner.begin_series();
        let events = Arc::new(SessionListener::of(&inner));
        let engine = Engine::new(inner.engine_settings(), events);
        let protocol = inner.mount().await;
        engine.mount(protocol);

        inner.spawn(inner.clone().receive(inbox));
        inner.spawn(inner.clone().unregister_all(departing));
        inner.spawn(inner.clone().watch_expiry(watching));
        let cookies = &first.auth.session;
        if cookies.is_on() {
            inner.spawn(inner.clone().recheck_sessions(cookies.recheck));
        }
        let membership = inner.clone().keep_membership();
        inner.spawn(
            inner
                .leaving
                .clone()
                .run_until_cancelled_owned(membership)
                .map(|_| ()),
        );
        inner.spawn(engine.clone().sweep());
        inner.spawn(inner.door.clone().forget_idle());
        inner.spawn(inner.clone().watch_memory());
        (Self { inner }, engine)
    }

    /// Sends every client away at a steady pace, waits for the application's handlers, and leaves the cluster. Nobody is let in
    /// from the moment of the call.
    pub async fn drain(&self) {
        self.inner.drain().await;
    }

    /// Stops the node's tasks. Connections that are left are cut with the process.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.bus.close().await;
    }

    /// Which newcomers there is a place for: for the listener that clients connect to, and for calls without an identity.
    pub fn door(&self) -> &Arc<Door> {
        &self.inner.door
    }

    /// The node's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }
}

impl Inner {
    /// Runs a task for as long as the node does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// Has the registry told what a connection is like now. What fails is made good by the next repair.
    fn update(self: &Arc<Self>, connection: &Arc<LocalConnection>) {
        connection.changed();
        let (gateway, connection) = (self.clone(), connection.clone());
        tokio::spawn(async move {
            if let Err(error) = gateway.assert_again(&connection).await {
                tracing::warn!(connection = %connection.id, %error, "can't update a connection");
            }
        });
    }

    fn io(&self) -> Option<&SocketIo<Adapter>> {
        self.io.get()
    }
}
