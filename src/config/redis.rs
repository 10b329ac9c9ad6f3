//! Where the cluster meets: `redis`.

use std::path::{Path, PathBuf};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    section::section,
    validate::{Findings, readable, texts},
};

section! {
    /// Where the cluster meets.
    Redis in "redis." {
        /// `redis://` or `rediss://` (TLS) URLs: of the one server, of all the sentinels, or of some servers of the cluster, by
        /// `redis.mode`. User, password and database in them are those of the servers that hold the data, and the same in all.
        /// Set it as soon as there are two nodes. Secret because of the password in it.
        urls: Vec<RedisUrl> = Vec::new(), short("SWITCHBOARD_REDIS_URL"), flag("--redis-url"), shown("none: the embedded registry, which is one node's own"), fits(texts::redis_url);
        /// How Redis is run: `standalone`, `sentinel` or `cluster`.
        mode: RedisMode = RedisMode::Standalone;
        /// With `sentinel`: the master's name among the sentinels.
        master_name: Option<String> = None;
        /// The user to log in with at the sentinels themselves, if they ask for one.
        sentinel_username: Option<String> = None;
        /// The password for that.
        sentinel_password: Option<SecretString> = None;
        /// With `rediss://`: a PEM file with the certificates that the servers' are checked against.
        ca_file: Option<PathBuf> = None, shown("the system's"), readable;
    }
}

/// The URL of a server of Redis. `Debug` hides it, and a printout its password.
#[derive(Clone, Debug)]
pub struct RedisUrl(SecretString);

impl ExposeSecret<str> for RedisUrl {
    fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }
}

impl<T: Into<SecretString>> From<T> for RedisUrl {
    fn from(url: T) -> Self {
        Self(url.into())
    }
}

/// How Redis is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// One server, at one address.
    #[default]
    Standalone,
    /// A master with replicas, one of which takes its place when the sentinels say so.
    Sentinel,
    /// Redis Cluster: the data is divided among several masters.
    Cluster,
}

impl Redis {
    /// Checks whether the values go together.
    pub(super) fn go_together(&self, findings: &mut Findings) {
        let parsed: Vec<_> = self
            .urls
            .iter()
            .filter_map(|url| url.expose_secret().into_connection_info().ok())
            .collect();
        let login = |info: &ConnectionInfo| {
            let settings = info.redis_settings();
            (
                settings.username().map(str::to_owned),
                settings.password().map(str::to_owned),
                settings.db(),
                matches!(info.addr(), ConnectionAddr::TcpTls { .. }),
            )
        };
        findings.expect(
            parsed
                .windows(2)
                .all(|two| login(&two[0]) == login(&two[1])),
            "redis.urls",
            "must all have the same scheme, user, password and database",
        );
        if self.mode == RedisMode::Standalone {
            findings.expect(
                self.urls.len() <= 1,
                "redis.urls",
                "takes one URL: several are for redis.mode = \"sentinel\" or \"cluster\"",
            );
        } else {
            findings.expect(
                !self.urls.is_empty(),
                "redis.urls",
                "not set, and redis.mode is not for the embedded registry",
            );
        }
        if self.mode == RedisMode::Cluster {
            findings.expect(
                parsed.iter().all(|info| info.redis_settings().db() == 0),
                "redis.urls",
                "must name no database: a cluster has number 0 only",
            );
        }
        if self.mode == RedisMode::Sentinel {
            findings.expect(
                self.master_name.as_ref().is_some_and(|name| !name.is_empty()),
                "redis.master_name",
                "not set: redis.mode = \"sentinel\" needs the name that the sentinels know the master by",
            );
        }
        if let Some(file) = &self.ca_file
            && readable(file).is_ok()
            && let Err(why) = certificates(file)
        {
            findings.add("redis.ca_file", why);
        }
    }
}

/// Whether a file has certificates in PEM, and nothing that is damaged.
fn certificates(file: &Path) -> Result<(), String> {
    let wrong = |error| format!("{} is no PEM: {error}", file.display());
    let mut found = CertificateDer::pem_file_iter(file).map_err(wrong)?;
    let Some(first) = found.next() else {
        return Err(format!("no certificate is in {}", file.display()));
    };
    first.map_err(wrong)?;
    found.try_for_each(|one| one.map(drop)).map_err(wrong)
}
