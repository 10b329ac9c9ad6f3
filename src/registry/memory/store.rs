//! What the registry of one process remembers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    config::Fact,
    connection::{Connection, ConnectionId, NodeId, Tally, UserId},
    ending::Ending,
    registry::{
        Bar, Closing, EndTarget, Entry, Fence, Grant, Lease, LimitPolicy, NodeReport, RATE_WINDOW,
        Totals, UserLimit,
        fence::{KICKS_KEPT, ORDER_KEPT},
        keys::Shard,
        rooms::add_lasting,
    },
};

use super::{
    calls::Calls,
    families::Families,
    fences::{FenceOutcome, Fences, later, now},
    outbox::{Outboxes, Told},
    rooms::RoomStore,
};

#[derive(Debug, Default)]
pub(super) struct Store {
    /// Leases that hold, and those that have run out and are not reaped.
    pub(super) leases: BTreeMap<Lease, Membership>,
    /// In the order of users, guests first, and of ids within a user.
    pub(super) entries: BTreeMap<Entry, Held>,
    /// Whose a connection is.
    pub(super) owners: HashMap<ConnectionId, Option<UserId>>,
    /// When the last connection of each user ended, and when that is forgotten.
    pub(super) seen: HashMap<UserId, (Timestamp, Instant)>,
    /// Orders to end single connections, and when they are forgotten.
    pub(super) ends: HashMap<ConnectionId, (Ending, Instant)>,
    /// Orders to end all of a user's connections, the latest first, and when they are forgotten.
    pub(super) kicks: HashMap<UserId, Vec<(Kick, Instant)>>,
    /// How many newcomers each user has had, and until when they count.
    pub(super) rates: HashMap<UserId, (u32, Instant)>,
    /// What is held against users.
    pub(super) fences: Fences,
    /// Refresh families.
    pub(super) families: Families,
    /// Calls of the API that may be repeated.
    pub(super) calls: Calls,
    /// Who is in which room.
    pub(super) rooms: RoomStore,
    /// What backends are to be told.
    pub(super) outboxes: Outboxes,
}

/// An order to end those of a user's connections that had begun by then, but for some.
#[derive(Clone, Debug)]
pub(super) struct Kick {
    before: Timestamp,
    except: Vec<ConnectionId>,
    ending: Ending,
}

/// What an entry is of.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    /// With whatever name its node had then.
    pub(super) connection: Connection,
    /// With its token's first sight in place of an `iat` of the future.
    pub(super) grant: Grant,
    pub(super) version: u64,
    pub(super) start: Timestamp,
}

#[derive(Debug)]
pub(super) struct Membership {
    pub(super) ends: Instant,
    pub(super) renewed: Timestamp,
    pub(super) report: NodeReport,
    /// It never holds again.
    pub(super) buried: bool,
    /// The shards that have all of its node's connections.
    pub(super) entered: BTreeSet<Shard>,
}

impl Membership {
    pub(super) fn holds(&self) -> bool {
        !self.buried && Instant::now() < self.ends
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

    /// The leases that hold.
    pub(super) fn holding(&self) -> impl Iterator<Item = (&Lease, &Membership)> {
        self.leases
            .iter()
            .filter(|(_, membership)| membership.holds())
    }

    /// How many nodes, connections and users there are, whatever their leases.
    pub(super) fn totals(&self) -> Totals {
        let users = self.entries.keys().filter_map(|entry| entry.user.as_ref());
        Totals {
            nodes: self.leases.len() as u64,
            connections: self.entries.len() as u64,
            users: BTreeSet::from_iter(users).len() as u64,
        }
    }

    /// A user's entries, in the order of their ids, whatever their leases.
    pub(super) fn all_of(&self, user: &UserId) -> impl Iterator<Item = &Held> {
        let start = Entry {
            user: Some(user.clone()),
            id: "".into(),
        };
        self.entries
            .range(start..)
            .take_while(move |(entry, _)| entry.user.as_ref() == Some(user))
            .map(|(_, held)| held)
    }

    pub(super) fn live_of(&self, user: &UserId) -> impl Iterator<Item = &Held> {
        self.all_of(user)
            .filter(|held| self.live(&held.lease).is_some())
    }

    /// The entry of a connection, under whatever lease.
    pub(super) fn with_id(&self, id: &ConnectionId) -> Option<&Held> {
        let user = self.owners.get(id)?.clone();
        self.entries.get(&Entry {
            user,
            id: id.clone(),
        })
    }

    pub(super) fn tally(&self, user: &UserId) -> Tally {
        Tally::of(
            self.live_of(user)
                .map(|held| held.connection.device_id.as_deref()),
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
            .filter_map(|held| self.leases.get(&held.lease));
        lapsed
            .map(|membership| membership.renewed)
            .chain(kept.map(|(time, _)| *time))
            .max()
    }

    /// Removes an entry if it belongs to this lease, and returns its connection. `ended`: when that did.
    pub(super) fn remove(
        &mut self,
        lease: &Lease,
        entry: &Entry,
        ended: Timestamp,
        keep: Duration,
    ) -> Option<Connection> {
        if self
            .entries
            .get(entry)
            .is_none_or(|held| held.lease != *lease)
        {
            return None;
        }
        let held = self.entries.remove(entry)?;
        self.owners.remove(&entry.id);
        // Also while other entries of the user are left: their leases may have run out before this connection ended.
        if let Some(user) = &entry.user
            && !keep.is_zero()
        {
            let seen = self
                .seen
                .get(user)
                .map_or(ended, |(seen, _)| ended.max(*seen));
            self.seen
                .insert(user.clone(), (seen, Instant::now() + keep));
        }
        Some(held.connection)
    }

    pub(super) fn entries_of(&self, lease: &Lease) -> Vec<Entry> {
        let entries = self.entries.iter().filter(|(_, held)| held.lease == *lease);
        entries.map(|(entry, _)| entry.clone()).collect()
    }

    pub(super) fn reap(&mut self, lease: &Lease, keep: Duration, told: &Told) -> u64 {
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
            if let Some(gone) = self.remove(lease, &entry, renewed, keep) {
                self.tell_closed(told, &entry, &gone, &Closing::lost());
                reaped += 1;
            }
        }
        for room in self.rooms.reap(lease) {
            self.tell_of_room(told, &room, Fact::Vacated);
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

    /// What is held against a grant; `stays_in`: no revocation of the user's is.
    pub(super) fn barred(&self, entry: &Entry, grant: &Grant, stays_in: bool) -> Option<Bar> {
        self.fences.barred(entry.user.as_ref()?, grant, stays_in)
    }

    /// The order to end one connection.
    pub(super) fn end_of(&self, id: &ConnectionId) -> Option<&Ending> {
        let (ending, until) = self.ends.get(id)?;
        (Instant::now() < *until).then_some(ending)
    }

    fn kicks_of(&self, user: &UserId) -> impl Iterator<Item = &Kick> {
        let kicks = self.kicks.get(user).into_iter().flatten();
        kicks.filter_map(|(kick, until)| (Instant::now() < *until).then_some(kick))
    }

    /// The order to end that means a connection which began then; one that begins now is meant by none but its own.
    pub(super) fn order_of(&self, entry: &Entry, start: Option<Timestamp>) -> Option<&Ending> {
        if let Some(ending) = self.end_of(&entry.id) {
            return Some(ending);
        }
        let mut kicks = self.kicks_of(entry.user.as_ref()?);
        let kick = kicks.find(|kick| {
            start.is_some_and(|start| start <= kick.before) && !kick.except.contains(&entry.id)
        });
        kick.map(|kick| &kick.ending)
    }

    /// When a connection that comes now begins: after every kick of its user.
    pub(super) fn start_of(&self, entry: &Entry) -> Timestamp {
        let kicks = entry.user.iter().flat_map(|user| self.kicks_of(user));
        let last = kicks.map(|kick| kick.before).max();
        let after = last.map(|last| later(last, Duration::from_millis(1)));
        now().max(after.unwrap_or(Timestamp::MIN))
    }

    fn end(&mut self, id: ConnectionId, ending: &Ending) {
        self.ends
            .insert(id, (ending.clone(), Instant::now() + ORDER_KEPT));
    }

    /// Writes an order down. It holds for those too that are not there now.
    pub(super) fn write_down(&mut self, target: &EndTarget, meant: &[Held], ending: &Ending) {
        for held in meant {
            self.end(held.connection.id.clone(), ending);
        }
        match target {
            EndTarget::Connection(entry) => self.end(entry.id.clone(), ending),
            EndTarget::Revoked { .. } | EndTarget::Session { .. } | EndTarget::Room { .. } => {}
            EndTarget::User { user, except } => {
                let starts = meant.iter().map(|held| held.start);
                // A connection that came after an earlier kick has begun after it, also by a clock that was set back.
                let after = self.kicks_of(user);
                let after = after.map(|kick| later(kick.before, Duration::from_millis(1)));
                let kick = Kick {
                    before: starts.chain(after).chain([now()]).max().unwrap_or_default(),
                    except: except.clone(),
                    ending: ending.clone(),
                };
                let kicks = self.kicks.entry(user.clone()).or_default();
                let now = Instant::now();
                // One that says less is over: a connection that stays by the new one stays by the old one too.
                kicks.retain(|(old, until)| {
                    now < *until && !except.iter().all(|id| old.except.contains(id))
                });
                kicks.insert(0, (kick, now + ORDER_KEPT));
                while kicks.len() > KICKS_KEPT {
                    let Some((oldest, _)) = kicks.pop() else {
                        break;
                    };
                    let Some((next, _)) = kicks.last_mut() else {
                        break;
                    };
                    // It means all that the oldest meant but those that stay by the later one alone. Of these stay those that are
                    // known to have begun after the oldest: nobody escapes it, and who is not listed may not stay.
                    next.except.retain(|id| {
                        let entry = Entry {
                            user: Some(user.clone()),
                            id: id.clone(),
                        };
                        let held = self.entries.get(&entry);
                        oldest.except.contains(id)
                            || held.is_some_and(|held| held.start > oldest.before)
                    });
                }
            }
        }
    }

    /// Frees what is over.
    pub(super) fn forget(&mut self) {
        let now = Instant::now();
        self.seen.retain(|_, (_, until)| now < *until);
        self.ends.retain(|_, (_, until)| now < *until);
        self.kicks.retain(|_, kicks| {
            kicks.retain(|(_, until)| now < *until);
            !kicks.is_empty()
        });
        self.rates.retain(|_, (_, until)| now < *until);
        self.fences.forget();
        self.families.forget();
        self.calls.forget();
    }

    /// A connection as it is shown: by the name that its node has now. None if its lease does not hold.
    pub(super) fn shown(&self, held: &Held) -> Option<Connection> {
        let node_id = self.live(&held.lease)?.clone();
        let mut connection = Connection {
            node_id,
            ..held.connection.clone()
        };
        if let Some(user) = &connection.user_id {
            let lasting = self.rooms.lasting_of(user);
            add_lasting(&mut connection, &lasting);
        }
        Some(connection)
    }

    /// Counts a newcomer. Returns false if its user has had as many as may come together.
    pub(super) fn may_come(&mut self, newcomer: &Entry, limit: Option<UserLimit>) -> bool {
        let (Some(user), Some(limit)) = (&newcomer.user, limit.filter(|limit| limit.newcomers > 0))
        else {
            return true;
        };
        let now = Instant::now();
        let (come, until) = self
            .rates
            .entry(user.clone())
            .or_insert((0, now + RATE_WINDOW));
        if *until <= now {
            (*come, *until) = (0, now + RATE_WINDOW);
        }
        *come = come.saturating_add(1);
        *come <= limit.newcomers
    }

    /// Makes room for a newcomer. Who goes, with those that an earlier call made go; none if there is no room to be had.
    pub(super) fn make_room(
        &mut self,
        newcomer: &Entry,
        limit: Option<UserLimit>,
    ) -> Option<Vec<Entry>> {
        let (Some(user), Some(limit)) = (&newcomer.user, limit.filter(|limit| limit.max > 0))
        else {
            return Some(Vec::new());
        };
        let full = Ending::of(Ending::LIMIT);
        let max = limit.max as usize;
        if self.all_of(user).count() < max {
            return Some(Vec::new());
        }
        let (mut stay, mut gone) = (Vec::new(), Vec::new());
        for held in self.live_of(user) {
            let id = &held.connection.id;
            match self.end_of(id) {
                _ if *id == newcomer.id => {}
                None => stay.push((held.start, id.clone())),
                Some(order) if *order == full => gone.push(id.clone()),
                Some(_) => {}
            }
        }
        let evicts = limit.policy == LimitPolicy::EvictOldest;
        if !self.entries.contains_key(newcomer) && stay.len() >= max {
            if !evicts {
                return None;
            }
            stay.sort();
            for (_, id) in stay.drain(..=stay.len() - max) {
                self.end(id.clone(), &full);
                gone.push(id);
            }
        }
        if !evicts {
            gone.clear();
        }
        let user = newcomer.user.clone();
        let gone = gone.into_iter().map(|id| Entry {
            user: user.clone(),
            id,
        });
        Some(gone.collect())
    }

    /// Puts up a fence against a user.
    pub(super) fn put_up(&mut self, user: &UserId, fence: &Fence) -> FenceOutcome {
        if let Fence::EndSession(session) = fence {
            self.families.end(user, session);
        }
        self.fences.put_up(user, fence)
    }

    /// The entries that an order to end means, whatever their leases.
    pub(super) fn meant(&self, target: &EndTarget) -> Vec<Held> {
        let chosen = |user, chosen: &dyn Fn(&Held) -> bool| {
            let of_user = self.all_of(user).filter(|held| chosen(held));
            of_user.cloned().collect()
        };
        match target {
            EndTarget::User { user, except } => {
                chosen(user, &|held| !except.contains(&held.connection.id))
            }
            EndTarget::Revoked { user } => {
                chosen(user, &|held| self.fences.is_revoked(user, &held.grant))
            }
            EndTarget::Session { user, session } => {
                chosen(user, &|held| held.grant.session.as_ref() == Some(session))
            }
            EndTarget::Connection(entry) => self.entries.get(entry).cloned().into_iter().collect(),
            EndTarget::Room { room, except } => {
                let members = self.live_in(room).map(|(entry, _)| entry);
                let meant = members.filter(|entry| !except.contains(&entry.id));
                meant
                    .filter_map(|it| self.entries.get(it))
                    .cloned()
                    .collect()
            }
        }
    }
}
