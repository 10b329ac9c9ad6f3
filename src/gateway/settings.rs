//! What a reload of the configuration sets going.

use super::Gateway;
use crate::config::Config;

impl Gateway {
    /// Goes by another configuration from here on, for connections that are open too. Only what
    /// [`Config::reloadable_from`] takes over may differ from the one before.
    pub fn reload(&self, config: Config) {
        let inner = &self.inner;
        inner.config.replace(config);
        let config = inner.config.now();
        inner.door.limit(&config.limits);
        inner.bus.rekey(&config.fleet_secrets());
        inner.expiry.look_at_all();
        inner.connections.tail.end_all();
    }
}
