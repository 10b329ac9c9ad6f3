//! What a registry is, without time, shards, keys or scripts: maps, and the rules of `switchboard::registry` read aloud.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use switchboard::{
    connection::{Connection, ConnectionId, NodeId, Tally, UserId},
    ending::Ending,
    registry::{
        Admission, Ban, Bar, EndTarget, Entry, Family, FamilyToken, Fence, Grant, Lease,
        LimitPolicy, Rotation, SessionId, TokenHash, Turn, Updated, UserLimit,
        keys::{Place, Shard},
    },
};

/// When something happened: the clock before and after the call that did it.
pub(super) type Moment = (Timestamp, Timestamp);

fn later(a: Option<Moment>, b: Moment) -> Moment {
    a.map_or(b, |a| (a.0.max(b.0), a.1.max(b.1)))
}

/// A lease in one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) holds: bool,
    pub(super) renewed: Moment,
}

/// A lease. It is in every place, but for those that have lost it, and those where it was reaped.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) node: NodeId,
    pub(super) places: BTreeMap<Place, Standing>,
}

impl Membership {
    fn holds(&self, place: Place) -> bool {
        self.places.get(&place).is_some_and(|it| it.holds)
    }

    /// Whether it has run out in a shard.
    fn lapsed_in_a_shard(&self) -> bool {
        let shards = self.places.iter().filter(|(at, _)| **at != Place::Nodes);
        shards.into_iter().any(|(_, it)| !it.holds)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) connection: Connection,
    pub(super) grant: Grant,
}

#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) family: Family,
    pub(super) opened: Timestamp,
    pub(super) current: FamilyToken,
    pub(super) previous: Option<TokenHash>,
    /// Closed, or used twice.
    pub(super) dead: Option<&'static str>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) leases: BTreeMap<Lease, Membership>,
    pub(super) entries: BTreeMap<Entry, Held>,
    pub(super) orders: BTreeMap<ConnectionId, Ending>,
    pub(super) bans: BTreeMap<UserId, Ban>,
    pub(super) revoked: BTreeMap<UserId, Timestamp>,
    /// In each shard, as a shard can be lost.
    pub(super) tokens: BTreeSet<(Shard, String)>,
    pub(super) over: BTreeSet<(UserId, SessionId)>,
    pub(super) families: BTreeMap<SessionId, Kept>,
    pub(super) seen: BTreeMap<UserId, Moment>,
}

fn place_of(entry: &Entry) -> Place {
    Place::Shard(Shard::of_entry(entry).unwrap())
}

pub(super) fn entry(connection: &Connection) -> Entry {
    Entry {
        user: connection.user_id.clone(),
        id: connection.id.clone(),
    }
}

impl Model {
    pub(super) fn holds(&self, lease: &Lease, place: Place) -> bool {
        self.leases.get(lease).is_some_and(|it| it.holds(place))
    }

    /// Whether an entry that is there is believed.
    pub(super) fn is_live(&self, entry: &Entry, held: &Held) -> bool {
        self.holds(&held.lease, place_of(entry))
    }

    fn those(&self, wanted: impl Fn(&Membership) -> bool) -> Vec<Lease> {
        let those = self.leases.iter().filter(|(_, it)| wanted(it));
        those.map(|(lease, _)| lease.clone()).collect()
    }

    /// Those that a heartbeat names: their nodes are gone, as far as the nodes know.
    pub(super) fn lapsed(&self) -> Vec<Lease> {
        self.those(|it| match it.places.get(&Place::Nodes) {
            Some(among_nodes) => !among_nodes.holds,
            None => it.lapsed_in_a_shard(),
        })
    }

    /// Of those, the ones that are in the way of a count of the shards.
    pub(super) fn uncounted(&self) -> Vec<Lease> {
        self.those(|it| !it.holds(Place::Nodes) && it.lapsed_in_a_shard())
    }

    fn all_of(&self, user: &UserId) -> impl Iterator<Item = (&Entry, &Held)> {
        let of_user = move |entry: &Entry| entry.user.as_ref() == Some(user);
        let entries = self.entries.iter();
        entries.filter(move |(entry, _)| of_user(entry))
    }

    pub(super) fn live_of(&self, user: &UserId) -> Vec<&Held> {
        let live = self
            .all_of(user)
            .filter(|(entry, held)| self.is_live(entry, held));
        live.map(|(_, held)| held).collect()
    }

    pub(super) fn tally(&self, user: &UserId) -> Tally {
        Tally::of(
            self.live_of(user)
                .iter()
                .map(|it| it.connection.device_id.as_deref()),
        )
    }

    pub(super) fn online(&self) -> BTreeMap<UserId, Tally> {
        let users = self.entries.keys().filter_map(|entry| entry.user.clone());
        let tallies = users.map(|user| (user.clone(), self.tally(&user)));
        tallies.filter(|(_, tally)| tally.connections > 0).collect()
    }

    /// Entries and users, whether they are believed or not.
    pub(super) fn counts(&self) -> (u64, u64) {
        let users = self.entries.keys().filter_map(|it| it.user.as_ref());
        let users: BTreeSet<_> = users.collect();
        (self.entries.len() as u64, users.len() as u64)
    }

    /// None while the user is online.
    pub(super) fn last_seen(&self, user: &UserId) -> Option<Moment> {
        if !self.live_of(user).is_empty() {
            return None;
        }
        let lapsed = self.all_of(user).filter_map(|(entry, held)| {
            let places = &self.leases.get(&held.lease)?.places;
            places.get(&place_of(entry))
        });
        lapsed.fold(self.seen.get(user).copied(), |last, it| {
            Some(later(last, it.renewed))
        })
    }

    pub(super) fn join(&mut self, lease: &Lease, node: &NodeId, at: Moment) {
        let mut take_up = |lease: &Lease, holds: bool| {
            let membership = self.leases.entry(lease.clone()).or_insert(Membership {
                node: node.clone(),
                places: BTreeMap::new(),
            });
            for place in Shard::places() {
                let new = Standing { holds, renewed: at };
                let it = membership.places.entry(place).or_insert(new);
                if !holds {
                    it.holds = false;
                } else if it.holds {
                    *it = new;
                }
            }
        };
        if lease.epoch > 1 {
            let before = Lease {
                epoch: lease.epoch - 1,
                ..lease.clone()
            };
            take_up(&before, false);
        }
        take_up(lease, true);
    }

    /// Whether it held, and whether it did so in some places only.
    pub(super) fn beat(&mut self, lease: &Lease, at: Moment) -> (bool, bool) {
        let held = |it: &Membership| it.places.values().any(|it| it.holds);
        let Some(it) = self.leases.get_mut(lease).filter(|it| held(it)) else {
            return (false, false);
        };
        let partly = Shard::places().any(|place| !it.holds(place));
        let standing = Standing {
            holds: true,
            renewed: at,
        };
        it.places = Shard::places().map(|place| (place, standing)).collect();
        (true, partly)
    }

    pub(super) fn lapse(&mut self, lease: &Lease, at: Moment) -> bool {
        let (held, _) = self.beat(lease, at);
        if held && let Some(it) = self.leases.get_mut(lease) {
            it.places.values_mut().for_each(|it| it.holds = false);
        }
        held
    }

    /// All leases run out in one place.
    pub(super) fn lapse_all(&mut self, place: Place) {
        for it in self.leases.values_mut() {
            if let Some(it) = it.places.get_mut(&place) {
                it.holds = false;
            }
        }
    }

    pub(super) fn leave(&mut self, lease: &Lease, at: Moment) {
        if let Some(it) = self.leases.get_mut(lease) {
            for it in it.places.values_mut() {
                (it.holds, it.renewed) = (false, at);
            }
        }
        self.reap(lease);
    }

    /// Where it holds it stays, with its entries.
    pub(super) fn reap(&mut self, lease: &Lease) -> u64 {
        let Some(it) = self.leases.get_mut(lease) else {
            return 0;
        };
        let places = std::mem::take(&mut it.places);
        let (held, lapsed): (_, BTreeMap<_, _>) = places.into_iter().partition(|(_, it)| it.holds);
        it.places = held;
        if it.places.is_empty() {
            self.leases.remove(lease);
        }
        let of_lease = self.entries.iter().filter(|(_, it)| it.lease == *lease);
        let ended = of_lease
            .filter_map(|(entry, _)| Some((entry.clone(), lapsed.get(&place_of(entry))?.renewed)));
        let ended: Vec<_> = ended.collect();
        for (entry, renewed) in &ended {
            self.remove(entry, *renewed);
        }
        ended.len() as u64
    }

    fn remove(&mut self, entry: &Entry, ended: Moment) {
        self.entries.remove(entry);
        if let Some(user) = &entry.user {
            let last = later(self.seen.get(user).copied(), ended);
            self.seen.insert(user.clone(), last);
        }
    }

    pub(super) fn barred(&self, user: Option<&UserId>, grant: &Grant) -> Option<Bar> {
        let user = user?;
        let shard = Shard::of_user(user);
        let token = grant
            .token_id
            .iter()
            .any(|it| self.tokens.contains(&(shard, it.clone())));
        let session = |it: &SessionId| self.over.contains(&(user.clone(), it.clone()));
        if self.bans.contains_key(user) {
            Some(Bar::Banned)
        } else if self.is_revoked(user, grant) || token {
            Some(Bar::Revoked)
        } else {
            grant
                .session
                .as_ref()
                .filter(|it| session(it))
                .map(|_| Bar::SessionEnded)
        }
    }

    fn is_revoked(&self, user: &UserId, grant: &Grant) -> bool {
        let before = self.revoked.get(user);
        before.is_some_and(|before| grant.issued_at.is_none_or(|issued| issued < *before))
    }

    /// None: the lease does not hold.
    pub(super) fn register(
        &mut self,
        lease: &Lease,
        connection: &Connection,
        grant: &Grant,
        limit: Option<UserLimit>,
    ) -> Option<Admission> {
        let new = entry(connection);
        if !self.holds(lease, place_of(&new)) {
            return None;
        }
        if let Some(bar) = self.barred(new.user.as_ref(), grant) {
            return Some(Admission::Refused(bar));
        }
        let full = Ending::of(Ending::LIMIT);
        let mut evicted = Vec::new();
        if let (Some(user), Some(limit)) = (&new.user, limit.filter(|it| it.max > 0)) {
            let mut stay = Vec::new();
            for held in self.live_of(user) {
                let other = (held.connection.connected_at, held.connection.id.clone());
                match self.orders.get(&other.1) {
                    _ if other.1 == new.id => {}
                    None => stay.push(other),
                    Some(order) if *order == full => evicted.push(other.1),
                    Some(_) => {}
                }
            }
            stay.sort();
            let too_many = (stay.len() + 1).saturating_sub(limit.max as usize);
            if too_many > 0 && !self.entries.contains_key(&new) {
                if limit.policy == LimitPolicy::Reject {
                    return Some(Admission::Refused(Bar::TooMany));
                }
                for (_, id) in stay.into_iter().take(too_many) {
                    self.orders.insert(id.clone(), full.clone());
                    evicted.push(id);
                }
            }
            if limit.policy == LimitPolicy::Reject {
                evicted.clear();
            }
        }
        let held = Held {
            lease: lease.clone(),
            connection: connection.clone(),
            grant: grant.clone(),
        };
        self.entries.insert(new.clone(), held);
        let tally = new.user.as_ref().map_or(Tally::of([None]), |user| {
            let live = self.live_of(user).into_iter().map(|it| &it.connection);
            let stay = live.filter(|it| !evicted.contains(&it.id));
            Tally::of(stay.map(|it| it.device_id.as_deref()))
        });
        let user = new.user;
        let evicted = evicted.into_iter().map(|id| Entry {
            user: user.clone(),
            id,
        });
        Some(Admission::Admitted {
            tally,
            evicted: evicted.collect(),
        })
    }

    pub(super) fn update(
        &mut self,
        lease: &Lease,
        connection: &Connection,
        grant: &Grant,
    ) -> Updated {
        let bar = self.barred(connection.user_id.as_ref(), grant);
        let held = self.entries.get_mut(&entry(connection));
        match (held.filter(|it| it.lease == *lease), bar) {
            (None, _) => Updated::Gone,
            (_, Some(bar)) => Updated::Refused(bar),
            (Some(held), None) => {
                (held.connection, held.grant) = (connection.clone(), grant.clone());
                Updated::Done
            }
        }
    }

    pub(super) fn unregister(&mut self, lease: &Lease, entries: &[Entry], at: Moment) {
        for entry in entries {
            if self.entries.get(entry).is_some_and(|it| it.lease == *lease) {
                self.remove(entry, at);
            }
            if !self.entries.contains_key(entry) {
                self.orders.remove(&entry.id);
            }
        }
    }

    /// Whether the node of a lease may give an order to those who are meant.
    pub(super) fn may_order(&self, lease: &Lease, target: &EndTarget) -> bool {
        let place = match (target, target.user()) {
            (EndTarget::Connection(entry), _) => place_of(entry),
            (_, Some(user)) => Place::Shard(Shard::of_user(user)),
            (_, None) => return true,
        };
        self.holds(lease, place)
    }

    /// What an order means, and those of it that are believed. `revoked`: what a revocation came out as.
    pub(super) fn order(
        &mut self,
        target: &EndTarget,
        fence: Option<&Fence>,
        ending: &Ending,
        revoked: Option<Timestamp>,
        now: Timestamp,
    ) -> Vec<Held> {
        match (fence, target.user()) {
            (Some(Fence::Ban(ban)), Some(user)) if ban.until.is_some_and(|it| it <= now) => {
                self.bans.remove(user);
                return Vec::new();
            }
            (Some(Fence::Ban(ban)), Some(user)) => {
                self.bans.insert(user.clone(), ban.clone());
            }
            (Some(Fence::RevokeBefore(_)), Some(user)) => {
                self.revoked.extend(revoked.map(|it| (user.clone(), it)));
            }
            (Some(Fence::EndSession(session)), Some(user)) => {
                self.over.insert((user.clone(), session.clone()));
                let family = self.families.get_mut(session);
                if let Some(kept) = family.filter(|it| it.family.user == *user) {
                    kept.dead = Some("over");
                }
            }
            _ => {}
        }
        let means = |entry: &Entry, held: &Held| match target {
            EndTarget::Connection(meant) => entry == meant,
            EndTarget::User { user, except } => {
                entry.user.as_ref() == Some(user) && !except.contains(&entry.id)
            }
            EndTarget::Revoked { user } => {
                entry.user.as_ref() == Some(user) && self.is_revoked(user, &held.grant)
            }
            EndTarget::Session { user, session } => {
                entry.user.as_ref() == Some(user) && held.grant.session.as_ref() == Some(session)
            }
        };
        let meant = self
            .entries
            .iter()
            .filter(|(entry, held)| means(entry, held));
        let meant: Vec<_> = meant
            .map(|(entry, held)| (entry.clone(), held.clone()))
            .collect();
        let ids = meant.iter().map(|(entry, _)| entry.id.clone());
        self.orders.extend(ids.map(|id| (id, ending.clone())));
        let live = meant
            .into_iter()
            .filter(|(entry, held)| self.is_live(entry, held));
        live.map(|(_, held)| held).collect()
    }

    /// The grace never ends here. `at`: when it was, as the registry said.
    pub(super) fn rotate(&mut self, id: &SessionId, turn: Turn<'_>, at: Timestamp) -> Rotation {
        let Some(kept) = self.families.get(id).filter(|it| it.family.expires_at > at) else {
            return Rotation::Unknown;
        };
        let mut kept = kept.clone();
        let presented = turn.presented;
        let current = presented.hash == kept.current.hash;
        let newer = !current && presented.number > kept.current.number;
        let repeated = Some(presented.hash) == kept.previous;
        if matches!(kept.dead, Some("closed" | "over")) {
            return Rotation::Unknown;
        }
        if kept.dead.is_some() || !(current || repeated || newer) {
            kept.dead = Some("reused");
            self.over.insert((kept.family.user.clone(), id.clone()));
            self.families.insert(id.clone(), kept.clone());
            return Rotation::Reused(kept.family);
        }
        let grant = Grant {
            issued_at: Some(kept.opened),
            token_id: None,
            session: Some(id.clone()),
        };
        if let Some(bar) = self.barred(Some(&kept.family.user), &grant) {
            return Rotation::Refused(bar);
        }
        // A token that is the current one and the one before, as it came round again, is repeated.
        if repeated {
            return Rotation::Repeated(kept.family);
        }
        kept.previous = Some(presented.hash);
        kept.current = *turn.successor;
        if let Some(renew) = turn.renew {
            kept.family.expires_at = at.checked_add(renew).unwrap_or(Timestamp::MAX);
        }
        self.families.insert(id.clone(), kept.clone());
        if newer {
            return Rotation::Recovered(kept.family);
        }
        Rotation::Rotated(kept.family)
    }

    pub(super) fn close(
        &mut self,
        id: &SessionId,
        token: &FamilyToken,
        now: Timestamp,
    ) -> Option<Family> {
        let kept = self
            .families
            .get_mut(id)
            .filter(|it| it.family.expires_at > now)?;
        let is_its = kept.current.hash == token.hash
            || kept.previous == Some(token.hash)
            || token.number > kept.current.number;
        if !is_its || kept.dead == Some("over") {
            return None;
        }
        kept.dead.get_or_insert("closed");
        self.over.insert((kept.family.user.clone(), id.clone()));
        Some(kept.family.clone())
    }

    /// Everything that is known in one place is gone.
    pub(super) fn lose(&mut self, place: Place) {
        for it in self.leases.values_mut() {
            it.places.remove(&place);
        }
        self.leases.retain(|_, it| !it.places.is_empty());
        let Place::Shard(shard) = place else {
            return;
        };
        let lost = |user: &UserId| Shard::of_user(user) == shard;
        self.entries
            .retain(|entry, _| Shard::of_entry(entry) != Some(shard));
        self.orders.retain(|id, _| Shard::of_id(id) != Some(shard));
        self.bans.retain(|user, _| !lost(user));
        self.revoked.retain(|user, _| !lost(user));
        self.tokens.retain(|(of, _)| *of != shard);
        self.over.retain(|(user, _)| !lost(user));
        self.families
            .retain(|id, _| Shard::of_family(id) != Some(shard));
        self.seen.retain(|user, _| !lost(user));
    }
}
