//! What no single value can tell: bounds, and what goes with what.

use std::{collections::HashSet, fs::File, net::SocketAddr, path::Path, time::Duration};

use bytesize::ByteSize;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;

use super::{AuthRule, Config, ConfigError, KeySecret, Problem, print::MASK, print::size};

/// The names that `auth.jwt.algorithms` takes: RFC 7518 section 3.1 and RFC 8037 section 3.1, without `none`.
const ALGORITHMS: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

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

    fn api_keys(&self, findings: &mut Findings) {
        if let Some(key) = &self.api.key {
            api_key("api.key", key, findings);
        }
        let mut names = HashSet::new();
        let mut digests: HashSet<[u8; 32]> =
            self.api.key.iter().filter_map(KeySecret::digest).collect();
        for (index, entry) in self.api.keys.iter().enumerate() {
            let at = |field: &str| format!("api.keys.{index}.{field}");
            api_key(&at("key"), &entry.key, findings);
            if entry
                .key
                .digest()
                .is_some_and(|digest| !digests.insert(digest))
            {
                findings.add(at("key"), "the same key as another one's");
            }
            if entry.name.trim().is_empty() {
                findings.add(at("name"), "must not be empty");
            } else if !names.insert(entry.name.as_str()) {
                findings.add(at("name"), "the name of another key");
            }
            if entry.scopes.is_empty() {
                findings.add(
                    at("scopes"),
                    "must name at least one of: read, send, disconnect, admin",
                );
            }
        }
    }

    fn tokens(&self, findings: &mut Findings) {
        let jwt = &self.auth.jwt;
        if let Some(value) = &jwt.secret {
            secret("auth.jwt.secret", value, findings);
        }
        for (index, value) in jwt.previous_secrets.iter().enumerate() {
            secret(
                &format!("auth.jwt.previous_secrets.{index}"),
                value,
                findings,
            );
        }
        for (index, name) in jwt.algorithms.iter().enumerate() {
            if !ALGORITHMS.contains(&name.as_str()) {
                findings.add(
                    format!("auth.jwt.algorithms.{index}"),
                    format!("{name:?} is none of: {}", ALGORITHMS.join(", ")),
                );
            }
        }
        for (key, entries) in [("issuer", &jwt.issuer), ("audience", &jwt.audience)] {
            no_empty_entry(&format!("auth.jwt.{key}"), entries, findings);
        }
        findings.expect(
            jwt.user_id_claim
                .as_ref()
                .is_none_or(|name| !name.is_empty()),
            "auth.jwt.user_id_claim",
            "must not be empty",
        );
    }

    fn key_sources(&self, findings: &mut Findings) {
        let jwt = &self.auth.jwt;
        for (key, path) in [
            ("auth.jwt.public_key_file", &jwt.public_key_file),
            ("auth.jwt.jwks_file", &jwt.jwks_file),
        ] {
            if let Some(Err(error)) = path.as_deref().map(readable) {
                findings.add(key, error);
            }
        }
        if let Some(text) = &jwt.jwks_url {
            let url = Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            match url {
                None => findings.add("auth.jwt.jwks_url", "not an http:// or https:// URL"),
                Some(url) => findings.expect(
                    url.username().is_empty() && url.password().is_none(),
                    "auth.jwt.jwks_url",
                    "must not hold a user name or a password: a JWK set is public",
                ),
            }
        }
    }

    fn namespace_rules(&self, findings: &mut Findings) {
        findings.expect(
            !self.namespaces.is_empty(),
            "namespaces",
            "must name at least one namespace",
        );
        let mut paths = HashSet::new();
        for (index, namespace) in self.namespaces.iter().enumerate() {
            let at = |field: &str| format!("namespaces.{index}.{field}");
            let path = namespace.path.as_str();
            if !path.starts_with('/') {
                findings.add(at("path"), format!("{path:?} must begin with a slash"));
            }
            // The comma ends a namespace in a Socket.IO packet, the question mark begins a query, braces are patterns of
            // the router's.
            let bad = |c: char| c.is_control() || c.is_whitespace() || "#,?{}*".contains(c);
            if path.contains(bad) {
                findings.add(
                    at("path"),
                    format!(
                        "{path:?} must not hold spaces, control characters or any of # , ? {{ }} *"
                    ),
                );
            }
            if !paths.insert(path) {
                findings.add(at("path"), format!("{path:?} is there twice"));
            }
            if namespace.auth == AuthRule::None && !namespace.roles.is_empty() {
                findings.add(
                    at("roles"),
                    "goes with auth = \"required\": who needs no token has no role",
                );
            }
            no_empty_entry(&at("roles"), &namespace.roles, findings);
            for (key, entries) in [
                ("issuer", &namespace.issuer),
                ("audience", &namespace.audience),
            ] {
                no_empty_entry(&at(key), entries.as_deref().unwrap_or_default(), findings);
            }
        }
    }

    fn sessions(&self, findings: &mut Findings) {
        let session = &self.auth.session;
        for (index, value) in session.secrets.iter().enumerate() {
            secret(&format!("auth.session.secrets.{index}"), value, findings);
        }
        if session.is_on() && session.redis_url.is_none() && self.redis.urls.is_empty() {
            findings.add(
                "auth.session.secrets",
                "are set, and there is no Redis with sessions in it: set redis.urls or auth.session.redis_url",
            );
        }
        if let Some(url) = &session.redis_url {
            super::redis::url("auth.session.redis_url", url, findings);
        }
        // A token of RFC 9110 section 5.6.2, as RFC 6265 section 4.1.1 has it.
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        findings.expect(
            !session.cookie_name.is_empty() && session.cookie_name.bytes().all(token),
            "auth.session.cookie_name",
            "must be a cookie's name: letters, digits and any of ! # $ % & ' * + - . ^ _ ` | ~",
        );
        findings.expect(
            !session.key_prefix.contains(char::is_control),
            "auth.session.key_prefix",
            "must not hold control characters",
        );
        findings.expect(
            !session.user_id_pointer.is_empty(),
            "auth.session.user_id_pointer",
            "must name at least one place",
        );
        for (index, text) in session.user_id_pointer.iter().enumerate() {
            pointer(
                &format!("auth.session.user_id_pointer.{index}"),
                text,
                findings,
            );
        }
        pointer(
            "auth.session.username_pointer",
            &session.username_pointer,
            findings,
        );
        pointer("auth.session.role_pointer", &session.role_pointer, findings);
    }

    fn origins(&self, findings: &mut Findings) {
        let origins = &self.cors.allowed_origins;
        for (index, origin) in origins.iter().enumerate() {
            let key = format!("cors.allowed_origins.{index}");
            if origin == "*" {
                if origins.len() > 1 {
                    findings.add(key, "\"*\" stands alone: it covers the others");
                }
            } else if let Err(what) = origin_as_sent(origin) {
                findings.add(key, format!("{origin:?} {what}"));
            }
        }
    }

    fn bounds(&self, findings: &mut Findings) {
        let limits = &self.limits;
        findings.expect(
            (ByteSize::kb(1)..=ByteSize::mb(64)).contains(&limits.max_payload),
            "limits.max_payload",
            &format!("{} is not from 1KB to 64MB", size::text(limits.max_payload)),
        );
        for (key, value) in [
            ("limits.events_per_second", limits.events_per_second),
            ("limits.events_burst", limits.events_burst),
        ] {
            findings.expect(value > 0, key, "must be at least 1");
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

fn api_key(key: &str, value: &KeySecret, findings: &mut Findings) {
    secret_text(key, value.text(), findings);
    findings.expect(
        value.text().bytes().all(|b| b.is_ascii_graphic()),
        key,
        "must be visible ASCII without spaces, as it goes into a header",
    );
    findings.expect(
        !value.is_hashed() || value.digest().is_some(),
        key,
        "begins with sha256: and must go on with the 64 hexadecimal digits of the key's SHA-256",
    );
}

/// RFC 6901 section 3. The empty one is the session as a whole, which is nobody's id, name or role.
fn pointer(key: &str, text: &str, findings: &mut Findings) {
    let mut escapes = text.split('~').skip(1);
    findings.expect(
        text.starts_with('/') && escapes.all(|rest| rest.starts_with(['0', '1'])),
        key,
        "must be a JSON pointer such as /user/id",
    );
}

fn no_empty_entry(key: &str, entries: &[String], findings: &mut Findings) {
    for (index, entry) in entries.iter().enumerate() {
        if entry.is_empty() {
            findings.add(format!("{key}.{index}"), "must not be empty");
        }
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

/// Whether an origin is written as a browser sends it (RFC 6454 section 6.2), which is what it is compared with.
fn origin_as_sent(origin: &str) -> Result<(), String> {
    const SHAPE: &str = "must be scheme://host or scheme://host:port";
    let url = Url::parse(origin).map_err(|_| SHAPE.to_owned())?;
    let bare = matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    // A URL parser takes a star in a host for a letter; here somebody means a pattern.
    let Some(host) = url.host_str().filter(|host| bare && !host.contains('*')) else {
        return Err(SHAPE.to_owned());
    };
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let sent = format!("{}://{host}{port}", url.scheme());
    if sent == origin {
        Ok(())
    } else {
        Err(format!("must be written as browsers send it: {sent}"))
    }
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
