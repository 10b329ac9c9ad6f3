//! Which servers there are, and how each is connected to: the only place that knows `redis.mode`.

use std::{sync::Arc, time::Duration};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, TlsCertificates,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Address, Aside, LinkError, Map, finder::Finder};
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
    aside: Aside,
    /// How the servers that hold data are connected to.
    login: Login,
    cluster: bool,
    pub(super) map: watch::Sender<Arc<Map>>,
    /// Counts the searches that have ended.
    pub(super) looks: watch::Sender<u64>,
    /// Wakes the finder before its time.
    pub(super) wake: Notify,
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
                let own = Login {
                    settings: sentinel_settings(redis),
                    ..login.clone()
                };
                Some(Finder::sentinels(own, addresses.clone(), master))
            }
            RedisMode::Cluster => Some(Finder::cluster(login.clone(), addresses.clone())),
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
        let aside = Aside::start()?;
        let shared = Arc::new(Shared {
            aside: aside.clone(),
            login,
            cluster: redis.mode == RedisMode::Cluster,
            map: watch::Sender::new(Arc::new(known)),
            looks: watch::Sender::new(0),
            wake: Notify::new(),
        });
        let finder = finder.map(|finder| {
            let stop = CancellationToken::new();
            aside
                .handle()
                .spawn(finder.run(Arc::clone(&shared), stop.clone()));
            Arc::new(stop.drop_guard())
        });
        Ok(Self {
            shared,
            _finder: finder,
        })
    }

    /// Where the tasks of links to these servers run.
    pub fn aside(&self) -> &Aside {
        &self.shared.aside
    }

    /// Which server has what, as far as is known.
    pub fn map(&self) -> Arc<Map> {
        Arc::clone(&self.shared.map.borrow())
    }

    /// The same, and every change of it.
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

    /// The map may be wrong: has it looked for again, soon. Never waits.
    pub fn doubt(&self) {
        self.shared.wake.notify_one();
    }

    /// The same, and waits until somebody has looked; at once where nobody looks.
    pub(crate) async fn look(&self) {
        let mut looks = self.shared.looks.subscribe();
        self.doubt();
        if self.may_change() {
            let _ = looks.changed().await;
        }
    }

    /// Whether servers answer for each other, and for nothing while they don't see each other.
    pub(super) fn is_cluster(&self) -> bool {
        self.shared.cluster
    }

    /// Whether there is anything to find: whether servers may change.
    pub(super) fn may_change(&self) -> bool {
        self._finder.is_some()
    }
}

/// How servers of one kind are connected to.
#[derive(Clone, Debug)]
pub(super) struct Login {
    settings: RedisConnectionInfo,
    /// With TLS: the address of a server, to put others' names into.
    tls: Option<ConnectionAddr>,
}

impl Login {
    pub(super) fn client(&self, server: &Address) -> Result<Client, LinkError> {
        let Address { host, port } = server.clone();
        let addr = match &self.tls {
            Some(ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            }) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        let info = addr
            .into_connection_info()?
            .set_redis_settings(self.settings.clone())
            .set_tcp_settings(tcp_settings());
        Ok(Client::open(info)?)
    }

    /// Whether certificates are checked.
    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

fn tcp_settings() -> TcpSettings {
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(
        TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(2))
            .with_retries(3),
    );
    // How long written bytes may go without an acknowledgement: bounds what keepalive does not, a link that has traffic.
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let tcp = tcp.set_user_timeout(Duration::from_secs(5));
    tcp
}

fn parse(url: &SecretString, redis: &config::Redis) -> Result<ConnectionInfo, LinkError> {
    let unusable = |_| LinkError::Config("not a redis:// or rediss:// URL".into());
    let info = url
        .expose_secret()
        .into_connection_info()
        .map_err(unusable)?;
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Ok(info);
    }
    // Fails if there is one already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Some(file) = &redis.ca_file else {
        return Ok(info);
    };
    let wrong = |why: String| LinkError::Config(format!("redis.ca_file {}: {why}", file.display()));
    let root = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let certificates = TlsCertificates {
        client_tls: None,
        root_cert: Some(root),
    };
    let client =
        Client::build_with_tls(info, certificates).map_err(|error| wrong(error.to_string()))?;
    Ok(client.get_connection_info().clone())
}

/// What the URLs say: how to log in, the same for all of them, and their addresses.
fn logins(redis: &config::Redis) -> Result<(Login, Vec<Address>), LinkError> {
    let mut login: Option<Login> = None;
    let mut addresses = Vec::new();
    for url in &redis.urls {
        let info = parse(url, redis)?;
        let addr = info.addr().clone();
        let (host, port) = match &addr {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), *port)
            }
            _ => return Err(LinkError::Config("not a redis:// or rediss:// URL".into())),
        };
        addresses.push(Address { host, port });
        let own = Login {
            settings: info
                .redis_settings()
                .clone()
                .set_protocol(ProtocolVersion::RESP3),
            tls: matches!(addr, ConnectionAddr::TcpTls { .. }).then_some(addr),
        };
        let key = |login: &Login| {
            let settings = &login.settings;
            (
                settings.username().map(str::to_owned),
                settings.password().map(str::to_owned),
                settings.db(),
                login.is_tls(),
            )
        };
        if login.as_ref().is_some_and(|login| key(login) != key(&own)) {
            return Err(LinkError::Config(
                "all must have the same scheme, user, password and database".into(),
            ));
        }
        login = Some(own);
    }
    let login =
        login.ok_or_else(|| LinkError::Config("one URL is needed, 0 are given".to_owned()))?;
    if redis.mode == RedisMode::Cluster && login.settings.db() != 0 {
        return Err(LinkError::Config(
            "a cluster has one database only, 0".into(),
        ));
    }
    Ok((login, addresses))
}

fn sentinel_settings(redis: &config::Redis) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    if let Some(username) = &redis.sentinel_username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &redis.sentinel_password {
        settings = settings.set_password(password.expose_secret());
    }
    settings
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
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
