//! Who is let in by the cookie of an Express application: `auth.session`.

use std::time::Duration;

use secrecy::SecretString;

use super::{Config, Redis, RedisUrl, section::section, validate::texts};

section! {
    /// The sessions of `express-session` with `connect-redis`, as they are. On when `secrets` is set.
    Session in "auth.session." {
        /// What the application signs its cookies with, its `secret`; any of several is taken. With none no cookie is looked
        /// at.
        secrets: Vec<SecretString> = Vec::new(), reload;
        /// The cookie's name, the application's `name`.
        cookie_name: String = "connect.sid".into(), fits(texts::cookie_name);
        /// What the sessions' keys in Redis begin with, the store's `prefix`.
        key_prefix: String = "sess:".into(), fits(texts::key_prefix);
        /// JSON pointers (RFC 6901) to the user's id in a session, one or a list: the first that leads to a value counts.
        user_id_pointer: Vec<String> = ["/userId", "/user/id", "/passport/user"].map(str::to_owned).into(), fits(texts::pointer);
        /// JSON pointer to the user's name.
        username_pointer: String = "/username".into(), fits(texts::pointer);
        /// JSON pointer to the user's role, or a list of them.
        role_pointer: String = "/role".into(), fits(texts::pointer);
        /// How often the session of a connection is looked at again. So long may a connection outlive its session.
        recheck: Duration = Duration::from_secs(30), positive;
        /// The Redis that holds the sessions, if it is not the cluster's: the URL of one server.
        redis_url: Option<RedisUrl> = None, shown("the cluster's"), fits(texts::redis_url);
    }
}

impl Session {
    /// Whether cookies let anyone in.
    pub fn is_on(&self) -> bool {
        !self.secrets.is_empty()
    }
}

impl Config {
    /// Where the sessions are: in the Redis of their own, else in the cluster's. None where no cookie is looked at.
    pub fn session_redis(&self) -> Option<Redis> {
        let session = &self.auth.session;
        if !session.is_on() {
            return None;
        }
        Some(self.redis_at(session.redis_url.as_ref()))
    }
}
