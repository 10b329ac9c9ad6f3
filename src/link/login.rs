//! How the servers are connected to: TLS, user, password, database and settings of TCP.

use std::time::Duration;

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, TlsCertificates,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use secrecy::ExposeSecret;

use super::{Address, LinkError};
use crate::config::{self, RedisMode};

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

    /// Replaces user, password and database.
    pub(super) fn with(&self, settings: RedisConnectionInfo) -> Self {
        Self {
            settings,
            tls: self.tls.clone(),
        }
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

fn parse(url: &config::RedisUrl, redis: &config::Redis) -> Result<ConnectionInfo, LinkError> {
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

/// Reads the URLs: how to log in, which must be one way for all of them, and their addresses.
pub(super) fn logins(redis: &config::Redis) -> Result<(Login, Vec<Address>), LinkError> {
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

pub(super) fn sentinel_settings(redis: &config::Redis) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    if let Some(username) = &redis.sentinel_username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &redis.sentinel_password {
        settings = settings.set_password(password.expose_secret());
    }
    settings
}
