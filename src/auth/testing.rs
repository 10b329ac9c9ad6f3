//! Keys and forged tokens for the tests of this module.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, crypto, jwk::Jwk};
use serde_json::{Value, json};

use crate::{
    auth::{Authenticator, install_crypto},
    config::{Auth, Config, Jwt},
};

pub(crate) const SECRET: &str = "test-only secret of thirty-two bytes and more";

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/auth/testdata")
        .join(format!("test-only-{name}"))
}

pub(crate) fn file(name: &str) -> String {
    install_crypto().unwrap();
    std::fs::read_to_string(path(name)).unwrap()
}

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    Secret,
    Rsa,
    OtherRsa,
    P256,
    P384,
    Ed25519,
}

impl Signer {
    pub(crate) fn key(self) -> EncodingKey {
        let pem = |name: &str| file(name).into_bytes();
        match self {
            Self::Secret => EncodingKey::from_secret(SECRET.as_bytes()),
            Self::Rsa => EncodingKey::from_rsa_pem(&pem("rsa2048.key.pem")).unwrap(),
            Self::OtherRsa => EncodingKey::from_rsa_pem(&pem("rsa2048-other.key.pem")).unwrap(),
            Self::P256 => EncodingKey::from_ec_pem(&pem("p256.key.pem")).unwrap(),
            Self::P384 => EncodingKey::from_ec_pem(&pem("p384.key.pem")).unwrap(),
            Self::Ed25519 => EncodingKey::from_ed_pem(&pem("ed25519.key.pem")).unwrap(),
        }
    }

    pub(crate) fn algorithm(self) -> Algorithm {
        match self {
            Self::Secret => Algorithm::HS256,
            Self::Rsa | Self::OtherRsa => Algorithm::RS256,
            Self::P256 => Algorithm::ES256,
            Self::P384 => Algorithm::ES384,
            Self::Ed25519 => Algorithm::EdDSA,
        }
    }

    /// The public key, without `alg`.
    pub(crate) fn jwk(self, kid: Option<&str>) -> Value {
        install_crypto().unwrap();
        let mut jwk = Jwk::from_encoding_key(&self.key(), self.algorithm()).unwrap();
        jwk.common.key_algorithm = None;
        jwk.common.key_id = kid.map(str::to_owned);
        serde_json::to_value(jwk).unwrap()
    }

    /// A good token, with a `kid` if given.
    pub(crate) fn token(self, kid: Option<&str>) -> String {
        let mut header = json!({"typ": "JWT", "alg": self.algorithm()});
        if let Some(kid) = kid {
            header["kid"] = json!(kid);
        }
        self.sign(self.algorithm(), &header.to_string(), &claims(json!({})))
    }

    /// Signs any header over any payload, with an algorithm of its own.
    pub(crate) fn sign(self, algorithm: Algorithm, header: &str, payload: &str) -> String {
        sign_with(
            &self.key(),
            algorithm,
            header.as_bytes(),
            payload.as_bytes(),
        )
    }
}

pub(crate) fn sign_with(
    key: &EncodingKey,
    algorithm: Algorithm,
    header: &[u8],
    payload: &[u8],
) -> String {
    install_crypto().unwrap();
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

pub(crate) fn now() -> i64 {
    Timestamp::now().as_second()
}

/// The payload of a good token of user 42, with changes; a `null` takes a claim out.
pub(crate) fn claims(changes: Value) -> String {
    let mut claims = json!({"sub": "42", "exp": now() + 600, "iat": now()});
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => members.remove(name),
            value => members.insert(name.clone(), value.clone()),
        };
    }
    claims.to_string()
}

pub(crate) fn authenticator(jwt: Jwt) -> Authenticator {
    install_crypto().unwrap();
    // More than one field, or just one: this is about tokens.
    #[allow(clippy::needless_update)]
    let auth = Auth {
        jwt,
        ..Auth::default()
    };
    Authenticator::new(&auth, &Config::default().namespaces).unwrap()
}
