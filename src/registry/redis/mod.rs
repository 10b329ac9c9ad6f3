//! The registry of a fleet, in Redis.
//!
//! # What is where
//!
//! [`super::keys`] lists the keys. The registry has `registry.shards` shards, and a user is in the one that its id hashes to,
//! with all its connections; a guest is in any. A connection's id begins with its shard. So what concerns one user concerns
//! one shard, and one script does it.
//!
//! A shard's `conns` is an index: with all scores 0, a sorted set is in the order of its members, and members begin with
//! their user (`member.rs`). A user's connections are a range of it, and the pages of everybody online are successive ranges.
//! `n:<lease>` says which entries a lease has, and which user an id belongs to.
//!
//! What is held against a user, and the user's refresh families, are keys of that shard too, and `assert` looks at them: so
//! an order to end that puts up a fence and a handshake come one after the other. The revocation of a single token says
//! nothing of its user, so it is in every shard.
//!
//! Whatever one command or script touches is in one slot of a Redis Cluster, and each shard may be on another server. Some
//! scripts learn from what they read which further keys they need (`rotate`, `close_family`, `assert`): those are not among their
//! KEYS, but of the same shard.
//!
//! # Who is believed
//!
//! Every node knows who lives (`leases.rs`), so shards know nothing of leases: a read is a plain command, and entries whose lease
//! does not hold are left out here. And a shard says itself whether it is whole (`whole.rs`): its generation is read behind the
//! data, in the same pipeline. `known.rs` is what a handle remembers of both.
//!
//! What can't be read is skipped and counted (`unreadable.rs`), so that one entry, lease or order fails no others: another version
//! may have written it. What is held against a user and can't be read is held against all of the user's.
//!
//! # Dying
//!
//! A lease that has run out is buried, for good, and then reaped: shard by shard, a few hundred entries a script. A removal matches
//! the lease in the entry, so it leaves alone what has come back under the next one. What was still written under a lease after it
//! was reaped is reaped when its node joins again: joining buries the lease before once more.

mod calls;
mod carry;
mod families;
mod fences;
mod known;
mod lasting;
mod leases;
mod member;
mod orders;
mod outbox;
mod reads;
mod rooms;
mod schema;
mod scripts;
mod shards;
mod strangers;
mod table;
mod unreadable;
mod whole;
mod writes;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

use jiff::Timestamp;
use parking_lot::Mutex;

use tokio::sync::Notify;

use super::{
    Admission, Assertion, Ban, Bar, Closed, EndOrder, Entry, Grant, Heartbeat, Lease, Node,
    NodeReport, Ordered, Presence, Recipient, Registry, RegistryError, Totals, UserEntry,
    UsersPage,
    keys::{Keys, Shard, Shards},
};
use crate::{
    config::{self, RunningConfig},
    connection::{Connection, ConnectionId, Instance, UserId},
    ending::Ending,
    link::{Link, LinkError, Servers, Slot},
    metrics::Metrics,
};
use carry::Carry;
use known::Known;
use leases::LATE;
use schema::Agreement;
use scripts::Scripts;
use strangers::Walk;

use unreadable::Unreadable;
use whole::Looks;

/// How many entries one script removes at most. Redis serves nobody else meanwhile: 200 take it about 2 ms.
const CHUNK: usize = 200;

/// A handle; clones share the connections.
#[derive(Clone, Debug)]
pub struct RedisRegistry {
    /// For what a client or a backend waits for.
    link: Link,
    /// For what may be long.
    pool: Link,
    keys: Keys,
    shards: Shards,
    scripts: Arc<Scripts>,
    /// The copies of the table of leases.
    tables: Arc<[(Slot, String)]>,
    /// How often nodes send heartbeats.
    heartbeat: Duration,
    /// How long a heartbeat is believed.
    lease: Duration,
    /// How long `lastSeen` is kept.
    last_seen: Duration,
    /// Says which backends are told of what; none: nobody is told of anything.
    config: Option<RunningConfig>,
    /// What is known without asking.
    known: Arc<Mutex<Known>>,
    /// The looks at the shards that are not known to be whole.
    looks: Arc<[Looks]>,
    /// How far the shards are walked through for entries and members of nobody.
    walk: Arc<Walk>,
    /// Something was seen that a heartbeat would clear up.
    amiss: Arc<Notify>,
    unreadable: Arc<Unreadable>,
    /// How far what the first layout holds is carried over.
    carry: Arc<Carry>,
    /// What the fleet has agreed on.
    schema: Arc<Agreement>,
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
        let (keys, shards) = (Keys::new(&timing.prefix), timing.shards);
        let tables = keys.tables(servers.is_cluster());
        Ok(Self {
            pool: link.pooled(),
            link,
            keys,
            shards,
            scripts: Arc::new(Scripts::new()),
            known: Arc::new(Mutex::new(Known::new(tables.len(), shards))),
            looks: shards.all().map(|_| Looks::default()).collect(),
            walk: Arc::new(Walk::new(shards)),
            tables: tables.into(),
            heartbeat: timing.heartbeat,
            lease: timing.lease,
            last_seen: presence.last_seen,
            config: None,
            amiss: Arc::default(),
            unreadable: Arc::new(Unreadable::new(metrics.clone())),
            carry: Arc::new(Carry::new(shards)),
            schema: Arc::new(Agreement::new(schema::SPOKEN, shards)),
            metrics,
        })
    }

    /// Tells the backends of a configuration what happens.
    pub fn telling(mut self, config: RunningConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// The handle of a node that speaks another level than this version does: for tests of rolling upgrades.
    pub fn speaking(mut self, level: u32) -> Self {
        self.schema = Arc::new(Agreement::new(level, self.shards));
        self
    }

    /// The level at which nodes write, as this one has last heard: a format that not every node can read is written from its level on.
    pub fn level(&self) -> u32 {
        self.schema.level()
    }

    /// For how long a lease is late before it is buried.
    fn patience(&self) -> Duration {
        LATE.min(self.heartbeat)
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
    fn shards(&self) -> Shards {
        self.shards
    }

    fn new_id(&self, user: Option<&UserId>) -> ConnectionId {
        let known = self.known.lock();
        self.shards
            .new_id(user, known.own().map(|own| &own.instance))
    }

    async fn join(&self, lease: &Lease, report: &NodeReport) -> Result<bool, RegistryError> {
        self.join_lease(lease, report).await
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

    fn generation(&self, shard: Shard) -> Option<String> {
        self.known.lock().generation(shard)
    }

    async fn entered(
        &self,
        lease: &Lease,
        shard: Shard,
        generation: &str,
    ) -> Result<bool, RegistryError> {
        self.mark_entered(lease, shard, generation).await
    }

    async fn leave(&self, lease: &Lease) -> Result<(), RegistryError> {
        self.known.lock().leave(lease);
        self.leave_lease(lease).await
    }

    fn has_left(&self, node: &Instance) {
        self.known.lock().has_left(node);
    }

    async fn reap(&self, lapsed: &Lease) -> Result<u64, RegistryError> {
        self.reap_lease(lapsed).await
    }

    async fn assert(
        &self,
        lease: &Lease,
        assertion: &Assertion<'_>,
    ) -> Result<Admission, RegistryError> {
        self.put(lease, assertion).await
    }

    async fn close(&self, lease: &Lease, closed: &[Closed]) -> Result<(), RegistryError> {
        self.remove_entries(lease, closed).await
    }

    async fn release(&self, lease: &Lease, entry: &Entry) -> Result<Option<Ending>, RegistryError> {
        self.remove_unless_ordered(lease, entry).await
    }

    async fn held(&self, lease: &Lease, shard: Shard) -> Result<Vec<Entry>, RegistryError> {
        self.held_by(lease, shard).await
    }

    async fn user(&self, user: &UserId) -> Result<UserEntry, RegistryError> {
        let shard = self.shards.of_user(user);
        let empty = |found: &UserEntry| found.connections.is_empty().then_some(shard);
        self.surely(|| self.read_user(user), empty).await
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>, RegistryError> {
        let empty = |found: &Vec<Presence>| {
            let found = users.iter().zip(found);
            let offline = found.filter(|(_, presence)| presence.tally.connections == 0);
            BTreeSet::from_iter(offline.map(|(user, _)| self.shards.of_user(user)))
        };
        self.surely(|| self.read_presence(users), empty).await
    }

    async fn users(&self, cursor: Option<&str>, limit: usize) -> Result<UsersPage, RegistryError> {
        self.read_users(cursor, limit.max(1)).await
    }

    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>, RegistryError> {
        let shard = self.shards.of_id(id);
        let empty = |found: &Option<_>| shard.filter(|_| found.is_none());
        self.surely(|| self.read_connection(id), empty).await
    }

    async fn nodes(&self) -> Result<Vec<Node>, RegistryError> {
        self.read_nodes().await
    }

    fn known(&self) -> HashSet<Instance> {
        self.known.lock().instances()
    }

    async fn totals(&self) -> Result<Totals, RegistryError> {
        self.count().await
    }

    async fn holders(&self, recipient: &Recipient) -> Result<Vec<Instance>, RegistryError> {
        let shard = recipient.shard(self.shards);
        let empty = |found: &Vec<_>| shard.filter(|_| found.is_empty());
        self.surely(|| self.read_holders(recipient), empty).await
    }

    async fn order_end(&self, order: EndOrder<'_>) -> Result<Ordered, RegistryError> {
        let shard = order.target.shard(self.shards);
        let empty = |found: &Ordered| shard.filter(|_| found.connections.is_empty());
        self.surely(|| self.order(order), empty).await
    }

    async fn listed(&self, entries: &[Entry]) -> Result<Vec<Entry>, RegistryError> {
        self.read_listed(entries).await
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
        let hears = |slot| self.link.is_up_for(std::iter::once(slot));
        let tables = self.tables.iter().filter(|(slot, _)| hears(*slot)).count();
        tables > self.tables.len() / 2 && 2 * self.away().len() < self.shards.count()
    }

    fn away(&self) -> Vec<Shard> {
        let mut away: Vec<_> = self.shards.all().collect();
        away.retain(|shard| {
            let slot = self.keys.slot_of(*shard);
            !self.link.is_up_for(std::iter::once(slot))
        });
        away
    }

    async fn amiss(&self) {
        self.amiss.notified().await;
    }
}
