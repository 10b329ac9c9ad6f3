//! Every key of the configuration: what it is, its unit, its default, and when to change it.
//!
//! A [`Config`] is the sum of its layers: defaults < `--config FILE` (TOML) < environment < flags, see [`Sources`]. In the
//! environment a key is `SWITCHBOARD_` and its path in capitals with `__` between the levels:
//! `SWITCHBOARD_AUTH__JWT__LEEWAY=0s`, see [`Environment`].
//!
//! Where a list of texts is meant, one text alone is the list of it. Durations are written `250ms`, `30s`, `15m`; sizes `64KB`, `1MB` (powers of 1,000) or `1MiB` (of 1,024); a plain number
//! is bytes. Secrets are [`SecretString`](secrecy::SecretString)s: no `Debug`, no error and no `print-config` shows one.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod access;
mod api;
mod environment;
mod error;
mod keys;
mod list;
mod load;
mod print;
mod redis;
mod reload;
mod running;
mod sections;
mod session;
mod start;
#[cfg(test)]
mod tests;
mod validate;

pub use self::redis::{Redis, RedisMode};
pub use access::{Auth, AuthRule, Jwt, JwtKey, Namespace};
pub use api::{Api, ApiKey, KeySecret, Scope};
pub use environment::Environment;
pub use error::{ConfigError, Problem};
pub use load::{Flags, Sources};
pub use reload::Reload;
pub use running::RunningConfig;
pub use sections::{
    Cors, Drain, LARGEST_PAYLOAD, Limits, Log, LogFormat, PerUserPolicy, Ping, Presence,
    RegistryTiming, Transport,
};
pub use session::Session;
pub use start::{Development, Effective};

/// The configuration of a node.
///
/// [`Sources::load`] is where one comes from; [`Default`] is a node with nothing configured. Its `Serialize` masks the
/// secrets, and is what `print-config` shows.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients connect: an IP address and a port, `127.0.0.1:3000` by default. `0.0.0.0:3000` in a container; port 0
    /// takes any free one, and the log says which.
    pub listen: SocketAddr,
    /// Where `/v1`, `/metrics`, `/healthz` and `/readyz` are served instead of on `listen`. None by default: all on `listen`.
    /// Set it when `listen` is open to the internet and backends reach the node on another network.
    pub internal_listen: Option<SocketAddr>,
    /// The node's name in answers and logs. Default: the host name and a random suffix. Set it where the platform has
    /// names that people know, such as a pod's.
    pub node_id: Option<String>,
    /// The HTTP API.
    pub api: Api,
    /// Redis; none: the embedded registry.
    pub redis: Redis,
    /// Who is let in.
    pub auth: Auth,
    /// The namespaces; a configured list replaces the default set (`/`, `/public`, `/admin`) as a whole.
    pub namespaces: Vec<Namespace>,
    /// Which pages of other origins may.
    pub cors: Cors,
    /// Bounds.
    pub limits: Limits,
    /// The registry's timing and names.
    pub registry: RegistryTiming,
    /// Presence.
    pub presence: Presence,
    /// How a node goes.
    pub drain: Drain,
    /// What clients find beside their sessions.
    pub transport: Transport,
    /// Engine.IO's heartbeat.
    pub ping: Ping,
    /// Addresses of proxies (`10.0.3.7/32`, `127.0.0.1/32`, or the network of a load balancer's machines) whose
    /// `X-Forwarded-For` is believed. None by default: the peer's address is the client's. The header is read from the right, over
    /// all addresses that are named here, so name proxies and nothing else: a client inside such a network can claim to be any
    /// address, also through a proxy that appends, and the limits of an address don't hold for it. `10.0.0.0/8` is wrong where
    /// clients are in it too.
    #[serde(deserialize_with = "list::one_or_more")]
    pub trusted_proxies: Vec<IpNet>,
    /// Logs.
    pub log: Log,
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
            transport: Transport::default(),
            ping: Ping::default(),
            trusted_proxies: Vec::new(),
            log: Log::default(),
        }
    }
}
