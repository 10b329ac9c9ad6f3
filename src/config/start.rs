//! Whether a node may start with what is configured: as it is, in development mode, or not at all.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

use super::{Backend, Config, ConfigError, RedisMode, print};

/// A configuration that a node may start with.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The configuration, with what development mode made up.
    pub config: Config,
    /// What development mode made up, when it is on.
    pub development: Option<Development>,
    /// What an operator should hear of, in whole sentences, without secrets.
    pub warnings: Vec<String>,
}

/// What development mode made up. It is gone with the process.
#[derive(Clone, Debug)]
pub struct Development {
    /// Signs and verifies tokens; also in `auth.jwt.secret`.
    pub secret: SecretString,
    /// Opens the HTTP API, with every scope; also in `api.key`.
    pub api_key: SecretString,
}

impl Effective {
    /// Applies the rule of the start: with nothing that lets clients in and no API key, a node on loopback addresses makes up
    /// a secret and a key, and any other one does not start. With an API key alone nobody could ever connect, so it does not
    /// start either; with a key for tokens alone, the API is for the tokens that `/admin` lets in. Session cookies let clients in too.
    ///
    /// # Errors
    ///
    /// What to set, by key.
    pub fn of(mut config: Config) -> Result<Self, ConfigError> {
        let has_api_key = config.api.key.is_some() || !config.api.keys.is_empty();
        let mut warnings = Vec::new();
        let mut development = None;
        match (config.lets_in(), has_api_key) {
            (true, true) => {}
            (true, false) => {
                let has_admin = config.namespaces.iter().any(|it| it.path == "/admin");
                let opened_by = match config.api.jwt && has_admin && config.auth.jwt.has_keys() {
                    true => "the HTTP API takes the tokens that /admin lets in, and nothing else.",
                    false => "and no token opens the HTTP API: nobody can call it.",
                };
                warnings.push(format!(
                    "No API key is set (api.key, SWITCHBOARD_API_KEY): {opened_by}"
                ));
            }
            (false, true) => {
                return Err(ConfigError::at(
                    "auth.jwt.secret",
                    "not set, so no token could be verified: set SWITCHBOARD_JWT_SECRET, or one of \
                     auth.jwt.public_key_file, auth.jwt.jwks_file, auth.jwt.jwks_url, auth.jwt.keys, auth.session.secrets",
                ));
            }
            (false, false) if config.is_loopback() => {
                let made_up = Development {
                    secret: random_secret(),
                    api_key: random_secret(),
                };
                config.auth.jwt.secret = Some(made_up.secret.clone());
                config.api.key = Some(made_up.api_key.clone().into());
                config.cors.localhost = true;
                development = Some(made_up);
            }
            (false, false) => {
                return Err(ConfigError::at(
                    "auth.jwt.secret",
                    format!(
                        "not set, and development mode is for loopback addresses, not for {}: set \
                         SWITCHBOARD_JWT_SECRET (or auth.jwt.public_key_file, auth.jwt.jwks_file, auth.jwt.jwks_url) and \
                         SWITCHBOARD_API_KEY",
                        config.exposed_address()
                    ),
                ));
            }
        }
        if let Some(secret) = &config.auth.jwt.secret
            && secret.expose_secret().len() < 32
        {
            warnings.push(
                "auth.jwt.secret has fewer than 32 bytes: short secrets can be guessed from a single token."
                    .to_owned(),
            );
        }
        warnings.extend(config.auth.jwt.unbound_keys());
        warnings.extend(config.backends.iter().filter_map(Backend::short_secret));
        let admin = config.namespaces.iter().find(|it| it.path == "/admin");
        if config.api.jwt && admin.is_some_and(|admin| admin.roles.is_empty()) {
            warnings.push(
                "/admin asks for no role (namespaces), so every user's token opens the HTTP API with every scope: set roles, \
                 or api.jwt = false."
                    .to_owned(),
            );
        }
        let redis = &config.redis;
        if redis.mode != RedisMode::Sentinel && redis.master_name.is_some() {
            warnings.push(
                "redis.master_name is set, and redis.mode is not sentinel: the name is not used."
                    .to_owned(),
            );
        }
        if !redis.urls.is_empty() && config.fleet_secrets().is_empty() {
            warnings.push(
                "Messages between nodes are not sealed: who writes to Redis can make, alter and repeat them. Set \
                 registry.secrets, the same on all nodes."
                    .to_owned(),
            );
        }
        let limits = &config.limits;
        if limits.send_queue_bytes < limits.max_payload {
            warnings.push(format!(
                "limits.send_queue_bytes ({}) is less than limits.max_payload ({}): a message larger than that ends its \
                 connection.",
                print::size(limits.send_queue_bytes),
                print::size(limits.max_payload)
            ));
        }
        Ok(Self {
            config,
            development,
            warnings,
        })
    }
}

impl Config {
    fn is_loopback(&self) -> bool {
        self.listen.ip().is_loopback()
            && self
                .internal_listen
                .is_none_or(|address| address.ip().is_loopback())
    }

    /// The first listen address that isn't loopback.
    fn exposed_address(&self) -> std::net::SocketAddr {
        match self.internal_listen {
            Some(internal) if self.listen.ip().is_loopback() => internal,
            _ => self.listen,
        }
    }
}

/// 256 random bits as text that goes into a header.
fn random_secret() -> SecretString {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()).into()
}
