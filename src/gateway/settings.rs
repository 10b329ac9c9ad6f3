//! What a node takes over of a new configuration while it runs: its signing key, and the limits of newcomers.

use std::sync::Arc;

use super::{Gateway, Inner};
use crate::{
    config::{Config, Jwt, Limits, PerUserPolicy},
    registry::{LimitPolicy, RATE_WINDOW, UserLimit},
};

/// What a node may take over while it runs.
pub(super) struct Settings {
    jwt: Jwt,
    limits: Arc<Limits>,
}

impl Settings {
    /// Those of a configuration.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            jwt: config.auth.jwt.clone(),
            limits: Arc::new(config.limits.clone()),
        }
    }
}

impl Gateway {
    /// Takes over what of a new configuration a running node can: the key that it signs with, and the limits of newcomers.
    pub fn reload(&self, config: &Config) {
        *self.inner.settings.write() = Settings::of(config);
        self.inner.door.limit(&config.limits);
        self.inner.bus.rekey(&config.fleet_secrets());
    }
}

impl Inner {
    /// The keys of tokens, as of now.
    pub(super) fn jwt(&self) -> Jwt {
        self.settings.read().jwt.clone()
    }

    /// The limits of whoever comes now.
    pub(super) fn limits(&self) -> Arc<Limits> {
        self.settings.read().limits.clone()
    }

    /// `limits.connections` as it is configured; 0 where only the descriptors bound them.
    pub(super) fn configured_connections(&self) -> usize {
        self.limits().connections.unwrap_or_default() as usize
    }

    /// What one user may have.
    pub(super) fn user_limit(&self) -> UserLimit {
        let limits = self.limits();
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

    pub(super) fn send_queue_bytes(&self) -> usize {
        self.config.limits.send_queue_bytes.as_u64() as usize
    }
}
