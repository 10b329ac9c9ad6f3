//! Where the cluster meets: `redis`.

use std::path::{Path, PathBuf};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use reqwest::Url;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    list,
    print::{self, MASK},
    validate::{Findings, MASKED, readable, secret},
};

/// `redis`: where the cluster meets.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://` or `rediss://` (TLS) URLs, `--redis-url` or `SWITCHBOARD_REDIS_URL`: of the one server, of the sentinels, or
    /// of some servers of the cluster, by `mode`. User, password and database in them are those of the servers that hold the
    /// data, and the same in all. Empty, the default: the embedded registry, which is one node's own. Set it as soon as there
    /// are two nodes. Secret because of the password in it.
    #[serde(
        serialize_with = "print::redis_urls",
        deserialize_with = "list::one_or_more"
    )]
    pub urls: Vec<SecretString>,
    /// How Redis is run: `standalone`, the default, `sentinel` or `cluster`.
    pub mode: RedisMode,
    /// With `sentinel`: the master's name among the sentinels. None by default.
    pub master_name: Option<String>,
    /// The user to log in with at the sentinels themselves, if they ask for one. None by default.
    pub sentinel_username: Option<String>,
    /// The password for that. None by default.
    #[serde(serialize_with = "print::secret_option")]
    pub sentinel_password: Option<SecretString>,
    /// With `rediss://`: a PEM file with the certificates that the servers' are checked against, in place of the system's.
    /// None by default.
    pub ca_file: Option<PathBuf>,
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
    /// Checks the bounds of values and whether they go together.
    pub(super) fn validate(&self, findings: &mut Findings) {
        for (index, url) in self.urls.iter().enumerate() {
            self::url(&format!("redis.urls.{index}"), url, findings);
        }
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
            && let Err(why) = readable(file).and_then(|()| certificates(file))
        {
            findings.add("redis.ca_file", why);
        }
        if let Some(password) = &self.sentinel_password {
            secret("redis.sentinel_password", password, findings);
        }
    }
}

/// Checks one URL.
pub(super) fn url(key: &str, url: &SecretString, findings: &mut Findings) {
    let url = url.expose_secret();
    let parsed = Url::parse(url).ok();
    let usable = parsed
        .as_ref()
        .is_some_and(|url| matches!(url.scheme(), "redis" | "rediss") && url.has_host())
        && url.into_connection_info().is_ok();
    if !usable {
        findings.add(
            key,
            "not a redis://[user:password@]host[:port][/database] or rediss:// URL",
        );
    } else if parsed.is_some_and(|url| url.password() == Some(MASK)) {
        findings.add(key, MASKED);
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
