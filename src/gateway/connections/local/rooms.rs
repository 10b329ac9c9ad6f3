//! The rooms that a connection is in, and why.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{LocalConnection, phase::State};
use crate::{
    connection::check_room,
    registry::{Lasting, Member, Room},
};

/// Why a connection does not get into a room, or out of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RoomError {
    /// It is in as many rooms as it may be.
    #[error("Too many rooms")]
    TooMany,
    /// Its user is to be in the room: that is the user's, and undone for the user.
    #[error("The user is in this room with all connections")]
    Lasting,
    /// It is not there any more.
    #[error("The connection is gone")]
    Gone,
}

/// Why a connection is in a room. In none of these ways: it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Why {
    /// Its token says so.
    claimed: bool,
    /// It, or a backend, has joined it.
    joined: bool,
    /// Its user is to be in it until then, or until that is undone.
    lasting: Option<Option<Timestamp>>,
}

/// The rooms of one connection, by name.
#[derive(Debug, Default)]
pub(super) struct OwnRooms {
    rooms: BTreeMap<Arc<str>, Why>,
    /// How often this node has been told of a lasting membership: what the registry said before is out of date.
    revision: u64,
    /// The registry has said otherwise, and is asked once more.
    doubted: bool,
}

impl OwnRooms {
    /// Takes the place of what an earlier token claimed. Returns how many of these rooms it can't be in: there is none of such a
    /// name, or it is in as many as it may be.
    fn claim(&mut self, names: &[String], most: usize) -> usize {
        for why in self.rooms.values_mut() {
            why.claimed = false;
        }
        for name in names {
            if let Some(why) = self.rooms.get_mut(name.as_str()) {
                why.claimed = true;
            }
        }
        // Those that are left with the earlier token take no place.
        let stay = |why: &&Why| **why != Why::default();
        let mut count = self.rooms.values().filter(stay).count();
        let mut refused = 0;
        for name in names {
            if self.rooms.contains_key(name.as_str()) {
                continue;
            }
            if count < most && check_room(name).is_ok() {
                let why = Why {
                    claimed: true,
                    ..Why::default()
                };
                self.rooms.insert(name.as_str().into(), why);
                count += 1;
            } else {
                refused += 1;
            }
        }
        refused
    }

    /// Drops what there is no reason for, and returns it.
    fn settle(&mut self) -> Vec<Arc<str>> {
        let mut left = Vec::new();
        self.rooms.retain(|name, why| {
            let stays = *why != Why::default();
            if !stays {
                left.push(name.clone());
            }
            stays
        });
        left
    }

    fn names(&self) -> Vec<String> {
        self.rooms.keys().map(|name| name.to_string()).collect()
    }
}

impl LocalConnection {
    /// All rooms that it is in, in their order.
    pub(crate) fn rooms(&self) -> Vec<String> {
        self.rooms.lock().names()
    }

    /// Those that it is in by itself, and not only as its user is to be: what its entry in the registry has.
    pub(super) fn own_rooms(&self) -> Vec<String> {
        let own = self.rooms.lock();
        let by_itself = own
            .rooms
            .iter()
            .filter(|(_, why)| why.claimed || why.joined);
        by_itself.map(|(name, _)| name.to_string()).collect()
    }

    /// Whether it is in a room of its namespace.
    fn is_in(&self, name: &str) -> bool {
        self.rooms.lock().rooms.contains_key(name)
    }

    /// Itself in a room of its namespace, as the registry names it.
    pub(crate) fn member(&self, name: impl Into<Arc<str>>) -> Member {
        Member {
            room: Room::new(self.namespace.clone(), name),
            entry: self.entry(),
        }
    }

    /// Itself in each of its rooms, and among those who watch the users that it watches.
    pub(crate) fn memberships(&self) -> Vec<Member> {
        let watches = self.watches();
        let own = self.rooms.lock();
        let rooms = own.rooms.keys().map(|name| self.member(name.clone()));
        rooms.chain(watches).collect()
    }

    /// Whether it is in a room, or among those who watch a user.
    pub(crate) fn is_member(&self, room: &Room) -> bool {
        match &*room.namespace {
            "" => self.is_watching(&room.name),
            _ => self.is_in(&room.name),
        }
    }

    /// Changes its rooms, and where it is found by them. Returns what it has joined and left, or none if it is gone.
    fn change_rooms<E>(
        &self,
        change: impl FnOnce(&mut OwnRooms) -> Result<(), E>,
        gone: E,
    ) -> Result<Vec<Member>, E> {
        // Under the lock: what begins meanwhile joins the rooms that there are before, or after this.
        let state = self.state.lock();
        if let State::Gone | State::Departed = *state {
            return Err(gone);
        }
        let mut own = self.rooms.lock();
        let before: Vec<_> = own.rooms.keys().cloned().collect();
        change(&mut own)?;
        let left = own.settle();
        let joined = own.rooms.keys().filter(|name| !before.contains(name));
        let joined: Vec<_> = joined.cloned().collect();
        if let (State::Ready(_), Some(me)) = (&*state, self.me.upgrade()) {
            self.members.leave(&me, &left);
            self.members.join(&me, &joined);
        }
        Ok(joined
            .into_iter()
            .chain(left)
            .map(|name| self.member(name))
            .collect())
    }

    /// Joins a room, if it is in fewer than `most`. Returns what has changed.
    pub(crate) fn join(&self, name: &str, most: usize) -> Result<Vec<Member>, RoomError> {
        let join = |own: &mut OwnRooms| {
            if !own.rooms.contains_key(name) && own.rooms.len() >= most {
                return Err(RoomError::TooMany);
            }
            own.rooms.entry(name.into()).or_default().joined = true;
            Ok(())
        };
        self.change_rooms(join, RoomError::Gone)
    }

    /// Leaves a room. Returns what has changed.
    pub(crate) fn leave(&self, name: &str) -> Result<Vec<Member>, RoomError> {
        let leave = |own: &mut OwnRooms| match own.rooms.get_mut(name) {
            Some(Why {
                lasting: Some(_), ..
            }) => Err(RoomError::Lasting),
            Some(why) => {
                *why = Why::default();
                Ok(())
            }
            None => Ok(()),
        };
        self.change_rooms(leave, RoomError::Gone)
    }

    /// Leaves a room, whatever it is in it for. Returns what has changed.
    pub(crate) fn evict(&self, name: &str) -> Vec<Member> {
        let leave = |own: &mut OwnRooms| {
            own.revision += 1;
            if let Some(why) = own.rooms.get_mut(name) {
                *why = Why::default();
            }
            Ok(())
        };
        self.change_rooms(leave, ()).unwrap_or_default()
    }

    /// Its user is to be in a room from now on. Returns what has changed.
    pub(crate) fn keep_in(&self, name: &str, until: Option<Timestamp>) -> Vec<Member> {
        let keep = |own: &mut OwnRooms| {
            own.revision += 1;
            own.rooms.entry(name.into()).or_default().lasting = Some(until);
            Ok(())
        };
        self.change_rooms(keep, ()).unwrap_or_default()
    }

    /// Its user is not to be in a room any more. Returns what has changed.
    pub(crate) fn let_go_of(&self, name: &str) -> Vec<Member> {
        let let_go = |own: &mut OwnRooms| {
            own.revision += 1;
            if let Some(why) = own.rooms.get_mut(name) {
                why.lasting = None;
            }
            Ok(())
        };
        self.change_rooms(let_go, ()).unwrap_or_default()
    }

    /// Leaves the rooms that its user is not to be in any more by now. Returns what has changed, and when the next such time comes.
    pub(crate) fn leave_those_over(&self, now: Timestamp) -> (Vec<Member>, Option<Timestamp>) {
        let mut next = None;
        let leave = |own: &mut OwnRooms| {
            for why in own.rooms.values_mut() {
                match why.lasting.flatten() {
                    Some(until) if until <= now => why.lasting = None,
                    Some(until) => next = Some(next.map_or(until, |next| until.min(next))),
                    None => {}
                }
            }
            Ok(())
        };
        let changed = self.change_rooms(leave, ()).unwrap_or_default();
        (changed, next)
    }

    /// Whether its user is to be in one of its rooms.
    pub(crate) fn has_lasting(&self) -> bool {
        let own = self.rooms.lock();
        own.rooms.values().any(|why| why.lasting.is_some())
    }

    /// Whether its user is to be in one of its rooms up to some time.
    pub(crate) fn has_until(&self) -> bool {
        let own = self.rooms.lock();
        own.rooms
            .values()
            .any(|why| why.lasting.flatten().is_some())
    }

    /// The registry has said, when it was asked at this revision, which rooms its user is to be in. Returns true if that is not what
    /// it has, though this node has been told of nothing since, and no such doubt is looked into yet.
    pub(crate) fn doubt_lasting(&self, revision: u64, lasting: &[Lasting]) -> bool {
        let now = Timestamp::now();
        let mut own = self.rooms.lock();
        let said = lasting
            .iter()
            .filter(|it| *it.room.namespace == *self.namespace && it.holds(now));
        let said = said.map(|it| (&it.room.name, it.until));
        let has = own.rooms.iter();
        let has = has.filter_map(|(name, why)| Some((name, why.lasting?)));
        let doubts = own.revision == revision && !said.eq(has);
        doubts && !std::mem::replace(&mut own.doubted, true)
    }

    /// The doubt is looked into.
    pub(crate) fn doubt_no_more(&self) {
        self.rooms.lock().doubted = false;
    }

    /// How often it has been told of a lasting membership: for [`LocalConnection::adopt_lasting`].
    pub(crate) fn lasting_revision(&self) -> u64 {
        self.rooms.lock().revision
    }

    /// The registry has said, when it was asked at this revision, which rooms its user is to be in. Returns what has changed; none
    /// if this node has been told of another one since.
    pub(crate) fn adopt_lasting(&self, revision: u64, lasting: &[Lasting]) -> Option<Vec<Member>> {
        let now = Timestamp::now();
        let here = |it: &&Lasting| *it.room.namespace == *self.namespace && it.holds(now);
        let adopt = |own: &mut OwnRooms| {
            if own.revision != revision {
                return Err(());
            }
            for why in own.rooms.values_mut() {
                why.lasting = None;
            }
            for it in lasting.iter().filter(here) {
                let why = own.rooms.entry(it.room.name.clone()).or_default();
                why.lasting = Some(it.until);
            }
            Ok(())
        };
        match self.phase() {
            super::Phase::Gone => Some(Vec::new()),
            _ => self.change_rooms(adopt, ()).ok(),
        }
    }

    /// Joins the rooms that its token claims, in place of those that the one before did, if it is in fewer than `most`. Returns
    /// what has changed, and how many were refused.
    pub(crate) fn claim_rooms(&self, most: usize) -> (Vec<Member>, usize) {
        let mut refused = 0;
        let claim = |own: &mut OwnRooms| {
            refused = own.claim(&self.claimed_rooms(), most);
            Ok(())
        };
        let changed = self.change_rooms(claim, ()).unwrap_or_default();
        (changed, refused)
    }

    /// Takes over what a guest has joined, whose client goes on as this connection.
    pub(super) fn take_rooms_of(&self, guest: &Self) {
        let (mut own, theirs) = (self.rooms.lock(), guest.rooms.lock());
        for (name, _) in theirs.rooms.iter().filter(|(_, why)| why.joined) {
            own.rooms.entry(name.clone()).or_default().joined = true;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_token_claims_as_many_rooms_as_there_may_be() {
        let mut own = OwnRooms::default();
        assert_eq!(own.claim(&names(&["b", "a", "b", "c"]), 2), 1);
        assert_eq!(own.names(), ["a", "b"]);
        let refused = own.claim(&names(&["c", "a", "d", ""]), 2);
        assert_eq!(refused, 2, "c takes the place of b");
        assert_eq!(own.settle(), [Arc::from("b")]);
        assert_eq!(own.names(), ["a", "c"]);
    }

    #[test]
    fn a_room_is_left_when_no_reason_is_left() {
        let mut own = OwnRooms::default();
        own.claim(&names(&["a"]), 9);
        own.rooms.get_mut("a").unwrap().lasting = Some(None);
        own.claim(&[], 9);
        assert!(own.settle().is_empty());
        own.rooms.get_mut("a").unwrap().lasting = None;
        assert_eq!(own.settle(), [Arc::from("a")]);
    }
}
