//! The registry of a node that runs alone, and the readable definition of the contract.
//!
//! Everything is in one map behind one lock. Several handles can share it ([`MemoryRegistry::sharing`]); that serves tests, in
//! which they stand for several nodes. There is no bus between them, so whatever is routed is not heard.

mod store;

use std::{collections::BTreeSet, ops::Bound, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    EndTarget, Entry, Heartbeat, Lease, Node, NodeReport, Ordered, Presence, Registry,
    RegistryError, Routed, Totals, UserEntry, UsersPage, Whom, cursor, keys::Shard,
};
use crate::{
    config,
    connection::{Connection, ConnectionId, Instance, Tally, UserId},
    ending::Ending,
};
use store::{Membership, Store};

/// How long an order to end is kept.
const ORDERS_KEPT: Duration = Duration::from_secs(3600);

/// A handle; clones share the store.
#[derive(Clone, Debug)]
pub struct MemoryRegistry {
    store: Arc<Mutex<Store>>,
    lease: Duration,
    last_seen: Duration,
}

/// The nodes among `leases`, once each, without `skip`.
fn routed<'a>(leases: impl Iterator<Item = &'a Lease>, skip: &Instance) -> Vec<Routed> {
    let instances: BTreeSet<_> = leases
        .map(|lease| &lease.instance)
        .filter(|it| *it != skip)
        .collect();
    instances
        .into_iter()
        .map(|instance| Routed {
            instance: instance.clone(),
            heard: false,
        })
        .collect()
}

fn entry_of(connection: &Connection) -> Entry {
    Entry {
        user: connection.user_id.clone(),
        id: connection.id.clone(),
    }
}

/// To the millisecond, as the other home keeps it.
fn rounded(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

impl MemoryRegistry {
    /// A registry of its own.
    pub fn new(timing: &config::RegistryTiming, presence: &config::Presence) -> Self {
        Self {
            store: Arc::default(),
            lease: timing.lease,
            last_seen: presence.last_seen,
        }
    }

    /// Another node's handle on the same store.
    pub fn sharing(&self, timing: &config::RegistryTiming) -> Self {
        Self {
            lease: timing.lease,
            ..self.clone()
        }
    }

    fn membership(&self, report: &NodeReport) -> Membership {
        Membership {
            ends: Instant::now() + self.lease,
            renewed: rounded(Timestamp::now()),
            report: report.clone(),
        }
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    fn new_id(&self, user: Option<&UserId>) -> ConnectionId {
        Shard::new_id(user)
    }

    async fn join(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        if store.leases.get(lease).is_none_or(Membership::holds) {
            store.leases.insert(lease.clone(), self.membership(report));
        }
        Ok(())
    }

    async fn heartbeat(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<Heartbeat, RegistryError> {
        let mut store = self.store.lock();
        let held = store.live(lease).is_some();
        if held {
            store.leases.insert(lease.clone(), self.membership(report));
        }
        let now = Instant::now();
        store.seen.retain(|_, (_, until)| now < *until);
        store.orders.retain(|_, (_, until)| now < *until);
        Ok(Heartbeat {
            held,
            lapsed: store.lapsed(),
        })
    }

    async fn leave(&self, lease: &Lease) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        if let Some(membership) = store.leases.get_mut(lease) {
            membership.ends = Instant::now();
            membership.renewed = rounded(Timestamp::now());
        }
        store.reap(lease, self.last_seen);
        Ok(())
    }

    async fn reap(&self, lapsed: &Lease) -> Result<u64, RegistryError> {
        Ok(self.store.lock().reap(lapsed, self.last_seen))
    }

    async fn register(
        &self,
        lease: &Lease,
        connection: &Connection,
    ) -> Result<Tally, RegistryError> {
        let entry = entry_of(connection);
        if Shard::of_entry(&entry).is_none() {
            return Err(RegistryError::Corrupt(format!(
                "id {} is not one for its user",
                entry.id
            )));
        }
        let mut store = self.store.lock();
        let Some(node_id) = store.live(lease).cloned() else {
            return Err(RegistryError::Unavailable(format!(
                "the lease {lease} has run out"
            )));
        };
        let connection = Connection {
            node_id,
            connected_at: rounded(connection.connected_at),
            expires_at: connection.expires_at.map(rounded),
            ..connection.clone()
        };
        store.owners.insert(entry.id.clone(), entry.user.clone());
        store
            .entries
            .insert(entry.clone(), (lease.clone(), connection));
        Ok(entry.user.map_or(
            Tally {
                connections: 1,
                devices: 1,
            },
            |user| store.tally(&user),
        ))
    }

    async fn update(&self, lease: &Lease, connection: &Connection) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        if let Some((holder, kept)) = store.entries.get_mut(&entry_of(connection))
            && holder == lease
        {
            *kept = Connection {
                node_id: kept.node_id.clone(),
                connected_at: rounded(connection.connected_at),
                expires_at: connection.expires_at.map(rounded),
                ..connection.clone()
            };
        }
        Ok(())
    }

    async fn unregister(&self, lease: &Lease, entries: &[Entry]) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        let now = rounded(Timestamp::now());
        for entry in entries {
            store.remove(lease, entry, now, self.last_seen);
            if !store.entries.contains_key(entry) {
                store.orders.remove(&entry.id);
            }
        }
        Ok(())
    }

    async fn held(&self, lease: &Lease) -> Result<Vec<Entry>, RegistryError> {
        Ok(self.store.lock().entries_of(lease))
    }

    async fn user(&self, user: &UserId) -> Result<UserEntry, RegistryError> {
        let store = self.store.lock();
        let connections: Vec<_> = store.live_of(user).map(|(_, it)| it.clone()).collect();
        let last_seen = match connections.as_slice() {
            [] if !self.last_seen.is_zero() => store.last_seen(user),
            _ => None,
        };
        Ok(UserEntry {
            connections,
            last_seen,
        })
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>, RegistryError> {
        let store = self.store.lock();
        let presence = users.iter().map(|user| {
            let tally = store.tally(user);
            let online = tally.connections > 0 || self.last_seen.is_zero();
            Presence {
                tally,
                last_seen: if online { None } else { store.last_seen(user) },
            }
        });
        Ok(presence.collect())
    }

    async fn users(&self, cursor: Option<&str>, limit: usize) -> Result<UsersPage, RegistryError> {
        let mut last = cursor.map(cursor::read).transpose()?;
        let store = self.store.lock();
        let mut page = UsersPage::default();
        loop {
            // No id is greater than this one, which is of characters that ids don't have.
            let after = Entry {
                user: last.clone(),
                id: "~".into(),
            };
            let next = store
                .entries
                .range((Bound::Excluded(after), Bound::Unbounded))
                .find_map(|(entry, (lease, _))| store.live(lease).and(entry.user.clone()));
            let Some(user) = next else {
                return Ok(page);
            };
            if page.users.len() == limit.max(1) {
                page.next = last.as_ref().map(cursor::after);
                return Ok(page);
            }
            let tally = store.tally(&user);
            page.users.push((user.clone(), tally));
            last = Some(user);
        }
    }

    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>, RegistryError> {
        let store = self.store.lock();
        let found = store.owners.get(id).and_then(|user| {
            store.entries.get(&Entry {
                user: user.clone(),
                id: id.clone(),
            })
        });
        let live = found.filter(|(lease, _)| store.live(lease).is_some());
        Ok(live.map(|(_, connection)| connection.clone()))
    }

    async fn nodes(&self) -> Result<Vec<Node>, RegistryError> {
        let store = self.store.lock();
        let live = store
            .leases
            .values()
            .filter(|membership| membership.holds());
        let mut nodes: Vec<_> = live.map(|it| it.report.at(it.renewed)).collect();
        nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        Ok(nodes)
    }

    async fn totals(&self) -> Result<Totals, RegistryError> {
        let mut store = self.store.lock();
        for lease in store.lapsed() {
            store.reap(&lease, self.last_seen);
        }
        let users: BTreeSet<_> = store
            .entries
            .keys()
            .filter_map(|entry| entry.user.as_ref())
            .collect();
        Ok(Totals {
            nodes: store.leases.len() as u64,
            connections: store.entries.len() as u64,
            users: users.len() as u64,
        })
    }

    async fn route(
        &self,
        whom: &Whom,
        skip: &Instance,
        _payload: &[u8],
    ) -> Result<Vec<Routed>, RegistryError> {
        let store = self.store.lock();
        Ok(match whom {
            Whom::User(user) => routed(store.live_of(user).map(|(lease, _)| lease), skip),
            Whom::Connection(entry) => {
                let found = store.entries.get(entry);
                let live = found.filter(|(lease, _)| store.live(lease).is_some());
                routed(live.iter().map(|(lease, _)| lease), skip)
            }
        })
    }

    async fn order_end(
        &self,
        target: &EndTarget,
        ending: &Ending,
        skip: &Instance,
        _payload: &[u8],
    ) -> Result<Ordered, RegistryError> {
        let mut store = self.store.lock();
        let meant: Vec<(Lease, Connection)> = match target {
            EndTarget::User { user, except } => store
                .all_of(user)
                .filter(|(_, connection)| !except.contains(&connection.id))
                .cloned()
                .collect(),
            EndTarget::Connection(entry) => store.entries.get(entry).cloned().into_iter().collect(),
        };
        // Those whose lease has run out too: their node may come back with them.
        for (_, connection) in &meant {
            let order = (ending.clone(), Instant::now() + ORDERS_KEPT);
            store.orders.insert(connection.id.clone(), order);
        }
        let live: Vec<_> = meant
            .into_iter()
            .filter(|(lease, _)| store.live(lease).is_some())
            .collect();
        Ok(Ordered {
            routed: routed(live.iter().map(|(lease, _)| lease), skip),
            connections: live.into_iter().map(|(_, connection)| connection).collect(),
        })
    }

    async fn orders(&self, entries: &[Entry]) -> Result<Vec<(Entry, Ending)>, RegistryError> {
        let store = self.store.lock();
        let orders = entries.iter().filter_map(|entry| {
            let (ending, until) = store.orders.get(&entry.id)?;
            (Instant::now() < *until).then(|| (entry.clone(), ending.clone()))
        });
        Ok(orders.collect())
    }

    fn is_up(&self) -> bool {
        true
    }
}
