//! The registry of a node that runs alone, and the readable definition of the contract.
//!
//! Everything is in one map behind one lock. Several handles can share it ([`MemoryRegistry::sharing`]); that serves tests, in
//! which they stand for several nodes.

mod families;
mod fences;
mod store;

use std::{collections::BTreeSet, ops::Bound, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{
    Admission, Ban, Bar, EndOrder, Entry, Grant, Heartbeat, Lease, Listed, Node, NodeReport,
    Ordered, Presence, Registry, RegistryError, Settled, Totals, Updated, UserEntry, UserLimit,
    UsersPage, Whom, cursor, fence::to_millisecond, keys::Shard,
};
use crate::{
    config,
    connection::{Connection, ConnectionId, Instance, NodeId, Tally, UserId},
    ending::Ending,
};
use fences::Standing;
use store::{Held, Membership, Store};

/// A handle; clones share the store.
#[derive(Clone, Debug)]
pub struct MemoryRegistry {
    store: Arc<Mutex<Store>>,
    lease: Duration,
    last_seen: Duration,
    /// The lease of the node whose handle this is, once it has joined.
    own: Arc<Mutex<Option<Lease>>>,
}

fn entry_of(connection: &Connection) -> Entry {
    Entry {
        user: connection.user_id.clone(),
        id: connection.id.clone(),
    }
}

/// The connection as it is kept, by this node.
fn kept(connection: &Connection, node_id: NodeId) -> Connection {
    Connection {
        node_id,
        connected_at: to_millisecond(connection.connected_at),
        expires_at: connection.expires_at.map(to_millisecond),
        ..connection.clone()
    }
}

impl MemoryRegistry {
    /// A registry of its own.
    pub fn new(timing: &config::RegistryTiming, presence: &config::Presence) -> Self {
        Self {
            store: Arc::default(),
            lease: timing.lease,
            last_seen: presence.last_seen,
            own: Arc::default(),
        }
    }

    /// Another node's handle on the same store.
    pub fn sharing(&self, timing: &config::RegistryTiming) -> Self {
        Self {
            lease: timing.lease,
            own: Arc::default(),
            ..self.clone()
        }
    }

    /// The store for an answer to the node whose handle this is. Unavailable while its lease does not hold.
    fn believed(&self) -> Result<MutexGuard<'_, Store>, RegistryError> {
        let store = self.store.lock();
        match &*self.own.lock() {
            Some(own) if store.live(own).is_none() => Err(RegistryError::Unavailable(format!(
                "the lease {own} has run out"
            ))),
            _ => Ok(store),
        }
    }

    fn membership(&self, report: &NodeReport) -> Membership {
        Membership {
            ends: Instant::now() + self.lease,
            renewed: to_millisecond(Timestamp::now()),
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
        let before = lease.epoch.checked_sub(1).map(|epoch| Lease {
            epoch,
            ..lease.clone()
        });
        if let Some(before) = before.and_then(|before| store.leases.get_mut(&before)) {
            before.ends = before.ends.min(Instant::now());
        }
        if store.leases.get(lease).is_none_or(Membership::holds) {
            store.leases.insert(lease.clone(), self.membership(report));
        }
        *self.own.lock() = Some(lease.clone());
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
        store.rates.retain(|_, (_, until)| now < *until);
        store.fences.forget();
        store.families.forget();
        Ok(Heartbeat {
            held,
            partly: false,
            holding: store.holding().map(|(lease, _)| lease.clone()).collect(),
            lapsed: store.lapsed(),
        })
    }

    async fn report(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        let membership = store.leases.get_mut(lease).filter(|it| it.holds());
        if let Some(membership) = membership {
            membership.report = report.clone();
        }
        Ok(())
    }

    /// There is one part only.
    async fn resume(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError> {
        self.heartbeat(lease, report).await.map(drop)
    }

    async fn settled(&self) -> Result<Settled, RegistryError> {
        let store = self.store.lock();
        let mut settled = Settled::default();
        for (lease, membership) in store.holding() {
            match membership.report.settled {
                true => settled.wholly.push(lease.instance.clone()),
                false => settled.partly.push(lease.instance.clone()),
            }
        }
        Ok(settled)
    }

    async fn leave(&self, lease: &Lease) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        self.own.lock().take_if(|own| own == lease);
        if let Some(membership) = store.leases.get_mut(lease) {
            membership.ends = Instant::now();
            membership.renewed = to_millisecond(Timestamp::now());
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
        grant: &Grant,
        limit: Option<UserLimit>,
    ) -> Result<Admission, RegistryError> {
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
        if let Some(bar) = store.barred(&entry, grant) {
            return Ok(Admission::Refused(bar));
        }
        if !store.may_come(&entry, limit) {
            return Ok(Admission::Refused(Bar::TooOften));
        }
        let Some(evicted) = store.make_room(&entry, limit) else {
            return Ok(Admission::Refused(Bar::TooMany));
        };
        store.owners.insert(entry.id.clone(), entry.user.clone());
        let held = Held {
            lease: lease.clone(),
            connection: kept(connection, node_id),
            grant: grant.clone(),
        };
        store.entries.insert(entry.clone(), held);
        let tally = match &entry.user {
            Some(user) => Tally::of(
                store
                    .live_of(user)
                    .map(|held| &held.connection)
                    .filter(|it| evicted.iter().all(|evicted| evicted.id != it.id))
                    .map(|it| it.device_id.as_deref()),
            ),
            None => Tally::of([None]),
        };
        Ok(Admission::Admitted { tally, evicted })
    }

    async fn update(
        &self,
        lease: &Lease,
        connection: &Connection,
        grant: &Grant,
    ) -> Result<Updated, RegistryError> {
        let entry = entry_of(connection);
        let mut store = self.store.lock();
        let bar = store.barred(&entry, grant);
        let Some(held) = store
            .entries
            .get_mut(&entry)
            .filter(|held| held.lease == *lease)
        else {
            return Ok(Updated::Gone);
        };
        if let Some(bar) = bar {
            return Ok(Updated::Refused(bar));
        }
        held.connection = kept(connection, held.connection.node_id.clone());
        held.grant = grant.clone();
        Ok(Updated::Done)
    }

    async fn unregister(&self, lease: &Lease, entries: &[Entry]) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        let now = to_millisecond(Timestamp::now());
        for entry in entries {
            store.remove(lease, entry, now, self.last_seen);
            if !store.entries.contains_key(entry) {
                store.orders.remove(&entry.id);
            }
        }
        Ok(())
    }

    async fn release(&self, lease: &Lease, entry: &Entry) -> Result<bool, RegistryError> {
        let mut store = self.store.lock();
        if store.order_of(&entry.id).is_some() {
            return Ok(false);
        }
        let now = to_millisecond(Timestamp::now());
        store.remove(lease, entry, now, self.last_seen);
        Ok(true)
    }

    async fn held(&self, lease: &Lease) -> Result<Vec<Entry>, RegistryError> {
        Ok(self.store.lock().entries_of(lease))
    }

    async fn user(&self, user: &UserId) -> Result<UserEntry, RegistryError> {
        let store = self.believed()?;
        let connections: Vec<_> = store
            .live_of(user)
            .map(|held| held.connection.clone())
            .collect();
        let last_seen = match connections.as_slice() {
            [] if !self.last_seen.is_zero() => store.last_seen(user),
            _ => None,
        };
        Ok(UserEntry {
            connections,
            last_seen,
            banned: store.fences.ban(user).is_some(),
        })
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>, RegistryError> {
        let store = self.believed()?;
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
        let store = self.believed()?;
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
                .find_map(|(entry, held)| store.live(&held.lease).and(entry.user.clone()));
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
        let store = self.believed()?;
        let found = store.owners.get(id).and_then(|user| {
            store.entries.get(&Entry {
                user: user.clone(),
                id: id.clone(),
            })
        });
        let live = found.filter(|held| store.live(&held.lease).is_some());
        Ok(live.map(|held| held.connection.clone()))
    }

    async fn nodes(&self) -> Result<Vec<Node>, RegistryError> {
        let store = self.believed()?;
        let mut nodes: Vec<_> = store
            .holding()
            .map(|(_, it)| it.report.at(it.renewed))
            .collect();
        nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        Ok(nodes)
    }

    async fn totals(&self) -> Result<Totals, RegistryError> {
        let mut store = self.believed()?;
        for lease in store.lapsed() {
            let connections = store.reap(&lease, self.last_seen);
            if connections > 0 {
                tracing::warn!(%lease, connections, "reaped a node that is gone");
            }
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

    async fn holders(&self, whom: &Whom) -> Result<Vec<Instance>, RegistryError> {
        let store = self.believed()?;
        let holders: BTreeSet<_> = match whom {
            Whom::User(user) => store
                .live_of(user)
                .map(|held| &held.lease.instance)
                .collect(),
            Whom::Connection(entry) => {
                let found = store.entries.get(entry);
                let live = found.filter(|held| store.live(&held.lease).is_some());
                live.map(|held| &held.lease.instance).into_iter().collect()
            }
        };
        Ok(holders.into_iter().cloned().collect())
    }

    async fn order_end(&self, order: EndOrder<'_>) -> Result<Ordered, RegistryError> {
        let mut store = self.believed()?;
        let mut revoked_before = None;
        if let (Some(fence), Some(user)) = (order.fence, order.target.user()) {
            match store.put_up(user, fence) {
                Standing::Up { revoked } => revoked_before = revoked,
                Standing::Over => return Ok(Ordered::default()),
            }
        }
        let meant = store.meant(order.target);
        // Those whose lease has run out too: their node may come back with them.
        for held in &meant {
            store.order(held.connection.id.clone(), order.ending);
        }
        let live = meant
            .into_iter()
            .filter(|held| store.live(&held.lease).is_some());
        let listed = live.map(|held| Listed {
            entry: entry_of(&held.connection),
            instance: held.lease.instance,
        });
        Ok(Ordered {
            connections: listed.collect(),
            revoked_before,
        })
    }

    async fn orders(&self, entries: &[Entry]) -> Result<Vec<(Entry, Ending)>, RegistryError> {
        let store = self.store.lock();
        let orders = entries
            .iter()
            .filter_map(|entry| Some((entry.clone(), store.order_of(&entry.id)?.clone())));
        Ok(orders.collect())
    }

    async fn standing(
        &self,
        connections: &[(Entry, Grant)],
    ) -> Result<Vec<(Entry, Bar)>, RegistryError> {
        let store = self.store.lock();
        let standing = connections
            .iter()
            .filter_map(|(entry, grant)| Some((entry.clone(), store.barred(entry, grant)?)));
        Ok(standing.collect())
    }

    async fn ban_of(&self, user: &UserId) -> Result<Option<Ban>, RegistryError> {
        Ok(self.store.lock().fences.ban(user).cloned())
    }

    async fn unban(&self, user: &UserId) -> Result<bool, RegistryError> {
        Ok(self.store.lock().fences.unban(user))
    }

    async fn revoke_token(
        &self,
        token_id: &str,
        until: Option<Timestamp>,
    ) -> Result<(), RegistryError> {
        self.store.lock().fences.revoke_token(token_id, until);
        Ok(())
    }

    fn is_up(&self) -> bool {
        true
    }
}
