//! The cluster, the bounds and the timing: `cors`, `limits`, `registry`, `presence`, `drain`, `transport`, `ping`,
//! `log`.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Config, list, print};

/// `cors`: which pages of other origins may.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins (`https://app.example.com`, as browsers send them) of the pages that may connect, and that may do so with a
    /// session cookie. Empty, the default: pages of the node's own origin only. `*` stands alone and lets any page in,
    /// without cookies.
    #[serde(deserialize_with = "list::one_or_more")]
    pub allowed_origins: Vec<String>,
    /// Whether pages of this machine may too, of any port. No key: true in development mode.
    #[serde(skip)]
    pub localhost: bool,
}

/// The largest `limits.max_payload` and `.max_payload_guest`.
pub const LARGEST_PAYLOAD: ByteSize = ByteSize::mb(64);

/// `limits`: bounds of a node and of each connection.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of this node; beyond it 503. By default as many as the file descriptors allow (`RLIMIT_NOFILE`), of which an
    /// eighth (64 to 1,024) is kept back for the internal listener, Redis and files; no number allows more. 0: no limit but that.
    pub connections: Option<u32>,
    /// What the process may hold of memory (its resident set); a size, or 0: no limit. By default 80 % of the cgroup's limit, or
    /// of the machine's memory where there is none. Beyond it newcomers get 503, and the connections with the longest queues
    /// end with 4002, until it is below it again; the others stay.
    #[serde(with = "print::optional_size", skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// TCP connections from one address, and Engine.IO sessions of clients there: each up to this many on this node, `5000` by
    /// default; beyond it 503. 0: no limit. An IPv6 address stands for its /64. Loopback has no limit, nor have
    /// [`trusted_proxies`](super::Config::trusted_proxies): there the address counts that `X-Forwarded-For` names.
    pub connections_per_address: u32,
    /// Engine.IO sessions that the clients of one address may begin in a second on this node, calls of `/api/refresh-token` and
    /// `/api/logout` included; `200` by default, beyond it 503 (429 to the calls). 0: no limit. What an address is, and which
    /// have no limit, is as for [`Limits::connections_per_address`].
    pub handshakes_per_second_per_address: u32,
    /// Engine.IO sessions of this node that have sent no CONNECT packet yet; with one more the oldest of them is closed. `10000`
    /// by default; 0: no limit. Each takes some kilobytes, for [`Limits::handshake_timeout`] at the most.
    pub handshakes: u32,
    /// Connections of one user, over the whole cluster and all namespaces; 256 by default. 0: no limit. Guests are not counted.
    pub connections_per_user: u32,
    /// What becomes of one too many: `reject`, the default, refuses it; `evict_oldest` ends the user's oldest with 4504.
    pub connections_per_user_policy: PerUserPolicy,
    /// How many connections of one user may come in a second, over the whole cluster and all namespaces; 20 by default, and
    /// twice as many at once. 0: no limit. Beyond it the transport is closed, and the client tries again by itself.
    pub connects_per_second_per_user: u32,
    /// The size of one message on either transport, from `1KB` to `64MB`; `1MB` by default. A client is told it in the handshake,
    /// so that a new value holds for new transports.
    #[serde(with = "print::size")]
    pub max_payload: ByteSize,
    /// The size of one message before the transport's first identity, and of guests, from `1KB` to `64MB`; `64KB` by default. A
    /// CONNECT packet with its credentials is never larger either. A new value holds for new transports.
    #[serde(with = "print::size")]
    pub max_payload_guest: ByteSize,
    /// The size of one client's answer to an event that the API sent with `ack`, as JSON, up to `4MB`; `64KB` by default. A
    /// larger one is not passed on: `error: "too_large"`.
    #[serde(with = "print::size")]
    pub ack_bytes: ByteSize,
    /// Inbound events a second, per connection; 100 by default. Beyond it (and the burst) an event is refused, at ten times
    /// that the connection ends.
    pub events_per_second: u32,
    /// How many inbound events may come at once, per connection; 200 by default.
    pub events_burst: u32,
    /// How long a client has for the request head, the upgrade and the CONNECT packet, and a transport for being left with
    /// no namespace; `10s` by default. For the CONNECT packet no longer than the value at the start, which socketioxide goes by.
    #[serde(with = "print::duration")]
    pub handshake_timeout: Duration,
    /// A connection with more unsent than this ends with 4002; `1MB` by default. Lower it to bound the memory of many slow
    /// clients; below `max_payload`, one large message is enough to end a connection.
    #[serde(with = "print::size")]
    pub send_queue_bytes: ByteSize,
    /// A connection with an unsent byte older than this ends with 4002; `10s` by default.
    #[serde(with = "print::duration")]
    pub write_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            memory: None,
            connections_per_address: 5_000,
            handshakes_per_second_per_address: 200,
            connections_per_user: 256,
            connections_per_user_policy: PerUserPolicy::Reject,
            connects_per_second_per_user: 20,
            max_payload: ByteSize::mb(1),
            max_payload_guest: ByteSize::kb(64),
            ack_bytes: ByteSize::kb(64),
            events_per_second: 100,
            events_burst: 200,
            handshakes: 10_000,
            handshake_timeout: Duration::from_secs(10),
            send_queue_bytes: ByteSize::mb(1),
            write_deadline: Duration::from_secs(10),
        }
    }
}

/// What becomes of a connection that is one too many for its user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PerUserPolicy {
    /// It is refused: `Too many connections`.
    #[default]
    Reject,
    /// It is let in, and the user's oldest ends with 4504.
    EvictOldest,
}

/// `registry`: how nodes stay known to each other. The same on all nodes of a cluster.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryTiming {
    /// How often a node says that it lives; `3s` by default.
    #[serde(with = "print::duration")]
    pub heartbeat: Duration,
    /// How long it is believed; `10s` by default, and at least twice the heartbeat. A dead node's connections leave the
    /// answers when it is over: shorter is quicker, longer rides out longer stalls of Redis.
    #[serde(with = "print::duration")]
    pub lease: Duration,
    /// Prefix of every key and channel in Redis; `switchboard` by default. Another one for each cluster on the same Redis.
    pub prefix: String,
    /// What seals the messages between nodes, so that nobody who writes to Redis can make, alter or repeat one: the first
    /// seals, by each of them a seal holds. At least 32 bytes each. Empty, the default: `auth.jwt.secret` and
    /// `auth.jwt.previous_secrets`; without those either, nothing is sealed. Taken over while the node runs. A new one comes in
    /// behind the old one first, on every node, and then before it: until then the others drop what it seals.
    #[serde(
        serialize_with = "print::secrets",
        deserialize_with = "list::one_or_more"
    )]
    pub secrets: Vec<SecretString>,
}

impl Default for RegistryTiming {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(3),
            lease: Duration::from_secs(10),
            prefix: "switchboard".into(),
            secrets: Vec::new(),
        }
    }
}

impl Config {
    /// What seals the messages between nodes, first, and by what a seal holds too. Empty: nothing is sealed.
    pub fn fleet_secrets(&self) -> Vec<SecretString> {
        let jwt = &self.auth.jwt;
        match self.registry.secrets.as_slice() {
            [] => jwt
                .secret
                .iter()
                .chain(&jwt.previous_secrets)
                .cloned()
                .collect(),
            own => own.to_vec(),
        }
    }
}

/// `presence`: what is kept of users who are gone.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Presence {
    /// How long a user's `lastSeen` is kept; `168h` by default. `0s`: not at all, which saves one key a user.
    #[serde(with = "print::duration")]
    pub last_seen: Duration,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            last_seen: Duration::from_secs(168 * 3600),
        }
    }
}

/// `drain`: how a node goes after SIGTERM or SIGINT.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Between being not ready and the first close; `0s` by default. As long as the load balancer takes to notice.
    #[serde(with = "print::duration")]
    pub delay: Duration,
    /// Over which the closes are spread; `10s` by default. Longer with many connections on few nodes. The supervisor's
    /// patience (30 s in Kubernetes) must outlast both together.
    #[serde(with = "print::duration")]
    pub window: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            window: Duration::from_secs(10),
        }
    }
}

/// `transport`: where clients find their sessions, and what else they find there.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transport {
    /// The path at which clients connect, without the slash at its end; `/socket.io` by default. Clients that don't say another one
    /// ask for that.
    pub path: String,
    /// The name of a cookie that a handshake sets, and its attributes: `io; Path=/; HttpOnly`. Its value is random; it is for load
    /// balancers that tell clients apart by a cookie. None by default.
    pub cookie: Option<String>,
    /// Whether answers to polls of more than 1 KB are compressed, with gzip, for clients that take it. Not by default: it costs CPU.
    pub http_compression: bool,
    /// The directory `dist` of the npm package `socket.io-client`, which pages get at `/socket.io/socket.io.js` and the names of
    /// its variants. None by default: those are 404.
    pub client_bundle: Option<PathBuf>,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            path: "/socket.io".to_owned(),
            cookie: None,
            http_compression: false,
            client_bundle: None,
        }
    }
}

/// `ping`: Engine.IO's heartbeat.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ping {
    /// Between pings; `25s` by default. Below the idle timeout of whatever proxy is in front.
    #[serde(with = "print::duration")]
    pub interval: Duration,
    /// How long the pong may take; `20s` by default. A client that vanished is noticed after both together.
    #[serde(with = "print::duration")]
    pub timeout: Duration,
}

impl Default for Ping {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(25),
            timeout: Duration::from_secs(20),
        }
    }
}

/// `log`: what is logged and how, see [`telemetry`](crate::telemetry).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text`, the default, or `json` where a machine reads along.
    pub format: LogFormat,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or several, by target: `info,switchboard::auth=debug`.
    /// `info` by default. What the protocol libraries log stays capped at `info`, since they log credentials.
    pub level: String,
    /// The file that the audit's lines are appended to, instead of the log, whatever `level` says. Opened anew at SIGHUP. None
    /// by default: the lines are the log's, with the target `audit`.
    pub audit_file: Option<PathBuf>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".into(),
            audit_file: None,
        }
    }
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
