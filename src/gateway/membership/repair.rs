//! Keeping the registry true to this node: after a loss or a gap all at once, and slowly all the time.
//!
//! Both are the same: each connection is asserted, which puts back what is missing and carries out what was ordered meanwhile; and
//! what the registry has of this node and the node does not is removed.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::registrar::Registrar;
use crate::{
    config::RunningConfig,
    connection::ConnectionId,
    gateway::{
        connections::{LocalConnections, local::LocalConnection},
        lease::OwnLease,
    },
    metrics::Metrics,
    registry::{Entry, Lease, Member, Registry, RegistryError, Totals, keys::Shard},
};

/// How many connections a fleet puts back at once, all nodes together. Measured with 100,000 of one node: 6.0 s, and 10.2 s where all
/// are asked for together, as calls then wait for longer than their deadline and are made again.
const AT_ONCE: usize = 256;

/// How long it takes until each connection has been asserted once more, up to [`FEW`] connections in the fleet; with more,
/// accordingly longer, up to [`LONGEST`].
const ROUND: Duration = Duration::from_secs(50);
const FEW: u64 = 100_000;
const LONGEST: Duration = Duration::from_secs(500);

/// The connections that are to be asserted once more, in turn.
#[derive(Default)]
struct Rounds {
    queue: VecDeque<ConnectionId>,
    /// When what the registry has of this node was last looked through.
    begun: Option<Instant>,
    /// When some of them last were.
    last: Option<Instant>,
}

impl Rounds {
    /// Takes the connections that are to be asserted with this heartbeat, and whether a round begins, in which the registry's entries of
    /// this node are looked through; none if it comes too soon after the last one. When all have had their turn, it begins with the
    /// first again: with as many connections as a round has heartbeats or fewer, one is asserted with each. `here`: how many connections
    /// this node has; `all`: which they are.
    fn due(
        &mut self,
        now: Instant,
        round: Duration,
        heartbeat: Duration,
        here: usize,
        all: impl FnOnce() -> Vec<ConnectionId>,
    ) -> Option<(Vec<ConnectionId>, bool)> {
        let since = |time: Option<Instant>| time.map_or(Duration::MAX, |time| now - time);
        // Heartbeats that come sooner than they are due do not hurry it.
        if since(self.last) < heartbeat.mul_f64(0.8) {
            return None;
        }
        self.last = Some(now);
        let begins = since(self.begun) >= round;
        if begins {
            self.begun = self.last;
        }
        if self.queue.is_empty() {
            self.queue.extend(all());
        }
        let beats = round.as_secs_f64() / heartbeat.as_secs_f64();
        let share = (self.queue.len().max(here) as f64 / beats).ceil() as usize;
        let due = (0..share).map_while(|_| self.queue.pop_front()).collect();
        Some((due, begins))
    }
}

/// Makes the registry hold just this node's connections, and reaps what dead nodes have left.
pub(crate) struct Repairs {
    config: RunningConfig,
    metrics: Metrics,
    registry: Arc<dyn Registry>,
    lease: Arc<OwnLease>,
    connections: Arc<LocalConnections>,
    registrar: Arc<Registrar>,
    /// The shards that may not hold just this node's connections, or orders that this node has not seen.
    inexact: Mutex<BTreeSet<Shard>>,
    rounds: Mutex<Rounds>,
    /// The epoch under which this node's connections were last all in the registry.
    epoch: AtomicU64,
}

impl Repairs {
    /// Of a node that does not know yet what the registry has of it.
    pub(crate) fn new(
        config: RunningConfig,
        metrics: Metrics,
        registry: Arc<dyn Registry>,
        lease: Arc<OwnLease>,
        connections: Arc<LocalConnections>,
        registrar: Arc<Registrar>,
    ) -> Self {
        Self {
            config,
            metrics,
            inexact: Mutex::new(registry.shards().all().collect()),
            registry,
            lease,
            connections,
            registrar,
            rounds: Mutex::default(),
            epoch: AtomicU64::new(1),
        }
    }

    /// Asserts all connections of these shards after the next heartbeat: there may be losses, or orders that this node has not seen.
    pub(super) fn set_inexact(&self, shards: impl IntoIterator<Item = Shard>) {
        self.inexact.lock().extend(shards);
    }

    /// Makes the registry hold what it should: of this node, and of those that are gone. `totals`: of the fleet, if they are known.
    pub(super) async fn make_exact(
        &self,
        lapsed: &mut Vec<Lease>,
        totals: Option<Totals>,
    ) -> Result<(), RegistryError> {
        // Under a lease that nobody knows yet nothing is put in.
        let joined = self.lease.is_joined();
        let inexact = match joined {
            true => std::mem::take(&mut *self.inexact.lock()),
            false => BTreeSet::new(),
        };
        let epoch = self.lease.current().epoch;
        let failed = self.resync(inexact).await;
        if joined && failed.is_empty() && self.epoch.swap(epoch, Ordering::Relaxed) != epoch {
            self.tell_users_are_back();
        }
        let mut failure = failed.len();
        self.inexact.lock().extend(failed);
        let mut left = Vec::new();
        for lease in lapsed
            .drain(..)
            .filter(|lease| *lease != self.lease.current())
        {
            if let Err(error) = self.reap(&lease).await {
                tracing::debug!(%error, %lease, "can't be reaped yet");
                failure += 1;
                left.push(lease);
            }
        }
        *lapsed = left;
        if let Some(totals) = totals {
            self.metrics.cluster_users().set(totals.users as f64);
            self.metrics
                .cluster_connections()
                .set(totals.connections as f64);
        }
        let fleet = totals.map_or(self.connections.table.len() as u64, |it| it.connections);
        self.repair(fleet).await;
        match failure {
            0 => Ok(()),
            left => Err(RegistryError::Unavailable(format!(
                "{left} shards or leases are left to be seen to"
            ))),
        }
    }

    /// Others were told that this node was gone, and its users with it.
    fn tell_users_are_back(&self) {
        let registered = self.registered();
        let users: HashSet<_> = registered.iter().filter_map(|it| it.user()).collect();
        for user in users {
            self.connections.user_changed(user);
        }
    }

    async fn reap(&self, lapsed: &Lease) -> Result<(), RegistryError> {
        let connections = self.registry.reap(lapsed).await?;
        if connections > 0 {
            self.metrics.connections_reaped().increment(connections);
            tracing::warn!(lease = %lapsed, connections, "reaped a node that is gone");
        }
        Ok(())
    }

    /// Makes these shards hold just this node's connections. Returns those that could not be reached; there is the rest to do.
    async fn resync(&self, shards: BTreeSet<Shard>) -> BTreeSet<Shard> {
        // As of now: what is asserted under another lease or generation says nothing of these.
        let (lost, lease) = (self.lease.losses(), self.lease.current());
        let generations: HashMap<_, _> = shards
            .iter()
            .map(|shard| (*shard, self.registry.generation(*shard)))
            .collect();
        let departing = self.connections.table.departing();
        let mut failed = self.assert_all(self.registered(), &shards).await;
        let members = self.members();
        let exact: Vec<_> = shards.difference(&failed).copied().collect();
        let finishing = exact.into_iter().map(async |shard| {
            let generation = generations[&shard].as_deref();
            let members = members.get(&shard);
            let finished = self.finish(&lease, shard, generation, &departing, members);
            match timeout(self.config.now().registry.lease, finished).await {
                Ok(Ok(())) => {
                    self.lease.caught_up(shard, &lost);
                    return None;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, shard = shard.index(), "a shard can't be made exact yet");
                }
                Err(_) => tracing::debug!(shard = shard.index(), "somebody in a shard does not get closed"),
            }
            Some(shard)
        });
        failed.extend(join_all(finishing).await.into_iter().flatten());
        let done = shards.len() - failed.len();
        if done > 0 && self.connections.table.len() > 0 {
            tracing::info!(
                shards = done,
                connections = self.connections.table.len(),
                "the registry is exact again"
            );
        }
        failed
    }

    /// Asserts connections of these shards. Returns the shards of those that could not be.
    async fn assert_all(
        &self,
        connections: Vec<Arc<LocalConnection>>,
        shards: &BTreeSet<Shard>,
    ) -> BTreeSet<Shard> {
        let nodes = self.registry.known().len().max(1);
        let connections = connections.into_iter().filter_map(|connection| {
            let shard = self.registry.shards().of_id(&connection.id)?;
            shards.contains(&shard).then_some((shard, connection))
        });
        // To the end, also when one of them has failed: a call that is given up may be carried out all the same.
        let asserted = stream::iter(connections)
            .map(async |(shard, connection)| {
                self.registrar
                    .assert_again(&connection)
                    .await
                    .err()
                    .map(|error| (shard, error))
            })
            .buffer_unordered((AT_ONCE / nodes).max(16));
        let failed: HashMap<_, _> = asserted.filter_map(async |it| it).collect().await;
        for (shard, error) in &failed {
            tracing::debug!(%error, shard = shard.index(), "can't assert a connection yet");
        }
        failed.into_keys().collect()
    }

    /// All of this node's connections of a shard are asserted: removes what else it has, and says that it has all.
    async fn finish(
        &self,
        lease: &Lease,
        shard: Shard,
        generation: Option<&str>,
        departing: &[Arc<LocalConnection>],
        members: Option<&HashSet<Member>>,
    ) -> Result<(), RegistryError> {
        self.remove_stale(shard).await?;
        self.settle_rooms(shard, members, true).await?;
        // Those that depart are not put back, and nobody else knows that they are not closed yet.
        for connection in departing.iter().chain(&self.connections.table.departing()) {
            if self.registry.shards().of_id(&connection.id) == Some(shard) {
                connection.unregistered.wait().await;
            }
        }
        let entered = match generation {
            Some(generation) => self.registry.entered(lease, shard, generation).await?,
            None => false,
        };
        match entered {
            true => Ok(()),
            false => Err(RegistryError::Unavailable(
                "it was lost once more".to_owned(),
            )),
        }
    }

    /// Removes what the registry has of this node and the node does not.
    async fn remove_stale(&self, shard: Shard) -> Result<(), RegistryError> {
        let lease = self.lease.current();
        let mut stale: Vec<Entry> = self.registry.held(&lease, shard).await?;
        stale.retain(|entry| !self.connections.table.knows(&entry.id));
        if !stale.is_empty() {
            self.registry.unregister(&lease, &stale).await?;
        }
        Ok(())
    }

    /// Makes the registry have just this node's members in the rooms of a shard, of which these are `here`. `all`: it may have lost
    /// any; else it is told of those only that it does not have.
    async fn settle_rooms(
        &self,
        shard: Shard,
        here: Option<&HashSet<Member>>,
        all: bool,
    ) -> Result<(), RegistryError> {
        let mut doubts = here.cloned().unwrap_or_default();
        for joined in self.registry.joined(&self.lease.current(), shard).await? {
            if all || !doubts.remove(&joined) {
                doubts.insert(joined);
            }
        }
        self.connections.memberships.settle(doubts).await
    }

    /// Asserts the next few connections, and now and then looks for what is stale: for losses that nobody has seen.
    async fn repair(&self, fleet: u64) {
        let round = ROUND
            .mul_f64((fleet as f64 / FEW as f64).max(1.0))
            .min(LONGEST)
            .max(self.config.now().registry.heartbeat);
        let heartbeat = self.config.now().registry.heartbeat;
        let registered = || {
            let connections = self.registered();
            connections
                .into_iter()
                .map(|connection| connection.id.clone())
                .collect()
        };
        let due = self.rounds.lock().due(
            Instant::now(),
            round,
            heartbeat,
            self.connections.table.len(),
            registered,
        );
        let Some((due, begins)) = due else {
            return;
        };
        let due = due
            .iter()
            .filter_map(|id| self.connections.table.get(id))
            .collect();
        let all = self.registry.shards().all().collect();
        let mut failed = self.assert_all(due, &all).await;
        if begins {
            let members = self.members();
            for shard in self.registry.shards().all() {
                let looked = async {
                    self.remove_stale(shard).await?;
                    self.settle_rooms(shard, members.get(&shard), false).await
                };
                if let Err(error) = looked.await {
                    tracing::debug!(%error, shard = shard.index(), "what is stale");
                    failed.insert(shard);
                }
            }
        }
    }

    /// What this node's connections are in, by the shards of the rooms.
    fn members(&self) -> HashMap<Shard, HashSet<Member>> {
        let shards = self.registry.shards();
        let mut members: HashMap<_, HashSet<_>> = HashMap::new();
        for connection in self.registered() {
            for member in connection.memberships() {
                let shard = shards.of_room(&member.room);
                members.entry(shard).or_default().insert(member);
            }
        }
        members
    }

    /// This node's connections that the registry has been told of.
    fn registered(&self) -> Vec<Arc<LocalConnection>> {
        let mut connections = self.connections.table.all();
        connections.retain(|connection| connection.is_registered());
        connections
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ROUND_HERE: Duration = Duration::from_secs(50);
    const HEARTBEAT: Duration = Duration::from_secs(5);

    /// What each of so many heartbeats asserts, on a node with these connections, and whether a round begins with it.
    fn beats(ids: usize, count: usize) -> Vec<(usize, bool)> {
        let ids: Vec<ConnectionId> = (0..ids).map(|id| id.to_string().into()).collect();
        let (mut repair, mut told) = (Rounds::default(), Vec::new());
        let mut now = Instant::now();
        for _ in 0..count {
            let due = repair.due(now, ROUND_HERE, HEARTBEAT, ids.len(), || ids.clone());
            let (due, begins) = due.unwrap();
            told.push((due.len(), begins));
            let sooner = repair.due(now, ROUND_HERE, HEARTBEAT, ids.len(), Vec::new);
            assert_eq!(sooner, None);
            now += HEARTBEAT;
        }
        told
    }

    #[test]
    fn a_round_begins_once_in_its_time_and_each_connection_has_its_turn_in_it() {
        for (ids, each) in [(0, 0), (1, 1), (3, 1), (10, 1), (100, 10)] {
            let told = beats(ids, 30);
            let begins: Vec<_> = (0..30).filter(|beat| told[*beat].1).collect();
            assert_eq!(begins, [0, 10, 20], "{ids}");
            assert!(told.iter().all(|(due, _)| *due == each), "{ids}: {told:?}");
        }
    }

    /// It waits for those that have their turn before it, and for no round to end.
    #[test]
    fn a_newcomer_has_its_turn_with_the_next_heartbeats() {
        let ids: Vec<ConnectionId> = ["a", "b"].map(Into::into).into();
        let (mut repair, mut now) = (Rounds::default(), Instant::now());
        let mut beat = |ids: &[ConnectionId]| {
            now += HEARTBEAT;
            let due = repair.due(now, ROUND_HERE, HEARTBEAT, ids.len(), || ids.to_vec());
            due.unwrap().0
        };
        assert_eq!(beat(&[]), []);
        assert_eq!(beat(&ids[..1]), ids[..1]);
        assert_eq!(beat(&ids), ids[..1]);
        assert_eq!(beat(&ids), ids[1..]);
    }
}
