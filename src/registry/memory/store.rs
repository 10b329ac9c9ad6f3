//! What the registry of one process remembers.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    connection::{Connection, ConnectionId, NodeId, Tally, UserId},
    ending::Ending,
    registry::{Entry, Lease, NodeReport},
};

#[derive(Debug, Default)]
pub(super) struct Store {
    /// Leases that hold, and those that have run out and are not reaped.
    pub(super) leases: BTreeMap<Lease, Membership>,
    /// In the order of users, guests first, and of ids within a user.
    pub(super) entries: BTreeMap<Entry, (Lease, Connection)>,
    /// Whose a connection is.
    pub(super) owners: HashMap<ConnectionId, Option<UserId>>,
    /// When the last connection of each user ended, and when that is forgotten.
    pub(super) seen: HashMap<UserId, (Timestamp, Instant)>,
    /// Orders to end, and when they are forgotten.
    pub(super) orders: HashMap<ConnectionId, (Ending, Instant)>,
}

#[derive(Debug)]
pub(super) struct Membership {
    pub(super) ends: Instant,
    pub(super) renewed: Timestamp,
    pub(super) report: NodeReport,
}

impl Membership {
    pub(super) fn holds(&self) -> bool {
        Instant::now() < self.ends
    }
}

impl Store {
    pub(super) fn live(&self, lease: &Lease) -> Option<&NodeId> {
        let membership = self
            .leases
            .get(lease)
            .filter(|membership| membership.holds())?;
        Some(&membership.report.node_id)
    }

    /// A user's entries, in the order of their ids, whatever their leases.
    pub(super) fn all_of(&self, user: &UserId) -> impl Iterator<Item = &(Lease, Connection)> {
        let start = Entry {
            user: Some(user.clone()),
            id: "".into(),
        };
        self.entries
            .range(start..)
            .take_while(move |(entry, _)| entry.user.as_ref() == Some(user))
            .map(|(_, held)| held)
    }

    pub(super) fn live_of(&self, user: &UserId) -> impl Iterator<Item = &(Lease, Connection)> {
        self.all_of(user)
            .filter(|(lease, _)| self.live(lease).is_some())
    }

    pub(super) fn tally(&self, user: &UserId) -> Tally {
        Tally::of(
            self.live_of(user)
                .map(|(_, connection)| connection.device_id.as_deref()),
        )
    }

    /// When a user without a live connection was last seen. Entries of a lease that has run out count as seen when it was
    /// last renewed, as they will once they are reaped.
    pub(super) fn last_seen(&self, user: &UserId) -> Option<Timestamp> {
        let kept = self
            .seen
            .get(user)
            .filter(|(_, until)| Instant::now() < *until);
        let lapsed = self
            .all_of(user)
            .filter_map(|(lease, _)| self.leases.get(lease));
        lapsed
            .map(|membership| membership.renewed)
            .chain(kept.map(|(time, _)| *time))
            .max()
    }

    /// Removes an entry if it belongs to this lease. `ended`: when its connection did.
    pub(super) fn remove(
        &mut self,
        lease: &Lease,
        entry: &Entry,
        ended: Timestamp,
        keep: Duration,
    ) -> bool {
        if self
            .entries
            .get(entry)
            .is_none_or(|(holder, _)| holder != lease)
        {
            return false;
        }
        self.entries.remove(entry);
        self.owners.remove(&entry.id);
        if let Some(user) = &entry.user
            && !keep.is_zero()
            && self.all_of(user).next().is_none()
        {
            let seen = self
                .seen
                .get(user)
                .map_or(ended, |(seen, _)| ended.max(*seen));
            self.seen
                .insert(user.clone(), (seen, Instant::now() + keep));
        }
        true
    }

    pub(super) fn entries_of(&self, lease: &Lease) -> Vec<Entry> {
        let entries = self
            .entries
            .iter()
            .filter(|(_, (holder, _))| holder == lease);
        entries.map(|(entry, _)| entry.clone()).collect()
    }

    pub(super) fn reap(&mut self, lease: &Lease, keep: Duration) -> u64 {
        let Some(membership) = self
            .leases
            .get(lease)
            .filter(|membership| !membership.holds())
        else {
            return 0;
        };
        let renewed = membership.renewed;
        let mut reaped = 0;
        for entry in self.entries_of(lease) {
            reaped += u64::from(self.remove(lease, &entry, renewed, keep));
        }
        self.leases.remove(lease);
        reaped
    }

    pub(super) fn lapsed(&self) -> Vec<Lease> {
        let lapsed = self
            .leases
            .iter()
            .filter(|(_, membership)| !membership.holds());
        lapsed.map(|(lease, _)| lease.clone()).collect()
    }
}
