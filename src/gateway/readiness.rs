//! Whether a node takes connections, and what keeps it from being ready.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::lease::OwnLease;
use crate::{auth::Authenticator, bus::Bus, registry::Registry};

/// Whether this node takes connections.
pub(super) struct Readiness {
    draining: AtomicBool,
    registry: Arc<dyn Registry>,
    bus: Arc<Bus>,
    lease: Arc<OwnLease>,
    auth: Authenticator,
}

impl Readiness {
    /// Of a node that does not drain.
    pub(super) fn new(
        registry: Arc<dyn Registry>,
        bus: Arc<Bus>,
        lease: Arc<OwnLease>,
        auth: Authenticator,
    ) -> Self {
        Self {
            draining: AtomicBool::new(false),
            registry,
            bus,
            lease,
            auth,
        }
    }

    /// Whether the node sends its clients away.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// From here on the node takes no connections.
    pub(super) fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// What keeps the node from being ready; empty when it is.
    pub(super) fn unready(&self) -> Vec<&'static str> {
        let wrong = [
            (self.is_draining(), "draining"),
            (!self.registry.is_up(), "the registry is unavailable"),
            (!self.bus.is_mostly_up(), "the bus is down"),
            (!self.lease.holds(), "no lease"),
            (
                !self.lease.has_caught_up(&self.registry.away()),
                "not yet caught up with the registry",
            ),
        ];
        wrong
            .into_iter()
            .filter_map(|(is_wrong, what)| is_wrong.then_some(what))
            .collect()
    }

    /// Whether session cookies are looked at, and their store does not answer.
    pub(super) fn lacks_session_store(&self) -> bool {
        !self.auth.has_session_store()
    }

    /// Whether a CONNECT packet can be answered now.
    pub(super) fn takes_connections(&self) -> bool {
        !self.is_draining() && self.registry.is_up()
    }
}
