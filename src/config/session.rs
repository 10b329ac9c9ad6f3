//! Who is let in by the cookie of an Express application: `auth.session`.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Config, Redis, list, print};

/// `auth.session`: the sessions of `express-session` with `connect-redis`, as they are. On when `secrets` is set.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// What the application signs its cookies with, its `secret`; any of several is taken. Empty, the default: no cookie
    /// is looked at.
    #[serde(
        serialize_with = "print::secrets",
        deserialize_with = "list::one_or_more"
    )]
    pub secrets: Vec<SecretString>,
    /// The cookie's name, the application's `name`; `connect.sid` by default.
    pub cookie_name: String,
    /// What the sessions' keys in Redis begin with, the store's `prefix`; `sess:` by default.
    pub key_prefix: String,
    /// JSON pointers (RFC 6901) to the user's id in a session, one or a list: the first that leads to a value counts.
    /// Default: `/userId`, `/user/id`, `/passport/user`.
    #[serde(deserialize_with = "list::one_or_more")]
    pub user_id_pointer: Vec<String>,
    /// JSON pointer to the user's name; `/username` by default.
    pub username_pointer: String,
    /// JSON pointer to the user's role, or a list of them; `/role` by default.
    pub role_pointer: String,
    /// How often the session of a connection is looked at again; `30s` by default. So long may a connection outlive its
    /// session.
    #[serde(with = "print::duration")]
    pub recheck: Duration,
    /// The Redis that holds the sessions, if it is not the cluster's: the URL of one server. None by default.
    #[serde(serialize_with = "print::redis_url")]
    pub redis_url: Option<SecretString>,
}

impl Session {
    /// Whether cookies let anyone in.
    pub fn is_on(&self) -> bool {
        !self.secrets.is_empty()
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            secrets: Vec::new(),
            cookie_name: "connect.sid".into(),
            key_prefix: "sess:".into(),
            user_id_pointer: ["/userId", "/user/id", "/passport/user"]
                .map(str::to_owned)
                .into(),
            username_pointer: "/username".into(),
            role_pointer: "/role".into(),
            recheck: Duration::from_secs(30),
            redis_url: None,
        }
    }
}

impl Config {
    /// Where the sessions are: in the Redis of their own, else in the cluster's. None where no cookie is looked at.
    pub fn session_redis(&self) -> Option<Redis> {
        let session = &self.auth.session;
        if !session.is_on() {
            return None;
        }
        Some(match &session.redis_url {
            Some(url) => Redis {
                urls: vec![url.clone()],
                ca_file: self.redis.ca_file.clone(),
                ..Redis::default()
            },
            None => self.redis.clone(),
        })
    }
}
