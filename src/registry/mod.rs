//! Who is connected, and where.
//!
//! The registry is the cluster's one memory: a connection is in it from before its client hears `ready` until it is gone.
//! Two homes keep the same contract, [`memory`] for a node that runs alone and [`redis`] for a fleet; one conformance
//! suite (`tests/registry_contract`) holds both to it.
//!
//! # The contract
//!
//! - A node holds a [`Lease`], renewed by [`Registry::heartbeat`], and every entry belongs to a lease. Every node knows who holds
//!   one, from its last heartbeat: an entry whose lease has run out is left out of every answer at once, whether or not anybody has
//!   reaped it yet.
//! - A lease that is buried never comes back: its node joins with the next epoch and asserts its connections anew. The node that reaps
//!   the old epoch can therefore not hit the new entries. A lease that is late and not buried is renewed as if it were not.
//! - The registry has parts ([`keys::Shard`]), and says of each whether it is whole. Of one that has lost data and does not have it
//!   back from every node, it says nothing, and is unavailable. Nor does it say that nobody is there while a node is back that was
//!   buried and has yet to put its connections in.
//! - One verb, [`Registry::assert`], makes an entry be there: when its connection comes, after a loss, and again and again. It can
//!   be repeated, and answers what has been ordered meanwhile. Every other write can be repeated too: a call that timed out may
//!   have happened, and is made again.
//! - `assert` and `order_end` of one user have one order. A connection that came before the order is ended, by its node or by the
//!   next `assert`; one that comes after it meets the fence that was put up with it. None is neither.
//! - What is held against a user (kicks, bans, revocations, ended sessions) is so by the registry's clock, on every node, and
//!   outlives them all.
//! - Reads never ask another node, and never scan: each costs what its answer weighs.

mod admission;
mod calls;
mod cursor;
mod families;
mod fence;
pub mod keys;
pub mod memory;
mod outbox;
pub mod redis;
mod rooms;
mod shard;

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    connection::{Connection, ConnectionId, Instance, NodeId, Tally, UserId},
    ending::Ending,
};

use keys::{Shard, Shards};

pub use admission::{
    Admission, Ahead, Assertion, Bar, Grant, LimitPolicy, LoginId, RATE_WINDOW, UserLimit,
};
pub use calls::{CALL_KEPT, CLAIM_KEPT, Call, CallEnd, Calls, Claim};
pub use families::{Families, Family, FamilyToken, Rotation, TokenHash, Turn};
pub(crate) use fence::to_millisecond;
pub use fence::{
    Ban, EndOrder, EndTarget, Fence, Listed, MOST_EXCEPTIONS, Ordered, REVOCATION_KEPT,
    SESSION_KEPT, TOKEN_KEPT, TOKEN_MARGIN,
};
pub use outbox::{CLIENT_EVENT, Closed, Closing, Notification, NotificationId, Outbox, Pruned};
pub use rooms::{Lasting, Member, MembersPage, Room, RoomFilter, RoomTally, Rooms, RoomsPage};

/// One unbroken membership of one run of one node. Written `instance.epoch`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    /// The run of the process.
    pub instance: Instance,
    /// Starts at 1, and is one more each time the node has lost its lease.
    pub epoch: u64,
}

impl std::fmt::Display for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.instance, self.epoch)
    }
}

impl std::str::FromStr for Lease {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        text.rsplit_once('.')
            .and_then(|(instance, epoch)| {
                Some(Self {
                    instance: instance.into(),
                    epoch: epoch.parse().ok()?,
                })
            })
            .ok_or_else(|| RegistryError::Corrupt(format!("lease {text:?}")))
    }
}

/// What a node says of itself with each heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    #[serde(rename = "n")]
    pub node_id: NodeId,
    /// Its version of Switchboard.
    #[serde(rename = "v")]
    pub version: String,
    /// When it started.
    #[serde(rename = "s")]
    pub started_at: Timestamp,
    /// Its connections.
    #[serde(rename = "c")]
    pub connections: u64,
    /// Users with a connection on it.
    #[serde(rename = "u")]
    pub users: u64,
    /// Whether it is sending its clients away.
    #[serde(rename = "d", default)]
    pub draining: bool,
}

impl NodeReport {
    /// The node that reported this, at the time of that heartbeat.
    pub(crate) fn at(&self, heartbeat: Timestamp) -> Node {
        Node {
            node_id: self.node_id.clone(),
            version: self.version.clone(),
            started_at: self.started_at,
            last_heartbeat: heartbeat,
            connections: self.connections,
            users: self.users,
            draining: self.draining,
        }
    }
}

/// A live node, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub node_id: NodeId,
    /// Its version of Switchboard.
    pub version: String,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it was last heard of, by the registry's clock.
    #[schema(value_type = String, format = DateTime)]
    pub last_heartbeat: Timestamp,
    /// Its connections, as of that heartbeat.
    pub connections: u64,
    /// Users with a connection on it, as of that heartbeat.
    pub users: u64,
    /// Whether it is sending its clients away.
    pub draining: bool,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Whether the lease holds, and has been prolonged. If not, it is buried: the node joins anew.
    pub held: bool,
    /// The shards that do not have all entries of this lease: new to it, or lost since the last heartbeat. The node asserts its
    /// connections of these, and then says [`Registry::entered`].
    pub lacking: Vec<Shard>,
    /// The shards that were found just now to have lost what they held.
    pub emptied: Vec<Shard>,
    /// Whether any were, or the table of leases was.
    pub lost: bool,
    /// Leases that are for this node to reap.
    pub lapsed: Vec<Lease>,
    /// How many there are in the fleet: connections as their nodes last reported them. None if a shard could not be asked.
    pub totals: Option<Totals>,
    /// How soon the next heartbeat would see something more of the others; none: nothing.
    pub next: Option<Duration>,
}

/// What names an entry: its connection, and the user it is kept under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// The user; none for a guest.
    pub user: Option<UserId>,
    /// The connection.
    pub id: ConnectionId,
}

/// One user, as the registry knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserEntry {
    /// The user's live connections, in the order of their ids.
    pub connections: Vec<Connection>,
    /// When the user's last connection ended, while that is kept; none while the user is online.
    pub last_seen: Option<Timestamp>,
    /// Whether the user is kept out.
    pub banned: bool,
}

/// One user's presence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// The user's live connections and devices.
    pub tally: Tally,
    /// As in [`UserEntry::last_seen`].
    pub last_seen: Option<Timestamp>,
}

/// A page of the users that are online.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsersPage {
    /// Users, each once over all pages as long as it stays online.
    pub users: Vec<(UserId, Tally)>,
    /// Where the next page starts, or none if this is the last one. Opaque.
    pub next: Option<String>,
}

/// The cluster in three numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Live nodes.
    pub nodes: u64,
    /// Their connections, guests included.
    pub connections: u64,
    /// Users with at least one of them.
    pub users: u64,
}

/// A user, a connection or a room that nodes hold connections of: what a send is for, and what a node watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Those that hold a connection of a user.
    User(UserId),
    /// The one that holds a connection.
    Connection(ConnectionId),
    /// Those that hold a member of a room.
    Room(Room),
}

impl Recipient {
    /// Which of these shards the user, the connection or the room is in; none if the id is no id of a connection.
    pub fn shard(&self, shards: Shards) -> Option<Shard> {
        match self {
            Self::User(user) => Some(shards.of_user(user)),
            Self::Connection(id) => shards.of_id(id),
            Self::Room(room) => Some(shards.of_room(room)),
        }
    }
}

/// Why the registry can't answer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Redis is away, too slow, or refuses. What was asked for may or may not have happened.
    #[error("the registry is unavailable: {0}")]
    Unavailable(String),
    /// What Redis holds is not what Switchboard writes.
    #[error("the registry holds what it should not: {0}")]
    Corrupt(String),
    /// The caller's cursor is not one that [`UsersPage::next`] gave.
    #[error("the cursor is not one of this server's")]
    BadCursor,
}

/// The contract; see the module.
#[async_trait]
pub trait Registry: Families + Calls + Rooms + Outbox + 'static {
    /// The parts that the registry has.
    fn shards(&self) -> Shards;

    /// A new id for a connection of `user`. It carries routing hints, so ids that others made up are never registered.
    fn new_id(&self, user: Option<&UserId>) -> ConnectionId;

    /// Takes up a new lease. The node has none, or has lost the one before, which counts as buried from here on. False if this one
    /// is buried already, as an earlier call took it up in part: then the next epoch may be joined with.
    async fn join(&self, lease: &Lease, report: &NodeReport) -> Result<bool, RegistryError>;

    /// Renews the lease and the node's report, and hears of all others.
    async fn heartbeat(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<Heartbeat, RegistryError>;

    /// Writes anew what the node says of itself, for [`Registry::nodes`] to tell without waiting for its next heartbeat. Changes
    /// nothing if the lease is buried, and does not renew it.
    async fn report(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError>;

    /// The generation of a shard, as the last heartbeat saw it: what is asserted is asserted under that. None if none was seen.
    fn generation(&self, shard: Shard) -> Option<String>;

    /// All of the node's connections of a shard have been asserted under this lease and generation. Returns false, and notes
    /// nothing, if the shard has another one by now: it has lost its data since, and the next heartbeat says so.
    async fn entered(
        &self,
        lease: &Lease,
        shard: Shard,
        generation: &str,
    ) -> Result<bool, RegistryError>;

    /// Gives the lease up: whatever is left of its entries is gone, and the node is out of every answer.
    async fn leave(&self, lease: &Lease) -> Result<(), RegistryError>;

    /// Another node has left, with nobody on it: nothing of it is waited for.
    fn has_left(&self, node: &Instance);

    /// Buries a lease that has run out, and removes its entries. Returns how many entries this call removed. Does nothing to a
    /// lease that holds. What is ordered to end stays so: the node may come back.
    async fn reap(&self, lapsed: &Lease) -> Result<u64, RegistryError>;

    /// Makes a connection be there as it is given, unless something is held against it. One round trip. Unavailable, and nothing
    /// changed, where the shard has lost its data since the last heartbeat. Times are kept to the millisecond.
    ///
    /// A guest that turns out to be a user is asserted as a new connection, whose id is another, and then the guest is released.
    async fn assert(
        &self,
        lease: &Lease,
        assertion: &Assertion<'_>,
    ) -> Result<Admission, RegistryError>;

    /// Removes connections that have ended; those that are gone already count as removed.
    async fn close(&self, lease: &Lease, closed: &[Closed]) -> Result<(), RegistryError>;

    /// Removes connections of which nobody knows how they ended: [`Registry::close`], as [`Closing::lost`].
    async fn unregister(&self, lease: &Lease, entries: &[Entry]) -> Result<(), RegistryError> {
        let closed = entries.iter().map(|entry| Closed {
            entry: entry.clone(),
            closing: Closing::lost(),
        });
        self.close(lease, &closed.collect::<Vec<_>>()).await
    }

    /// Removes a connection whose client goes on as another one, unless it has been ordered to end: then it stays, and how it is to
    /// end is returned.
    async fn release(&self, lease: &Lease, entry: &Entry) -> Result<Option<Ending>, RegistryError>;

    /// Every entry of a lease in one shard: what a node compares with its own connections.
    async fn held(&self, lease: &Lease, shard: Shard) -> Result<Vec<Entry>, RegistryError>;

    /// A user's connections.
    async fn user(&self, user: &UserId) -> Result<UserEntry, RegistryError>;

    /// The presence of users, in the order asked for. One round trip.
    async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>, RegistryError>;

    /// Everybody online, guests left out, `limit` at a time (at least 1).
    async fn users(&self, cursor: Option<&str>, limit: usize) -> Result<UsersPage, RegistryError>;

    /// One connection.
    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>, RegistryError>;

    /// The live nodes, by name.
    async fn nodes(&self) -> Result<Vec<Node>, RegistryError>;

    /// The runs of the live nodes, as the last heartbeat knew them, the own among them. Never waits.
    fn known(&self) -> HashSet<Instance>;

    /// The cluster in three numbers, exact once every lease that has run out is reaped. Those that are for this node to reap are, as
    /// by [`Registry::reap`], and the log says so.
    async fn totals(&self) -> Result<Totals, RegistryError>;

    /// The live nodes that hold a connection that is meant, each once, the asker's own among them. Costs those connections, not
    /// the fleet.
    async fn holders(&self, recipient: &Recipient) -> Result<Vec<Instance>, RegistryError>;

    /// Orders the end of connections, in one go: puts up the fence, writes the order down as a fact, and lists the connections it means. The
    /// fact is kept for an hour, and holds for a connection from before it that comes back ([`Registry::assert`]), listed or
    /// not. Where the shard is not whole, or the lease of the node that asks has run out, fact and fence are written all the
    /// same, and the answer is unavailable.
    async fn order_end(&self, order: EndOrder<'_>) -> Result<Ordered, RegistryError>;

    /// Which of `entries`, which have been ordered to end, can't be said to have: those that are there, whatever their leases, and
    /// those that their own node has not taken out.
    async fn listed(&self, entries: &[Entry]) -> Result<Vec<Entry>, RegistryError>;

    /// Which of `connections` may not be there, and why: what a node asks for one before it does something that takes a right.
    /// [`Bar::TooMany`] and [`Bar::TooOften`] are not among the answers. No round trip for each, and no scan. The ids are not
    /// looked at.
    async fn standing(
        &self,
        connections: &[(Entry, Grant)],
    ) -> Result<Vec<(Entry, Bar)>, RegistryError>;

    /// A user's ban. Given by [`Registry::order_end`].
    async fn ban_of(&self, user: &UserId) -> Result<Option<Ban>, RegistryError>;

    /// Lifts a user's ban. Whether there was one.
    async fn unban(&self, user: &UserId) -> Result<bool, RegistryError>;

    /// Revokes one token by its `jti`, for whatever user, until it expires (and [`TOKEN_MARGIN`]); none: for [`TOKEN_KEPT`].
    /// Never shortens. When this answers, no connection is asserted by it any more; those that are there are for every node
    /// to find among its own, as no index leads to them.
    async fn revoke_token(
        &self,
        token_id: &str,
        until: Option<Timestamp>,
    ) -> Result<(), RegistryError>;

    /// Whether the last that was heard of the registry was good, as far as most of it goes. Reads a flag; never waits.
    fn is_up(&self) -> bool;

    /// The shards that can't be reached, by what was last heard. Never waits.
    fn away(&self) -> Vec<Shard>;

    /// Returns when something was seen that a heartbeat would clear up.
    async fn amiss(&self);
}
