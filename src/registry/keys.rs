//! Every Redis key and channel, named in one place. Nothing else formats one.

use crate::connection::Instance;

/// The names under one prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The names that begin with `prefix` and a colon.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// The channel that one node listens on.
    pub fn node_channel(&self, instance: &Instance) -> String {
        format!("{}:bus:{instance}", self.prefix)
    }

    /// The channel that all nodes listen on.
    pub fn all_channel(&self) -> String {
        format!("{}:bus:all", self.prefix)
    }
}
