//! Which servers there are, and how each is connected to: the only place that knows `redis.mode`.

use std::{collections::HashMap, sync::Arc};

use redis::Client;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Address, LinkError, Map, RedisRuntime,
    ask::Ask,
    finder::Finder,
    login::{Login, logins, sentinel_settings},
};
use crate::config::{self, RedisMode};

/// The servers of one Redis: one, or a master that Sentinel knows, or the masters of a cluster. Clones share what is known; with
/// the last one the search for them ends.
#[derive(Clone, Debug)]
pub struct Servers {
    shared: Arc<Shared>,
    /// None where there is nothing to find.
    _finder: Option<Arc<DropGuard>>,
}

/// What the finder writes and everybody else reads.
#[derive(Debug)]
pub(super) struct Shared {
    runtime: RedisRuntime,
    /// How the servers that hold data are connected to.
    pub(super) login: Login,
    cluster: bool,
    pub(super) map: watch::Sender<Arc<Map>>,
    /// Counts the searches that have ended.
    pub(super) looks: watch::Sender<u64>,
    /// Wakes the finder before its time.
    pub(super) wake: Notify,
    /// How often each server of the map turned out to be the wrong one.
    given_up: watch::Sender<HashMap<Address, u64>>,
}

impl Shared {
    pub(super) fn new(runtime: RedisRuntime, login: Login, cluster: bool, known: Map) -> Self {
        Self {
            runtime,
            login,
            cluster,
            map: watch::Sender::new(Arc::new(known)),
            looks: watch::Sender::new(0),
            wake: Notify::new(),
            given_up: watch::Sender::default(),
        }
    }
}

impl Servers {
    /// The servers of `redis`, which need not be there yet. Starts the thread that their links run on.
    ///
    /// For `rediss://`, also makes aws-lc the process's TLS provider if it has none: redis-rs takes no other way.
    ///
    /// # Errors
    ///
    /// [`LinkError::Config`] if the settings contradict each other or can't be used. The text never holds a URL, as its
    /// password may be in any place if it was not escaped.
    pub fn new(redis: &config::Redis) -> Result<Self, LinkError> {
        let (login, addresses) = logins(redis)?;
        let finder = match redis.mode {
            RedisMode::Standalone => None,
            RedisMode::Sentinel => {
                let master = redis.master_name.clone().ok_or_else(|| {
                    LinkError::Config("redis.master_name is needed with sentinels".into())
                })?;
                let own = login.with(sentinel_settings(redis));
                Some(Finder::new(own, addresses.clone(), Ask::Sentinels(master)))
            }
            RedisMode::Cluster => Some(Finder::new(login.clone(), addresses.clone(), Ask::Cluster)),
        };
        let known = match (&finder, addresses.as_slice()) {
            (Some(_), _) => Map::default(),
            (None, [one]) => Map::of_one(one.clone()),
            (None, many) => {
                return Err(LinkError::Config(format!(
                    "one URL is needed, {} are given",
                    many.len()
                )));
            }
        };
        let is_cluster = redis.mode == RedisMode::Cluster;
        let runtime = RedisRuntime::start()?;
        let shared = Arc::new(Shared::new(runtime.clone(), login, is_cluster, known));
        let finder = finder.map(|finder| {
            let stop = CancellationToken::new();
            runtime
                .handle()
                .spawn(finder.run(Arc::clone(&shared), stop.clone()));
            Arc::new(stop.drop_guard())
        });
        Ok(Self {
            shared,
            _finder: finder,
        })
    }

    /// Returns the runtime of the links to these servers.
    pub fn runtime(&self) -> &RedisRuntime {
        &self.shared.runtime
    }

    /// Returns the map of slots to servers, as far as it is known.
    pub fn map(&self) -> Arc<Map> {
        Arc::clone(&self.shared.map.borrow())
    }

    /// Returns a receiver of the map that sees every change.
    pub fn maps(&self) -> watch::Receiver<Arc<Map>> {
        self.shared.map.subscribe()
    }

    /// Makes a client of one server: RESP3, no Nagle delay, and a peer that falls silent is noticed in seconds.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the address is none.
    pub fn client(&self, server: &Address) -> Result<Client, LinkError> {
        self.shared.login.client(server)
    }

    /// Starts a search for the servers soon, as the map may be wrong. Never waits.
    pub fn doubt(&self) {
        self.shared.wake.notify_one();
    }

    /// Starts a search for the servers and waits for its end. Returns at once where servers can't change.
    pub(crate) async fn look(&self) {
        let mut looks = self.shared.looks.subscribe();
        self.doubt();
        if self.may_change() {
            let _ = looks.changed().await;
        }
    }

    /// Has every connection to a server opened anew, as it takes no writes any more. Behind its name there may be another server by
    /// now, and only a new connection gets to that one.
    pub(super) fn give_up(&self, server: &Address) {
        let map = self.map();
        let there = map.servers();
        self.shared.given_up.send_modify(|given_up| {
            given_up.retain(|server, _| there.contains(server));
            if there.contains(server) {
                *given_up.entry(server.clone()).or_default() += 1;
            }
        });
        self.doubt();
    }

    /// Returns how often the connections to a server were given up. A connection is good while this is what it was before the
    /// connection was opened.
    pub(crate) fn given_up(&self, server: &Address) -> u64 {
        self.shared
            .given_up
            .borrow()
            .get(server)
            .copied()
            .unwrap_or(0)
    }

    /// Waits until [`Servers::given_up`] is no longer `before`.
    pub(crate) async fn until_given_up(&self, server: &Address, before: u64) {
        let mut changes = self.shared.given_up.subscribe();
        let given_up = changes.wait_for(|all| all.get(server).copied().unwrap_or(0) != before);
        // Its sender lives as long as this.
        let _ = given_up.await;
    }

    /// Returns true if the servers are a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.shared.cluster
    }

    /// Returns true if servers may change: with sentinels, or in a cluster.
    pub(super) fn may_change(&self) -> bool {
        self._finder.is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use redis::ProtocolVersion;

    use super::*;

    fn urls(urls: &[&str]) -> config::Redis {
        config::Redis {
            urls: urls.iter().map(|url| (*url).into()).collect(),
            ..config::Redis::default()
        }
    }

    fn client(redis: &config::Redis) -> Client {
        let servers = Servers::new(redis).unwrap();
        let map = servers.map();
        assert!(map.is_whole());
        servers.client(map.servers().first().unwrap()).unwrap()
    }

    #[test]
    fn a_client_speaks_resp3_without_delay_and_notices_silence() {
        let client = client(&urls(&["redis://u:p@localhost:7000/3"]));
        let info = client.get_connection_info();
        assert_eq!(info.addr().to_string(), "localhost:7000");
        assert_eq!(info.redis_settings().protocol(), ProtocolVersion::RESP3);
        assert_eq!(info.redis_settings().db(), 3);
        assert_eq!(info.redis_settings().password(), Some("p"));
        assert!(info.tcp_settings().nodelay());
        assert!(info.tcp_settings().keepalive().is_some());
    }

    #[test]
    fn tls_is_taken_from_the_scheme() {
        let client = client(&urls(&["rediss://localhost"]));
        let addr = client.get_connection_info().addr();
        assert!(
            matches!(
                addr,
                redis::ConnectionAddr::TcpTls {
                    insecure: false,
                    ..
                }
            ),
            "{addr:?}"
        );
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }

    #[test]
    fn an_error_names_the_key_and_never_the_password() {
        for given in [
            &[][..],
            &["redis://:hunter2@a", "redis://:hunter2@b"],
            &["redis://:hunter2@host:port"],
            &["redis://:hunter2@host/db"],
            &["hunter2"],
            &["http://:hunter2@host"],
            &["redis://:6379/hunter2@host"],
            &["redis://host/?protocol=hunter2"],
        ] {
            let error = Servers::new(&urls(given)).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.starts_with("redis.urls: "), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        for (mode, given) in [
            (RedisMode::Sentinel, &["redis://:hunter2@a"][..]),
            (
                RedisMode::Cluster,
                &["redis://:hunter2@a", "redis://:hunter@b"],
            ),
            (RedisMode::Cluster, &["redis://:hunter2@a/1"]),
        ] {
            let redis = config::Redis {
                mode,
                ..urls(given)
            };
            let error = Servers::new(&redis).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
