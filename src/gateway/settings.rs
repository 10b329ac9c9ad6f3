//! What a node goes by of its configuration as it is now, and what a reload sets going.

use std::sync::Arc;

use arc_swap::Guard;

use crate::gateway::{Gateway, Inner, endings::expiry::Watch};
use crate::{
    config::{Config, PerUserPolicy},
    registry::{LimitPolicy, RATE_WINDOW, UserLimit},
};

impl Gateway {
    /// Goes by another configuration from here on, for connections that are open too. Only what
    /// [`Config::reloadable_from`] takes over may differ from the one before.
    pub fn reload(&self, config: Config) {
        let inner = &self.inner;
        inner.config.replace(config);
        let config = inner.config();
        inner.door.limit(&config.limits);
        inner.bus.rekey(&config.fleet_secrets());
        // Fails only when the node's tasks have stopped.
        inner.watches.send(Watch::LookAtAll).ok();
    }
}

impl Inner {
    /// The configuration as of now. Not to be kept: a reload replaces it.
    pub(super) fn config(&self) -> Guard<Arc<Config>> {
        self.config.now()
    }

    /// `limits.connections` as it is configured; 0 where only the descriptors bound them.
    pub(super) fn configured_connections(&self) -> usize {
        self.config().limits.connections.unwrap_or_default() as usize
    }

    /// What one user may have.
    pub(super) fn user_limit(&self) -> UserLimit {
        let limits = &self.config().limits;
        UserLimit {
            max: limits.connections_per_user,
            policy: match limits.connections_per_user_policy {
                PerUserPolicy::Reject => LimitPolicy::Reject,
                PerUserPolicy::EvictOldest => LimitPolicy::EvictOldest,
            },
            newcomers: limits
                .connects_per_second_per_user
                .saturating_mul(RATE_WINDOW.as_secs() as u32),
        }
    }

    /// How many bytes may wait for one client.
    pub(super) fn send_queue_bytes(&self) -> usize {
        self.config().limits.send_queue_bytes.as_u64() as usize
    }
}
