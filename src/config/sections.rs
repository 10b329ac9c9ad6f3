//! The cluster, the bounds and the timing: `cors`, `limits`, `registry`, `presence`, `drain`, `transport`, `ping`,
//! `log`.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Config, section::section, validate::texts};
use crate::shard::Shards;

section! {
    /// Which pages of other origins may connect. Others get 403. Same origin is what `Sec-Fetch-Site` says and the host of
    /// `Origin`, and over TLS (`X-Forwarded-Proto: https`) an `https://` one.
    Cors in "cors." {
        /// Origins (`https://app.example.com`, as browsers send them) of the pages that may connect, and that may do so with a
        /// session cookie. `*` stands alone and lets any page in, without cookies.
        allowed_origins: Vec<String> = Vec::new(), shown("none: pages of the node's own origin");
    }
    unwritten {
        /// Whether pages of this machine may too, of any port: true in development mode.
        localhost: bool;
    }
}

/// The largest `limits.max_payload` and `.max_payload_guest`.
pub const LARGEST_PAYLOAD: ByteSize = ByteSize::mb(64);

section! {
    /// Bounds of a node and of each connection.
    Limits in "limits." {
        /// Connections of this node; beyond it 503. Of the file descriptors (`RLIMIT_NOFILE`) an eighth (64 to 1,024) is kept
        /// back for the internal listener, Redis and files; no number allows more. 0: no limit but that.
        connections: Option<u32> = None, shown("what the descriptors allow"), reload;
        /// What the process may hold of memory (its resident set): a size. Beyond it newcomers get 503, and the connections
        /// with the longest queues end with 4002, until it is below it again; the others stay. 0: no limit.
        memory: Option<ByteSize> = None, shown("80 % of the cgroup's limit, or of the machine's memory"), reload;
        /// TCP connections from one address, and Engine.IO sessions of clients there: each up to this many on this node; beyond
        /// it 503. An IPv6 address stands for its /64. Loopback has no limit, nor have `trusted_proxies`: there the address
        /// counts that `X-Forwarded-For` names. 0: no limit.
        connections_per_address: u32 = 5_000, reload;
        /// Engine.IO sessions that the clients of one address may begin in a second on this node, calls of `/api/…`, `/v1/docs`
        /// and `/v1/openapi.json` included; beyond it 503 (429 to the calls). What an address is, and which have no limit, is as
        /// for `limits.connections_per_address`. 0: no limit.
        handshakes_per_second_per_address: u32 = 200, reload;
        /// Engine.IO sessions of this node that have sent no CONNECT packet yet; with one more the oldest of them is closed.
        /// Each takes some kilobytes, for `limits.handshake_timeout` at the most. 0: no limit.
        handshakes: u32 = 10_000, reload;
        /// Connections of one user, over the whole cluster and all namespaces. Guests are not counted. 0: no limit.
        connections_per_user: u32 = 256, reload;
        /// What becomes of one too many: `reject` refuses it; `evict_oldest` ends the user's oldest with 4504.
        connections_per_user_policy: PerUserPolicy = PerUserPolicy::Reject, reload;
        /// How many connections of one user may come in a second, over the whole cluster and all namespaces, and twice as many
        /// at once. Beyond it the transport is closed, and the client tries again by itself. 0: no limit.
        connects_per_second_per_user: u32 = 20, reload;
        /// The size of one message on either transport, from `1KB` to `64MB`. A client is told it in the handshake, so that a new
        /// value holds for new transports.
        max_payload: ByteSize = ByteSize::mb(1), reload, within(ByteSize::kb(1), LARGEST_PAYLOAD);
        /// The size of one message before the transport's first identity, and of guests, from `1KB` to `64MB`. A CONNECT packet
        /// with its credentials is never larger either. A new value holds for new transports.
        max_payload_guest: ByteSize = ByteSize::kb(64), reload, within(ByteSize::kb(1), LARGEST_PAYLOAD);
        /// The size of one client's answer to an event that the API sent with `ack`, as JSON, up to `4MB`. A larger one is not
        /// passed on: it comes as `error: "too_large"`, and so does what goes beyond 16 MB together.
        ack_bytes: ByteSize = ByteSize::kb(64), reload, within(ByteSize::b(1), ByteSize::mb(4));
        /// Inbound events a second, per connection. Beyond it (and the burst) an event is refused, at ten times that the
        /// connection ends.
        events_per_second: u32 = 100, reload, positive;
        /// How many inbound events may come at once, per connection. They are handled in order, one at a time; no more than
        /// these wait.
        events_burst: u32 = 200, reload, positive;
        /// Rooms that one connection may be in, and a user with all connections. Its user's and its roles' don't count.
        rooms_per_connection: u32 = 256, reload, positive;
        /// How long a client has for the request head, the upgrade and the CONNECT packet, and a transport for being left with
        /// no namespace. For the CONNECT packet no longer than the value at the start, which socketioxide goes by.
        handshake_timeout: Duration = Duration::from_secs(10), reload, positive;
        /// A connection with more unsent than this ends with 4002. Lower it to bound the memory of many slow clients; below
        /// `limits.max_payload`, one large message is enough to end a connection.
        send_queue_bytes: ByteSize = ByteSize::mb(1), reload;
        /// A connection with an unsent byte older than this ends with 4002.
        write_deadline: Duration = Duration::from_secs(10), reload, positive;
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

section! {
    /// How nodes stay known to each other. The same on all nodes of a cluster.
    RegistryTiming in "registry." {
        /// How often a node says that it lives.
        heartbeat: Duration = Duration::from_secs(3), positive;
        /// How long it is believed; at least twice the heartbeat. A dead node's connections leave the answers when it is over:
        /// shorter is quicker, longer rides out longer stalls of Redis.
        lease: Duration = Duration::from_secs(10), positive;
        /// Into how many parts the registry is divided, each on one server of a cluster: 1, 2, 4, 8, 16, 32 or 64. The first node of a
        /// fleet settles it, and one with another number does not join. [How many](../deploy/redis/README.md#in-a-cluster).
        shards: Shards = Shards::default(), shown("16");
        /// Prefix of every key and channel in Redis. Another one for each cluster on the same Redis.
        prefix: String = "switchboard".into(), fits(texts::prefix);
        /// What seals the messages between nodes, so that nobody who writes to Redis can make, alter or repeat one: the first
        /// seals, by each of them a seal holds. The same on all nodes, at least 32 bytes each. With none, and none in `auth.jwt`,
        /// nothing is sealed, and the log says so. A new one comes in behind the old one first, on every node, and then before
        /// it: until then the others drop what it seals.
        secrets: Vec<SecretString> = Vec::new(), shown("`auth.jwt.secret` and `.previous_secrets`"), reload, fits(texts::seal);
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

section! {
    /// What is kept of users who are gone, and who is told that they are.
    Presence in "presence." {
        /// How long a user's `lastSeen` is kept. `0s`: not at all, which saves one key a user.
        last_seen: Duration = Duration::from_secs(168 * 3600);
        /// Which users clients may watch: `off`, none; `claim`, those in the claim `watch` of their token, which are watched from the
        /// start; `any`. The same on all nodes.
        watch: WatchRule = WatchRule::Off;
        /// How many users one connection may watch.
        watch_limit: u32 = 1_000;
        /// How long a user is gone before those who watch are told: who comes back meanwhile was not gone.
        offline_delay: Duration = Duration::from_secs(5);
    }
}

/// Which users clients may watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchRule {
    /// None.
    #[default]
    Off,
    /// Those that their token names.
    Claim,
    /// Any.
    Any,
}

section! {
    /// How a node goes after SIGTERM or SIGINT.
    Drain in "drain." {
        /// Between being not ready and the first close. As long as the load balancer takes to notice.
        delay: Duration = Duration::ZERO;
        /// Over which the closes are spread. Longer with many connections on few nodes. The supervisor's patience (30 s in
        /// Kubernetes) must outlast both together.
        window: Duration = Duration::from_secs(10);
    }
}

section! {
    /// Where clients find their sessions, and what else they find there.
    Transport in "transport." {
        /// Where clients connect: `path` of the stock client, without the slash at its end. A proxy that looks at the path has to
        /// follow.
        path: String = "/socket.io".into(), fits(texts::transport_path);
        /// The name and the attributes of a cookie that each handshake sets, for load balancers that tell clients apart by one:
        /// `io; Path=/; HttpOnly; SameSite=Lax`. Its value is random and means nothing to Switchboard.
        cookie: Option<String> = None, fits(texts::transport_cookie);
        /// Whether answers to polls of more than 1 KB are compressed, with gzip, for clients that take it. It costs CPU.
        http_compression: bool = false;
        /// The directory `dist` of the npm package `socket.io-client`, which pages get at `/socket.io/socket.io.js` (below
        /// `transport.path`) and the names of its variants; without it they get 404.
        client_bundle: Option<PathBuf> = None;
    }
}

section! {
    /// Engine.IO's heartbeat.
    Ping in "ping." {
        /// Between pings. Below the idle timeout of whatever proxy is in front.
        interval: Duration = Duration::from_secs(25), positive;
        /// How long the pong may take. A client that vanished is noticed after both together.
        timeout: Duration = Duration::from_secs(20), positive;
    }
}

section! {
    /// What is logged and how. Never a token, cookie, key or password. Warnings are limited to one a second of each kind; how
    /// many were left out is said. A connection's line at its end is `debug` beyond one a second; a line each ten seconds says
    /// how many came and went.
    Log in "log." {
        /// `text`, or `json` where a machine reads along.
        format: LogFormat = LogFormat::Text;
        /// A level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or several, by target: `info,switchboard::auth=debug`.
        /// What the protocol libraries log stays capped at `info`, since they log credentials.
        level: String = "info".into(), fits(texts::log_level);
        /// The file that the audit's lines are appended to, instead of the log, whatever `log.level` says. Opened anew at
        /// SIGHUP. Without it the lines are the log's, with the target `audit`.
        audit_file: Option<PathBuf> = None;
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
