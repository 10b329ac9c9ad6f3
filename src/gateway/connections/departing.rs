//! The way out: one for every connection, whatever ended it.
//!
//! [`Inner::depart`] is called by whoever first learns that a connection is over: its socket's handler, its session, the
//! verb that ended it. It never waits. What is to be told to the registry goes to one task, which tells it in batches and
//! as often as it takes. [`Inner::release`] is for a guest whose client goes on as somebody.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use socketioxide::{
    handler::DisconnectHandler,
    socket::{DisconnectReason, Socket},
};
use tokio::sync::mpsc;

use crate::gateway::{
    Inner, arriving::CurrentConnection, connections::local::LocalConnection, endings::expiry::Watch,
};
use crate::{
    ending::{Breach, Ending},
    registry::{RegistryError, keys::Shard},
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
pub(in crate::gateway) struct Leaving(Weak<Inner>);

/// What takes a socket out of its namespace, in the socket's extensions once the socket has been ended from this side: it
/// stays there to take what its client still sends. See [`crate::transport::parted`].
#[derive(Clone)]
struct Stays {
    socket: Weak<Socket<Adapter>>,
    remove: fn(Arc<Socket<Adapter>>),
}

impl Leaving {
    /// The handler of a socket.
    pub(in crate::gateway) fn of(gateway: &Arc<Inner>) -> Self {
        Self(Arc::downgrade(gateway))
    }
}

impl DisconnectHandler<Adapter, ()> for Leaving {
    fn call_with_defer(
        &self,
        socket: Arc<Socket<Adapter>>,
        reason: DisconnectReason,
        remove: fn(Arc<Socket<Adapter>>),
    ) {
        // Whoever ended it on this side sees to its departure, after the end of its session has begun.
        if reason == DisconnectReason::ServerNSDisconnect {
            let stays = Stays {
                socket: Arc::downgrade(&socket),
                remove,
            };
            socket.extensions.insert(stays);
            return;
        }
        if let (Some(gateway), Some(CurrentConnection(connection))) = (
            self.0.upgrade(),
            socket.extensions.get::<CurrentConnection>(),
        ) {
            gateway.depart(&connection, departure_label(reason));
        }
        remove(socket);
    }
}

/// What takes a socket out of its namespace that has been ended from this side. None if it is out, or was not ended.
pub(in crate::gateway) fn removal(socket: &Socket<Adapter>) -> Option<Removal> {
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
pub(in crate::gateway) fn limit_lines() -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(NonZeroU32::MIN).allow_burst(LINES))
}

impl Inner {
    /// A connection is over. Does its work once; `label` names the cause in the metrics unless the server ordered the end.
    ///
    /// A panic in it is caught here: whoever calls it has others to see to, some while they are dropped.
    pub(in crate::gateway) fn depart(
        self: &Arc<Self>,
        connection: &Arc<LocalConnection>,
        label: &'static str,
    ) {
        if catch_unwind(AssertUnwindSafe(|| self.let_go(connection, label))).is_err() {
            tracing::error!(connection = %connection.id, "a departure panicked");
            self.table.remove(connection);
            self.unregister_closed(connection);
        }
    }

    fn let_go(self: &Arc<Self>, connection: &Arc<LocalConnection>, label: &'static str) {
        connection.set_gone();
        if !connection.depart_once() {
            return;
        }
        self.watches.send(Watch::Forget(connection.id.clone())).ok();
        let left = self.table.remove(connection);
        self.unregister_closed(connection);
        let label = connection.session.breach().map_or(label, Breach::label);
        let label = connection
            .ending()
            .map_or(label, |ending| Ending::label(ending.code));
        self.metrics.disconnects(label).increment(1);
        self.tell_application_gone(connection, label);
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
    pub(in crate::gateway) fn forsake(self: &Arc<Self>, connection: &Arc<LocalConnection>) {
        connection.set_gone();
        if connection.depart_once() {
            self.table.remove(connection);
        }
        self.tell_application_gone(connection, "unavailable");
        self.unregister(connection);
    }

    /// Has the application told of a connection's end, if it is to hear of that one.
    pub(in crate::gateway) fn tell_application_gone(
        self: &Arc<Self>,
        connection: &Arc<LocalConnection>,
        reason: &'static str,
    ) {
        if let Some(lane) = connection.lane() {
            lane.close(self, connection, reason);
        }
    }

    /// Has the registry told once nothing can reach the client any more: who orders an end, on whatever node, may take
    /// "not in the registry" for "closed".
    fn unregister_closed(self: &Arc<Self>, connection: &Arc<LocalConnection>) {
        if !connection.session.is_ending() {
            self.unregister(connection);
            return;
        }
        let (gateway, connection) = (self.clone(), connection.clone());
        tokio::spawn(async move {
            connection.session.closed().await;
            gateway.unregister(&connection);
        });
    }

    /// Has the registry told that a connection is out.
    pub(in crate::gateway) fn unregister(&self, connection: &Arc<LocalConnection>) {
        // Fails only when the task is gone, and then the whole node is; its lease runs out.
        self.departures.send(connection.clone()).ok();
    }

    /// A guest's client goes on as `live`. Whoever has ordered the guest to end means that client: then the guest is in the registry
    /// until the client is gone.
    pub(in crate::gateway) fn release(
        self: &Arc<Self>,
        guest: &Arc<LocalConnection>,
        connection: &Arc<LocalConnection>,
    ) {
        let (gateway, guest, connection) = (self.clone(), guest.clone(), connection.clone());
        tokio::spawn(async move {
            let passed_on = async || {
                let call = gateway.pass_on(&guest, &connection);
                match AssertUnwindSafe(call).catch_unwind().await {
                    Ok(Ok(())) => true,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, guest = %guest.id, "can't release a guest yet");
                        false
                    }
                    Err(_) => {
                        tracing::error!(guest = %guest.id, "releasing a guest panicked");
                        false
                    }
                }
            };
            while !passed_on().await {
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    async fn pass_on(
        self: &Arc<Self>,
        guest: &Arc<LocalConnection>,
        connection: &Arc<LocalConnection>,
    ) -> Result<(), RegistryError> {
        let Some(ending) = self.registry.release(&self.lease(), &guest.entry()).await? else {
            self.table.forget(guest);
            guest.unregistered.cancel();
            return Ok(());
        };
        self.end_all(std::slice::from_ref(connection), &ending);
        connection.closed().await;
        self.unregister(guest);
        Ok(())
    }

    /// Ends a session that stays without a namespace for as long as a handshake may take.
    fn expire_empty(self: Arc<Self>, session: Arc<Session>) {
        let mark = session.mark_empty();
        tokio::spawn(async move {
            tokio::time::sleep(self.config().limits.handshake_timeout).await;
            if session.empty_since(mark) && self.table.of_session(session.id).is_empty() {
                session.end();
            }
        });
    }

    /// Tells the registry who is out, until the node is gone. Those of a shard that can't be reached wait, and keep nobody else.
    pub(in crate::gateway) async fn unregister_all(
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
                let shard = Shard::of_id(&connection.id);
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

    /// Tells the registry that connections of one shard are out. Returns whether it could. A panic is a failure like another: who
    /// comes after these is to get out too.
    async fn tell_departed(&self, connections: &[Arc<LocalConnection>]) -> bool {
        for some in connections.chunks(BATCH) {
            let entries: Vec<_> = some.iter().map(|connection| connection.entry()).collect();
            let call = async { self.registry.unregister(&self.lease(), &entries).await };
            match AssertUnwindSafe(call).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, connections = entries.len(), "can't unregister yet");
                    return false;
                }
                Err(_) => {
                    tracing::error!(connections = entries.len(), "unregistering panicked");
                    return false;
                }
            }
        }
        for connection in connections {
            self.table.forget(connection);
            connection.unregistered.cancel();
        }
        true
    }
}
