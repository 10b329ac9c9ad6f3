//! The table of keys: how a variable of the environment becomes a value, which values an error may show, and which may
//! change while a node runs.

/// What the text of a variable stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Itself: a string, a path, an address, a duration, a size.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// A comma-separated list of texts.
    List,
    /// A list of tables, written as JSON or as an inline TOML array.
    Tables,
}

/// A key that holds a value, as against a section.
#[derive(Debug)]
pub(super) struct Key {
    /// Its path, `auth.jwt.secret`.
    pub(super) path: &'static str,
    /// What a variable's text becomes.
    pub(super) kind: Kind,
    /// Whether its value is never shown.
    pub(super) secret: bool,
    /// Whether a node takes a new value while it runs.
    pub(super) reload: bool,
}

const fn open(path: &'static str, kind: Kind) -> Key {
    Key {
        path,
        kind,
        secret: false,
        reload: false,
    }
}

const fn secret(path: &'static str, kind: Kind) -> Key {
    Key {
        secret: true,
        ..open(path, kind)
    }
}

const fn live(key: Key) -> Key {
    Key {
        reload: true,
        ..key
    }
}

/// Every key there is.
///
/// Those that are `live` are what a rotation of keys and a change of limits touch.
pub(super) const KEYS: &[Key] = &[
    open("listen", Kind::Text),
    open("internal_listen", Kind::Text),
    open("node_id", Kind::Text),
    live(secret("api.key", Kind::Text)),
    live(open("api.jwt", Kind::Flag)),
    live(secret("api.keys", Kind::Tables)),
    live(open("api.rate", Kind::Number)),
    live(open("api.in_flight", Kind::Number)),
    secret("redis.urls", Kind::List),
    open("redis.mode", Kind::Text),
    open("redis.master_name", Kind::Text),
    open("redis.sentinel_username", Kind::Text),
    secret("redis.sentinel_password", Kind::Text),
    open("redis.ca_file", Kind::Text),
    live(secret("auth.jwt.secret", Kind::Text)),
    live(secret("auth.jwt.previous_secrets", Kind::List)),
    live(open("auth.jwt.public_key_file", Kind::Text)),
    live(open("auth.jwt.jwks_file", Kind::Text)),
    live(open("auth.jwt.jwks_url", Kind::Text)),
    live(secret("auth.jwt.keys", Kind::Tables)),
    live(open("auth.jwt.algorithms", Kind::List)),
    live(open("auth.jwt.issuer", Kind::List)),
    live(open("auth.jwt.audience", Kind::List)),
    live(open("auth.jwt.user_id_claim", Kind::Text)),
    live(open("auth.jwt.leeway", Kind::Text)),
    live(secret("auth.session.secrets", Kind::List)),
    open("auth.session.cookie_name", Kind::Text),
    open("auth.session.key_prefix", Kind::Text),
    open("auth.session.user_id_pointer", Kind::List),
    open("auth.session.username_pointer", Kind::Text),
    open("auth.session.role_pointer", Kind::Text),
    open("auth.session.recheck", Kind::Text),
    secret("auth.session.redis_url", Kind::Text),
    open("auth.refresh_lead", Kind::Text),
    open("auth.refresh_ttl", Kind::Text),
    open("auth.token_ttl", Kind::Text),
    open("namespaces", Kind::Tables),
    open("cors.allowed_origins", Kind::List),
    live(open("limits.connections", Kind::Number)),
    live(open("limits.memory", Kind::Text)),
    live(open("limits.connections_per_address", Kind::Number)),
    live(open(
        "limits.handshakes_per_second_per_address",
        Kind::Number,
    )),
    live(open("limits.connections_per_user", Kind::Number)),
    live(open("limits.connections_per_user_policy", Kind::Text)),
    live(open("limits.connects_per_second_per_user", Kind::Number)),
    live(open("limits.max_payload", Kind::Text)),
    live(open("limits.max_payload_guest", Kind::Text)),
    live(open("limits.ack_bytes", Kind::Text)),
    live(open("limits.events_per_second", Kind::Number)),
    live(open("limits.events_burst", Kind::Number)),
    live(open("limits.handshakes", Kind::Number)),
    live(open("limits.handshake_timeout", Kind::Text)),
    live(open("limits.send_queue_bytes", Kind::Text)),
    live(open("limits.write_deadline", Kind::Text)),
    open("registry.heartbeat", Kind::Text),
    open("registry.lease", Kind::Text),
    open("registry.prefix", Kind::Text),
    live(secret("registry.secrets", Kind::List)),
    open("presence.last_seen", Kind::Text),
    open("drain.delay", Kind::Text),
    open("drain.window", Kind::Text),
    open("transport.path", Kind::Text),
    open("transport.cookie", Kind::Text),
    open("transport.http_compression", Kind::Flag),
    open("transport.client_bundle", Kind::Text),
    open("ping.interval", Kind::Text),
    open("ping.timeout", Kind::Text),
    open("trusted_proxies", Kind::List),
    open("log.format", Kind::Text),
    open("log.level", Kind::Text),
    open("log.audit_file", Kind::Text),
];

/// The short names of the environment, next to `SWITCHBOARD_LISTEN` and `SWITCHBOARD_NODE_ID`, which are the long names
/// of their keys too.
pub(super) const SHORT_NAMES: &[(&str, &str)] = &[
    ("SWITCHBOARD_REDIS_URL", "redis.urls"),
    ("SWITCHBOARD_JWT_SECRET", "auth.jwt.secret"),
    ("SWITCHBOARD_API_KEY", "api.key"),
];

impl Key {
    /// The key of a path, if there is one.
    pub(super) fn of(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// Its variable's name, `SWITCHBOARD_AUTH__JWT__SECRET`.
    pub(super) fn variable(&self) -> String {
        format!(
            "SWITCHBOARD_{}",
            self.path.replace('.', "__").to_uppercase()
        )
    }

    /// The key that `path` is, or is inside of: `api.keys` for `api.keys.0.name`. None for a section.
    pub(super) fn around(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| {
            path.strip_prefix(key.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Whether an error at `path` may show the value it found there: that of a key that is known to hold no secret. A
    /// section isn't one, since `redis = "redis://:password@host"` is a likely slip.
    pub(super) fn shows_value(path: &str) -> bool {
        Self::around(path).is_some_and(|key| !key.secret)
    }
}
