//! What a node knows of its own lease: whether it holds, and in which shards what was ordered while it did not is carried out.

use std::time::Duration;

use tokio::time::Instant;

use crate::gateway::Inner;
use crate::{
    connection::Instance,
    registry::{Lease, RegistryError, keys::Shard},
};

/// How often each shard has been lost to this node: with its lease, or with its data.
pub(super) type Losses = [u64; Shard::COUNT as usize];

/// What this node knows of its lease.
pub(super) struct LeaseState {
    lease: Lease,
    joined: bool,
    /// When the last heartbeat that was confirmed had been sent: the lease runs from there at the latest.
    renewed: Option<Instant>,
    lost: Losses,
    /// After how many of these the orders of the meantime have been carried out.
    caught_up: Losses,
}

impl LeaseState {
    /// Of a node that has not joined.
    pub(super) fn new(instance: Instance) -> Self {
        Self {
            lease: Lease { instance, epoch: 1 },
            joined: false,
            renewed: None,
            lost: Losses::default(),
            caught_up: Losses::default(),
        }
    }

    /// Whether a lease of this length holds.
    fn holds(&self, lease: Duration) -> bool {
        let renewed = self.renewed;
        self.joined && renewed.is_some_and(|renewed| renewed.elapsed() < lease)
    }

    fn lose(&mut self) {
        for lost in &mut self.lost {
            *lost += 1;
        }
    }
}

impl Inner {
    pub(super) fn lease(&self) -> Lease {
        self.membership.lock().lease.clone()
    }

    pub(super) fn joined(&self) -> bool {
        self.membership.lock().joined
    }

    pub(super) fn set_joined(&self) {
        self.membership.lock().joined = true;
    }

    /// The lease is about to be given up.
    pub(super) fn set_left(&self) {
        self.membership.lock().joined = false;
    }

    /// The lease is buried: the next one is another.
    pub(super) fn next_epoch(&self) {
        let mut membership = self.membership.lock();
        membership.lease.epoch += 1;
        membership.joined = false;
        membership.renewed = None;
        membership.lose();
    }

    /// A heartbeat has been confirmed. Returns whether the lease had been over before.
    pub(super) fn renewed(&self, sent: Instant) -> bool {
        let mut membership = self.membership.lock();
        let was_over =
            !membership.holds(self.config().registry.lease) && membership.renewed.is_some();
        if was_over {
            membership.lose();
        }
        membership.renewed = Some(sent);
        was_over
    }

    /// These shards have lost what this node had put in.
    pub(super) fn lost(&self, shards: &[Shard]) {
        let mut membership = self.membership.lock();
        for shard in shards {
            membership.lost[shard.index()] += 1;
        }
    }

    /// How often each shard has been lost.
    pub(super) fn losses(&self) -> Losses {
        self.membership.lock().lost
    }

    /// The orders for a shard are carried out that were given while it was lost for so many times, and before. Not if the lease has
    /// run out meanwhile: then there may be more.
    pub(super) fn caught_up(&self, shard: Shard, lost: &Losses) {
        let mut membership = self.membership.lock();
        if membership.holds(self.config().registry.lease) {
            membership.caught_up[shard.index()] = lost[shard.index()];
        }
    }

    /// Whether this node has ever caught up, with one shard at least: before that it vouches for nothing.
    pub(super) fn has_caught_up(&self) -> bool {
        let membership = self.membership.lock();
        membership.caught_up.iter().any(|times| *times > 0)
    }

    /// Whether others still believe in this node.
    pub(super) fn holds_lease(&self) -> bool {
        self.membership.lock().holds(self.config().registry.lease)
    }

    /// Refuses what this node can't answer for, of users in a shard, or for none of all of them: while its lease is over the registry
    /// says of its connections that they are gone, and they are here; and until it has caught up, it may not know which connections
    /// others have ordered to end. So it neither tells who is online, nor confirms an end, nor takes or delivers what is said.
    pub(super) fn vouch(&self, shard: Option<Shard>) -> Result<(), RegistryError> {
        let membership = self.membership.lock();
        let current = |shard: usize| membership.caught_up[shard] == membership.lost[shard];
        let current = match shard {
            Some(shard) => current(shard.index()),
            None => Shard::all().any(|shard| current(shard.index())),
        };
        match membership.holds(self.config().registry.lease) && current {
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
