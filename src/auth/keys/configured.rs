//! The keys of the configuration that need no network: secrets, PEM files, JWK set files.

use std::{fs, path::Path};

use jsonwebtoken::{AlgorithmFamily, DecodingKey};
use secrecy::{ExposeSecret, SecretString};

use super::{Allowed, Key};
use crate::{
    auth::{AuthConfigError, jwks, pem},
    config::Jwt,
};

/// The length from which a secret of HS256 can't be found by trying (RFC 7518 §3.2).
const GOOD_SECRET_BYTES: usize = 32;

/// Reads them all. A key that no token could fit, and a file without a key, are refused.
pub(super) fn keys(config: &Jwt, allowed: &Allowed) -> Result<Vec<Key>, AuthConfigError> {
    let mut local = Vec::new();

    let named = config
        .secret
        .iter()
        .map(|secret| ("auth.jwt.secret".to_owned(), secret));
    let previous = config.previous_secrets.iter().enumerate();
    let previous = previous.map(|(i, s)| (format!("auth.jwt.previous_secrets[{i}]"), s));
    for (name, secret) in named.chain(previous) {
        local.push(usable(&name, [secret_key(&name, secret, allowed)?])?.remove(0));
    }
    if let Some(path) = &config.public_key_file {
        let name = "auth.jwt.public_key_file";
        let text = read(name, path)?;
        let keys =
            pem::public_keys(&text, allowed).map_err(|problem| about_file(name, path, &problem))?;
        local.extend(usable(name, keys)?);
    }
    if let Some(path) = &config.jwks_file {
        let name = "auth.jwt.jwks_file";
        let text = read(name, path)?;
        let keys = jwks::parse(text.as_bytes(), allowed)
            .map_err(|problem| about_file(name, path, &problem.to_string()))?;
        if keys.is_empty() {
            return Err(about_file(name, path, "holds no key that can be used"));
        }
        local.extend(keys);
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
        let problem = "holds a PEM key: a public key goes into auth.jwt.public_key_file";
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

/// A key that no token could fit is a mistake of whoever narrowed the algorithms.
fn usable(name: &str, keys: impl IntoIterator<Item = Key>) -> Result<Vec<Key>, AuthConfigError> {
    let keys: Vec<_> = keys.into_iter().collect();
    if keys.iter().any(|key| key.algorithms().is_empty()) {
        let problem = format!("allows nothing that a key of {name} can verify");
        return Err(AuthConfigError::new("auth.jwt.algorithms", problem));
    }
    Ok(keys)
}

fn read(name: &str, path: &Path) -> Result<String, AuthConfigError> {
    fs::read_to_string(path).map_err(|error| about_file(name, path, &error.to_string()))
}

fn about_file(name: &str, path: &Path, problem: &str) -> AuthConfigError {
    AuthConfigError::new(name, format!("{}: {problem}", path.display()))
}
