//! Rooms: which connections are in them, and which users are meant to be.
//!
//! A room is in the shard that its namespace and name hash to, with its members, wherever those are. So a room of 100,000 users
//! is in one shard, and what a user's connection is in may be in many.
//!
//! Two things are kept, each with one writer:
//!
//! - A *member* is a connection that is in a room now. Its node says so, and says so again after a loss; it is gone with its lease.
//! - A *lasting* membership is a user's: a fact like a ban, in the user's shard, which [`super::Registry::assert`] answers. So a
//!   connection that comes has one order with the backend that puts its user into a room.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Entry, Lease, RegistryError, keys::Shard};
use crate::connection::{Connection, UserId};

/// A room: a name in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Room {
    /// The namespace, with its leading slash.
    pub namespace: Arc<str>,
    /// Its name, of 1 to 200 characters.
    pub name: Arc<str>,
}

impl Room {
    /// The room of that name in a namespace.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// A connection in a room.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The room.
    pub room: Room,
    /// The connection.
    pub entry: Entry,
}

/// A room that all connections of a user in its namespace are to be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// The room.
    pub room: Room,
    /// Until then, to the millisecond; none: until it is undone.
    pub until: Option<Timestamp>,
}

impl Lasting {
    /// Whether it is not over.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// How many are in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomTally {
    /// Connections.
    pub connections: u64,
    /// The users whose connections these are; guests are none. Those of a node that has died count until its lease is reaped.
    pub users: u64,
}

/// Which rooms are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomFilter {
    /// Those of this namespace; none: of all.
    pub namespace: Option<String>,
    /// Those whose names begin with this.
    pub prefix: String,
}

/// A page of rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomsPage {
    /// Rooms that somebody is in, each once over all pages as long as somebody is, with their connections.
    pub rooms: Vec<(Room, u64)>,
    /// Where the next page starts, or none if this is the last one. Opaque.
    pub next: Option<String>,
}

/// A page of a room's members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersPage {
    /// Connections, in the order of their users, each once over all pages as long as it is in the room.
    pub members: Vec<Entry>,
    /// Where the next page starts, or none if this is the last one. Opaque.
    pub next: Option<String>,
}

/// Adds to a connection the rooms that its user is to be in.
pub(super) fn add_lasting(connection: &mut Connection, lasting: &[Lasting]) {
    let now = Timestamp::now();
    let held = lasting
        .iter()
        .filter(|it| *it.room.namespace == *connection.namespace && it.holds(now));
    connection
        .rooms
        .extend(held.map(|it| it.room.name.to_string()));
    connection.rooms.sort_unstable();
    connection.rooms.dedup();
}

/// What the registry keeps of rooms. A part of the contract in [`super`].
#[async_trait]
pub trait Rooms: Send + Sync {
    /// Makes connections of a lease be in rooms of one shard (true), or not be (false). Can be repeated.
    async fn change_members(
        &self,
        lease: &Lease,
        shard: Shard,
        changes: &[(Member, bool)],
    ) -> Result<(), RegistryError>;

    /// What is in the rooms of one shard under a lease: what a node compares with its own connections.
    async fn joined(&self, lease: &Lease, shard: Shard) -> Result<Vec<Member>, RegistryError>;

    /// How many are in a room.
    async fn room(&self, room: &Room) -> Result<RoomTally, RegistryError>;

    /// The rooms that somebody is in, `limit` at a time (at least 1).
    async fn rooms(
        &self,
        filter: &RoomFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<RoomsPage, RegistryError>;

    /// A room's members, `limit` at a time (at least 1).
    async fn members(
        &self,
        room: &Room,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, RegistryError>;

    /// From when this answers, every connection of the user that is asserted is told of the room. Returns false, and keeps
    /// nothing, if the user has `most` other lasting memberships.
    async fn keep_in_room(
        &self,
        user: &UserId,
        lasting: &Lasting,
        most: usize,
    ) -> Result<bool, RegistryError>;

    /// Undoes [`Rooms::keep_in_room`].
    async fn let_go(&self, user: &UserId, room: &Room) -> Result<(), RegistryError>;

    /// Undoes [`Rooms::keep_in_room`] for all users.
    async fn let_all_go(&self, room: &Room) -> Result<(), RegistryError>;

    /// A user's lasting memberships that are not over, in the order of their rooms.
    async fn lasting(&self, user: &UserId) -> Result<Vec<Lasting>, RegistryError>;
}
