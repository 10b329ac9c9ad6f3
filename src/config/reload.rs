//! A new configuration for a node that runs: what of it is taken, and what waits for the next start.

use secrecy::{ExposeSecret, SecretString};
use toml::{Table, Value};

use super::{
    Config, ConfigError,
    keys::{KEYS, Key},
};

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

impl Config {
    /// Holds another configuration, loaded and validated, against the one that runs. The API's keys and limits (`api`), what
    /// verifies tokens and cookies (`auth.jwt`, `auth.session.secrets`), what seals messages between nodes (`registry.secrets`)
    /// and all bounds (`limits`) are taken over; all else waits.
    ///
    /// Files that keys name are for the caller to read again: the same name may hold another key.
    ///
    /// # Errors
    ///
    /// When nobody could be let in any more. Nothing is to change then. So it is with a node in development mode, whose
    /// made-up secrets no file has.
    pub fn reloadable_from(&self, new: &Self) -> Result<Reload, ConfigError> {
        if !new.auth.lets_in() {
            return Err(ConfigError::at(
                "auth.jwt.secret",
                "not set, and nothing else that lets anyone in: what is running stays",
            ));
        }
        // Cookies need a store, and that is connected to at the start.
        let same_cookies = self.auth.session.is_on() == new.auth.session.is_on();
        let (old_text, new_text) = (self.printed(), new.printed());
        let (mut changed, mut restart) = (Vec::new(), Vec::new());
        for key in KEYS {
            let same = if key.secret {
                self.secrets_at(key) == new.secrets_at(key)
            } else {
                value_at(&old_text, key) == value_at(&new_text, key)
            };
            if same {
                continue;
            }
            if key.reload && (same_cookies || key.path != "auth.session.secrets") {
                changed.push(key.path);
            } else {
                restart.push(key.path);
            }
        }

        let mut config = self.clone();
        config.api = new.api.clone();
        config.auth.jwt = new.auth.jwt.clone();
        if same_cookies {
            config.auth.session.secrets = new.auth.session.secrets.clone();
        }
        config.registry.secrets = new.registry.secrets.clone();
        config.limits = new.limits.clone();
        Ok(Reload {
            config,
            changed,
            restart,
        })
    }

    /// As `print-config` shows it, for comparing what is no secret.
    fn printed(&self) -> Table {
        // It fails on a path that is no UTF-8, and no such path comes from a layer of texts.
        Table::try_from(self).unwrap_or_default()
    }

    /// All that a printout masks under a secret key, in an order that does not change.
    fn secrets_at(&self, key: &Key) -> Vec<String> {
        let text = |secret: &SecretString| secret.expose_secret().to_owned();
        match key.path {
            "api.key" => self
                .api
                .key
                .iter()
                .map(|key| key.text().to_owned())
                .collect(),
            "api.keys" => self
                .api
                .keys
                .iter()
                .flat_map(|key| {
                    [
                        key.name.clone(),
                        key.key.text().to_owned(),
                        format!("{:?}", key.scopes),
                    ]
                })
                .collect(),
            "auth.jwt.keys" => self
                .auth
                .jwt
                .keys
                .iter()
                .flat_map(|key| [format!("{key:?}"), key.secret.iter().map(text).collect()])
                .collect(),
            "redis.urls" => self.redis.urls.iter().map(text).collect(),
            "redis.sentinel_password" => self.redis.sentinel_password.iter().map(text).collect(),
            "auth.jwt.secret" => self.auth.jwt.secret.iter().map(text).collect(),
            "auth.jwt.previous_secrets" => {
                self.auth.jwt.previous_secrets.iter().map(text).collect()
            }
            "auth.session.secrets" => self.auth.session.secrets.iter().map(text).collect(),
            "registry.secrets" => self.registry.secrets.iter().map(text).collect(),
            "auth.session.redis_url" => self.auth.session.redis_url.iter().map(text).collect(),
            _ => Vec::new(),
        }
    }
}

fn value_at<'a>(table: &'a Table, key: &Key) -> Option<&'a Value> {
    let mut steps = key.path.split('.');
    let mut value = table.get(steps.next()?)?;
    for step in steps {
        value = value.get(step)?;
    }
    Some(value)
}
