//! Every key of the configuration, its default, and when to change it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use ipnet::IpNet;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// The configuration of a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where `/v1`, `/metrics`, `/healthz` and `/readyz` are served instead of on `listen`.
    pub internal_listen: Option<SocketAddr>,
    /// The node's name. Default: the host name and a random suffix.
    pub node_id: Option<String>,
    /// The HTTP API.
    pub api: Api,
    /// Redis; none: the embedded registry.
    pub redis: Redis,
    /// Who is let in.
    pub auth: Auth,
    /// The namespaces.
    pub namespaces: Vec<Namespace>,
    /// Which origins may.
    pub cors: Cors,
    /// Bounds.
    pub limits: Limits,
    /// The registry's timing and names.
    pub registry: RegistryTiming,
    /// Presence.
    pub presence: Presence,
    /// How a node goes.
    pub drain: Drain,
    /// Engine.IO's heartbeat.
    pub ping: Ping,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Logs.
    pub log: Log,
}

/// `api`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// A key with every scope.
    pub key: Option<SecretString>,
    /// Further keys.
    pub keys: Vec<ApiKey>,
}

/// `[[api.keys]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Its name, in logs.
    pub name: String,
    /// The key itself.
    pub key: SecretString,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Reads: users, presence, connections, nodes, stats, metrics.
    Read,
    /// Sends and broadcasts.
    Send,
    /// Disconnects.
    Disconnect,
    /// Everything else.
    Admin,
}

/// `redis`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://` or `rediss://` URLs; none: the embedded registry.
    pub urls: Vec<SecretString>,
}

/// `auth`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Tokens.
    pub jwt: Jwt,
}

/// `auth.jwt`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// A shared secret; also signs what `switchboard token` mints.
    pub secret: Option<SecretString>,
    /// Secrets that still verify.
    pub previous_secrets: Vec<SecretString>,
    /// A PEM file with a public key (RSA, EC P-256/P-384, Ed25519).
    pub public_key_file: Option<PathBuf>,
    /// A file with a JWK set.
    pub jwks_file: Option<PathBuf>,
    /// A URL with a JWK set.
    pub jwks_url: Option<String>,
    /// Narrows what the keys allow; empty: all that each key allows. Names as in RFC 7518.
    pub algorithms: Vec<String>,
    /// `iss` must be one of these, when any is given.
    pub issuer: Vec<String>,
    /// `aud` must hold one of these, when any is given.
    pub audience: Vec<String>,
    /// The claim with the user's id; default `sub`, else `id`, else `userId`.
    pub user_id_claim: Option<String>,
    /// Tolerance for clocks.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
}

/// `[[namespaces]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its path, with the leading slash.
    pub path: String,
    /// Whether a token is asked for.
    #[serde(default)]
    pub auth: AuthRule,
    /// One of these roles is asked for, when any is given.
    #[serde(default)]
    pub roles: Vec<String>,
    /// In place of `auth.jwt.issuer`.
    #[serde(default)]
    pub issuer: Option<Vec<String>>,
    /// In place of `auth.jwt.audience`.
    #[serde(default)]
    pub audience: Option<Vec<String>>,
}

/// Whether a namespace asks for a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthRule {
    /// It does.
    #[default]
    Required,
    /// It does not; a valid token is still recognised.
    None,
}

/// `cors`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins (`https://app.example.com`) of pages that may; empty: same origin only.
    pub allowed_origins: Vec<String>,
}

/// `limits`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// TCP connections of this node; beyond it 503. 0: no limit.
    pub connections: u32,
    /// One message, either transport.
    pub max_payload: ByteSize,
    /// Inbound events, per connection.
    pub events_per_second: u32,
    /// How many may come at once.
    pub events_burst: u32,
    /// Request head, upgrade and CONNECT.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// A connection with more unsent ends with 4002.
    pub send_queue_bytes: ByteSize,
    /// A connection with an unsent byte older than this ends with 4002.
    #[serde(with = "humantime_serde")]
    pub write_deadline: Duration,
}

/// `registry`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryTiming {
    /// How often a node says that it lives.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// How long it is believed.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Prefix of every key and channel.
    pub prefix: String,
}

/// `presence`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Presence {
    /// How long a user's `lastSeen` is kept; `0s`: not at all.
    #[serde(with = "humantime_serde")]
    pub last_seen: Duration,
}

/// `drain`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Between not ready and the first close.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// Over which the closes are spread.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
}

/// `ping`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ping {
    /// Between pings.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// For the pong.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// `log`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A `tracing` filter.
    pub level: String,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            internal_listen: None,
            node_id: None,
            api: Api::default(),
            redis: Redis::default(),
            auth: Auth::default(),
            namespaces: vec![
                Namespace::new("/", AuthRule::Required, &[]),
                Namespace::new("/public", AuthRule::None, &[]),
                Namespace::new("/admin", AuthRule::Required, &["admin"]),
            ],
            cors: Cors::default(),
            limits: Limits::default(),
            registry: RegistryTiming::default(),
            presence: Presence::default(),
            drain: Drain::default(),
            ping: Ping::default(),
            trusted_proxies: Vec::new(),
            log: Log::default(),
        }
    }
}

impl Namespace {
    /// A namespace with the configured issuer and audience.
    pub fn new(path: &str, auth: AuthRule, roles: &[&str]) -> Self {
        Self {
            path: path.into(),
            auth,
            roles: roles.iter().map(|role| (*role).into()).collect(),
            issuer: None,
            audience: None,
        }
    }
}

#[allow(clippy::derivable_impls)]
impl Default for Auth {
    fn default() -> Self {
        Self {
            jwt: Jwt::default(),
        }
    }
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            secret: None,
            previous_secrets: Vec::new(),
            public_key_file: None,
            jwks_file: None,
            jwks_url: None,
            algorithms: Vec::new(),
            issuer: Vec::new(),
            audience: Vec::new(),
            user_id_claim: None,
            leeway: Duration::from_secs(5),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 0,
            max_payload: ByteSize::mb(1),
            events_per_second: 100,
            events_burst: 200,
            handshake_timeout: Duration::from_secs(10),
            send_queue_bytes: ByteSize::mb(1),
            write_deadline: Duration::from_secs(10),
        }
    }
}

impl Default for RegistryTiming {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(3),
            lease: Duration::from_secs(10),
            prefix: "switchboard".into(),
        }
    }
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            last_seen: Duration::from_secs(168 * 3600),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            window: Duration::from_secs(10),
        }
    }
}

impl Default for Ping {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(25),
            timeout: Duration::from_secs(20),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".into(),
        }
    }
}
