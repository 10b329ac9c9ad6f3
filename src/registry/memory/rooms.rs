//! Rooms, in process memory. The readable definition of what `change_members.lua` and `keep_in_room.lua` do.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use async_trait::async_trait;

use super::{MemoryRegistry, fences::now, store::Store};
use crate::{
    config::Fact,
    connection::{Instance, UserId},
    registry::{
        Entry, Lasting, Lease, Member, MembersPage, RegistryError, Room, RoomFilter, RoomTally,
        Rooms, RoomsPage, cursor,
        fence::to_millisecond,
        keys::{Shard, Shards},
    },
};

/// Who is in which room, and who is meant to be.
#[derive(Debug, Default)]
pub(super) struct RoomStore {
    /// In the order of rooms, and of users within a room, guests first.
    members: BTreeMap<(Room, Entry), Lease>,
    lasting: BTreeMap<(UserId, Room), Lasting>,
}

/// Before all members of a room.
fn first_of(room: Room) -> (Room, Entry) {
    let entry = Entry {
        user: None,
        id: "".into(),
    };
    (room, entry)
}

/// The next room that there could be.
fn behind(room: &Room) -> Room {
    Room::new(room.namespace.clone(), format!("{}\0", room.name))
}

impl RoomStore {
    fn of_room<'a>(&'a self, room: &'a Room) -> impl Iterator<Item = (&'a Entry, &'a Lease)> {
        let members = self.members.range(first_of(room.clone())..);
        let members = members.take_while(move |((its_room, _), _)| its_room == room);
        members.map(|((_, entry), lease)| (entry, lease))
    }

    /// A user's lasting memberships, those that are over among them.
    pub(super) fn lasting_of(&self, user: &UserId) -> Vec<Lasting> {
        let first = (user.clone(), Room::new("", ""));
        let of_user = self.lasting.range(first..);
        let of_user = of_user.take_while(|((its_user, _), _)| its_user == user);
        of_user.map(|(_, lasting)| lasting.clone()).collect()
    }

    fn is_empty(&self, room: &Room) -> bool {
        self.of_room(room).next().is_none()
    }

    /// Takes out what is in rooms under a lease. Returns the rooms that nobody is in any more.
    pub(super) fn reap(&mut self, lease: &Lease) -> BTreeSet<Room> {
        let of_lease = self.members.iter().filter(|(_, its)| *its == lease);
        let mut rooms: BTreeSet<_> = of_lease.map(|((room, _), _)| room.clone()).collect();
        self.members.retain(|_, its_lease| its_lease != lease);
        rooms.retain(|room| self.is_empty(room));
        rooms
    }
}

impl Store {
    /// A room's members that live.
    pub(super) fn live_in<'a>(
        &'a self,
        room: &'a Room,
    ) -> impl Iterator<Item = (&'a Entry, &'a Lease)> {
        let members = self.rooms.of_room(room);
        members.filter(|(_, lease)| self.live(lease).is_some())
    }

    /// The live nodes that hold a member.
    pub(super) fn holders_of<'a>(&'a self, room: &'a Room) -> BTreeSet<&'a Instance> {
        self.live_in(room)
            .map(|(_, lease)| &lease.instance)
            .collect()
    }
}

#[async_trait]
impl Rooms for MemoryRegistry {
    async fn change_members(
        &self,
        lease: &Lease,
        _shard: Shard,
        changes: &[(Member, bool)],
    ) -> Result<(), RegistryError> {
        let store = &mut *self.store.lock();
        for (Member { room, entry }, is_in) in changes {
            let key = (room.clone(), entry.clone());
            let was_empty = store.rooms.is_empty(room);
            let members = &mut store.rooms.members;
            if *is_in {
                members.insert(key, lease.clone());
            } else if members.get(&key) == Some(lease) {
                members.remove(&key);
            }
            match (was_empty, store.rooms.is_empty(room)) {
                (true, false) => store.tell_of_room(&self.told, room, Fact::Occupied),
                (false, true) => store.tell_of_room(&self.told, room, Fact::Vacated),
                _ => {}
            }
        }
        Ok(())
    }

    async fn joined(&self, lease: &Lease, shard: Shard) -> Result<Vec<Member>, RegistryError> {
        let store = self.store.lock();
        let joined = store.rooms.members.iter().filter(|((room, _), its_lease)| {
            *its_lease == lease && Shards::default().of_room(room) == shard
        });
        let joined = joined.map(|((room, entry), _)| Member {
            room: room.clone(),
            entry: entry.clone(),
        });
        Ok(joined.collect())
    }

    async fn room(&self, room: &Room) -> Result<RoomTally, RegistryError> {
        let store = self.believed()?;
        let users: BTreeSet<_> = store
            .live_in(room)
            .filter_map(|(entry, _)| entry.user.as_ref())
            .collect();
        Ok(RoomTally {
            connections: store.live_in(room).count() as u64,
            users: users.len() as u64,
        })
    }

    async fn rooms(
        &self,
        filter: &RoomFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<RoomsPage, RegistryError> {
        let after = cursor.map(cursor::room).transpose()?;
        let store = self.believed()?;
        let begin = || {
            // Before all namespaces, and behind what is none: those who watch users.
            match &filter.namespace {
                Some(namespace) => Room::new(namespace.as_str(), filter.prefix.as_str()),
                None => Room::new("/", ""),
            }
        };
        let mut next = after.map_or_else(begin, |last| behind(&last));
        let mut page = RoomsPage::default();
        loop {
            let mut members = store.rooms.members.range(first_of(next)..);
            let Some(((room, _), _)) = members.next() else {
                return Ok(page);
            };
            next = behind(room);
            let namespace = filter.namespace.as_deref();
            if namespace.is_some_and(|namespace| namespace != &*room.namespace) {
                return Ok(page);
            }
            let connections = store.live_in(room).count() as u64;
            if !room.name.starts_with(&filter.prefix) || connections == 0 {
                continue;
            }
            if page.rooms.len() == limit.max(1) {
                page.next = page.rooms.last().map(|(last, _)| cursor::after_room(last));
                return Ok(page);
            }
            page.rooms.push((room.clone(), connections));
        }
    }

    async fn members(
        &self,
        room: &Room,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, RegistryError> {
        let after = cursor.map(cursor::member).transpose()?;
        let store = self.believed()?;
        let start = match after {
            Some(last) => Bound::Excluded((room.clone(), last)),
            None => Bound::Included(first_of(room.clone())),
        };
        let members = store.rooms.members.range((start, Bound::Unbounded));
        let members = members.take_while(|((its_room, _), _)| its_room == room);
        let mut page = MembersPage::default();
        for ((_, entry), lease) in members {
            if store.live(lease).is_none() {
                continue;
            }
            if page.members.len() == limit.max(1) {
                page.next = page.members.last().map(cursor::after_member);
                break;
            }
            page.members.push(entry.clone());
        }
        Ok(page)
    }

    async fn keep_in_room(
        &self,
        user: &UserId,
        lasting: &Lasting,
        most: usize,
    ) -> Result<bool, RegistryError> {
        let kept = &mut self.store.lock().rooms;
        let mut others = kept.lasting_of(user);
        others.retain(|it| it.room != lasting.room && it.holds(now()));
        if others.len() >= most {
            return Ok(false);
        }
        kept.lasting
            .retain(|(its_user, _), it| its_user != user || it.holds(now()));
        let lasting = Lasting {
            until: lasting.until.map(to_millisecond),
            ..lasting.clone()
        };
        kept.lasting
            .insert((user.clone(), lasting.room.clone()), lasting);
        Ok(true)
    }

    async fn let_go(&self, user: &UserId, room: &Room) -> Result<(), RegistryError> {
        let kept = &mut self.store.lock().rooms.lasting;
        kept.remove(&(user.clone(), room.clone()));
        Ok(())
    }

    async fn let_all_go(&self, room: &Room) -> Result<(), RegistryError> {
        let kept = &mut self.store.lock().rooms.lasting;
        kept.retain(|(_, its_room), _| its_room != room);
        Ok(())
    }

    async fn lasting(&self, user: &UserId) -> Result<Vec<Lasting>, RegistryError> {
        let mut lasting = self.store.lock().rooms.lasting_of(user);
        lasting.retain(|it| it.holds(now()));
        Ok(lasting)
    }
}
