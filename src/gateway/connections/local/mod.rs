//! One connection of this node, from the first look at its credentials until it is gone.
//!
//! `phase` is how far it has got and takes it further, `send` what it is sent, `answer` what its client answers.

mod answer;
mod phase;
mod send;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use socketioxide::TransportType;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::phase::State;
use crate::gateway::{connections::event_limiter::EventLimiter, handlers::lane::Lane, refusal};
use crate::{
    auth::Identity,
    config::Limits,
    connection::{Connection, ConnectionId, NodeId, UserId},
    ending::Ending,
    registry::{Entry, Grant},
    transport::Session,
};

pub(in crate::gateway) use self::{
    phase::{ENDED, Phase},
    send::{NO_ARGUMENTS, NotSent},
};

/// One connection of this node.
pub(crate) struct LocalConnection {
    /// Its id.
    pub id: ConnectionId,
    /// Its user; none for a guest. Never changes: a guest that says who it is becomes another connection.
    user: Option<UserId>,
    /// What its user has last shown: a token may be refreshed.
    identity: Mutex<Option<Arc<Identity>>>,
    /// Whether the client has been told that this token is about to run out.
    warned: AtomicBool,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The device that its client named.
    pub device_id: Option<String>,
    /// What carries it.
    pub session: Arc<Session>,
    /// When its CONNECT packet came, for people.
    pub connected_at: Timestamp,
    /// The same, for durations.
    pub opened: Instant,
    /// Inbound events, within limits.
    pub events: EventLimiter,
    /// What waits for the application's handlers; none if it has none for this namespace.
    lane: Option<Arc<Lane>>,
    /// Held while something is sent: what is sent after `ready` comes after it on the wire too, and nothing is sent once
    /// the connection is gone.
    state: Mutex<State>,
    ending: OnceLock<Ending>,
    registered: AtomicBool,
    /// When it began, by the registry's clock.
    start: OnceLock<Timestamp>,
    /// How often its record or its grant has changed.
    version: AtomicU64,
    departed: AtomicBool,
    /// Its session ends with it.
    last: AtomicBool,
    messages_out: AtomicU64,
    /// Cancelled when the registry has confirmed that it is out.
    pub unregistered: CancellationToken,
}

impl LocalConnection {
    pub(crate) fn new(
        id: ConnectionId,
        identity: Option<Identity>,
        namespace: Arc<str>,
        device_id: Option<String>,
        session: Arc<Session>,
        events: EventLimiter,
        lane: Option<Arc<Lane>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            user: identity.as_ref().map(|identity| identity.user_id.clone()),
            identity: Mutex::new(identity.map(Arc::new)),
            warned: AtomicBool::new(false),
            namespace,
            device_id,
            session,
            connected_at: Timestamp::now(),
            opened: Instant::now(),
            events,
            lane,
            state: Mutex::new(State::arriving()),
            ending: OnceLock::new(),
            registered: AtomicBool::new(false),
            start: OnceLock::new(),
            version: AtomicU64::new(0),
            departed: AtomicBool::new(false),
            last: AtomicBool::new(false),
            messages_out: AtomicU64::new(0),
            unregistered: CancellationToken::new(),
        })
    }

    /// Its user; none for a guest.
    pub(crate) fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// What waits for the application's handlers.
    pub(in crate::gateway) fn lane(&self) -> Option<&Arc<Lane>> {
        self.lane.as_ref()
    }

    /// What its user has last shown; none for a guest.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.lock().clone()
    }

    /// What revocations are held against.
    pub(crate) fn grant(&self) -> Grant {
        self.identity()
            .as_deref()
            .map(refusal::grant)
            .unwrap_or_default()
    }

    /// When its token runs out; none for what does not.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        self.identity.lock().as_ref()?.expires_at
    }

    /// Whether its client has been warned of its token's end.
    pub(crate) fn is_warned(&self) -> bool {
        self.warned.load(Ordering::Acquire)
    }

    /// The connection that a guest becomes.
    pub(crate) fn as_user(
        &self,
        id: ConnectionId,
        identity: Identity,
        limits: &Limits,
    ) -> Arc<Self> {
        Self::new(
            id,
            Some(identity),
            self.namespace.clone(),
            self.device_id.clone(),
            self.session.clone(),
            EventLimiter::new(limits),
            self.lane.clone(),
        )
    }

    /// What names it in the registry.
    pub(crate) fn entry(&self) -> Entry {
        Entry {
            user: self.user().cloned(),
            id: self.id.clone(),
        }
    }

    /// Its record, as of now.
    pub(crate) fn record(&self, node_id: &NodeId) -> Connection {
        Connection {
            id: self.id.clone(),
            user_id: self.user().cloned(),
            namespace: self.namespace.to_string(),
            node_id: node_id.clone(),
            transport: self.session.kind(),
            connected_at: self.connected_at,
            expires_at: self.expires_at(),
            device_id: self.device_id.clone(),
            remote_addr: Some(self.session.handshake.remote_addr.to_string()),
            user_agent: self.session.handshake.user_agent.clone(),
        }
    }

    /// Whether the protocol has its session on a WebSocket.
    pub(crate) fn is_on_websocket(&self) -> bool {
        let state = self.state.lock();
        state
            .socket
            .as_ref()
            .is_some_and(|socket| socket.transport_type() == TransportType::Websocket)
    }

    /// The registry has it, and says when it began.
    pub(crate) fn set_registered(&self, start: Timestamp) {
        let _ = self.start.set(start);
        self.registered.store(true, Ordering::Release);
    }

    /// When it began, by the registry's clock; none if the registry has not said.
    pub(crate) fn start(&self) -> Option<Timestamp> {
        self.start.get().copied()
    }

    /// Its record or its grant has changed.
    pub(crate) fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// How often they have.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether the registry has it, as far as this node knows.
    pub(crate) fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Acquire)
    }

    /// The ending it has been given, if any.
    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.get()
    }

    /// Gives it an ending; the first one counts. Returns whether this was it.
    pub(crate) fn set_ending(&self, ending: Ending) -> bool {
        self.ending.set(ending).is_ok()
    }

    /// Its session is about to end with it.
    pub(crate) fn set_last(&self) {
        self.last.store(true, Ordering::Release);
    }

    /// Whether its session ends with it.
    pub(crate) fn is_last(&self) -> bool {
        self.last.load(Ordering::Acquire)
    }

    /// Waits until it is closed on this node and out of the registry.
    pub(crate) async fn closed(&self) {
        if self.session.is_ending() {
            self.session.closed().await;
        }
        self.unregistered.cancelled().await;
    }

    /// Whether its departure is this caller's to carry out: true once.
    pub(crate) fn depart_once(&self) -> bool {
        !self.departed.swap(true, Ordering::AcqRel)
    }

    /// Messages handed to it.
    pub(crate) fn messages_out(&self) -> u64 {
        self.messages_out.load(Ordering::Relaxed)
    }
}
