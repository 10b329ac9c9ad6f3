//! What a node knows of its own lease: whether it holds, and whether what was ordered while it did not is carried out.

use std::time::Duration;

use tokio::time::Instant;

use super::Inner;
use crate::{connection::Instance, registry::Lease};

/// What this node knows of its lease.
pub(super) struct LeaseState {
    lease: Lease,
    joined: bool,
    /// When the last heartbeat that was confirmed had been sent: the lease runs from there at the latest.
    renewed: Option<Instant>,
    /// How often the lease has been over, in the whole registry or in a part of it.
    lost: u64,
    /// After how many of these the orders of the meantime have been carried out.
    caught_up: u64,
}

impl LeaseState {
    /// Of a node that has not joined.
    pub(super) fn new(instance: Instance) -> Self {
        Self {
            lease: Lease { instance, epoch: 1 },
            joined: false,
            renewed: None,
            lost: 0,
            caught_up: 0,
        }
    }

    /// Whether a lease of this length holds.
    fn holds(&self, lease: Duration) -> bool {
        let renewed = self.renewed;
        self.joined && renewed.is_some_and(|renewed| renewed.elapsed() < lease)
    }

    fn is_settled(&self) -> bool {
        self.caught_up == self.lost
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

    pub(super) fn next_epoch(&self) {
        let mut membership = self.membership.lock();
        membership.lease.epoch += 1;
        membership.joined = false;
        membership.renewed = None;
        membership.lost += 1;
    }

    /// A heartbeat has been confirmed. Returns whether the lease had been over before.
    pub(super) fn renewed(&self, sent: Instant) -> bool {
        let mut membership = self.membership.lock();
        let was_over =
            !membership.holds(self.config().registry.lease) && membership.renewed.is_some();
        membership.lost += u64::from(was_over);
        membership.renewed = Some(sent);
        was_over
    }

    /// The lease is over in a part of the registry.
    pub(super) fn lost_in_part(&self) {
        self.membership.lock().lost += 1;
    }

    /// How often the lease has been over, in the whole registry or in a part of it.
    pub(super) fn losses(&self) -> u64 {
        self.membership.lock().lost
    }

    /// [`Inner::losses`]; none while the lease is over.
    pub(super) fn times_lost(&self) -> Option<u64> {
        let membership = self.membership.lock();
        let holds = membership.holds(self.config().registry.lease);
        holds.then_some(membership.lost)
    }

    /// The orders are carried out that were given while the lease was over for the `lost`th time, and before. Returns whether
    /// that is news.
    pub(super) fn caught_up(&self, lost: u64) -> bool {
        let mut membership = self.membership.lock();
        std::mem::replace(&mut membership.caught_up, lost) != lost
    }

    /// Whether this node holds its lease, and has carried out what was ordered while it did not.
    pub(super) fn is_current(&self) -> bool {
        let membership = self.membership.lock();
        membership.holds(self.config().registry.lease) && membership.is_settled()
    }

    /// Whether what was ordered while there was no lease is carried out, and what was lost is put back.
    pub(super) fn is_settled(&self) -> bool {
        self.membership.lock().is_settled()
    }

    /// Whether others still believe in this node.
    pub(super) fn holds_lease(&self) -> bool {
        self.membership.lock().holds(self.config().registry.lease)
    }
}
