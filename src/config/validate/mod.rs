//! Whether there can be a node with the values: each in itself, as its key is declared, and all together.
//!
//! `texts` has what is checked of single texts; `auth`, `api` and `backends` have what must go together in their sections.

mod api;
mod auth;
mod backends;
pub(super) mod texts;

use std::{fs::File, net::SocketAddr, path::Path};

use super::{Config, ConfigError, Problem, key::Key, value::Value};

/// The problems so far.
pub(super) struct Findings(Vec<Problem>);

impl Findings {
    pub(super) fn add(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.0.push(Problem::new(key, what));
    }

    /// Adds a problem unless `holds`.
    pub(super) fn expect(&mut self, holds: bool, key: &str, what: &str) {
        if !holds {
            self.add(key, what);
        }
    }
}

impl Config {
    /// Checks the bounds of values and whether they go together.
    ///
    /// # Errors
    ///
    /// All that is wrong, by key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut findings = Findings(Vec::new());
        self.check("", &Key::ROOT, &mut findings);
        if let Some(internal) = self.internal_listen
            && collide(self.listen, internal)
        {
            findings.add("internal_listen", "the same address as listen");
        }
        self.api_keys(&mut findings);
        self.origins(&mut findings);
        self.redis.go_together(&mut findings);
        self.auth.jwt.key_sources(&mut findings);
        self.sessions(&mut findings);
        self.namespace_rules(&mut findings);
        self.ingress(&mut findings);
        self.admin_ui(&mut findings);
        self.backends(&mut findings);
        findings.expect(
            self.auth.token_ttl.subsec_nanos() == 0,
            "auth.token_ttl",
            "must be whole seconds, as exp counts them",
        );
        findings.expect(
            self.registry.lease >= self.registry.heartbeat.saturating_mul(2),
            "registry.lease",
            "must be at least twice registry.heartbeat, or one late heartbeat takes the node out",
        );
        ConfigError::unless_empty(findings.0)
    }
}

/// The path of a key inside the section or table at `at`, which is empty for the configuration itself.
pub(super) fn inside(at: &str, key: &str) -> String {
    match at {
        "" => key.to_owned(),
        _ => format!("{at}.{key}"),
    }
}

pub(super) fn readable(path: &Path) -> Result<(), String> {
    let found = File::open(path).and_then(|file| file.metadata());
    match found {
        Ok(metadata) if metadata.is_dir() => Err(format!("{}: a directory", path.display())),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Whether one of two listeners would take the other's address. Port 0 never does.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}
