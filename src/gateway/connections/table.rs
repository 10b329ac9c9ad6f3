//! The connections of this node, found by id, by user and by session. Counts them for the metrics.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::gateway::connections::local::{LocalConnection, Phase};
use crate::{
    connection::{ConnectionId, TransportKind, UserId},
    metrics::Metrics,
    transport::{Session, SessionId},
};

/// The index. One lock, held for look-ups only, never while something is sent.
pub(crate) struct ConnectionTable {
    metrics: Metrics,
    index: Mutex<Index>,
    /// What [`ConnectionTable::counts`] says may have changed.
    changed: Notify,
}

#[derive(Default)]
struct Index {
    connections: HashMap<ConnectionId, Arc<LocalConnection>>,
    users: HashMap<UserId, Vec<Arc<LocalConnection>>>,
    sessions: HashMap<SessionId, Vec<Arc<LocalConnection>>>,
    /// What the gauge of connections counts: those that the registry has, by what carried them when they were counted.
    counted: HashMap<ConnectionId, TransportKind>,
    /// Those that are no longer to be found here, and still in the registry: nobody is to take them for closed before they are.
    departing: HashMap<ConnectionId, Arc<LocalConnection>>,
}

impl ConnectionTable {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            index: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Takes a connection in, if it is its session's first only while there are fewer than `limit` (0: no limit). Returns
    /// whether it did. A session is let in before its connection comes, and so others may have come in between.
    pub(crate) fn insert(&self, connection: &Arc<LocalConnection>, limit: usize) -> bool {
        let mut index = self.index.lock();
        let first = !index.sessions.contains_key(&connection.session.id);
        if first && limit > 0 && index.connections.len() >= limit {
            return false;
        }
        if let Some(user) = connection.user() {
            index
                .users
                .entry(user.clone())
                .or_default()
                .push(connection.clone());
        }
        index
            .sessions
            .entry(connection.session.id)
            .or_default()
            .push(connection.clone());
        index
            .connections
            .insert(connection.id.clone(), connection.clone());
        true
    }

    /// Counts a connection that the registry has, or counts it anew after a change of its transport.
    pub(crate) fn count(&self, connection: &LocalConnection) {
        let mut index = self.index.lock();
        if !index.connections.contains_key(&connection.id) {
            return;
        }
        let kind = connection.session.kind();
        let before = index.counted.insert(connection.id.clone(), kind);
        if let Some(before) = before {
            self.gauge(connection, before, -1.0);
        } else {
            self.changed.notify_one();
        }
        self.gauge(connection, kind, 1.0);
        self.metrics.users().set(index.users.len() as f64);
    }

    /// Lets a connection go, until [`ConnectionTable::forget`] among those that depart. Returns how many its session still has.
    pub(crate) fn remove(&self, connection: &Arc<LocalConnection>) -> usize {
        let mut index = self.index.lock();
        index.connections.remove(&connection.id);
        index
            .departing
            .insert(connection.id.clone(), connection.clone());
        if let Some(user) = connection.user() {
            take_from(&mut index.users, user, connection);
        }
        let left = take_from(&mut index.sessions, &connection.session.id, connection);
        if let Some(kind) = index.counted.remove(&connection.id) {
            self.gauge(connection, kind, -1.0);
            self.changed.notify_one();
        }
        // Also for one that was never counted: its user may have been, when another connection was.
        self.metrics.users().set(index.users.len() as f64);
        left
    }

    /// The registry no longer has a connection.
    pub(crate) fn forget(&self, connection: &LocalConnection) {
        self.index.lock().departing.remove(&connection.id);
    }

    /// The connections that have been removed and not forgotten.
    pub(crate) fn departing(&self) -> Vec<Arc<LocalConnection>> {
        self.index.lock().departing.values().cloned().collect()
    }

    /// Whether a connection is here or departs.
    pub(crate) fn knows(&self, id: &ConnectionId) -> bool {
        let index = self.index.lock();
        index.connections.contains_key(id) || index.departing.contains_key(id)
    }

    fn gauge(&self, connection: &LocalConnection, kind: TransportKind, change: f64) {
        self.metrics
            .connections(&connection.namespace, kind.as_str())
            .increment(change);
    }

    pub(crate) fn get(&self, id: &ConnectionId) -> Option<Arc<LocalConnection>> {
        self.index.lock().connections.get(id).cloned()
    }

    pub(crate) fn of_user(&self, user: &UserId) -> Vec<Arc<LocalConnection>> {
        self.index
            .lock()
            .users
            .get(user)
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn of_session(&self, session: SessionId) -> Vec<Arc<LocalConnection>> {
        self.index
            .lock()
            .sessions
            .get(&session)
            .cloned()
            .unwrap_or_default()
    }

    /// The sessions that carry connections, each once.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        let index = self.index.lock();
        let connections = index
            .sessions
            .values()
            .filter_map(|connections| connections.first());
        connections
            .map(|connection| connection.session.clone())
            .collect()
    }

    /// The connections of a namespace that their clients know of.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<LocalConnection>> {
        let mut connections = self.all();
        connections.retain(|connection| {
            *connection.namespace == *namespace && connection.phase() == Phase::Ready
        });
        connections
    }

    pub(crate) fn all(&self) -> Vec<Arc<LocalConnection>> {
        self.index.lock().connections.values().cloned().collect()
    }

    /// Connections, arriving ones included.
    pub(crate) fn len(&self) -> usize {
        self.index.lock().connections.len()
    }

    /// Returns when [`ConnectionTable::counts`] has changed since it last did.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Connections that the registry has, and users.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let index = self.index.lock();
        (index.counted.len() as u64, index.users.len() as u64)
    }
}

fn take_from<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, Vec<Arc<LocalConnection>>>,
    key: &K,
    connection: &LocalConnection,
) -> usize {
    let Some(connections) = map.get_mut(key) else {
        return 0;
    };
    connections.retain(|other| other.id != connection.id);
    let left = connections.len();
    if left == 0 {
        map.remove(key);
    }
    left
}
