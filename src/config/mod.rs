#![doc = include_str!("intro.md")]

use std::net::SocketAddr;

use ipnet::IpNet;

mod access;
mod admin_ui;
mod api;
mod backends;
mod document;
mod environment;
mod error;
mod ingress;
mod key;
mod load;
mod print;
mod redis;
mod reload;
mod running;
mod section;
mod sections;
mod session;
mod start;
#[cfg(test)]
mod tests;
mod traces;
mod validate;
mod value;

pub use self::redis::{Redis, RedisMode, RedisUrl};
pub use access::{Auth, AuthRule, Jwt, JwtKey, Namespace};
pub use admin_ui::AdminUi;
pub use api::{Api, ApiKey, KeySecret, Scope};
pub use backends::{Backend, Events, Fact};
pub use document::document;
pub use environment::Environment;
pub use error::{ConfigError, Problem};
pub use ingress::{EmitterIngress, Ingress, IngressVerb, PythonIngress};
pub use load::{Flags, Sources};
pub use reload::Reload;
pub use running::RunningConfig;
pub use sections::{
    Cors, Drain, LARGEST_PAYLOAD, Limits, Log, LogFormat, PerUserPolicy, Ping, Presence,
    RegistryTiming, Transport, WatchRule,
};
pub use session::Session;
pub use start::{Development, Effective};
pub use traces::Traces;

use section::section;
use validate::texts;

section! {
    /// The configuration of a node.
    Config in "" {
        /// Where clients connect: an IP address and a port. `0.0.0.0:3000` in a container; port 0 takes any free one, and the
        /// log says which.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 3000)), flag("--listen");
        /// Where `/v1`, `/metrics`, `/healthz` and `/readyz` are served instead of on `listen`. Set it when `listen` is open
        /// to the internet and backends reach the node on another network.
        internal_listen: Option<SocketAddr> = None, flag("--internal-listen"), shown("none: all on `listen`");
        /// The node's name in answers and logs. Set it where the platform has names that people know, such as a pod's.
        node_id: Option<String> = None, flag("--node-id"), shown("host name and a random suffix"), fits(texts::node_id);
        /// The HTTP API.
        api: Api = Api::default();
        /// Redis; none: the embedded registry.
        redis: Redis = Redis::default();
        /// Who is let in.
        auth: Auth = Auth::default();
        /// The namespaces. A configured list replaces the default ones as a whole.
        namespaces: Vec<Namespace> = Namespace::defaults(), shown("`/`, `/public` (no token), `/admin` (role `admin`)");
        /// Backends, which are told what clients say and asked who comes.
        backends: Vec<Backend> = Vec::new(), reload;
        /// Notifications.
        events: Events = Events::default();
        /// Which pages of other origins may.
        cors: Cors = Cors::default();
        /// Bounds.
        limits: Limits = Limits::default();
        /// The registry's timing and names.
        registry: RegistryTiming = RegistryTiming::default();
        /// Presence.
        presence: Presence = Presence::default();
        /// What other programs publish in Redis for clients.
        ingress: Ingress = Ingress::default();
        /// The page of `@socket.io/admin-ui`.
        admin_ui: Option<AdminUi> = None;
        /// How a node goes.
        drain: Drain = Drain::default();
        /// What clients find beside their sessions.
        transport: Transport = Transport::default();
        /// Engine.IO's heartbeat.
        ping: Ping = Ping::default();
        /// Addresses of proxies (`10.0.3.7/32`, `127.0.0.1/32`, or the network of a load balancer's machines) whose
        /// `X-Forwarded-For` is believed. With none the peer's address is the client's. The header is read from the right, over
        /// all addresses that are named here, so name proxies and nothing else: a client inside such a network can claim to be
        /// any address, also through a proxy that appends, and the limits of an address don't hold for it. `10.0.0.0/8` is
        /// wrong where clients are in it too.
        trusted_proxies: Vec<IpNet> = Vec::new();
        /// Logs.
        log: Log = Log::default();
        /// Traces.
        traces: Traces = Traces::default();
    }
}
