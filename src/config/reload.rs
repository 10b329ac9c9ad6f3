//! A new configuration for a node that runs: what of it is taken, and what waits for the next start.

use super::{Config, ConfigError, key::Key, value::Value};

/// What becomes of a running configuration when another one is loaded.
#[derive(Clone, Debug)]
pub struct Reload {
    /// What the node is to go on with: the running configuration, with the new values of those keys that may change.
    pub config: Config,
    /// The keys whose new values are in it.
    pub changed: Vec<&'static str>,
    /// The keys whose new values wait for the next start. They are left as they are.
    pub restart: Vec<&'static str>,
}

/// The keys that differ between two configurations.
#[derive(Default)]
pub(super) struct Changes {
    /// Those whose new values were taken over.
    pub(super) taken: Vec<&'static str>,
    /// Those whose new values wait.
    pub(super) waiting: Vec<&'static str>,
}

impl Config {
    /// Takes over from another configuration, loaded and validated, the keys that are declared with `reload`; the others wait.
    ///
    /// Files that keys name are for the caller to read again: the same name may hold another key.
    ///
    /// # Errors
    ///
    /// When nobody could be let in any more. Nothing is to change then. So it is with a node in development mode, whose
    /// made-up secrets no file has.
    pub fn reloadable_from(&self, new: &Self) -> Result<Reload, ConfigError> {
        const COOKIES: &str = "auth.session.secrets";
        if !new.lets_in() {
            return Err(ConfigError::at(
                "auth.jwt.secret",
                "not set, and nothing else that lets anyone in: what is running stays",
            ));
        }
        let mut config = self.clone();
        let mut found = Changes::default();
        config.reload(new, &Key::ROOT, &mut found);
        // Cookies need a store, and that is connected to at the start.
        if self.auth.session.is_on() != new.auth.session.is_on() {
            config.auth.session.secrets = self.auth.session.secrets.clone();
            found.taken.retain(|key| *key != COOKIES);
            found.waiting.push(COOKIES);
        }
        Ok(Reload {
            config,
            changed: found.taken,
            restart: found.waiting,
        })
    }
}
