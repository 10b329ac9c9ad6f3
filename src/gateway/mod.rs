//! The life of a connection, and the verbs a backend has.
//!
//! ```text
//!  CONNECT ─▶ connect ─▶ registry.assert ───▶ ack, `ready` ─▶ live in the hub
//!                                                               │  deliver ◀── send, broadcast (API, other nodes)
//!                                                               │  endings ◀── disconnect, limits, drain
//!  whatever ends it ───────────────────────────────────────▶ departure ─▶ registry.unregister
//! ```
//!
//! - `refusal` is why somebody is not let in.
//! - `inbound` takes what clients send, in order; `own` is what they may do about themselves, `admin` what administrators
//!   may. `handlers` are an application's, and `lane` runs them; `queue` bounds what waits for either.
//! - `expiry` and `recheck` watch over what connections came in by; `access` and `sessions` are a backend's verbs on it.
//! - `connect` is the one way in, `departure` the one way out, whatever ended the connection.
//! - `mount` is the Socket.IO server underneath, `carriers` what its sessions tell.
//! - `hub` finds this node's connections, `live` is one of them.
//! - `verbs` is what a backend asks for; `deliver` and `endings` do it, `commands` carries it to other nodes, `receipts` are
//!   what they say became of it, and `acks` bounds what clients answer.
//! - `memory` keeps the node below `limits.memory`.
//! - `settings` is what a reload changes, `readiness` whether the node takes connections, `scrape` what the metrics read of
//!   its state.
//! - `membership` keeps the node's lease, and `resync` keeps the registry true to the node; `lease` is what the node
//!   knows of it. `drain` is how a node goes.

pub mod access;
mod acks;
mod admin;
mod carriers;
mod commands;
mod connect;
mod deliver;
mod departure;
mod drain;
mod endings;
mod events;
mod expiry;
pub mod handlers;
mod hub;
mod inbound;
mod lane;
mod lease;
mod live;
mod membership;
mod memory;
pub mod message;
mod mount;
mod own;
mod queue;
mod readiness;
mod receipts;
mod recheck;
mod refusal;
mod resync;
mod scrape;
mod sessions;
mod settings;
mod verbs;
mod wire;

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
    carriers::Events, expiry::Watch, handlers::Handlers, hub::Hub, lease::LeaseState, live::Live,
    receipts::Requests,
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

pub use admin::{TokenBearer, TokenRefused};
pub(crate) use inbound::is_own_event;
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
    hub: Hub,
    /// Which newcomers there is a place for.
    door: Arc<Door>,
    requests: Requests,
    /// Set once, when the namespaces are mounted.
    io: OnceLock<SocketIo<Adapter>>,
    departures: mpsc::UnboundedSender<Arc<Live>>,
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
    to_repair: Mutex<resync::Repair>,
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
            hub: Hub::new(metrics.clone()),
            door: Door::new(
                &first.limits,
                first.trusted_proxies.clone(),
                metrics.clone(),
            ),
            requests: Requests::default(),
            io: OnceLock::new(),
            departures,
            watches,
            ended_lines: departure::limit_lines(),
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
        let events = Arc::new(Events::of(&inner));
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
    fn update(self: &Arc<Self>, live: &Arc<Live>) {
        live.changed();
        let (gateway, live) = (self.clone(), live.clone());
        tokio::spawn(async move {
            if let Err(error) = gateway.assert_again(&live).await {
                tracing::warn!(connection = %live.id, %error, "can't update a connection");
            }
        });
    }

    fn io(&self) -> Option<&SocketIo<Adapter>> {
        self.io.get()
    }
}
