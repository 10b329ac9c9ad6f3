//! The connections of this node: each is found here, ended here, and departs from here.
//!
//! `table` finds them and `local` is one of them; `ending` ends them, `departing` is the one way out, whatever ended them;
//! `members` finds those of a room; `memberships` tells the registry of their rooms; `event_limiter` bounds what each may send.

pub(crate) mod departing;
pub(crate) mod ending;
pub(crate) mod event_limiter;
pub(crate) mod local;
pub(crate) mod members;
pub(crate) mod memberships;
pub(crate) mod table;

use std::sync::Arc;

use governor::DefaultDirectRateLimiter;
use socketioxide::socket::Socket;
use tokio::sync::mpsc;

use self::{
    local::LocalConnection, members::RoomMembers, memberships::Memberships, table::ConnectionTable,
};
use super::{lease::OwnLease, tail::Tail, tasks::Tasks};
use crate::{
    config::RunningConfig,
    connection::{ConnectionId, UserId},
    metrics::Metrics,
    registry::{Member, Registry},
    transport::{Session, SessionGuard, engine::Adapter},
};

/// The connections of this node.
pub(crate) struct LocalConnections {
    /// Finds them.
    pub(crate) table: ConnectionTable,
    /// Finds those of a room.
    pub(crate) members: Arc<RoomMembers>,
    /// Tells followers what happens to them.
    pub(crate) tail: Tail,
    config: RunningConfig,
    metrics: Metrics,
    registry: Arc<dyn Registry>,
    lease: Arc<OwnLease>,
    /// Which of their rooms the registry may not know.
    pub(crate) memberships: Memberships,
    /// Users with a connection that has come or gone: for connections that watch them.
    changes: mpsc::UnboundedSender<UserId>,
    /// To the task that tells the registry.
    departures: mpsc::UnboundedSender<Arc<LocalConnection>>,
    /// Bounds the lines of the log.
    ended_lines: DefaultDirectRateLimiter,
    /// Called with the id of each connection that departs.
    on_departed: Box<dyn Fn(&ConnectionId) + Send + Sync>,
}

impl LocalConnections {
    /// An empty table, and the tasks that tell the registry of departures and of rooms.
    pub(crate) fn start(
        config: RunningConfig,
        metrics: Metrics,
        registry: Arc<dyn Registry>,
        lease: Arc<OwnLease>,
        changes: mpsc::UnboundedSender<UserId>,
        tasks: &Tasks,
        on_departed: impl Fn(&ConnectionId) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (departures, departing) = mpsc::unbounded_channel();
        let connections = Arc::new(Self {
            table: ConnectionTable::new(metrics.clone()),
            members: Arc::default(),
            tail: Tail::new(),
            config,
            metrics,
            memberships: Memberships::new(registry.shards()),
            registry,
            lease,
            changes,
            departures,
            ended_lines: departing::limit_lines(),
            on_departed: Box::new(on_departed),
        });
        tasks.spawn(connections.clone().unregister_all(departing));
        for shard in connections.registry.shards().all() {
            tasks.spawn(connections.clone().tell_memberships(shard));
        }
        connections
    }

    /// `limits.connections` as it is configured; 0 where only the descriptors bound them.
    pub(crate) fn limit(&self) -> usize {
        self.config.now().limits.connections.unwrap_or_default() as usize
    }

    /// A user's first connection has come, or the last one of this node has gone, as the registry knows by now.
    pub(crate) fn user_changed(&self, user: &UserId) {
        // Fails only when the node's tasks have stopped.
        self.changes.send(user.clone()).ok();
    }

    /// How many rooms one connection may be in.
    pub(crate) fn most_rooms(&self) -> usize {
        self.config.now().limits.rooms_per_connection as usize
    }

    /// Takes a connection into the rooms that its token claims, in place of those that the one before did. Counts those that it
    /// can't be in. Returns what has changed, for the registry.
    pub(crate) fn claim_rooms(&self, connection: &LocalConnection) -> Vec<Member> {
        let (changed, refused) = connection.claim_rooms(self.most_rooms());
        self.metrics.rooms_refused().increment(refused as u64);
        changed
    }

    /// How many bytes may wait for one client.
    pub(crate) fn send_queue_bytes(&self) -> usize {
        self.config.now().limits.send_queue_bytes.as_u64() as usize
    }
}

/// The session under a socket.
pub(super) fn session_of(socket: &Socket<Adapter>) -> Option<Arc<Session>> {
    socket
        .req_parts()
        .extensions
        .get::<Arc<SessionGuard>>()
        .map(|guard| guard.session().clone())
}
