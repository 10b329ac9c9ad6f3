//! The registry of a node that runs alone, and the readable definition of the contract.
//!
//! Everything is in one map behind one lock. Several handles can share it ([`MemoryRegistry::sharing`]); that serves tests, in
//! which they stand for several nodes.

mod calls;
mod families;
mod fences;
mod outbox;
mod rooms;
mod store;

use std::{
    collections::{BTreeSet, HashSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{
    Admission, Assertion, Ban, Bar, Closed, Closing, EndOrder, EndTarget, Entry, Grant, Heartbeat,
    Lease, Listed, Node, NodeReport, Ordered, Presence, Recipient, Registry, RegistryError, Totals,
    UserEntry, UsersPage, cursor,
    fence::to_millisecond,
    keys::{Shard, Shards},
};
use crate::{
    config::{self, RunningConfig},
    connection::{Connection, ConnectionId, Instance, Tally, UserId},
    ending::Ending,
};
use fences::FenceOutcome;
use outbox::Told;
use store::{Held, Membership, Store};

/// A handle; clones share the store.
#[derive(Clone, Debug)]
pub struct MemoryRegistry {
    store: Arc<Mutex<Store>>,
    lease: Duration,
    last_seen: Duration,
    told: Told,
    /// The lease of the node whose handle this is, once it has joined.
    own: Arc<Mutex<Option<Lease>>>,
}

fn entry_of(connection: &Connection) -> Entry {
    Entry {
        user: connection.user_id.clone(),
        id: connection.id.clone(),
    }
}

/// The connection as it is kept.
fn kept(connection: &Connection) -> Connection {
    Connection {
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
            told: Told::default(),
            own: Arc::default(),
        }
    }

    /// Tells the backends of a configuration what happens.
    pub fn telling(mut self, config: RunningConfig) -> Self {
        self.told = Told(Some(config));
        self
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
        self.check(&store)?;
        Ok(store)
    }

    fn check(&self, store: &Store) -> Result<(), RegistryError> {
        match &*self.own.lock() {
            Some(own) if store.live(own).is_none() => Err(RegistryError::Unavailable(format!(
                "the lease {own} has run out"
            ))),
            _ => Ok(()),
        }
    }

    fn membership(&self, report: &NodeReport, entered: BTreeSet<Shard>) -> Membership {
        Membership {
            ends: Instant::now() + self.lease,
            renewed: to_millisecond(Timestamp::now()),
            report: report.clone(),
            buried: false,
            entered,
        }
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    fn shards(&self) -> Shards {
        Shards::default()
    }

    fn new_id(&self, user: Option<&UserId>) -> ConnectionId {
        Shards::default().new_id(user, None)
    }

    async fn join(&self, lease: &Lease, report: &NodeReport) -> Result<bool, RegistryError> {
        let mut store = self.store.lock();
        let before = lease.epoch.checked_sub(1).map(|epoch| Lease {
            epoch,
            ..lease.clone()
        });
        // What is left under the lease before is reaped, also what came after it was.
        if let Some(before) = before.filter(|before| before.epoch > 0) {
            let membership = store.leases.entry(before);
            let gone = membership.or_insert_with(|| self.membership(report, BTreeSet::new()));
            gone.buried = true;
        }
        let known = store.leases.get(lease);
        if known.is_some_and(|membership| membership.buried) {
            return Ok(false);
        }
        // A node that is new has nobody to put in.
        let entered = match known {
            Some(known) => known.entered.clone(),
            None if lease.epoch == 1 => Shards::default().all().collect(),
            None => BTreeSet::new(),
        };
        store
            .leases
            .insert(lease.clone(), self.membership(report, entered));
        *self.own.lock() = Some(lease.clone());
        Ok(true)
    }

    async fn heartbeat(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<Heartbeat, RegistryError> {
        let mut store = self.store.lock();
        let known = store.leases.get(lease).filter(|it| !it.buried);
        let entered = known.map(|membership| membership.entered.clone());
        let held = entered.is_some();
        let entered = entered.unwrap_or_default();
        let lacking = Shards::default()
            .all()
            .filter(|shard| !entered.contains(shard));
        let lacking = lacking.collect();
        if held {
            store
                .leases
                .insert(lease.clone(), self.membership(report, entered));
        }
        store.forget();
        Ok(Heartbeat {
            held,
            lacking,
            emptied: Vec::new(),
            lost: false,
            lapsed: store.lapsed(),
            totals: Some(store.totals()),
            next: None,
        })
    }

    async fn report(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        let membership = store.leases.get_mut(lease).filter(|it| !it.buried);
        if let Some(membership) = membership {
            membership.report = report.clone();
        }
        Ok(())
    }

    /// There is one for all time: nothing is ever lost.
    fn generation(&self, _shard: Shard) -> Option<String> {
        Some(String::new())
    }

    async fn entered(
        &self,
        lease: &Lease,
        shard: Shard,
        _generation: &str,
    ) -> Result<bool, RegistryError> {
        let mut store = self.store.lock();
        if let Some(membership) = store.leases.get_mut(lease) {
            membership.entered.insert(shard);
        }
        Ok(true)
    }

    fn has_left(&self, _node: &Instance) {}

    async fn leave(&self, lease: &Lease) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        self.own.lock().take_if(|own| own == lease);
        if let Some(membership) = store.leases.get_mut(lease) {
            membership.buried = true;
            membership.renewed = to_millisecond(Timestamp::now());
        }
        store.reap(lease, self.last_seen, &self.told);
        Ok(())
    }

    async fn reap(&self, lapsed: &Lease) -> Result<u64, RegistryError> {
        Ok(self.store.lock().reap(lapsed, self.last_seen, &self.told))
    }

    async fn assert(
        &self,
        lease: &Lease,
        assertion: &Assertion<'_>,
    ) -> Result<Admission, RegistryError> {
        let connection = assertion.connection;
        let entry = entry_of(connection);
        if Shards::default().of_entry(&entry).is_none() {
            return Err(RegistryError::Corrupt(format!(
                "id {} is not one for its user",
                entry.id
            )));
        }
        let mut store = self.store.lock();
        let there = store.entries.get(&entry);
        let newer = there.is_some_and(|it| it.lease == *lease && it.version > assertion.version);
        let start = assertion
            .start
            .or(there.map(|held| held.start))
            .map(to_millisecond);
        if let Some(ending) = store.order_of(&entry, start) {
            return Ok(Admission::Ended(ending.clone()));
        }
        let grant = match &entry.user {
            Some(user) => store.fences.as_first_seen(user, assertion.grant),
            None => assertion.grant.clone(),
        };
        // A revocation orders the end of each connection here that it means. So one that is here by this same grant was excepted from it.
        let issued = |grant: &Grant| grant.issued_at.map(to_millisecond);
        let held = store.entries.get(&entry);
        let stays_in = held.is_some_and(|held| issued(&held.grant) == issued(&grant));
        if let Some(bar) = store.barred(&entry, &grant, stays_in) {
            return Ok(Admission::Refused(bar));
        }
        let limit = assertion.limit.filter(|_| !assertion.again);
        let evicted = match newer {
            true => Vec::new(),
            false => {
                if !store.may_come(&entry, limit) {
                    return Ok(Admission::Refused(Bar::TooOften));
                }
                let Some(evicted) = store.make_room(&entry, limit) else {
                    return Ok(Admission::Refused(Bar::TooMany));
                };
                evicted
            }
        };
        let start = start.unwrap_or_else(|| store.start_of(&entry));
        if !newer {
            store.owners.insert(entry.id.clone(), entry.user.clone());
            let held = Held {
                lease: lease.clone(),
                connection: kept(connection),
                grant,
                version: assertion.version,
                start,
            };
            let connection = held.connection.clone();
            if store.entries.insert(entry.clone(), held).is_none() {
                store.tell_opened(&self.told, &entry, &connection, assertion.again);
            }
        }
        let tally = match &entry.user {
            Some(user) => Tally::of(
                store
                    .live_of(user)
                    .filter(|it| evicted.iter().all(|evicted| evicted.id != it.connection.id))
                    .map(|it| it.connection.device_id.as_deref()),
            ),
            None => Tally::of([None]),
        };
        let lasting = entry.user.as_ref();
        let lasting = lasting.map(|user| store.rooms.lasting_of(user));
        let lasting = lasting.unwrap_or_default();
        Ok(Admission::Admitted {
            start,
            tally,
            evicted,
            lasting,
        })
    }

    async fn close(&self, lease: &Lease, closed: &[Closed]) -> Result<(), RegistryError> {
        let mut store = self.store.lock();
        let now = to_millisecond(Timestamp::now());
        for Closed { entry, closing } in closed {
            if let Some(gone) = store.remove(lease, entry, now, self.last_seen) {
                store.tell_closed(&self.told, entry, &gone, closing);
            }
            if !store.entries.contains_key(entry) {
                store.ends.remove(&entry.id);
            }
        }
        Ok(())
    }

    async fn release(&self, lease: &Lease, entry: &Entry) -> Result<Option<Ending>, RegistryError> {
        let mut store = self.store.lock();
        if let Some(ending) = store.end_of(&entry.id) {
            return Ok(Some(ending.clone()));
        }
        let now = to_millisecond(Timestamp::now());
        if let Some(gone) = store.remove(lease, entry, now, self.last_seen) {
            let closing = Closing::because("authenticated");
            store.tell_closed(&self.told, entry, &gone, &closing);
        }
        Ok(None)
    }

    async fn held(&self, lease: &Lease, shard: Shard) -> Result<Vec<Entry>, RegistryError> {
        let mut held = self.store.lock().entries_of(lease);
        held.retain(|entry| Shards::default().of_entry(entry) == Some(shard));
        Ok(held)
    }

    async fn user(&self, user: &UserId) -> Result<UserEntry, RegistryError> {
        let store = self.believed()?;
        let connections: Vec<_> = store
            .live_of(user)
            .filter_map(|held| store.shown(held))
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
        Ok(store.with_id(id).and_then(|held| store.shown(held)))
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

    fn known(&self) -> HashSet<Instance> {
        let store = self.store.lock();
        let holding = store.holding();
        holding.map(|(lease, _)| lease.instance.clone()).collect()
    }

    async fn totals(&self) -> Result<Totals, RegistryError> {
        let mut store = self.believed()?;
        for lease in store.lapsed() {
            let connections = store.reap(&lease, self.last_seen, &self.told);
            if connections > 0 {
                tracing::warn!(%lease, connections, "reaped a node that is gone");
            }
        }
        Ok(store.totals())
    }

    async fn holders(&self, recipient: &Recipient) -> Result<Vec<Instance>, RegistryError> {
        let store = self.believed()?;
        let holders: BTreeSet<_> = match recipient {
            Recipient::Room(room) => store.holders_of(room),
            Recipient::User(user) => store
                .live_of(user)
                .map(|held| &held.lease.instance)
                .collect(),
            Recipient::Connection(id) => {
                let live = store
                    .with_id(id)
                    .filter(|held| store.live(&held.lease).is_some());
                live.map(|held| &held.lease.instance).into_iter().collect()
            }
        };
        Ok(holders.into_iter().cloned().collect())
    }

    async fn order_end(&self, order: EndOrder<'_>) -> Result<Ordered, RegistryError> {
        if let EndTarget::Connection(entry) = order.target
            && Shards::default().of_entry(entry).is_none()
        {
            // There can be none.
            return Ok(Ordered::default());
        }
        let mut store = self.store.lock();
        let mut revoked_before = None;
        if let (Some(fence), Some(user)) = (order.fence, order.target.user()) {
            match store.put_up(user, fence) {
                FenceOutcome::Up { revoked } => revoked_before = revoked,
                FenceOutcome::Over => return self.check(&store).map(|()| Ordered::default()),
            }
        }
        let meant = store.meant(order.target);
        store.write_down(order.target, &meant, order.ending);
        self.check(&store)?;
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

    async fn listed(&self, entries: &[Entry]) -> Result<Vec<Entry>, RegistryError> {
        let store = self.store.lock();
        let listed = entries.iter().filter(|entry| {
            store.entries.contains_key(*entry) || store.end_of(&entry.id).is_some()
        });
        Ok(listed.cloned().collect())
    }

    async fn standing(
        &self,
        connections: &[(Entry, Grant)],
    ) -> Result<Vec<(Entry, Bar)>, RegistryError> {
        let store = self.store.lock();
        let standing = connections.iter().filter_map(|(entry, grant)| {
            let grant = store.fences.as_seen(grant);
            Some((entry.clone(), store.barred(entry, &grant, false)?))
        });
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

    fn away(&self) -> Vec<Shard> {
        Vec::new()
    }

    /// Nothing ever is.
    async fn amiss(&self) {
        std::future::pending().await
    }
}
