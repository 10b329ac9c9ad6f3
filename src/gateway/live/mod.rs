//! One connection of this node, from the first look at its credentials until it is gone.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use socketioxide::{AckError, SendError, SocketError, TransportType, extract::SocketRef};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{departure, events::EventLimiter, message::Message, refusal};
use crate::{
    auth::Identity,
    config::Limits,
    connection::{Connection, ConnectionId, NodeId, TransportKind, UserId},
    ending::Ending,
    registry::{Entry, Grant},
    transport::{Session, engine::Adapter},
};

/// The room of sockets that were ended and are still in their namespace: a broadcast goes to all but these.
pub(super) const ENDED: &str = "ended";

/// How far a connection has got. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Its credentials are good; the registry has not confirmed it yet, or its client has not been told.
    Arriving,
    /// Its client has `ready`: it is listed, sent to and disconnected from any node.
    Ready,
    /// Nothing is sent to it or taken from it any more.
    Gone,
}

/// Why a message was not handed to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// It is not ready, or gone: it was not to be sent to.
    NotThere,
    /// More waits for its client than may.
    Full,
}

/// One connection of this node.
pub(crate) struct Live {
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
    /// Held while something is sent: what is sent after `ready` comes after it on the wire too, and nothing is sent once
    /// the connection is gone.
    state: Mutex<State>,
    ending: OnceLock<Ending>,
    registered: AtomicBool,
    departed: AtomicBool,
    /// Its session ends with it.
    last: AtomicBool,
    messages_out: AtomicU64,
    /// Cancelled when the registry has confirmed that it is out.
    pub unregistered: CancellationToken,
}

struct State {
    phase: Phase,
    /// Held from `ready` until it is gone, and not before: a socket that never gets into its namespace is told of its
    /// session's end by nobody, and has to go by itself for [`crate::transport::SessionGuard`] to notice.
    socket: Option<SocketRef<Adapter>>,
}

impl Live {
    pub(crate) fn new(
        id: ConnectionId,
        identity: Option<Identity>,
        namespace: Arc<str>,
        device_id: Option<String>,
        session: Arc<Session>,
        events: EventLimiter,
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
            state: Mutex::new(State {
                phase: Phase::Arriving,
                socket: None,
            }),
            ending: OnceLock::new(),
            registered: AtomicBool::new(false),
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

    /// Another token of its user's, in place of the one before.
    pub(crate) fn renew(&self, identity: Identity) {
        *self.identity.lock() = Some(Arc::new(identity));
        self.warned.store(false, Ordering::Release);
    }

    /// Whether its client has been warned of its token's end.
    pub(crate) fn is_warned(&self) -> bool {
        self.warned.load(Ordering::Acquire)
    }

    /// Tells its client that the token is about to run out.
    pub(crate) fn warn(&self, expires_at: Timestamp) {
        self.warned.store(true, Ordering::Release);
        self.tell("tokenExpiring", &json!({ "expiresAt": expires_at }));
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
        )
    }

    /// Takes the place of a guest: from here on what is sent to this connection goes to the guest's client, and nothing to
    /// the guest. `known` makes the socket known as this connection's. Returns whether it did: not if one of the two is
    /// gone, or another has taken the guest's place.
    pub(crate) fn take_over(&self, guest: &Self, rooms: Vec<String>, known: impl FnOnce()) -> bool {
        let mut before = guest.state.lock();
        if before.phase != Phase::Ready {
            return false;
        }
        let mut state = self.state.lock();
        if state.phase != Phase::Arriving {
            return false;
        }
        before.phase = Phase::Gone;
        state.phase = Phase::Ready;
        state.socket = before.socket.take();
        // Under the lock: whoever ends the guest from here on finds whom to end instead.
        known();
        if let Some(socket) = &state.socket {
            socket.join(rooms);
        }
        guest.departed.store(true, Ordering::Release);
        true
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

    /// How far it has got.
    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// The registry has it.
    pub(crate) fn set_registered(&self) {
        self.registered.store(true, Ordering::Release);
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

    /// Takes the socket into `rooms`, and tells the client that it is connected, unless it has been given an ending
    /// meanwhile or is gone. Returns whether it was told.
    pub(crate) fn set_ready(
        &self,
        socket: &SocketRef<Adapter>,
        rooms: Vec<String>,
        ready: &Value,
    ) -> bool {
        let mut state = self.state.lock();
        if state.phase != Phase::Arriving {
            return false;
        }
        state.phase = Phase::Ready;
        state.socket = Some(socket.clone());
        // Under the lock: rooms that a socket joins after it has left its namespace are never cleared.
        socket.join(rooms);
        self.ending().is_none() && socket.emit("ready", ready).is_ok()
    }

    /// Hands it a message. `limit` bounds what may wait for a polling client, in bytes.
    pub(crate) fn send(&self, message: &Message, limit: usize) -> Result<(), NotSent> {
        let state = self.state.lock();
        let socket = self.sendable(&state)?;
        let sent = match &message.data {
            Some(data) => socket.emit(&message.event, &(data,)),
            None => socket.emit(&message.event, &NO_ARGUMENTS),
        };
        drop(state);
        self.account(sent, message, limit)
    }

    /// Hands it a message; the future waits for its client's answer. An answer without arguments, or one that is no JSON,
    /// is null.
    pub(crate) fn send_with_ack(
        &self,
        message: &Message,
        limit: usize,
        timeout: Duration,
    ) -> Result<impl Future<Output = Option<Value>> + Send + use<>, NotSent> {
        let state = self.state.lock();
        let socket = self.sendable(&state)?.timeout(timeout);
        let sent = match &message.data {
            Some(data) => socket.emit_with_ack::<_, Value>(&message.event, &(data,)),
            None => socket.emit_with_ack::<_, Value>(&message.event, &NO_ARGUMENTS),
        };
        drop(state);
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => {
                self.account(Err(error), message, limit)?;
                return Err(NotSent::NotThere);
            }
        };
        self.account(Ok(()), message, limit)?;
        Ok(async move {
            match answer.await {
                Ok(answer) => Some(answer),
                Err(AckError::Decode(_)) => Some(Value::Null),
                Err(_) => None,
            }
        })
    }

    fn sendable<'a>(&self, state: &'a State) -> Result<&'a SocketRef<Adapter>, NotSent> {
        match &state.socket {
            Some(socket) if state.phase == Phase::Ready && self.ending().is_none() => Ok(socket),
            _ => Err(NotSent::NotThere),
        }
    }

    fn account(
        &self,
        sent: Result<(), SendError>,
        message: &Message,
        limit: usize,
    ) -> Result<(), NotSent> {
        match sent {
            Ok(()) => {
                self.messages_out.fetch_add(1, Ordering::Relaxed);
                if self.session.kind() == TransportKind::Polling
                    && self.session.sent(message.weight(), limit)
                {
                    self.session.stalled();
                }
                Ok(())
            }
            Err(SendError::Socket(SocketError::InternalChannelFull)) => {
                self.session.stalled();
                Err(NotSent::Full)
            }
            Err(_) => Err(NotSent::NotThere),
        }
    }

    /// Tells its client why it is being ended, and, if `packet`, that it is not to come back. Nothing is sent to it after
    /// that.
    pub(crate) fn say_goodbye(&self, ending: &Ending, packet: bool) {
        let socket = {
            let mut state = self.state.lock();
            state.phase = Phase::Gone;
            state.socket.take()
        };
        let Some(socket) = socket else {
            return;
        };
        let goodbye = json!({
            "code": ending.code,
            "reason": ending.reason,
            "reconnect": ending.reconnect,
        });
        socket.emit("forceDisconnect", &goodbye).ok();
        socket.leave_all();
        if !packet {
            return;
        }
        // It stays in its namespace, and is to get nothing there.
        socket.join(ENDED);
        let disconnect = || {
            let ended = socket.clone().disconnect();
            // Fails when the client's queue is full. Then only the end of the transport is left.
            if ended.is_err() {
                socket.leave_all();
                self.session.end();
            }
            departure::removal(&socket)
        };
        match self.is_last() {
            true => drop(disconnect()),
            false => self.session.part(&self.namespace, disconnect),
        }
    }

    /// Lets go of the socket: nothing is sent to it or taken from it any more.
    pub(crate) fn set_gone(&self) {
        let socket = {
            let mut state = self.state.lock();
            state.phase = Phase::Gone;
            state.socket.take()
        };
        if let Some(socket) = socket {
            socket.leave_all();
        }
    }

    /// Sends the client an `error` event.
    pub(crate) fn send_error(&self, message: &str) {
        self.tell("error", &json!({ "message": message }));
    }

    /// Sends the client an event of Switchboard's own.
    fn tell(&self, event: &str, data: &Value) {
        let state = self.state.lock();
        if let Ok(socket) = self.sendable(&state) {
            socket.emit(event, data).ok();
        }
    }

    /// Waits until it is closed on this node and out of the registry.
    pub(crate) async fn closed(&self) {
        if self.session.is_ending() {
            self.session.closed().await;
        }
        self.unregistered.cancelled().await;
    }

    /// Whether it is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.phase() == Phase::Gone
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

/// Serializes as an empty tuple: an event without arguments.
pub(super) const NO_ARGUMENTS: [(); 0] = [];
