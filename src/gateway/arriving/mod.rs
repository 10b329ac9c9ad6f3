//! The way in: from a CONNECT packet to `ready`.
//!
//! Everything that can refuse a connection happens in the middleware, before socketioxide acknowledges the CONNECT packet:
//! credentials, then the registry. So a client that is told it is connected is one that every node can see. Handlers are
//! set in the middleware too: set later they miss the end of a connection that is closed at once, and the first events.

pub(super) mod mount;

use std::{convert::Infallible, sync::Arc, time::Duration};

use serde_json::Value;
use socketioxide::{
    extract::{SocketRef, TryData},
    handler::{FromConnectParts, Value as Packet},
    socket::Socket,
};
use tokio::time::Instant;

use super::{
    arg::{Arg, Greeting},
    calls::{Calls, connect::Candidate},
    clients::inbound::{ClientEvents, Inbound},
    connections::{
        LocalConnections,
        departing::DisconnectListener,
        local::{CurrentConnection, LocalConnection},
        session_of,
    },
    endings::expiry::ExpiryWatch,
    lanes::{Lane, Lanes},
    membership::registrar::Registrar,
    readiness::Readiness,
    refusal::Refusal,
    tail::Happening,
    tasks::contain_async,
    watching::Watching,
};
use crate::{
    auth::{Authenticator, ConnectPayload, Credentials, device_id},
    config::RunningConfig,
    connection::{NodeId, Tally},
    metrics::Metrics,
    registry::{Bar, RATE_WINDOW, Registry},
    transport::{Session, engine::Adapter},
};

/// How often a CONNECT packet that waits looks whether it still has to.
const HOLD: Duration = Duration::from_millis(200);

/// How often a backend that has not answered is asked again, for a CONNECT packet that waits.
const RETRY: Duration = Duration::from_secs(1);

/// What the middleware leaves for the connect handler, in the socket's extensions.
#[derive(Clone)]
struct Arrival {
    connection: Arc<LocalConnection>,
    tally: Tally,
    since: Instant,
    greetings: Vec<Greeting>,
    lane: Arc<Lane>,
}

/// What a CONNECT packet says of its sender.
pub(crate) struct ConnectPacket {
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

/// Lets connections in.
pub(crate) struct Arrivals {
    node_id: NodeId,
    config: RunningConfig,
    metrics: Metrics,
    auth: Authenticator,
    registry: Arc<dyn Registry>,
    readiness: Arc<Readiness>,
    connections: Arc<LocalConnections>,
    registrar: Arc<Registrar>,
    expiry: Arc<ExpiryWatch>,
    watching: Arc<Watching>,
    lanes: Arc<Lanes>,
    calls: Arc<Calls>,
    events: Arc<ClientEvents>,
}

impl Arrivals {
    /// Lets connections in with these parts.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one of its parts, given once"
    )]
    pub(super) fn new(
        node_id: NodeId,
        config: RunningConfig,
        metrics: Metrics,
        auth: Authenticator,
        registry: Arc<dyn Registry>,
        readiness: Arc<Readiness>,
        connections: Arc<LocalConnections>,
        registrar: Arc<Registrar>,
        expiry: Arc<ExpiryWatch>,
        watching: Arc<Watching>,
        lanes: Arc<Lanes>,
        calls: Arc<Calls>,
        events: Arc<ClientEvents>,
    ) -> Self {
        Self {
            node_id,
            config,
            metrics,
            auth,
            registry,
            readiness,
            connections,
            registrar,
            expiry,
            watching,
            lanes,
            calls,
            events,
        }
    }

    /// The connect middleware of a namespace.
    pub(crate) async fn arrive(
        &self,
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
            let arrived = contain_async("a handshake", namespace, arrival).await;
            match arrived.unwrap_or(Err(Refusal::Unavailable)) {
                Ok(()) => return Ok(()),
                // For want of the registry, in the middle of it all: the packet waits like one that comes now.
                Err(Refusal::Unavailable) if self.carries_others(&session) => {
                    self.wait(HOLD, &session).await;
                }
                Err(Refusal::Backend) if self.carries_others(&session) => {
                    self.wait(RETRY, &session).await;
                }
                Err(Refusal::Bar(Bar::TooOften)) if self.carries_others(&session) => {
                    self.wait(RATE_WINDOW, &session).await;
                }
                Err(refusal) => break refusal,
            }
        };
        self.metrics.connect_errors(refusal.label()).increment(1);
        self.connections.tail.tell(|| Happening::Refused {
            namespace,
            reason: refusal.label(),
        });
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
        !session.is_ending() && !self.connections.table.of_session(session.id).is_empty()
    }

    /// Lets a CONNECT packet wait while the node takes none, if its transport carries other connections.
    async fn hold(&self, session: &Session) {
        while !self.readiness.takes_connections() && self.carries_others(session) {
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
        &self,
        namespace: &Arc<str>,
        session: &Arc<Session>,
        socket: &SocketRef<Adapter>,
        said: &ConnectPacket,
        since: Instant,
    ) -> Result<(), Refusal> {
        if session.is_ending() || !self.readiness.takes_connections() {
            return Err(Refusal::Unavailable);
        }
        let Some(rule) = self.auth.rule(namespace) else {
            return Err(Refusal::Unavailable);
        };
        let auth = said.payload();
        let credentials = Credentials::from_handshake(auth, &session.handshake.headers);
        let identity = match rule.asks_backend() {
            true => None,
            false => self.auth.authenticate(&credentials, &rule).await?,
        };
        let device_id = device_id(auth);
        let candidate = Candidate {
            rule: &rule,
            session,
            credentials: &credentials,
            device_id: device_id.as_deref(),
            identity,
        };
        let (identity, granted) = self.calls.ask(candidate, || said.whole()).await?;
        let id = self
            .registry
            .new_id(identity.as_ref().map(|identity| &identity.user_id));
        let lane = self.lanes.lane();
        let connection = LocalConnection::new(
            id,
            identity,
            granted,
            namespace.clone(),
            device_id,
            session.clone(),
            lane.clone(),
            self.connections.members.clone(),
            &self.config.now().limits,
        );
        self.connections.claim_rooms(&connection);
        let greetings = self.lanes.decide(&connection, &lane, said.whole());
        let greetings = greetings.await?;
        // The node may have begun to drain meanwhile, which ends only the connections that were in the table by then.
        let refusal = match self.readiness.takes_connections() {
            false => Some(Refusal::Unavailable),
            true if !self
                .connections
                .table
                .insert(&connection, self.connections.limit()) =>
            {
                Some(Refusal::Full)
            }
            true => None,
        };
        if let Some(refusal) = refusal {
            connection.tell_observer_gone("unavailable");
            return Err(refusal);
        }
        let arriving = self.connections.guard(&connection);
        session.mark_empty();
        self.listen(&connection, lane.clone(), socket);
        let tally = self.registrar.register(&connection).await?;
        if session.is_over() || connection.is_gone() {
            // It went while the registry was being told.
            self.connections.depart(&connection, "transport_close");
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
            lane,
        });
        arriving.has_arrived();
        Ok(())
    }

    /// Sets the handlers of a socket.
    fn listen(
        &self,
        connection: &Arc<LocalConnection>,
        lane: Arc<Lane>,
        socket: &SocketRef<Adapter>,
    ) {
        socket
            .extensions
            .insert(CurrentConnection(connection.clone()));
        socket.on_disconnect(DisconnectListener::of(&self.connections));
        socket.on_fallback(Inbound::of(&self.events, lane));
    }

    /// The connect handler: the client has been told that it is connected, and now that it is known.
    pub(crate) fn ready(&self, socket: &SocketRef<Adapter>) {
        let Some(Arrival {
            connection,
            tally,
            since,
            greetings,
            lane,
        }) = socket.extensions.remove::<Arrival>()
        else {
            return;
        };
        let ready = self
            .lanes
            .application
            .says_ready()
            .then(|| connection.introduction(&self.node_id, tally));
        let told = connection.set_ready(socket, ready.as_ref(), &greetings);
        // A session that was upgraded before it had a connection has nobody else to say so.
        connection.session.check_upgrade();
        if told {
            self.metrics.connects(&connection.namespace).increment(1);
            self.connections.tail.tell(|| Happening::Connected {
                who: connection.who(),
                transport: connection.session.kind().as_str(),
            });
            self.metrics.ready_duration().record(since.elapsed());
            self.expiry.watch(&connection);
            self.watching.follow_claim(&connection);
            lane.open(&connection.id);
            tracing::debug!(connection = %connection.id, user = connection.user().map(|user| user.as_str()), namespace = %connection.namespace, "ready");
        } else if let Some(ending) = connection.ending() {
            // Ordered to end between its registration and now.
            self.connections
                .carry_out(vec![connection.clone()], &ending.clone());
        }
    }
}
