//! The registry of a fleet, in Redis.
//!
//! # What is where
//!
//! [`super::keys`] lists the keys. The registry has [`Shard::COUNT`] shards, and a user is in the one that its id hashes to,
//! with all its connections; a guest is in any. A connection's id begins with its shard. So what concerns one user concerns
//! one shard, and one script does it.
//!
//! A shard's `conns` is an index: with all scores 0, a sorted set is in the order of its members, and members begin with
//! their user (`member.rs`). A user's connections are a range of it, and the pages of everybody online are successive ranges.
//! `n:<lease>` says which entries a lease has, and which user an id belongs to.
//!
//! What is held against a user, and the user's refresh families, are keys of that shard too, and `register` looks at them: so
//! an order to end that puts up a fence and a handshake come one after the other. The revocation of a single token says
//! nothing of its user, so it is in every shard.
//!
//! Whatever one command or script touches is in one slot of a Redis Cluster, and each shard may be on another server. Some
//! scripts learn from what they read which further keys they need (`rotate`, `close_family`): those are not among their KEYS,
//! but of the same shard.
//!
//! # Who is believed
//!
//! The `leases` of a shard say until when a node is believed there, by the clock of its server alone. Reading is two commands
//! sent at once: the leases, and the entries; those whose lease has run out are left out. Scripts that write for a user look
//! at `leases` themselves, in the same transaction. So a heartbeat goes to every shard, and to the nodes, the seventeenth
//! [`Place`](super::keys::Place): its cost grows with nodes, not with connections.
//!
//! A node whose own lease does not hold in a place is told nothing of it: the place may have lost more than that lease, and to
//! say that somebody is offline, or that nobody was there to be disconnected, would be a guess. Its next heartbeat mends it.
//!
//! A lease that holds nowhere is lost, and its node joins anew. One that holds somewhere, but has run out in a shard or is not
//! there any more (that shard's server was away, or came back without its data), is taken up again there, and the node then
//! compares what the registry holds with what it has.
//!
//! Either way others may have lost the same, and not know it yet. A node says in its report whether the registry has all of it
//! (`settled`); one that has found a loss reads all leases in all places, and those reports last, until it finds there whom it
//! waits for. So whoever takes a lease up again in a shard first writes a report that says otherwise.
//!
//! What can't be read is skipped and counted (`unreadable.rs`), so that one entry, lease, report or order fails no others:
//! another version may have written it. What is held against a user and can't be read is held against all of the user's.
//!
//! # Dying
//!
//! Any node reaps a lease that has run out among the nodes: shard by shard, a few hundred entries a script. That script first
//! closes the lease in its shard, or does nothing where it holds, so nothing is registered behind it, and a node that is still
//! there finds out with its next heartbeat. A removal matches the lease in the entry, so it leaves alone what has come back under the next one. Whatever was written under a lease after it was reaped
//! (its node slept, or Redis came back empty) is reaped when the node joins again: joining marks the lease before as run out.

mod families;
mod fences;
mod leases;
mod member;
mod orders;
mod reads;
mod scripts;
mod unreadable;
mod writes;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{
    Admission, Ban, Bar, EndOrder, Entry, Grant, Heartbeat, Lease, Node, NodeReport, Ordered,
    Presence, Registry, RegistryError, Settled, Totals, Updated, UserEntry, UserLimit, UsersPage,
    Whom,
    keys::{Keys, Shard},
};
use crate::{
    config,
    connection::{Connection, ConnectionId, Instance, UserId},
    ending::Ending,
    link::{Link, LinkError, Pool, Servers},
    metrics::Metrics,
};
use scripts::Scripts;
use unreadable::Unreadable;

/// How many entries one script removes at most. Redis serves nobody else meanwhile: 200 take it about 2 ms.
const CHUNK: usize = 200;

/// A handle; clones share the connections.
#[derive(Clone, Debug)]
pub struct RedisRegistry {
    /// For what a client or a backend waits for.
    link: Link,
    /// For what may be long.
    pool: Pool,
    keys: Keys,
    scripts: Arc<Scripts>,
    /// How long a heartbeat is believed.
    lease: Duration,
    /// How long `lastSeen` is kept.
    last_seen: Duration,
    /// The lease of the node whose handle this is, once it has joined; what it asks is answered only where that holds.
    own: Arc<Mutex<Option<Lease>>>,
    unreadable: Arc<Unreadable>,
    metrics: Metrics,
}

impl RedisRegistry {
    /// A registry in `servers`, which need not be there yet.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the servers' settings contradict themselves.
    pub fn new(
        servers: &Servers,
        timing: &config::RegistryTiming,
        presence: &config::Presence,
        metrics: Metrics,
    ) -> Result<Self, LinkError> {
        let link = Link::to_masters(servers, metrics.clone())?;
        Ok(Self {
            pool: Pool::new(link.clone()),
            link,
            keys: Keys::new(&timing.prefix),
            scripts: Arc::new(Scripts::new()),
            lease: timing.lease,
            last_seen: presence.last_seen,
            own: Arc::default(),
            unreadable: Arc::new(Unreadable::new(metrics.clone())),
            metrics,
        })
    }

    /// The own lease as scripts take it: empty for none.
    fn asker(&self) -> String {
        let own = self.own.lock();
        own.as_ref().map(Lease::to_string).unwrap_or_default()
    }

    /// Why nothing is answered where the own lease does not hold.
    fn not_believed(&self) -> RegistryError {
        RegistryError::Unavailable(format!("the lease {} has run out", self.asker()))
    }
}

impl From<LinkError> for RegistryError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Redis(error)
                if matches!(
                    error.kind(),
                    redis::ErrorKind::UnexpectedReturnType | redis::ErrorKind::Parse
                ) =>
            {
                Self::Corrupt(error.to_string())
            }
            error => Self::Unavailable(error.to_string()),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Registry for RedisRegistry {
    fn new_id(&self, user: Option<&UserId>) -> ConnectionId {
        Shard::new_id(user)
    }

    async fn join(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError> {
        self.join_lease(lease, report).await?;
        *self.own.lock() = Some(lease.clone());
        Ok(())
    }

    async fn heartbeat(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<Heartbeat, RegistryError> {
        self.prolong(lease, report).await
    }

    async fn report(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError> {
        self.write_report(lease, report).await
    }

    async fn resume(&self, lease: &Lease, report: &NodeReport) -> Result<(), RegistryError> {
        self.resume_lease(lease, report).await
    }

    async fn settled(&self) -> Result<Settled, RegistryError> {
        self.settled_nodes().await
    }

    async fn leave(&self, lease: &Lease) -> Result<(), RegistryError> {
        // Whoever has left asks like anybody from outside.
        self.own.lock().take_if(|own| own == lease);
        self.leave_lease(lease).await
    }

    async fn reap(&self, lapsed: &Lease) -> Result<u64, RegistryError> {
        self.reap_lease(lapsed).await
    }

    async fn register(
        &self,
        lease: &Lease,
        connection: &Connection,
        grant: &Grant,
        limit: Option<UserLimit>,
    ) -> Result<Admission, RegistryError> {
        self.add(lease, connection, grant, limit).await
    }

    async fn update(
        &self,
        lease: &Lease,
        connection: &Connection,
        grant: &Grant,
    ) -> Result<Updated, RegistryError> {
        self.replace(lease, connection, grant).await
    }

    async fn unregister(&self, lease: &Lease, entries: &[Entry]) -> Result<(), RegistryError> {
        self.remove_entries(lease, entries).await
    }

    async fn release(&self, lease: &Lease, entry: &Entry) -> Result<bool, RegistryError> {
        self.remove_unless_ordered(lease, entry).await
    }

    async fn held(&self, lease: &Lease) -> Result<Vec<Entry>, RegistryError> {
        self.held_by(lease).await
    }

    async fn user(&self, user: &UserId) -> Result<UserEntry, RegistryError> {
        self.read_user(user).await
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>, RegistryError> {
        self.read_presence(users).await
    }

    async fn users(&self, cursor: Option<&str>, limit: usize) -> Result<UsersPage, RegistryError> {
        self.read_users(cursor, limit.max(1)).await
    }

    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>, RegistryError> {
        self.read_connection(id).await
    }

    async fn nodes(&self) -> Result<Vec<Node>, RegistryError> {
        self.read_nodes().await
    }

    async fn totals(&self) -> Result<Totals, RegistryError> {
        self.count().await
    }

    async fn holders(&self, whom: &Whom) -> Result<Vec<Instance>, RegistryError> {
        self.read_holders(whom).await
    }

    async fn order_end(&self, order: EndOrder<'_>) -> Result<Ordered, RegistryError> {
        self.order(order).await
    }

    async fn orders(&self, entries: &[Entry]) -> Result<Vec<(Entry, Ending)>, RegistryError> {
        self.read_orders(entries).await
    }

    async fn standing(
        &self,
        connections: &[(Entry, Grant)],
    ) -> Result<Vec<(Entry, Bar)>, RegistryError> {
        self.read_standing(connections).await
    }

    async fn ban_of(&self, user: &UserId) -> Result<Option<Ban>, RegistryError> {
        self.read_ban(user).await
    }

    async fn unban(&self, user: &UserId) -> Result<bool, RegistryError> {
        self.lift_ban(user).await
    }

    async fn revoke_token(
        &self,
        token_id: &str,
        until: Option<Timestamp>,
    ) -> Result<(), RegistryError> {
        self.revoke_everywhere(token_id, until).await
    }

    fn is_up(&self) -> bool {
        self.link
            .is_up_for(Shard::places().map(|place| self.keys.slot(place)))
    }
}
