//! One connection of this node, from the first look at its credentials until it is gone.
//!
//! `granted` is what a backend has given it, `phase` is how far it has got and takes it further, `rooms` which it is in, `watches` which
//! users it watches, `send` what it is sent, `answer` what its client answers.

mod answer;
mod granted;
mod phase;
mod rooms;
mod send;
mod watches;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use socketioxide::TransportType;
use tokio::{sync::SetOnce, time::Instant};

use self::{phase::State, rooms::OwnRooms};
use super::{event_limiter::EventLimiter, members::RoomMembers};
use crate::{
    auth::{Identity, SessionRef},
    config::Limits,
    connection::{Connection, ConnectionId, NodeId, Tally, UserId},
    ending::Ending,
    gateway::tail::Who,
    registry::{Ahead, Closing, Entry, Grant, to_millisecond},
    transport::Session,
};

pub(crate) use self::{granted::Granted, phase::Phase, rooms::RoomError, send::NotSent};

/// Hears how a connection goes on. Called under locks, so it must not block.
pub(crate) trait ConnectionObserver: Send + Sync {
    /// The client goes on as the connection with this id: a guest has said who it is.
    fn passed_on(&self, id: &ConnectionId);

    /// The connection is gone; `reason` as in the metric of disconnects. May be called for connections that were never ready.
    fn gone(self: Arc<Self>, connection: &Arc<LocalConnection>, reason: &'static str);
}

/// The connection that a socket is, in the socket's extensions. A guest's socket becomes another connection's when it says who
/// it is.
#[derive(Clone)]
pub(crate) struct CurrentConnection(pub(crate) Arc<LocalConnection>);

/// One connection of this node.
pub(crate) struct LocalConnection {
    me: Weak<Self>,
    /// Its id.
    pub id: ConnectionId,
    /// Its user; none for a guest. Never changes: a guest that says who it is becomes another connection.
    user: Option<UserId>,
    /// What its user has last shown: a token may be refreshed.
    identity: Mutex<Option<Arc<Identity>>>,
    /// What a backend has given it as it came.
    granted: Option<Arc<Granted>>,
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
    /// When its CONNECT packet came, by the clock for durations.
    pub opened: Instant,
    /// Inbound events, within limits.
    pub events: EventLimiter,
    /// Hears how it goes on.
    observer: Arc<dyn ConnectionObserver>,
    /// Held while something is sent: what is sent after `ready` comes after it on the wire too, and nothing is sent once
    /// the connection is gone.
    state: Mutex<State>,
    /// Where both are held, behind the state.
    rooms: Mutex<OwnRooms>,
    /// Where it is found by its rooms while it is ready.
    members: Arc<RoomMembers>,
    /// The users that it watches, and whether its client was last told that each is online; none: not told yet.
    watches: Mutex<BTreeMap<UserId, Option<bool>>>,
    ending: OnceLock<Ending>,
    /// What it ended by, in the words of the metrics; set once it is over.
    departure: OnceLock<&'static str>,
    /// When it began, by the registry's clock; set once the registry has it.
    start: OnceLock<Timestamp>,
    /// How often its record or its grant has changed.
    version: AtomicU64,
    messages_out: AtomicU64,
    /// Whether the engine has been handed an event for it.
    has_spoken: AtomicBool,
    /// Set when the registry has confirmed that it is out.
    pub unregistered: SetOnce<()>,
}

impl LocalConnection {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one of its fields, given once"
    )]
    pub(crate) fn new(
        id: ConnectionId,
        identity: Option<Identity>,
        granted: Option<Arc<Granted>>,
        namespace: Arc<str>,
        device_id: Option<String>,
        session: Arc<Session>,
        observer: Arc<dyn ConnectionObserver>,
        members: Arc<RoomMembers>,
        limits: &Limits,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            id,
            user: identity.as_ref().map(|identity| identity.user_id.clone()),
            identity: Mutex::new(identity.map(Arc::new)),
            granted,
            warned: AtomicBool::new(false),
            namespace,
            device_id,
            session,
            // As the registry keeps it: its handlers and backends see what the API shows.
            connected_at: to_millisecond(Timestamp::now()),
            opened: Instant::now(),
            events: EventLimiter::new(limits),
            observer,
            state: Mutex::new(State::Arriving),
            rooms: Mutex::default(),
            members,
            watches: Mutex::default(),
            ending: OnceLock::new(),
            departure: OnceLock::new(),
            start: OnceLock::new(),
            version: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
            has_spoken: AtomicBool::new(false),
            unregistered: SetOnce::new(),
        })
    }

    /// Its user; none for a guest.
    pub(crate) fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// Tells its observer that it is gone; `reason` as in the metric of disconnects.
    pub(crate) fn tell_observer_gone(self: &Arc<Self>, reason: &'static str) {
        self.observer.clone().gone(self, reason);
    }

    /// What its user has last shown; none for a guest.
    pub(crate) fn shown(&self) -> Option<Arc<Identity>> {
        self.identity.lock().clone()
    }

    /// Who its user is: what the user has last shown, and what a backend has said instead. None for a guest.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        self.shown().map(|shown| self.with_granted(shown))
    }

    /// An identity, with what a backend has given this connection.
    fn with_granted(&self, identity: Arc<Identity>) -> Arc<Identity> {
        match &self.granted {
            Some(granted) => Arc::new(granted.applied_to(&identity)),
            None => identity,
        }
    }

    /// The rooms that its credentials claim, and those that a backend has put it into as it came.
    pub(crate) fn claimed_rooms(&self) -> Vec<String> {
        match (self.identity(), &self.granted) {
            (Some(identity), _) => identity.rooms.clone(),
            (None, Some(granted)) => granted.rooms.clone(),
            (None, None) => Vec::new(),
        }
    }

    /// What revocations are held against.
    pub(crate) fn grant(&self) -> Grant {
        self.shown().as_deref().map(grant_of).unwrap_or_default()
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
        granted: Option<Arc<Granted>>,
        limits: &Limits,
    ) -> Arc<Self> {
        Self::new(
            id,
            Some(identity),
            granted,
            self.namespace.clone(),
            self.device_id.clone(),
            self.session.clone(),
            self.observer.clone(),
            self.members.clone(),
            limits,
        )
    }

    /// What followers of the tail are told of it.
    pub(crate) fn who(&self) -> Who<'_> {
        Who {
            connection: &self.id,
            user: self.user(),
            namespace: &self.namespace,
        }
    }

    /// What names it in the registry.
    pub(crate) fn entry(&self) -> Entry {
        Entry {
            user: self.user().cloned(),
            id: self.id.clone(),
        }
    }

    /// What its client is told of itself. `tally`: how many connections and devices its user has.
    pub(crate) fn introduction(&self, node_id: &NodeId, tally: Tally) -> Value {
        let identity = self.identity();
        let identity = identity.as_deref();
        json!({
            "connectionId": self.id,
            "userId": self.user(),
            "username": identity.and_then(|identity| identity.username.as_deref()),
            "role": identity.and_then(|identity| identity.roles.first()),
            "nodeId": node_id,
            "expiresAt": self.expires_at(),
            "connections": tally.connections,
            "devices": tally.devices,
        })
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
            rooms: self.rooms(),
            meta: self
                .granted
                .as_ref()
                .and_then(|granted| granted.meta.clone()),
        }
    }

    /// Its record as the registry is told of it, as of now: which rooms its user is to be in, the registry knows.
    pub(crate) fn assertable(&self, node_id: &NodeId) -> Connection {
        Connection {
            rooms: self.own_rooms(),
            ..self.record(node_id)
        }
    }

    /// Whether the protocol has its session on a WebSocket.
    pub(crate) fn is_on_websocket(&self) -> bool {
        matches!(&*self.state.lock(), State::Ready(socket) if socket.transport_type() == TransportType::Websocket)
    }

    /// The registry has it, and says when it began.
    pub(crate) fn set_registered(&self, start: Timestamp) {
        self.start.set(start).ok();
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
        self.start.get().is_some()
    }

    /// The ending it has been given, if any.
    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.get()
    }

    /// Gives it an ending; the first one counts. Returns whether this was it.
    pub(crate) fn set_ending(&self, ending: Ending) -> bool {
        self.ending.set(ending).is_ok()
    }

    /// Notes what it ended by, in the words of the metrics; the first one counts.
    pub(crate) fn set_departure(&self, label: &'static str) {
        self.departure.set(label).ok();
    }

    /// How it has ended, for those who are told.
    pub(crate) fn closing(&self) -> Closing {
        match self.ending() {
            Some(ending) => Closing {
                reason: ending.reason.clone().into(),
                code: Some(ending.code),
            },
            None => Closing::because(
                self.departure
                    .get()
                    .map_or_else(|| "unavailable".to_owned(), |label| label.replace('_', " ")),
            ),
        }
    }

    /// Waits until it is closed on this node and out of the registry.
    pub(crate) async fn closed(&self) {
        if self.session.is_ending() {
            self.session.closed().await;
        }
        self.unregistered.wait().await;
    }

    /// Messages handed to it.
    pub(crate) fn messages_out(&self) -> u64 {
        self.messages_out.load(Ordering::Relaxed)
    }
}

/// What revocations are held against, of an identity.
pub(crate) fn grant_of(identity: &Identity) -> Grant {
    Grant {
        issued_at: identity.issued_at,
        token_id: identity.token_id.clone(),
        session: identity.session.as_ref().map(|session| match session {
            SessionRef::Cookie(id) => id.expose().into(),
            SessionRef::Family(id) => id.as_str().into(),
        }),
        // For every token, however old: a revocation that came between its first use and its `iat` is held against it for as long
        // as it lives. One without `iat` is refused after any revocation.
        ahead: match (identity.issued_at, identity.digest, identity.expires_at) {
            (Some(_), Some(digest), Some(expires_at)) => Some(Ahead {
                digest: digest.to_string(),
                expires_at,
            }),
            _ => None,
        },
    }
}
