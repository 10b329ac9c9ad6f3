//! Who is connected, and where.
//!
//! The registry is the cluster's one memory: a connection is in it from before its client hears `ready` until it is gone.
//! Two homes keep the same contract, [`memory`] for a node that runs alone and [`redis`] for a fleet; one conformance
//! suite (`tests/registry_contract`) holds both to it.
//!
//! # The contract
//!
//! - A node holds a [`Lease`], renewed by [`Registry::heartbeat`], and every entry belongs to a lease. An entry whose lease
//!   has run out is left out of every answer at once, whether or not anybody has reaped it yet.
//! - A lease that has run out never comes back: the node joins with the next epoch and registers its connections anew.
//!   Whoever reaps the old epoch can therefore not hit the new entries.
//! - A handle that a node has joined through answers that node only. Where its own lease does not hold, it neither says who is
//!   there nor confirms that an order was given, but is unavailable: the registry may have lost what else it held, too. Handles
//!   that nobody joined through, or whose node has left, answer as anybody would be.
//! - Every write can be repeated: a call that timed out may have happened, and is made again.
//! - `register`, `update` and `order_end` of one user have one order. Whoever registered before the order is in its list;
//!   whoever comes after it meets the fence that was put up with it. Nobody is neither.
//! - What is held against a user (bans, revocations, ended sessions) is so by the registry's clock, on every node, and
//!   outlives them all.
//! - Reads never ask another node, and never scan: each costs what its answer weighs, plus the number of nodes.

mod admission;
mod cursor;
mod families;
mod fence;
pub mod keys;
pub mod memory;
pub mod redis;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    connection::{Connection, ConnectionId, Instance, NodeId, Tally, UserId},
    ending::Ending,
};

pub use admission::{
    Admission, Bar, Grant, LimitPolicy, RATE_WINDOW, SessionId, Updated, UserLimit,
};
pub use families::{Families, Family, FamilyToken, Rotation, TokenHash, Turn};
pub use fence::{
    Ban, EndOrder, EndTarget, Fence, Listed, Ordered, REVOCATION_KEPT, SESSION_KEPT, TOKEN_KEPT,
    TOKEN_MARGIN,
};

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
    pub node_id: NodeId,
    /// Its version of Switchboard.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Its connections.
    pub connections: u64,
    /// Users with a connection on it.
    pub users: u64,
    /// Whether it is sending its clients away.
    pub draining: bool,
    /// Whether the registry holds all that it should of this node. Not while the node puts back what was lost with its lease.
    #[serde(default = "settled")]
    pub settled: bool,
}

/// The nodes whose leases hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Those whose leases hold in every part of the registry, and who say that they are settled.
    pub wholly: Vec<Instance>,
    /// The others: they are at it.
    pub partly: Vec<Instance>,
}

/// A node that says nothing of it.
fn settled() -> bool {
    true
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
    /// Whether the lease still held, and has been prolonged. If not, nothing was changed: the node joins anew.
    pub held: bool,
    /// Whether it held in a part of the registry only. Entries may be missing in the rest: the node lets the lease
    /// [`Registry::resume`] there, and compares what is [`Registry::held`] with its own.
    pub partly: bool,
    /// The leases that hold as of now, where the nodes are listed.
    pub holding: Vec<Lease>,
    /// Leases that have run out and are not reaped yet. Any node may reap them; the first one to ask does.
    pub lapsed: Vec<Lease>,
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

/// Whose nodes are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Those that hold a connection of a user.
    User(UserId),
    /// The one that holds a connection.
    Connection(Entry),
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
pub trait Registry: Families + 'static {
    /// A new id for a connection of `user`. It may carry a routing hint, so ids that others made up are never registered.
    fn new_id(&self, user: Option<&UserId>) -> ConnectionId;

    /// Takes up a new lease. The node has none, or has lost the one before, which counts as run out from here on.
    async fn join(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError>;

    /// Prolongs the lease and renews the node's report.
    async fn heartbeat(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<Heartbeat, RegistryError>;

    /// Writes anew what the node says of itself, for [`Registry::nodes`] to tell without waiting for its next heartbeat. Changes
    /// nothing if the lease does not hold, and does not prolong it.
    async fn report(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError>;

    /// Takes a lease up again where it has run out or was lost, as it holds elsewhere. The report is there first: where it says
    /// that the node is not settled, nobody takes it for settled once its lease is everywhere.
    async fn resume(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError>;

    /// Which nodes are there, and of which of them the registry holds all. Answers also a node whose own lease does not hold.
    async fn settled(&self) -> Result<Settled, RegistryError>;

    /// Gives the lease up: whatever is left of its entries is gone, and the node is out of every answer.
    async fn leave(&self, lease: &Lease) -> Result<(), RegistryError>;

    /// Removes the entries of a lease that has run out, and the lease. Returns how many entries this call removed: each
    /// is removed by one node only. Does nothing to a lease that still holds. Orders to end stay: the node may come back.
    async fn reap(&self, lapsed: &Lease) -> Result<u64, RegistryError>;

    /// Adds a connection, or puts it back as it is now, unless something is held against its user or grant. One round trip.
    /// Unavailable, and nothing added, if the lease does not hold. Times are kept to the millisecond.
    ///
    /// An id that is there already is not counted twice, and not refused for its number. (It counts as a newcomer each time.) One that was let in before and is not
    /// there any more, as its node had lost its lease, is registered without a limit.
    ///
    /// A guest that turns out to be a user is registered as a new connection, whose id is another, and then the guest is
    /// released.
    async fn register(
        &self,
        lease: &Lease,
        connection: &Connection,
        grant: &Grant,
        limit: Option<UserLimit>,
    ) -> Result<Admission, RegistryError>;

    /// Writes a connection anew (another transport, a refreshed token) if it is there and its grant holds.
    async fn update(
        &self,
        lease: &Lease,
        connection: &Connection,
        grant: &Grant,
    ) -> Result<Updated, RegistryError>;

    /// Removes connections; those that are gone already count as removed.
    async fn unregister(&self, lease: &Lease, entries: &[Entry]) -> Result<(), RegistryError>;

    /// Removes a connection whose client goes on as another one, unless it has been ordered to end. Returns whether this lease has it
    /// no longer.
    async fn release(&self, lease: &Lease, entry: &Entry) -> Result<bool, RegistryError>;

    /// Every entry of a lease: what a node compares with its own connections after it lost sight of the registry.
    async fn held(&self, lease: &Lease) -> Result<Vec<Entry>, RegistryError>;

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

    /// The cluster in three numbers. Reaps what is in the way of an exact count, as [`Registry::reap`] does, and says so in the
    /// log.
    async fn totals(&self) -> Result<Totals, RegistryError>;

    /// The live nodes that hold a connection that is meant, each once and in the order of their names. The node that asks is
    /// among them if it holds one: who is online is the registry's to say, and only the asker knows which of the answers is
    /// itself.
    async fn holders(&self, whom: &Whom) -> Result<Vec<Instance>, RegistryError>;

    /// Orders the end of connections, in one go: puts up the fence, lists them, and writes the order down for each, so that a
    /// node that is never told finds it with [`Registry::orders`]. Telling the nodes is the caller's. An order is forgotten when
    /// its connection is unregistered, and after an hour. It is also written for entries whose lease has run out, in case their
    /// node comes back with them; those are not in the list.
    async fn order_end(&self, order: EndOrder<'_>) -> Result<Ordered, RegistryError>;

    /// Which of `entries` have been ordered to end, and how.
    async fn orders(&self, entries: &[Entry]) -> Result<Vec<(Entry, Ending)>, RegistryError>;

    /// Which of `connections` may not be there, and why: what a node asks for its own after it lost sight of the registry, and
    /// for one before it does something that takes a right. [`Bar::TooMany`] and [`Bar::TooOften`] are not among the answers. No
    /// round trip for each, and no scan. The ids are not looked at.
    async fn standing(
        &self,
        connections: &[(Entry, Grant)],
    ) -> Result<Vec<(Entry, Bar)>, RegistryError>;

    /// A user's ban. Given by [`Registry::order_end`].
    async fn ban_of(&self, user: &UserId) -> Result<Option<Ban>, RegistryError>;

    /// Lifts a user's ban. Whether there was one.
    async fn unban(&self, user: &UserId) -> Result<bool, RegistryError>;

    /// Revokes one token by its `jti`, for whatever user, until it expires (and [`TOKEN_MARGIN`]); none: for [`TOKEN_KEPT`].
    /// Never shortens. When this answers, no connection is registered by it any more; those that are there are for every node
    /// to find among its own, as no index leads to them.
    async fn revoke_token(
        &self,
        token_id: &str,
        until: Option<Timestamp>,
    ) -> Result<(), RegistryError>;

    /// Whether the last that was heard of the registry was good. Reads a flag; never waits.
    fn is_up(&self) -> bool;
}
