//! What other programs publish in Redis for clients: `ingress`.

use serde::{Deserialize, Serialize};

use super::{Config, Redis, RedisUrl, section::section, validate::Findings, validate::texts};

section! {
    /// Emitters of Socket.IO servers that are already there, whose messages reach clients as they are.
    Ingress in "ingress." {
        /// `@socket.io/redis-emitter`, its PHP port, and Socket.IO servers with the Redis adapter. On by being there.
        emitter: Option<EmitterIngress> = None;
        /// python-socketio's `RedisManager`. On by being there.
        python: Option<PythonIngress> = None;
    }
}

section! {
    /// `@socket.io/redis-emitter`, its PHP port, and Socket.IO servers with the Redis adapter: what they publish reaches this node's
    /// clients. On with any of its keys, or with the table alone. Who can publish there can do what `allow` says, unsigned.
    EmitterIngress in "ingress.emitter." {
        /// The Redis that they publish in, if it is not the cluster's: the URL of one server. A node without `redis.urls` needs it.
        redis_url: Option<RedisUrl> = None, shown("the cluster's"), fits(texts::redis_url);
        /// The emitters' `key`: channels are `KEY#…` and `KEY-request#…`.
        key: String = "socket.io".into(), shown("`socket.io`"), fits(texts::channel);
        /// The namespaces that they may reach.
        namespaces: Vec<String> = vec!["/".into()], shown("`/`"), fits(texts::path);
        /// What they may do: `emit`, `join` (`socketsJoin`), `leave` (`socketsLeave`), `disconnect` (`disconnectSockets`).
        allow: Vec<IngressVerb> = IngressVerb::ALL.into(), shown("`emit`, `join`, `leave`, `disconnect`");
    }
}

section! {
    /// python-socketio's `RedisManager(write_only=True)` from 5.14 on, which publishes JSON: what it publishes reaches this node's
    /// clients. On with any of its keys, or with the table alone. Who can publish there can do what `allow` says, unsigned.
    PythonIngress in "ingress.python." {
        /// The Redis that it publishes in, if it is not the cluster's: the URL of one server. A node without `redis.urls` needs it.
        redis_url: Option<RedisUrl> = None, shown("the cluster's"), fits(texts::redis_url);
        /// The manager's `channel`.
        channel: String = "socketio".into(), shown("`socketio`"), fits(texts::channel);
        /// The namespaces that it may reach.
        namespaces: Vec<String> = vec!["/".into()], shown("`/`"), fits(texts::path);
        /// What it may do: `emit`, `join` (`enter_room`), `leave` (`leave_room`, `close_room`), `disconnect`.
        allow: Vec<IngressVerb> = IngressVerb::ALL.into(), shown("`emit`, `join`, `leave`, `disconnect`");
    }
}

/// What a program that publishes in Redis may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IngressVerb {
    /// Sends events.
    Emit,
    /// Puts connections into rooms.
    Join,
    /// Takes connections out of rooms.
    Leave,
    /// Ends connections.
    Disconnect,
}

impl IngressVerb {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Emit, Self::Join, Self::Leave, Self::Disconnect];
}

impl Config {
    /// Checks that emitters can be heard, and that the namespaces which they publish for exist.
    pub(super) fn ingress(&self, findings: &mut Findings) {
        let emitter = self.ingress.emitter.as_ref();
        let emitter = emitter.map(|it| ("emitter", &it.redis_url, &it.namespaces));
        let python = self.ingress.python.as_ref();
        let python = python.map(|it| ("python", &it.redis_url, &it.namespaces));
        for (table, url, namespaces) in emitter.into_iter().chain(python) {
            findings.expect(
                url.is_some() || !self.redis.urls.is_empty(),
                &format!("ingress.{table}.redis_url"),
                "not set, and there is no redis.urls either: say in which Redis is published",
            );
            for (index, path) in namespaces.iter().enumerate() {
                if !self.namespaces.iter().any(|it| it.path == *path) {
                    findings.add(
                        format!("ingress.{table}.namespaces.{index}"),
                        format!("{path:?} is none of the configured namespaces"),
                    );
                }
            }
        }
    }

    /// A Redis beside the cluster's: the one server at `url`; without a URL, the cluster's.
    pub(crate) fn redis_at(&self, url: Option<&RedisUrl>) -> Redis {
        match url {
            Some(url) => Redis {
                urls: vec![url.clone()],
                ca_file: self.redis.ca_file.clone(),
                ..Redis::default()
            },
            None => self.redis.clone(),
        }
    }
}
