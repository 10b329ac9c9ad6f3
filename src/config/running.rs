//! The configuration that a running node goes by.

use std::{fmt, sync::Arc};

use arc_swap::{ArcSwap, Guard};

use super::Config;

/// The configuration that a node goes by now. Clones are the same one: after a reload all of them give the new values.
///
/// Whatever a reload may change is read here each time it is needed. A copy that somebody keeps would go on with the old value.
#[derive(Clone)]
pub struct RunningConfig(Arc<ArcSwap<Config>>);

impl fmt::Debug for RunningConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunningConfig")
    }
}

impl RunningConfig {
    /// The configuration that a node starts with.
    pub fn new(config: impl Into<Arc<Config>>) -> Self {
        Self(Arc::new(ArcSwap::new(config.into())))
    }

    /// The configuration as of now. Takes no lock. Not to be kept across an `await`, after which it may be out of date.
    pub fn now(&self) -> Guard<Arc<Config>> {
        self.0.load()
    }

    /// Replaces the configuration, for all clones.
    pub(crate) fn replace(&self, config: Config) {
        self.0.store(Arc::new(config));
    }
}
