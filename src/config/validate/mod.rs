//! What no single value can tell: bounds, and what goes with what.
//!
//! `auth`, `api` and `transport` are what is checked of their sections; the rest is here.

mod api;
mod auth;
mod transport;

use std::{fs::File, net::SocketAddr, path::Path, time::Duration};

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;

use super::{Config, ConfigError, LARGEST_PAYLOAD, Problem, print::MASK, print::size};

/// Far beyond any use, and far below what overflows a clock.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

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
        self.addresses(&mut findings);
        self.api_keys(&mut findings);
        self.tokens(&mut findings);
        self.key_sources(&mut findings);
        self.sessions(&mut findings);
        self.namespace_rules(&mut findings);
        self.redis.validate(&mut findings);
        self.origins(&mut findings);
        self.bounds(&mut findings);
        self.transport.validate(&mut findings);
        self.durations(&mut findings);
        log_level(&self.log.level, &mut findings);
        ConfigError::unless_empty(findings.0)
    }

    fn addresses(&self, findings: &mut Findings) {
        if let Some(internal) = self.internal_listen
            && collide(self.listen, internal)
        {
            findings.add("internal_listen", "the same address as listen");
        }
        if let Some(name) = &self.node_id {
            let fits = (1..=128).contains(&name.len())
                && !name.chars().any(|c| c.is_control() || c.is_whitespace());
            findings.expect(
                fits,
                "node_id",
                "must be 1 to 128 bytes without spaces or control characters",
            );
        }
    }

    fn bounds(&self, findings: &mut Findings) {
        let limits = &self.limits;
        for (key, size) in [
            ("limits.max_payload", limits.max_payload),
            ("limits.max_payload_guest", limits.max_payload_guest),
        ] {
            findings.expect(
                (ByteSize::kb(1)..=LARGEST_PAYLOAD).contains(&size),
                key,
                &format!("{} is not from 1KB to 64MB", size::text(size)),
            );
        }
        findings.expect(
            (ByteSize::b(1)..=ByteSize::mb(4)).contains(&limits.ack_bytes),
            "limits.ack_bytes",
            &format!("{} is not from 1B to 4MB", size::text(limits.ack_bytes)),
        );
        for (key, value) in [
            ("limits.events_per_second", limits.events_per_second),
            ("limits.events_burst", limits.events_burst),
        ] {
            findings.expect(value > 0, key, "must be at least 1");
        }
        for (index, value) in self.registry.secrets.iter().enumerate() {
            let key = format!("registry.secrets.{index}");
            secret(&key, value, findings);
            // As many as SHA-256 has (RFC 2104 section 3). The empty one and the mask are told of already.
            let text = value.expose_secret();
            let is_short = (1..32).contains(&text.len()) && text != MASK;
            findings.expect(!is_short, &key, "must have at least 32 bytes");
        }
        let prefix = &self.registry.prefix;
        // Braces would choose the slot of a Redis Cluster, the others are patterns of PSUBSCRIBE.
        let bad = |c: char| c.is_control() || c.is_whitespace() || "{}*?[]\\".contains(c);
        findings.expect(
            !prefix.is_empty() && !prefix.contains(bad),
            "registry.prefix",
            "must not be empty or hold spaces, control characters or any of { } * ? [ ] \\",
        );
    }

    fn durations(&self, findings: &mut Findings) {
        let limits = &self.limits;
        let registry = &self.registry;
        let may_be_zero = [
            ("auth.jwt.leeway", self.auth.jwt.leeway),
            ("auth.refresh_lead", self.auth.refresh_lead),
            ("presence.last_seen", self.presence.last_seen),
            ("drain.delay", self.drain.delay),
            ("drain.window", self.drain.window),
        ];
        let positive = [
            ("auth.refresh_ttl", self.auth.refresh_ttl),
            ("auth.token_ttl", self.auth.token_ttl),
            ("auth.session.recheck", self.auth.session.recheck),
            ("limits.handshake_timeout", limits.handshake_timeout),
            ("limits.write_deadline", limits.write_deadline),
            ("registry.heartbeat", registry.heartbeat),
            ("registry.lease", registry.lease),
            ("ping.interval", self.ping.interval),
            ("ping.timeout", self.ping.timeout),
        ];
        for (key, value) in positive {
            // Redis and Engine.IO count in milliseconds.
            findings.expect(
                value >= Duration::from_millis(1),
                key,
                "must be at least 1ms",
            );
        }
        for (key, value) in may_be_zero.into_iter().chain(positive) {
            findings.expect(value <= LONGEST, key, "must be at most 10 years");
        }
        findings.expect(
            self.auth.token_ttl.subsec_nanos() == 0,
            "auth.token_ttl",
            "must be whole seconds, as exp counts them",
        );
        findings.expect(
            registry.lease >= registry.heartbeat.saturating_mul(2),
            "registry.lease",
            "must be at least twice registry.heartbeat, or one late heartbeat takes the node out",
        );
    }
}

pub(super) const MASKED: &str = "is masked: a printout of print-config holds no secrets";

pub(super) fn secret(key: &str, value: &SecretString, findings: &mut Findings) {
    secret_text(key, value.expose_secret(), findings);
}

fn secret_text(key: &str, text: &str, findings: &mut Findings) {
    match text {
        "" => findings.add(key, "must not be empty"),
        MASK => findings.add(key, MASKED),
        _ => {}
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

fn log_level(filter: &str, findings: &mut Findings) {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    if let Err(error) = EnvFilter::try_new(filter) {
        findings.add("log.level", format!("{filter:?}: {error}"));
        return;
    }
    // A bare word is a target to tracing, at its most verbose, so a slip like `inof` would be taken and silence the rest.
    let slip = filter.split(',').map(str::trim).find(|part| {
        !part.contains(['=', '[', ']', '{', '}'])
            && !LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level))
    });
    if let Some(part) = slip {
        findings.add(
            "log.level",
            format!(
                "{part:?} is neither a level ({}) nor target=level",
                LEVELS.join(", ")
            ),
        );
    }
}
