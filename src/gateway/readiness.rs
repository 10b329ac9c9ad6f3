//! Whether a node takes connections, and what keeps it from being ready.

use std::sync::atomic::Ordering;

use super::{Gateway, Inner};

impl Gateway {
    /// What keeps this node from being ready; empty when it is.
    pub fn unready(&self) -> Vec<&'static str> {
        self.inner.unready()
    }
}

impl Inner {
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(super) fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn unready(&self) -> Vec<&'static str> {
        let wrong = [
            (self.is_draining(), "draining"),
            (!self.registry.is_up(), "the registry is unavailable"),
            (!self.bus.is_up(), "the bus is down"),
            (!self.holds_lease(), "no lease"),
        ];
        wrong
            .into_iter()
            .filter_map(|(is_wrong, what)| is_wrong.then_some(what))
            .collect()
    }

    /// Whether a CONNECT packet can be answered now.
    pub(super) fn takes_connections(&self) -> bool {
        !self.is_draining() && self.registry.is_up()
    }
}
