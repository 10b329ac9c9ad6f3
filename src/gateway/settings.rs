//! What a reload of the configuration sets going.

use super::Gateway;
use crate::{
    backend::{BackendError, Prepared},
    config::Config,
};

impl Gateway {
    /// The backends of another configuration, for [`Gateway::reload`].
    ///
    /// # Errors
    ///
    /// [`BackendError`]; nothing is changed then.
    pub fn prepare_backends(&self, config: &Config) -> Result<Prepared, BackendError> {
        self.inner.backends.prepare(config)
    }

    /// The names of the backends that have not answered for a while.
    pub fn backends_down(&self) -> Vec<String> {
        self.inner.backends.down()
    }

    /// Goes by another configuration from here on, for connections that are open too. Only what
    /// [`Config::reloadable_from`] takes over may differ from the one before.
    pub fn reload(&self, config: Config, backends: Prepared) {
        let inner = &self.inner;
        inner.backends.replace(backends);
        inner.config.replace(config);
        let config = inner.config.now();
        inner.door.limit(&config.limits);
        inner.bus.rekey(&config.fleet_secrets());
        inner.expiry.look_at_all();
        inner.connections.tail.end_all();
    }
}
