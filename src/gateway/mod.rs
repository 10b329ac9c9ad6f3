//! The life of a connection, and the verbs a backend has.
//!
//! ```text
//!  CONNECT ─▶ connect ─▶ registry.register ─▶ ack, `ready` ─▶ live in the hub
//!                                                               │  deliver ◀── send, broadcast (API, other nodes)
//!                                                               │  endings ◀── disconnect, limits, drain
//!  whatever ends it ───────────────────────────────────────▶ departure ─▶ registry.unregister
//! ```
//!
//! - `refusal` is why somebody is not let in.
//! - `inbound` takes what clients send, in order; `own` is what they may do about themselves, `admin` what administrators
//!   may.
//! - `expiry` and `recheck` watch over what connections came in by; `access` and `sessions` are a backend's verbs on it.
//! - `connect` is the one way in, `departure` the one way out, whatever ended the connection.
//! - `mount` is the Socket.IO server underneath, `carriers` what its sessions tell.
//! - `hub` finds this node's connections, `live` is one of them.
//! - `deliver` and `endings` are the verbs; `commands` carries them to other nodes and brings the receipts.
//! - `scrape` is what the metrics read of the node's state.
//! - `membership` keeps the node's lease and makes the registry exact again after a gap, and `others` are whom it waits for
//!   then; `drain` is how a node goes.

pub mod access;
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
mod hub;
mod inbound;
mod live;
mod membership;
pub mod message;
mod mount;
mod others;
mod own;
mod recheck;
mod refusal;
mod scrape;
mod sessions;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use socketioxide::SocketIo;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    carriers::Events, commands::Requests, expiry::Watch, hub::Hub, live::Live, others::Others,
};
use crate::{
    auth::{Authenticator, token::MintError},
    bus::{Bus, BusError, Inbox},
    config::{Config, Jwt, Limits, PerUserPolicy},
    connection::{Connection, ConnectionId, Instance, NodeId, UserId},
    ending::Ending,
    metrics::Metrics,
    registry::{
        EndTarget, Entry, Fence, Lease, LimitPolicy, Node, Presence, Registry, RegistryError,
        Totals, Updated, UserEntry, UserLimit, UsersPage,
    },
    transport::{Engine, engine::Adapter},
};

pub use message::{AckReply, Acked, Delivery, Disconnected, Message, RESERVED_EVENTS, Target};

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
    /// The configuration.
    pub config: Arc<Config>,
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
}

/// A node's gateway; clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    node_id: NodeId,
    instance: Instance,
    started_at: Timestamp,
    auth: Authenticator,
    /// What a reload may change.
    settings: RwLock<Settings>,
    registry: Arc<dyn Registry>,
    bus: Bus,
    metrics: Metrics,
    hub: Hub,
    requests: Requests,
    /// Set once, when the namespaces are mounted.
    io: OnceLock<SocketIo<Adapter>>,
    departures: mpsc::UnboundedSender<Arc<Live>>,
    watches: mpsc::UnboundedSender<Watch>,
    membership: Mutex<Membership>,
    others: Others,
    /// Has the next heartbeat sent at once.
    beat_now: Notify,
    /// The registry may not hold just this node's connections, or orders that this node has not seen.
    inexact: AtomicBool,
    draining: AtomicBool,
    /// Ends the heartbeats: a node that has left must not join again.
    leaving: CancellationToken,
    /// Stops the node's tasks.
    stop: CancellationToken,
}

/// What a node may take over while it runs.
struct Settings {
    jwt: Jwt,
    limits: Arc<Limits>,
}

struct Membership {
    lease: Lease,
    joined: bool,
    /// When the last heartbeat that was confirmed had been sent: the lease runs from there at the latest.
    renewed: Option<Instant>,
    /// How often the lease has been over, in the whole registry or in a part of it.
    lost: u64,
    /// After how many of these the orders of the meantime have been carried out.
    caught_up: u64,
}

impl Membership {
    /// Whether a lease of this length holds.
    fn holds(&self, lease: Duration) -> bool {
        let renewed = self.renewed;
        self.joined && renewed.is_some_and(|renewed| renewed.elapsed() < lease)
    }
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
        } = parts;
        let (departures, departing) = mpsc::unbounded_channel();
        let (watches, watching) = mpsc::unbounded_channel();
        let lease = Lease {
            instance: instance.clone(),
            epoch: 1,
        };
        let inner = Arc::new(Inner {
            node_id,
            instance,
            started_at: Timestamp::now(),
            auth,
            settings: RwLock::new(Settings {
                jwt: config.auth.jwt.clone(),
                limits: Arc::new(config.limits.clone()),
            }),
            registry,
            hub: Hub::new(metrics.clone()),
            requests: Requests::default(),
            io: OnceLock::new(),
            departures,
            watches,
            membership: Mutex::new(Membership {
                lease,
                joined: false,
                renewed: None,
                lost: 0,
                caught_up: 0,
            }),
            others: Others::default(),
            beat_now: Notify::new(),
            inexact: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            leaving: CancellationToken::new(),
            stop: CancellationToken::new(),
            config,
            bus,
            metrics,
        });
        inner.begin_series();
        let events = Arc::new(Events::of(&inner));
        let engine = Engine::new(inner.engine_settings(), events);
        let protocol = inner.mount().await;
        engine.mount(protocol);

        inner.spawn(inner.clone().receive(inbox));
        inner.spawn(inner.clone().unregister_all(departing));
        inner.spawn(inner.clone().watch_expiry(watching));
        if inner.config.auth.session.is_on() {
            let every = inner.config.auth.session.recheck;
            inner.spawn(inner.clone().recheck_sessions(every));
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
        (Self { inner }, engine)
    }

    /// Sends every client away at a steady pace, and leaves the cluster. Nobody is let in from the moment of the call.
    pub async fn drain(&self) {
        self.inner.drain().await;
    }

    /// Stops the node's tasks. Connections that are left are cut with the process.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.bus.close().await;
    }

    /// Hands a message to connections, wherever they are. No connection is an answer, not an error.
    pub async fn send(&self, target: &Target, message: &Message) -> Result<Delivery, GatewayError> {
        self.inner.known(&message.namespace)?;
        self.inner.send(target, message).await
    }

    /// The same for a user, and collects what the clients answer within `timeout`.
    pub async fn send_with_ack(
        &self,
        user: &UserId,
        message: &Message,
        timeout: Duration,
    ) -> Result<Acked, GatewayError> {
        self.inner.known(&message.namespace)?;
        self.inner.send_with_ack(user, message, timeout).await
    }

    /// Hands a message to every connection of a namespace. Returns how many nodes it was handed to.
    pub async fn broadcast(&self, message: &Message) -> Result<u64, GatewayError> {
        self.inner.known(&message.namespace)?;
        self.inner.broadcast(message).await
    }

    /// A user's connections.
    pub async fn user(&self, user: &UserId) -> Result<UserEntry, GatewayError> {
        self.inner.vouch()?;
        Ok(self.inner.registry.user(user).await?)
    }

    /// Everybody online, a page at a time.
    pub async fn users(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<UsersPage, GatewayError> {
        self.inner.vouch()?;
        Ok(self.inner.registry.users(cursor, limit).await?)
    }

    /// The presence of users, in the order asked for.
    pub async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>, GatewayError> {
        self.inner.vouch()?;
        Ok(self.inner.registry.presence(users).await?)
    }

    /// Ends a user's connections on every node, and answers when they are closed and out of the registry, or after 5 s. With
    /// `revoke_tokens` nobody comes back with a token that was issued before.
    pub async fn disconnect_user(
        &self,
        user: &UserId,
        except: Vec<ConnectionId>,
        ending: &Ending,
        revoke_tokens: bool,
    ) -> Result<Disconnected, GatewayError> {
        let target = EndTarget::User {
            user: user.clone(),
            except,
        };
        let fence = revoke_tokens.then_some(Fence::RevokeBefore(None));
        self.inner.disconnect(target, fence, ending).await
    }

    /// One connection.
    pub async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>, GatewayError> {
        self.inner.vouch()?;
        Ok(self.inner.registry.connection(id).await?)
    }

    /// Ends one connection, with the same promise. None if there is no such connection.
    pub async fn disconnect_connection(
        &self,
        id: &ConnectionId,
        ending: &Ending,
    ) -> Result<Option<Disconnected>, GatewayError> {
        let Some(connection) = self.connection(id).await? else {
            return Ok(None);
        };
        let target = EndTarget::Connection(Entry {
            user: connection.user_id,
            id: connection.id,
        });
        Ok(Some(self.inner.disconnect(target, None, ending).await?))
    }

    /// The live nodes.
    pub async fn nodes(&self) -> Result<Vec<Node>, GatewayError> {
        self.inner.vouch()?;
        Ok(self.inner.registry.nodes().await?)
    }

    /// The cluster in three numbers.
    pub async fn totals(&self) -> Result<Totals, GatewayError> {
        self.inner.vouch()?;
        Ok(self.inner.registry.totals().await?)
    }

    /// What keeps this node from being ready; empty when it is.
    pub fn unready(&self) -> Vec<&'static str> {
        self.inner.unready()
    }

    /// The node's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Whether the configuration has the namespace.
    pub fn has_namespace(&self, path: &str) -> bool {
        self.inner.known(path).is_ok()
    }

    /// Takes over what of a new configuration a running node can: the key that it signs with, and the limits of newcomers.
    pub fn reload(&self, config: &Config) {
        *self.inner.settings.write() = Settings {
            jwt: config.auth.jwt.clone(),
            limits: Arc::new(config.limits.clone()),
        };
    }
}

impl Inner {
    /// Runs a task for as long as the node does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// Has the registry told what a connection is like now.
    fn update(self: &Arc<Self>, live: &Arc<Live>) {
        let (gateway, live) = (self.clone(), live.clone());
        tokio::spawn(async move {
            let (lease, record) = (gateway.lease(), live.record(&gateway.node_id));
            match gateway
                .registry
                .update(&lease, &record, &live.grant())
                .await
            {
                Ok(Updated::Done | Updated::Gone) => {}
                Ok(Updated::Refused(bar)) => gateway.end_all(&[live], &bar.ending()),
                Err(error) => {
                    tracing::warn!(connection = %live.id, %error, "can't update a connection");
                }
            }
        });
    }

    fn known(&self, namespace: &str) -> Result<(), GatewayError> {
        let mut known = self.config.namespaces.iter();
        match known.any(|known| known.path == namespace) {
            true => Ok(()),
            false => Err(GatewayError::UnknownNamespace(namespace.to_owned())),
        }
    }

    /// The keys of tokens, as of now.
    fn jwt(&self) -> Jwt {
        self.settings.read().jwt.clone()
    }

    /// The limits of whoever comes now.
    fn limits(&self) -> Arc<Limits> {
        self.settings.read().limits.clone()
    }

    fn user_limit(&self) -> Option<UserLimit> {
        let limits = self.limits();
        (limits.connections_per_user > 0).then(|| UserLimit {
            max: limits.connections_per_user,
            policy: match limits.connections_per_user_policy {
                PerUserPolicy::Reject => LimitPolicy::Reject,
                PerUserPolicy::EvictOldest => LimitPolicy::EvictOldest,
            },
        })
    }

    fn send_queue_bytes(&self) -> usize {
        self.config.limits.send_queue_bytes.as_u64() as usize
    }

    fn io(&self) -> Option<&SocketIo<Adapter>> {
        self.io.get()
    }

    fn lease(&self) -> Lease {
        self.membership.lock().lease.clone()
    }

    fn joined(&self) -> bool {
        self.membership.lock().joined
    }

    fn set_joined(&self) {
        self.membership.lock().joined = true;
    }

    fn next_epoch(&self) {
        let mut membership = self.membership.lock();
        membership.lease.epoch += 1;
        membership.joined = false;
        membership.renewed = None;
        membership.lost += 1;
    }

    /// A heartbeat has been confirmed. Returns whether the lease had been over before.
    fn renewed(&self, sent: Instant) -> bool {
        let mut membership = self.membership.lock();
        let was_over =
            !membership.holds(self.config.registry.lease) && membership.renewed.is_some();
        membership.lost += u64::from(was_over);
        membership.renewed = Some(sent);
        was_over
    }

    /// How often the lease has been over; none while it is.
    fn times_lost(&self) -> Option<u64> {
        let membership = self.membership.lock();
        let holds = membership.holds(self.config.registry.lease);
        holds.then_some(membership.lost)
    }

    /// The orders are carried out that were given while the lease was over for the `lost`th time, and before. Returns whether
    /// that is news.
    fn caught_up(&self, lost: u64) -> bool {
        let mut membership = self.membership.lock();
        std::mem::replace(&mut membership.caught_up, lost) != lost
    }

    /// Whether this node holds its lease, and has carried out what was ordered while it did not.
    fn is_current(&self) -> bool {
        let membership = self.membership.lock();
        membership.holds(self.config.registry.lease) && membership.caught_up == membership.lost
    }

    /// Whether others still believe in this node.
    fn holds_lease(&self) -> bool {
        self.membership.lock().holds(self.config.registry.lease)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn unready(&self) -> Vec<&'static str> {
        let wrong = [
            (self.is_draining(), "draining"),
            (!self.registry.is_up(), "the registry is unavailable"),
            (!self.bus.is_up(), "the bus is down"),
            (!self.holds_lease(), "no lease"),
        ];
        wrong
            .into_iter()
            .filter_map(|(is_wrong, what)| is_wrong.then_some(what))
            .collect()
    }

    /// Whether a CONNECT packet can be answered now.
    fn takes_connections(&self) -> bool {
        !self.is_draining() && self.registry.is_up()
    }
}
