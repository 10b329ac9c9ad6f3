//! Whether a node takes connections, and what keeps it from being ready.

use std::sync::atomic::Ordering;

use crate::gateway::{Gateway, Inner};

impl Gateway {
    /// What keeps this node from being ready; empty when it is.
    pub fn unready(&self) -> Vec<&'static str> {
        self.inner.unready()
    }

    /// The shards of the registry that can't be reached, by their hexadecimal digit: what the users in them ask for is refused, and
    /// all others are served.
    pub fn shards_away(&self) -> Vec<String> {
        let away = self.inner.registry.away();
        away.iter()
            .map(|shard| format!("{:x}", shard.index()))
            .collect()
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
            (!self.bus.is_mostly_up(), "the bus is down"),
            (!self.holds_lease(), "no lease"),
            (!self.has_caught_up(), "not yet caught up with the registry"),
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
