//! The way out: one for every connection, whatever ended it.
//!
//! [`LocalConnections::depart`] is called by what first learns that a connection is over: its socket's handler, its session, the
//! verb that ended it. It never waits. What is to be told to the registry goes to one task, which tells it in batches and
//! as often as it takes.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use socketioxide::{
    handler::DisconnectHandler,
    socket::{DisconnectReason, Socket},
};
use tokio::sync::mpsc;

use super::{
    LocalConnections,
    local::{CurrentConnection, LocalConnection},
};
use crate::{
    ending::{Breach, Ending},
    gateway::{
        tail::Happening,
        tasks::{contain, contain_async},
    },
    registry::{Closed, keys::Shard},
    transport::{Session, engine::Adapter, parted::Removal},
};

/// How many connections one call unregisters at the most.
const BATCH: usize = 256;

/// Pause after the registry could not be told.
const RETRY: Duration = Duration::from_millis(200);

/// What a socket does when it leaves its namespace.
///
/// socketioxide runs a handler that is a function as a task, and has the socket in its namespace until that has returned: a
/// CONNECT packet that comes before is passed over. So the handler's trait is implemented here, and nothing waits.
pub(crate) struct DisconnectListener(Weak<LocalConnections>);

/// What takes a socket out of its namespace, in the socket's extensions once the socket has been ended from this side: it
/// stays there to take what its client still sends. See [`crate::transport::parted`].
#[derive(Clone)]
struct Stays {
    socket: Weak<Socket<Adapter>>,
    remove: fn(Arc<Socket<Adapter>>),
}

impl DisconnectListener {
    /// The handler of a socket.
    pub(crate) fn of(connections: &Arc<LocalConnections>) -> Self {
        Self(Arc::downgrade(connections))
    }
}

impl DisconnectHandler<Adapter, ()> for DisconnectListener {
    fn call_with_defer(
        &self,
        socket: Arc<Socket<Adapter>>,
        reason: DisconnectReason,
        remove: fn(Arc<Socket<Adapter>>),
    ) {
        // What ended it on this side sees to its departure, after the end of its session has begun.
        if reason == DisconnectReason::ServerNSDisconnect {
            let stays = Stays {
                socket: Arc::downgrade(&socket),
                remove,
            };
            socket.extensions.insert(stays);
            return;
        }
        if let (Some(connections), Some(CurrentConnection(connection))) = (
            self.0.upgrade(),
            socket.extensions.get::<CurrentConnection>(),
        ) {
            connections.depart(&connection, departure_label(reason));
        }
        remove(socket);
    }
}

/// What takes a socket out of its namespace that has been ended from this side. None if it is out, or was not ended.
pub(crate) fn removal(socket: &Socket<Adapter>) -> Option<Removal> {
    let Stays { socket, remove } = socket.extensions.remove::<Stays>()?;
    Some(Box::new(move || {
        if let Some(socket) = socket.upgrade() {
            remove(socket);
        }
    }))
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

/// How many ends of connections may be logged at once at `info`; then one each second.
const LINES: NonZeroU32 = NonZeroU32::new(50).unwrap();

/// Limits the lines at `info` on connections that ended.
pub(crate) fn limit_lines() -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(NonZeroU32::MIN).allow_burst(LINES))
}

/// A connection on its way in. Unless it arrives, it is gone with this, whatever kept it: a refusal, or a panic.
pub(crate) struct ArrivalGuard<'a> {
    connections: &'a Arc<LocalConnections>,
    connection: Option<Arc<LocalConnection>>,
}

impl ArrivalGuard<'_> {
    /// The connection stays.
    pub(crate) fn has_arrived(mut self) {
        self.connection = None;
    }
}

impl Drop for ArrivalGuard<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            self.connections.forsake(connection);
        }
    }
}

impl LocalConnections {
    /// Guards a connection that is in the table until it has arrived.
    pub(crate) fn guard(self: &Arc<Self>, connection: &Arc<LocalConnection>) -> ArrivalGuard<'_> {
        ArrivalGuard {
            connections: self,
            connection: Some(connection.clone()),
        }
    }

    /// A connection is over. Does its work once; `label` names the cause in the metrics unless the server ordered the end.
    ///
    /// A panic in it is caught here: its callers have other connections to see to, some while they are dropped.
    pub(crate) fn depart(self: &Arc<Self>, connection: &Arc<LocalConnection>, label: &'static str) {
        let let_go = || self.let_go(connection, label);
        if contain("a departure", &connection.id, let_go).is_none() {
            self.table.remove(connection);
            self.unregister_closed(connection);
        }
    }

    fn let_go(self: &Arc<Self>, connection: &Arc<LocalConnection>, label: &'static str) {
        if !connection.depart_once() {
            return;
        }
        (self.on_departed)(&connection.id);
        let label = connection.session.breach().map_or(label, Breach::label);
        let label = connection
            .ending()
            .map_or(label, |ending| Ending::label(ending.code));
        connection.set_departure(label);
        let left = self.table.remove(connection);
        self.unregister_closed(connection);
        self.metrics.disconnects(label).increment(1);
        self.tail.tell(|| Happening::Disconnected {
            who: connection.who(),
            reason: label,
            seconds: connection.opened.elapsed().as_secs(),
        });
        connection.tell_observer_gone(label);
        let (bytes_in, bytes_out) = connection.session.traffic();
        macro_rules! ended {
            ($level:ident) => {
                tracing::$level!(
                    connection = %connection.id,
                    user = connection.user().map(|user| user.as_str()),
                    namespace = %connection.namespace,
                    transport = connection.session.kind().as_str(),
                    remote_addr = %connection.session.handshake.remote_addr,
                    reason = label,
                    seconds = connection.opened.elapsed().as_secs_f64(),
                    messages_out = connection.messages_out(),
                    events_in = connection.events.events_in(),
                    bytes_in,
                    bytes_out,
                    "connection ended",
                )
            };
        }
        // Clients that come back again and again could turn the log over.
        if self.ended_lines.check().is_ok() {
            ended!(info);
        } else {
            ended!(debug);
        }
        if left == 0 && !connection.session.is_ending() {
            self.clone().expire_empty(connection.session.clone());
        }
    }

    /// A connection does not arrive. The registry is told so whatever it has said, and whatever has been told to it by then: a call
    /// that failed may have been carried out, and an end may have been told too early.
    fn forsake(self: &Arc<Self>, connection: &Arc<LocalConnection>) {
        if connection.depart_once() {
            self.table.remove(connection);
        }
        connection.tell_observer_gone("unavailable");
        self.unregister(connection);
    }

    /// Has the registry told once nothing can reach the client any more: who orders an end, on whatever node, may take
    /// "not in the registry" for "closed".
    fn unregister_closed(self: &Arc<Self>, connection: &Arc<LocalConnection>) {
        if !connection.session.is_ending() {
            self.unregister(connection);
            return;
        }
        let (connections, connection) = (self.clone(), connection.clone());
        tokio::spawn(async move {
            connection.session.closed().await;
            connections.unregister(&connection);
        });
    }

    /// Has the registry told that a connection is out.
    pub(crate) fn unregister(&self, connection: &Arc<LocalConnection>) {
        // Fails only when the task is gone, and then the whole node is; its lease runs out.
        self.departures.send(connection.clone()).ok();
    }

    /// Ends a session that stays without a namespace for as long as a handshake may take.
    pub(crate) fn expire_empty(self: Arc<Self>, session: Arc<Session>) {
        let mark = session.mark_empty();
        tokio::spawn(async move {
            tokio::time::sleep(self.config.now().limits.handshake_timeout).await;
            if session.empty_since(mark) && !session.has_joined() {
                session.end();
            }
        });
    }

    /// Tells the registry which connections are out, until the node is gone. Those of a shard that can't be reached wait, and
    /// keep no others waiting.
    pub(crate) async fn unregister_all(
        self: Arc<Self>,
        mut departures: mpsc::UnboundedReceiver<Arc<LocalConnection>>,
    ) {
        let mut waiting: HashMap<Option<Shard>, Vec<Arc<LocalConnection>>> = HashMap::new();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let received = departures.recv_many(&mut batch, BATCH);
            let received = match waiting.is_empty() {
                true => received.await,
                false => tokio::time::timeout(RETRY, received).await.unwrap_or(1),
            };
            if received == 0 {
                return;
            }
            for connection in batch.drain(..) {
                let shard = self.registry.shards().of_id(&connection.id);
                waiting.entry(shard).or_default().push(connection);
            }
            let telling = waiting.drain().map(async |(shard, connections)| {
                let done = self.tell_departed(&connections).await;
                (!done).then_some((shard, connections))
            });
            let failed = join_all(telling).await;
            waiting = failed.into_iter().flatten().collect();
            if !waiting.is_empty() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Tells the registry that connections of one shard are out. Returns whether it could. A panic is a failure like another: those
    /// that come after these are to get out too.
    async fn tell_departed(self: &Arc<Self>, connections: &[Arc<LocalConnection>]) -> bool {
        for some in connections.chunks(BATCH) {
            let closed = some.iter().map(|connection| Closed {
                entry: connection.entry(),
                closing: connection.closing(),
            });
            let closed: Vec<_> = closed.collect();
            let call = async { self.registry.close(&self.lease.current(), &closed).await };
            match contain_async("unregistering", closed.len(), call).await {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, connections = closed.len(), "can't unregister yet");
                    return false;
                }
                None => return false,
            }
        }
        for connection in connections {
            if let Some(user) = connection.user()
                && self.table.of_user(user).is_empty()
            {
                self.user_changed(user);
            }
            let members = connection.memberships();
            if members.is_empty() {
                self.has_departed(connection);
                continue;
            }
            let (connections, connection) = (self.clone(), connection.clone());
            tokio::spawn(async move {
                let settle = || connections.memberships.settle(members.iter().cloned());
                while let Err(error) = settle().await {
                    tracing::debug!(%error, connection = %connection.id, "in a room yet");
                    tokio::time::sleep(RETRY).await;
                }
                connections.has_departed(&connection);
            });
        }
        true
    }

    /// The registry has nothing of a connection any more.
    fn has_departed(&self, connection: &LocalConnection) {
        self.table.forget(connection);
        connection.unregistered.set(()).ok();
    }
}
