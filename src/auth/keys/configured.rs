//! The keys of the configuration that need no network: secrets, PEM files, JWK set files.

use std::{fs, path::Path};

use jsonwebtoken::{AlgorithmFamily, DecodingKey};
use secrecy::{ExposeSecret, SecretString};

use super::{Allowed, Bound, Key};
use crate::{
    auth::{AuthConfigError, jwks, pem},
    config::Jwt,
};

/// The length from which a secret of HS256 can't be found by trying (RFC 7518 §3.2).
const GOOD_SECRET_BYTES: usize = 32;

/// Where keys come from: `auth.jwt` itself, or an entry of `auth.jwt.keys`.
pub(super) struct Sources<'a> {
    /// The section's name.
    section: String,
    secrets: Vec<(String, &'a SecretString)>,
    public_key_file: Option<&'a Path>,
    jwks_file: Option<&'a Path>,
    pub(super) jwks_url: Option<&'a str>,
    /// The key that narrows the algorithms, and what it says.
    algorithms: (String, &'a [String]),
}

impl<'a> Sources<'a> {
    /// All there are, each with what its keys are bound to.
    pub(super) fn all(jwt: &'a Jwt) -> Vec<(Self, Bound)> {
        let narrowed = || ("auth.jwt.algorithms".to_owned(), jwt.algorithms.as_slice());
        let secret = jwt.secret.iter();
        let secret = secret.map(|secret| ("auth.jwt.secret".to_owned(), secret));
        let previous = jwt.previous_secrets.iter().enumerate();
        let previous = previous.map(|(i, s)| (format!("auth.jwt.previous_secrets[{i}]"), s));
        let flat = Self {
            section: "auth.jwt".into(),
            secrets: secret.chain(previous).collect(),
            public_key_file: jwt.public_key_file.as_deref(),
            jwks_file: jwt.jwks_file.as_deref(),
            jwks_url: jwt.jwks_url.as_deref(),
            algorithms: narrowed(),
        };
        let entries = jwt.keys.iter().enumerate().map(|(index, entry)| {
            let section = format!("auth.jwt.keys.{index}");
            let secret = entry.secret.iter();
            let secret = secret.map(|secret| (format!("{section}.secret"), secret));
            let sources = Self {
                secrets: secret.collect(),
                public_key_file: entry.public_key_file.as_deref(),
                jwks_file: entry.jwks_file.as_deref(),
                jwks_url: entry.jwks_url.as_deref(),
                algorithms: match entry.algorithms.as_slice() {
                    [] => narrowed(),
                    own => (format!("{section}.algorithms"), own),
                },
                section,
            };
            (sources, Bound::new(entry))
        });
        std::iter::once((flat, Bound::default()))
            .chain(entries)
            .collect()
    }

    /// The full name of a key of this section.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.section)
    }

    /// The algorithms that its keys may verify.
    pub(super) fn allowed(&self) -> Result<Allowed, AuthConfigError> {
        let (name, algorithms) = &self.algorithms;
        Allowed::named(name, algorithms)
    }
}

/// Reads the keys that need no network. A key that no token could fit, and a file without a key, are refused.
pub(super) fn keys(sources: &Sources<'_>, allowed: &Allowed) -> Result<Vec<Key>, AuthConfigError> {
    let usable = |name: &str, keys| usable(&sources.algorithms.0, name, keys);
    let mut local = Vec::new();
    for (name, secret) in &sources.secrets {
        local.extend(usable(name, vec![secret_key(name, secret, allowed)?])?);
    }
    if let Some(path) = sources.public_key_file {
        let name = &sources.name("public_key_file");
        let text = read(name, path)?;
        let keys =
            pem::public_keys(&text, allowed).map_err(|problem| about_file(name, path, &problem))?;
        local.extend(usable(name, keys)?);
    }
    if let Some(path) = sources.jwks_file {
        let name = &sources.name("jwks_file");
        let text = read(name, path)?;
        let set = jwks::parse(text.as_bytes(), allowed)
            .map_err(|problem| about_file(name, path, &problem.to_string()))?;
        if let Some(key) = set.private.first() {
            let problem = format!(
                "holds a private key, {key}: leave the public part alone here, and replace the key if others could read it"
            );
            return Err(about_file(name, path, &problem));
        }
        if set.keys.is_empty() {
            return Err(about_file(name, path, "holds no key that can be used"));
        }
        local.extend(set.keys);
    }
    Ok(local)
}

fn secret_key(
    name: &str,
    secret: &SecretString,
    allowed: &Allowed,
) -> Result<Key, AuthConfigError> {
    let secret = secret.expose_secret().as_bytes();
    if secret.is_empty() {
        return Err(AuthConfigError::new(name, "is empty: anyone could sign"));
    }
    // As a secret, a public key lets everyone who knows it sign.
    if secret.trim_ascii_start().starts_with(b"-----BEGIN ") {
        let problem = "holds a PEM key: a public key goes into public_key_file";
        return Err(AuthConfigError::new(name, problem));
    }
    if secret.len() < GOOD_SECRET_BYTES {
        tracing::warn!(
            key = name,
            bytes = secret.len(),
            "a secret this short can be found by trying, from one token: take {GOOD_SECRET_BYTES} random bytes or more"
        );
    }
    let algorithms = allowed.of(AlgorithmFamily::Hmac.algorithms());
    Ok(Key::new(None, DecodingKey::from_secret(secret), algorithms))
}

/// A key that no token could fit is a mistake in `algorithms`, the key of the configuration that narrows them.
fn usable(algorithms: &str, name: &str, keys: Vec<Key>) -> Result<Vec<Key>, AuthConfigError> {
    if keys.iter().any(|key| key.algorithms().is_empty()) {
        let problem = format!("allows nothing that a key of {name} can verify");
        return Err(AuthConfigError::new(algorithms, problem));
    }
    Ok(keys)
}

fn read(name: &str, path: &Path) -> Result<String, AuthConfigError> {
    fs::read_to_string(path).map_err(|error| about_file(name, path, &error.to_string()))
}

fn about_file(name: &str, path: &Path, problem: &str) -> AuthConfigError {
    AuthConfigError::new(name, format!("{}: {problem}", path.display()))
}
