//! Of credentials: tokens and their keys, session cookies, and who is let into a namespace.

use std::collections::HashSet;

use reqwest::Url;

use super::{Findings, readable, secret};
use crate::config::{AuthRule, Config, JwtKey, redis};

/// The names that `auth.jwt.algorithms` takes: RFC 7518 section 3.1 and RFC 8037 section 3.1, without `none`.
const ALGORITHMS: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

impl Config {
    pub(super) fn tokens(&self, findings: &mut Findings) {
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
        algorithms("auth.jwt.algorithms", &jwt.algorithms, findings);
        for (index, entry) in jwt.keys.iter().enumerate() {
            jwt_key(&format!("auth.jwt.keys.{index}"), entry, findings);
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

    pub(super) fn key_sources(&self, findings: &mut Findings) {
        let jwt = &self.auth.jwt;
        let entries = jwt.keys.iter().enumerate().map(|(index, entry)| {
            let JwtKey {
                public_key_file,
                jwks_file,
                jwks_url,
                ..
            } = entry;
            let section = format!("auth.jwt.keys.{index}");
            (section, public_key_file, jwks_file, jwks_url)
        });
        let flat = (
            "auth.jwt".to_owned(),
            &jwt.public_key_file,
            &jwt.jwks_file,
            &jwt.jwks_url,
        );
        for (section, public_key_file, jwks_file, jwks_url) in std::iter::once(flat).chain(entries)
        {
            for (key, path) in [
                ("public_key_file", public_key_file),
                ("jwks_file", jwks_file),
            ] {
                if let Some(Err(error)) = path.as_deref().map(readable) {
                    findings.add(format!("{section}.{key}"), error);
                }
            }
            if let Some(url) = jwks_url {
                set_url(&format!("{section}.jwks_url"), url, findings);
            }
        }
    }

    pub(super) fn namespace_rules(&self, findings: &mut Findings) {
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

    pub(super) fn sessions(&self, findings: &mut Findings) {
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
            redis::url("auth.session.redis_url", url, findings);
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
}

fn set_url(key: &str, text: &str, findings: &mut Findings) {
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match url {
        None => findings.add(key, "not an http:// or https:// URL"),
        Some(url) => findings.expect(
            url.username().is_empty() && url.password().is_none(),
            key,
            "must not hold a user name or a password: a JWK set is public",
        ),
    }
}

fn algorithms(key: &str, names: &[String], findings: &mut Findings) {
    for (index, name) in names.iter().enumerate() {
        if !ALGORITHMS.contains(&name.as_str()) {
            findings.add(
                format!("{key}.{index}"),
                format!("{name:?} is none of: {}", ALGORITHMS.join(", ")),
            );
        }
    }
}

/// What is wrong with an entry of `auth.jwt.keys`, but for files and URLs.
fn jwt_key(section: &str, entry: &JwtKey, findings: &mut Findings) {
    let sources = [
        ("secret", entry.secret.is_some()),
        ("public_key_file", entry.public_key_file.is_some()),
        ("jwks_file", entry.jwks_file.is_some()),
        ("jwks_url", entry.jwks_url.is_some()),
    ];
    let set = sources.iter().filter(|(_, is_set)| *is_set);
    let set: Vec<_> = set.map(|(name, _)| *name).collect();
    if set.len() != 1 {
        let has = match set.is_empty() {
            true => "none".to_owned(),
            false => set.join(" and "),
        };
        findings.add(
            section,
            format!("must have exactly one of secret, public_key_file, jwks_file, jwks_url, and has {has}"),
        );
    }
    if let Some(value) = &entry.secret {
        secret(&format!("{section}.secret"), value, findings);
    }
    algorithms(
        &format!("{section}.algorithms"),
        &entry.algorithms,
        findings,
    );
    for (key, entries) in [
        ("issuer", entry.issuer.as_slice()),
        ("audience", &entry.audience),
        ("roles", entry.roles.as_deref().unwrap_or_default()),
    ] {
        no_empty_entry(&format!("{section}.{key}"), entries, findings);
    }
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
