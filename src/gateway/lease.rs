//! What a node knows of its own lease: whether it holds, and in which shards what was ordered while it did not is carried out.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    config::RunningConfig,
    connection::Instance,
    registry::{
        Lease, RegistryError,
        keys::{Shard, Shards},
    },
};

/// How often each shard has been lost to this node: with its lease, or with its data.
pub(super) type Losses = Vec<u64>;

/// What this node knows of its lease.
struct LeaseState {
    lease: Lease,
    joined: bool,
    /// When the last heartbeat that was confirmed had been sent: the lease runs from there at the latest.
    renewed: Option<Instant>,
    lost: Losses,
    /// After how many of these the orders of the meantime have been carried out.
    caught_up: Losses,
}

impl LeaseState {
    /// Of a node that has not joined a registry with these shards.
    fn new(instance: Instance, shards: Shards) -> Self {
        Self {
            lease: Lease { instance, epoch: 1 },
            joined: false,
            renewed: None,
            lost: vec![0; shards.count()],
            caught_up: vec![0; shards.count()],
        }
    }

    /// Whether a lease of this length holds.
    fn holds(&self, lease: Duration) -> bool {
        let renewed = self.renewed;
        self.joined && renewed.is_some_and(|renewed| renewed.elapsed() < lease)
    }

    fn lose_all(&mut self) {
        for lost in &mut self.lost {
            *lost += 1;
        }
    }
}

/// This node's lease, and what the node may answer for while it holds it.
pub(crate) struct OwnLease {
    config: RunningConfig,
    shards: Shards,
    state: Mutex<LeaseState>,
}

impl OwnLease {
    /// The first lease of a run of the node; not joined. `shards` are the registry's.
    pub(super) fn new(instance: Instance, shards: Shards, config: RunningConfig) -> Self {
        Self {
            config,
            shards,
            state: Mutex::new(LeaseState::new(instance, shards)),
        }
    }

    /// The registry's shards.
    pub(crate) fn shards(&self) -> Shards {
        self.shards
    }

    /// The lease that the node goes by now; it may be over.
    pub(super) fn current(&self) -> Lease {
        self.state.lock().lease.clone()
    }

    /// Whether the registry has been told of it.
    pub(super) fn is_joined(&self) -> bool {
        self.state.lock().joined
    }

    /// The registry has taken it up.
    pub(super) fn set_joined(&self) {
        self.state.lock().joined = true;
    }

    /// The lease is about to be given up.
    pub(super) fn set_left(&self) {
        self.state.lock().joined = false;
    }

    /// The lease is buried: the next one is another.
    pub(super) fn next_epoch(&self) {
        let mut state = self.state.lock();
        state.lease.epoch += 1;
        state.joined = false;
        state.renewed = None;
        state.lose_all();
    }

    /// A heartbeat has been confirmed. Returns whether the lease had been over before.
    pub(super) fn renewed(&self, sent: Instant) -> bool {
        let mut state = self.state.lock();
        let was_over = !state.holds(self.config.now().registry.lease) && state.renewed.is_some();
        if was_over {
            state.lose_all();
        }
        state.renewed = Some(sent);
        was_over
    }

    /// These shards have lost what this node had put in.
    pub(super) fn lose(&self, shards: &[Shard]) {
        let mut state = self.state.lock();
        for shard in shards {
            state.lost[shard.index()] += 1;
        }
    }

    /// How often each shard has been lost.
    pub(super) fn losses(&self) -> Losses {
        self.state.lock().lost.clone()
    }

    /// The orders for a shard are carried out that were given while it was lost for so many times, and before. Not if the lease has
    /// run out meanwhile: then there may be more.
    pub(super) fn caught_up(&self, shard: Shard, lost: &Losses) {
        let mut state = self.state.lock();
        if state.holds(self.config.now().registry.lease) {
            state.caught_up[shard.index()] = lost[shard.index()];
        }
    }

    /// Whether this node has ever caught up with each shard, but for those that are away: before that it vouches for nobody in it.
    pub(super) fn has_caught_up(&self, away: &[Shard]) -> bool {
        let state = self.state.lock();
        let has = |shard: &Shard| state.caught_up[shard.index()] > 0;
        let (mut there, mut all) = (self.shards.all(), self.shards.all());
        there.any(|shard| has(&shard)) && all.all(|shard| has(&shard) || away.contains(&shard))
    }

    /// Whether others still believe in this node.
    pub(super) fn holds(&self) -> bool {
        self.state.lock().holds(self.config.now().registry.lease)
    }

    /// Refuses what this node can't answer for, of users in a shard, or for none of all of them: while its lease is over the registry
    /// says of its connections that they are gone, and they are here; and until it has caught up, it may not know which connections
    /// others have ordered to end. So it neither tells who is online, nor confirms an end, nor takes or delivers what is said.
    pub(super) fn vouch(&self, shard: Option<Shard>) -> Result<(), RegistryError> {
        let state = self.state.lock();
        let current = |shard: usize| state.caught_up[shard] == state.lost[shard];
        let current = match shard {
            Some(shard) => current(shard.index()),
            None => (0..state.lost.len()).any(current),
        };
        match state.holds(self.config.now().registry.lease) && current {
            true => Ok(()),
            false => Err(RegistryError::Unavailable(
                "this node has no lease, or has just got it back".to_owned(),
            )),
        }
    }

    /// Asks the registry for what this node vouches for, before the question and after the answer: of what was lost in between
    /// the answer may know nothing.
    pub(super) async fn vouched<T>(
        &self,
        shard: Option<Shard>,
        answer: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        self.vouch(shard)?;
        let answer = answer.await?;
        self.vouch(shard)?;
        Ok(answer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn it_has_caught_up_once_it_has_with_each_shard_that_is_not_away() {
        let shards = Shards::try_from(2).unwrap();
        let [one, other] = Vec::from_iter(shards.all()).try_into().unwrap();
        let config = RunningConfig::new(Config::default());
        let lease = OwnLease::new(Instance::random(), shards, config);
        lease.set_joined();
        lease.renewed(Instant::now());
        lease.lose(&[one, other]);
        let lost = lease.losses();
        assert!(!lease.has_caught_up(&[one, other]), "with none");
        lease.caught_up(one, &lost);
        assert!(!lease.has_caught_up(&[]));
        assert!(lease.has_caught_up(&[other]));
        lease.caught_up(other, &lost);
        assert!(lease.has_caught_up(&[]));
    }
}
