//! The way in: from a CONNECT packet to `ready`.
//!
//! Everything that can refuse a connection happens in the middleware, before socketioxide acknowledges the CONNECT packet:
//! credentials, then the registry. So a client that is told it is connected is one that every node can see. Handlers are
//! set in the middleware too: set later they miss the end of a connection that is closed at once, and the first events.

mod mount;

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use serde_json::{Value, json};
use socketioxide::{
    extract::{SocketRef, TryData},
    handler::{FromConnectParts, Value as Packet},
    socket::Socket,
};
use tokio::time::Instant;

use crate::gateway::{
    Gateway, Inner,
    arg::{Arg, Greeting},
    clients::inbound::Inbound,
    connections::departing::Leaving,
    connections::event_limiter::EventLimiter,
    connections::local::LocalConnection,
    handlers::{Decision, EmitError, Newcomer},
    message::is_sendable,
    refusal::Refusal,
};
use crate::{
    auth::{ConnectPayload, Credentials, device_id},
    connection::Tally,
    registry::{Bar, RATE_WINDOW},
    transport::{Session, SessionGuard, engine::Adapter},
};

/// How often a CONNECT packet that waits looks whether it still has to.
const HOLD: Duration = Duration::from_millis(200);

/// What the middleware leaves for the connect handler, in the socket's extensions.
#[derive(Clone)]
struct Arrival {
    connection: Arc<LocalConnection>,
    tally: Tally,
    since: Instant,
    greetings: Vec<Greeting>,
}

/// What a CONNECT packet says of its sender.
pub(in crate::gateway) struct ConnectPacket {
    payload: TryData<ConnectPayload>,
    /// All of it, as it came: for the application, which may want more than is read.
    whole: Option<Packet>,
}

impl FromConnectParts<Adapter> for ConnectPacket {
    type Error = Infallible;

    fn from_connect_parts(
        socket: &Arc<Socket<Adapter>>,
        auth: &Option<Packet>,
    ) -> Result<Self, Infallible> {
        Ok(Self {
            payload: TryData::from_connect_parts(socket, auth)?,
            whole: auth.clone(),
        })
    }
}

impl ConnectPacket {
    /// What Switchboard itself reads of it; none if it is unreadable.
    fn payload(&self) -> Option<&Value> {
        self.payload.0.as_ref().ok().map(ConnectPayload::value)
    }

    /// All of it; an object without fields if there is nothing, or nothing that can be read.
    fn whole(&self) -> Arg {
        let read = match &self.whole {
            Some(Packet::Str(text, _)) => serde_json::from_str(text.as_str()).ok(),
            _ => None,
        };
        read.unwrap_or(Arg::Object(Vec::new()))
    }
}

/// The connection that a socket is, in the socket's extensions. A guest's socket becomes another connection's when it says who
/// it is.
#[derive(Clone)]
pub(in crate::gateway) struct CurrentConnection(pub(in crate::gateway) Arc<LocalConnection>);

/// A connection on its way in. Unless it arrives, it is gone with this, whatever kept it: a refusal, or a panic.
pub(in crate::gateway) struct ArrivalGuard<'a> {
    gateway: &'a Arc<Inner>,
    connection: Option<Arc<LocalConnection>>,
}

impl<'a> ArrivalGuard<'a> {
    pub(in crate::gateway) fn of(
        gateway: &'a Arc<Inner>,
        connection: &Arc<LocalConnection>,
    ) -> Self {
        Self {
            gateway,
            connection: Some(connection.clone()),
        }
    }

    pub(in crate::gateway) fn has_arrived(mut self) {
        self.connection = None;
    }
}

impl Drop for ArrivalGuard<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            self.gateway.forsake(connection);
        }
    }
}

impl Inner {
    /// The connect middleware of a namespace.
    pub(in crate::gateway) async fn arrive(
        self: &Arc<Self>,
        namespace: &Arc<str>,
        socket: SocketRef<Adapter>,
        said: ConnectPacket,
    ) -> Result<(), Refusal> {
        let since = Instant::now();
        let Some(session) = session_of(&socket) else {
            return Err(Refusal::Unavailable);
        };
        session.said_connect();
        let refusal = loop {
            self.hold(&session).await;
            let arrival = self.try_arrive(namespace, &session, &socket, &said, since);
            let arrived = AssertUnwindSafe(arrival).catch_unwind().await;
            match arrived.unwrap_or_else(|_| {
                tracing::error!(%namespace, "a handshake panicked");
                Err(Refusal::Unavailable)
            }) {
                Ok(()) => return Ok(()),
                // For want of the registry, in the middle of it all: the packet waits like one that comes now.
                Err(Refusal::Unavailable) if self.carries_others(&session) => {
                    self.wait(HOLD, &session).await;
                }
                Err(Refusal::Bar(Bar::TooOften)) if self.carries_others(&session) => {
                    self.wait(RATE_WINDOW, &session).await;
                }
                Err(refusal) => break refusal,
            }
        };
        self.metrics.connect_errors(refusal.label()).increment(1);
        session.refuse(namespace);
        match &refusal {
            // What the end of the session has to say goes out first: cutting it short would lose a DISCONNECT packet.
            refusal if refusal.is_temporary() => match session.is_ending() {
                true => session.closed().await,
                false => session.abort(),
            },
            refusal => {
                tracing::debug!(%namespace, %refusal, "CONNECT refused");
                session.refused();
            }
        }
        Err(refusal)
    }

    /// Whether a session carries connections and is to go on doing so: to cut it, as for a newcomer, would take them along.
    fn carries_others(&self, session: &Session) -> bool {
        !session.is_ending() && !self.table.of_session(session.id).is_empty()
    }

    /// Lets a CONNECT packet wait while the node takes none, if its transport carries other connections.
    async fn hold(&self, session: &Session) {
        while !self.takes_connections() && self.carries_others(session) {
            self.wait(HOLD, session).await;
        }
    }

    /// Waits for so long, or until the session is over.
    async fn wait(&self, pause: Duration, session: &Session) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = session.over() => {}
        }
    }

    async fn try_arrive(
        self: &Arc<Self>,
        namespace: &Arc<str>,
        session: &Arc<Session>,
        socket: &SocketRef<Adapter>,
        said: &ConnectPacket,
        since: Instant,
    ) -> Result<(), Refusal> {
        if session.is_ending() || !self.takes_connections() {
            return Err(Refusal::Unavailable);
        }
        let Some(rule) = self.auth.rule(namespace) else {
            return Err(Refusal::Unavailable);
        };
        let auth = said.payload();
        let credentials = Credentials::from_handshake(auth, &session.handshake.headers);
        let identity = self.auth.authenticate(&credentials, &rule).await?;
        let id = self
            .registry
            .new_id(identity.as_ref().map(|identity| &identity.user_id));
        let connection = LocalConnection::new(
            id,
            identity,
            namespace.clone(),
            device_id(auth),
            session.clone(),
            EventLimiter::new(&self.config().limits),
            self.handlers.needs_lane(namespace).then(Arc::default),
        );
        let greetings = self.ask_application(&connection, said).await?;
        // The node may have begun to drain meanwhile, which ends only the connections that were in the table by then.
        let refusal = match self.takes_connections() {
            false => Some(Refusal::Unavailable),
            true if !self
                .table
                .insert(&connection, self.configured_connections()) =>
            {
                Some(Refusal::Full)
            }
            true => None,
        };
        if let Some(refusal) = refusal {
            self.tell_application_gone(&connection, "unavailable");
            return Err(refusal);
        }
        let arriving = ArrivalGuard::of(self, &connection);
        session.mark_empty();
        self.listen(&connection, socket);
        let tally = self.register(&connection).await?;
        if session.is_over() || connection.is_gone() {
            // It went while the registry was being told.
            self.depart(&connection, "transport_close");
            return Err(Refusal::Unavailable);
        }
        session.name(namespace, &connection.id);
        if connection.user().is_some() {
            session.set_identified();
        }
        socket.extensions.insert(Arrival {
            connection,
            tally,
            since,
            greetings,
        });
        arriving.has_arrived();
        Ok(())
    }

    /// Lets the application decide on a newcomer. Returns what greets it.
    async fn ask_application(
        self: &Arc<Self>,
        connection: &Arc<LocalConnection>,
        said: &ConnectPacket,
    ) -> Result<Vec<Greeting>, Refusal> {
        let Some(handler) = self.handlers.connect(&connection.namespace) else {
            return Ok(Vec::new());
        };
        let mut auth = said.whole();
        if let (Some(_), Arg::Object(fields)) = (connection.user(), &mut auth) {
            fields.retain(|(name, _)| name != "token");
        }
        let deciding = AssertUnwindSafe(handler(Newcomer {
            gateway: Gateway {
                inner: self.clone(),
            },
            connection: connection.record(&self.node_id),
            identity: connection.identity(),
            auth,
        }));
        if let Some(lane) = connection.lane() {
            lane.expect(&connection.id);
        }
        let patience = self.config().limits.handshake_timeout;
        let decided = tokio::select! {
            decided = tokio::time::timeout(patience, deciding.catch_unwind()) => decided,
            () = connection.session.over() => return Err(self.undecided(connection, "its client has gone")),
        };
        match decided {
            Ok(Ok(Ok(Decision(Ok(greetings))))) => {
                match greetings.iter().find(|it| !is_sendable(&it.event)) {
                    None => Ok(greetings),
                    Some(greeting) => {
                        let error = format!("{}: {}", greeting.event, EmitError::Reserved);
                        Err(self.undecided(connection, &error))
                    }
                }
            }
            Ok(Ok(Ok(Decision(Err(message))))) => {
                if let Some(lane) = connection.lane() {
                    lane.forget();
                }
                Err(Refusal::Application(message))
            }
            Ok(Ok(Err(error))) => Err(self.undecided(connection, &format!("{error:#}"))),
            Ok(Err(_)) => Err(self.undecided(connection, "it panicked")),
            Err(_) => {
                Err(self.undecided(connection, "it took longer than limits.handshake_timeout"))
            }
        }
    }

    /// The application has not decided on a newcomer: its client is to come again.
    fn undecided(self: &Arc<Self>, connection: &Arc<LocalConnection>, error: &str) -> Refusal {
        let namespace = &connection.namespace;
        tracing::warn!(%namespace, error, "the application's on_connect has not decided on a client");
        self.tell_application_gone(connection, "unavailable");
        Refusal::Unavailable
    }

    /// Sets the handlers of a socket.
    fn listen(self: &Arc<Self>, connection: &Arc<LocalConnection>, socket: &SocketRef<Adapter>) {
        socket
            .extensions
            .insert(CurrentConnection(connection.clone()));
        socket.on_disconnect(Leaving::of(self));
        socket.on_fallback(Inbound::of(self));
    }

    /// The connect handler: the client has been told that it is connected, and now that it is known.
    pub(in crate::gateway) fn ready(self: &Arc<Self>, socket: &SocketRef<Adapter>) {
        let Some(Arrival {
            connection,
            tally,
            since,
            greetings,
        }) = socket.extensions.remove::<Arrival>()
        else {
            return;
        };
        let ready = self
            .handlers
            .says_ready()
            .then(|| self.introduction(&connection, tally));
        let told = connection.set_ready(socket, ready.as_ref(), &greetings);
        // A session that was upgraded before it had a connection has nobody else to say so.
        connection.session.check_upgrade();
        if told {
            self.metrics.connects(&connection.namespace).increment(1);
            self.metrics.ready_duration().record(since.elapsed());
            self.watch(&connection);
            if let Some(lane) = connection.lane() {
                lane.open(self, &connection.id);
            }
            tracing::debug!(connection = %connection.id, user = connection.user().map(|user| user.as_str()), namespace = %connection.namespace, "ready");
        } else if let Some(ending) = connection.ending() {
            // Ordered to end between its registration and now.
            self.carry_out(vec![connection.clone()], &ending.clone());
        }
    }

    /// What a client is told of itself.
    pub(in crate::gateway) fn introduction(
        &self,
        connection: &LocalConnection,
        tally: Tally,
    ) -> Value {
        let identity = connection.identity();
        let identity = identity.as_deref();
        json!({
            "connectionId": connection.id,
            "userId": connection.user(),
            "username": identity.and_then(|identity| identity.username.as_deref()),
            "role": identity.and_then(|identity| identity.roles.first()),
            "nodeId": self.node_id,
            "expiresAt": connection.expires_at(),
            "connections": tally.connections,
            "devices": tally.devices,
        })
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
