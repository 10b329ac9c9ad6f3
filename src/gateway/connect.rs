//! The way in: from a CONNECT packet to `ready`.
//!
//! Everything that can refuse a connection happens in the middleware, before socketioxide acknowledges the CONNECT packet:
//! credentials, then the registry. So a client that is told it is connected is one that every node can see. Handlers are
//! set in the middleware too: set later they miss the end of a connection that is closed at once, and the first events.

use std::{fmt, sync::Arc};

use serde_json::{Value, json};
use socketioxide::{
    extract::{Event, SocketRef, TryData},
    socket::DisconnectReason,
};
use tokio::time::Instant;

use super::{
    Inner,
    events::{EventLimiter, Verdict},
    live::Live,
};
use crate::{
    auth::{AuthError, Credentials, device_id},
    connection::{ConnectionId, Tally},
    ending::Ending,
    transport::{Session, SessionGuard, engine::Adapter},
};

/// Why a CONNECT packet is refused. `Display` is what the client's `connect_error` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The credentials.
    Auth(AuthError),
    /// Nothing that the client did: its transport is cut before it can read this, so that it tries again by itself. A
    /// `connect_error` would make it stop.
    Unavailable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auth(error) => error.fmt(f),
            Self::Unavailable => f.write_str("Service unavailable"),
        }
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unavailable => Self::Unavailable,
            error => Self::Auth(error),
        }
    }
}

impl Refusal {
    fn label(self) -> &'static str {
        match self {
            Self::Auth(AuthError::Missing) => "missing",
            Self::Auth(AuthError::Invalid) => "invalid",
            Self::Auth(AuthError::Expired) => "expired",
            Self::Auth(AuthError::Revoked) => "revoked",
            Self::Auth(AuthError::Banned) => "banned",
            Self::Auth(AuthError::AdminRequired | AuthError::AccessDenied) => "role",
            Self::Auth(AuthError::NotAuthenticated) => "session",
            Self::Auth(AuthError::TooMany) => "limit",
            Self::Auth(AuthError::Unavailable) | Self::Unavailable => "unavailable",
        }
    }
}

/// What the middleware leaves for the connect handler, in the socket's extensions.
#[derive(Clone)]
struct Arrival {
    live: Arc<Live>,
    tally: Tally,
    since: Instant,
}

/// The connection that a socket is, in the socket's extensions: how the members of a room are found.
#[derive(Clone)]
pub(super) struct ConnectionOf(pub(super) ConnectionId);

impl Inner {
    /// The connect middleware of a namespace.
    pub(super) async fn arrive(
        self: &Arc<Self>,
        namespace: &Arc<str>,
        socket: SocketRef<Adapter>,
        auth: TryData<Value>,
    ) -> Result<(), Refusal> {
        let since = Instant::now();
        let Some(session) = session_of(&socket) else {
            return Err(Refusal::Unavailable);
        };
        let refusal = match self
            .try_arrive(namespace, &session, &socket, auth, since)
            .await
        {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        self.metrics.connect_errors(refusal.label()).increment(1);
        match refusal {
            Refusal::Auth(error) => {
                tracing::debug!(%namespace, refusal = %error, "CONNECT refused");
                session.refused();
            }
            Refusal::Unavailable => session.abort(),
        }
        Err(refusal)
    }

    async fn try_arrive(
        self: &Arc<Self>,
        namespace: &Arc<str>,
        session: &Arc<Session>,
        socket: &SocketRef<Adapter>,
        auth: TryData<Value>,
        since: Instant,
    ) -> Result<(), Refusal> {
        if session.is_ending() || !self.takes_connections() {
            return Err(Refusal::Unavailable);
        }
        let Some(rule) = self.auth.rule(namespace) else {
            return Err(Refusal::Unavailable);
        };
        let auth = auth.0.ok();
        let credentials = Credentials::from_handshake(auth.as_ref(), &session.handshake.headers);
        let identity = self.auth.authenticate(&credentials, &rule).await?;
        let id = self
            .registry
            .new_id(identity.as_ref().map(|identity| &identity.user_id));
        let live = Live::new(
            id,
            identity,
            namespace.clone(),
            device_id(auth.as_ref()),
            session.clone(),
            EventLimiter::new(&self.config.limits),
        );
        self.hub.insert(&live);
        session.mark_empty();
        self.listen(&live, socket);
        let record = live.record(&self.node_id);
        let registered = self.registry.register(&self.lease(), &record).await;
        let tally = match registered {
            Ok(tally) => tally,
            Err(error) => {
                tracing::warn!(connection = %live.id, %error, "can't register a connection");
                self.depart(&live, "unavailable");
                return Err(Refusal::Unavailable);
            }
        };
        live.set_registered();
        self.hub.count(&live);
        if record.transport != session.kind() {
            // Upgraded while the registry was being told.
            self.update(&live);
        }
        if session.is_over() || live.is_gone() {
            // It went while the registry was being told; what its end said there may have been said too early.
            self.depart(&live, "transport_close");
            self.unregister(&live);
            return Err(Refusal::Unavailable);
        }
        socket.extensions.insert(Arrival { live, tally, since });
        Ok(())
    }

    /// Sets the handlers of a socket.
    fn listen(self: &Arc<Self>, live: &Arc<Live>, socket: &SocketRef<Adapter>) {
        socket.extensions.insert(ConnectionOf(live.id.clone()));
        let (gateway, departing) = (Arc::downgrade(self), Arc::downgrade(live));
        socket.on_disconnect(move |reason: DisconnectReason| {
            // Returns at once: until it has, the socket is still in its namespace.
            if let (Some(gateway), Some(live)) = (gateway.upgrade(), departing.upgrade()) {
                gateway.depart(&live, departure_label(reason));
            }
            std::future::ready(())
        });
        let (gateway, sender) = (Arc::downgrade(self), Arc::downgrade(live));
        socket.on_fallback(move |Event(_): Event| {
            if let (Some(gateway), Some(live)) = (gateway.upgrade(), sender.upgrade()) {
                gateway.admit_event(&live);
            }
            std::future::ready(())
        });
    }

    /// Holds an inbound event to the limits. Returns whether it is to be handled.
    fn admit_event(self: &Arc<Self>, live: &Arc<Live>) -> bool {
        match live.events.judge() {
            Verdict::Accepted => true,
            Verdict::Refused => {
                self.metrics.events_refused().increment(1);
                live.send_error("Too many events");
                false
            }
            Verdict::Flood => {
                self.metrics.events_refused().increment(1);
                let ending = Ending::of(Ending::LIMIT).because("Too many events");
                self.end_all(std::slice::from_ref(live), &ending);
                false
            }
        }
    }

    /// The connect handler: the client has been told that it is connected, and now that it is known.
    pub(super) fn ready(self: &Arc<Self>, socket: &SocketRef<Adapter>) {
        let Some(Arrival { live, tally, since }) = socket.extensions.remove::<Arrival>() else {
            return;
        };
        let identity = live.identity.as_ref();
        let ready = json!({
            "connectionId": live.id,
            "userId": live.user(),
            "username": identity.and_then(|identity| identity.username.as_deref()),
            "role": identity.and_then(|identity| identity.roles.first()),
            "nodeId": self.node_id,
            "expiresAt": identity.and_then(|identity| identity.expires_at),
            "connections": tally.connections,
            "devices": tally.devices,
        });
        self.join_rooms(&live, socket);
        let told = live.set_ready(socket, &ready);
        // A session that was upgraded before it had a connection has nobody else to say so.
        live.session.check_upgrade();
        if told {
            self.metrics.connects(&live.namespace).increment(1);
            self.metrics.ready_duration().record(since.elapsed());
            tracing::debug!(connection = %live.id, user = ?live.user(), namespace = %live.namespace, "ready");
        } else if let Some(ending) = live.ending() {
            // Ordered to end between its registration and now.
            self.carry_out(&live, &ending.clone());
        }
    }

    /// The rooms that every connection is in: its user's, its device's, its roles'.
    fn join_rooms(&self, live: &Live, socket: &SocketRef<Adapter>) {
        let identity = live.identity.as_ref();
        let user = live.user().map(|user| format!("user:{user}"));
        let device = live
            .device_id
            .as_ref()
            .map(|device| format!("device:{device}"));
        let roles = identity
            .into_iter()
            .flat_map(|identity| &identity.roles)
            .map(|role| format!("role:{role}"));
        socket.join(
            user.into_iter()
                .chain(device)
                .chain(roles)
                .collect::<Vec<_>>(),
        );
    }
}

/// The session under a socket.
fn session_of(socket: &SocketRef<Adapter>) -> Option<Arc<Session>> {
    socket
        .req_parts()
        .extensions
        .get::<Arc<SessionGuard>>()
        .map(|guard| guard.session().clone())
}

/// The metric label of an end that the server did not order.
fn departure_label(reason: DisconnectReason) -> &'static str {
    match reason {
        DisconnectReason::TransportClose => "transport_close",
        DisconnectReason::TransportError => "transport_error",
        DisconnectReason::HeartbeatTimeout => "ping_timeout",
        DisconnectReason::PacketParsingError => "parse_error",
        DisconnectReason::MultipleHttpPollingError => "multiple_polls",
        DisconnectReason::ClientNSDisconnect => "client_disconnect",
        DisconnectReason::ServerNSDisconnect => "server_disconnect",
        DisconnectReason::ClosingServer => "shutting_down",
    }
}
