//! Hostile tokens: each with what becomes of it (RFC 8725 §2 names most of the attacks).
//!
//! `testdata/hostile-tokens.json` has those that words can say, which tests/js/hostile-tokens.test.mjs sends to a node; `table`
//! makes them. The other files have those that take this door's keys, issuer or audience.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod confusion;
mod content;
mod form;
mod silence;
mod table;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::{
    auth::{
        AuthError::{self, Expired, Invalid},
        Authenticator,
        testing::{self, SECRET, Signer, claims, file, now, sign_with},
    },
    config::Jwt,
};

const HS256: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

/// A door with a secret, an RSA key in PEM, and a JWK set of `a` (P-256) and `b` (RSA, the same key as the PEM, for
/// RS512 only).
fn door() -> Authenticator {
    let mut b = Signer::Rsa.jwk(Some("b"));
    b["alg"] = json!("RS512");
    let set = json!({"keys": [Signer::P256.jwk(Some("a")), b]});
    let dir = tempfile::tempdir().unwrap();
    let jwks_file = dir.path().join("jwks.json");
    std::fs::write(&jwks_file, set.to_string()).unwrap();
    testing::authenticator(Jwt {
        secret: Some(SECRET.into()),
        public_key_file: Some(testing::path("rsa2048.pub.pem")),
        jwks_file: Some(jwks_file),
        issuer: vec!["https://idp".into()],
        audience: vec!["chat".into()],
        ..Jwt::default()
    })
}

/// The payload of a token that this door takes, with changes.
fn payload(changes: Value) -> String {
    let mut all = json!({"iss": "https://idp", "aud": "chat"});
    for (name, value) in changes.as_object().unwrap() {
        all[name] = value.clone();
    }
    claims(all)
}

fn good() -> String {
    Signer::Secret.sign(Algorithm::HS256, HS256, &payload(json!({})))
}

/// Signed with the secret, with these changes to the payload.
fn saying(changes: Value) -> String {
    Signer::Secret.sign(Algorithm::HS256, HS256, &payload(changes))
}

/// Signed with the secret, with this payload to the letter.
fn with_payload(payload: &[u8]) -> String {
    sign_with(
        &Signer::Secret.key(),
        Algorithm::HS256,
        HS256.as_bytes(),
        payload,
    )
}

/// Signed with the secret, with these further header parameters.
fn with_header(extra: Value) -> String {
    let mut header: Value = serde_json::from_str(HS256).unwrap();
    for (name, value) in extra.as_object().unwrap() {
        header[name] = value.clone();
    }
    Signer::Secret.sign(Algorithm::HS256, &header.to_string(), &payload(json!({})))
}

/// Not signed at all, with this header.
fn unsigned(header: &str, signature: &str) -> String {
    format!(
        "{}.{}.{signature}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload(json!({})))
    )
}

/// Signed with another key than the header's algorithm suggests.
fn hmac_of(secret: &[u8], header: &str) -> String {
    let key = EncodingKey::from_secret(secret);
    sign_with(
        &key,
        Algorithm::HS256,
        header.as_bytes(),
        payload(json!({})).as_bytes(),
    )
}

/// A good token with one of its three parts changed.
fn with_part(index: usize, change: impl Fn(&str) -> String) -> String {
    let token = good();
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    parts[index] = change(&parts[index]);
    parts.join(".")
}

#[tokio::test]
async fn each_is_refused_as_it_should_be() {
    let door = door();
    let good = good();
    assert_eq!(door.verify(&good).await.unwrap().user_id, "42".into());

    let table = [
        table::tokens(),
        form::tokens(),
        confusion::tokens(),
        content::tokens(),
    ]
    .concat();
    assert!(table.len() > 130);
    for (what, token, expected) in table {
        assert_ne!(token, good, "{what}");
        let outcome = door.verify(&token).await;
        assert_eq!(
            outcome,
            Err(expected),
            "{what}: {:?}",
            door.explain(&token).await
        );
    }
}

#[tokio::test]
async fn what_looks_odd_and_is_right_is_let_in() {
    let door = door();
    for (what, token) in [
        (
            "fractions of a second",
            saying(json!({"exp": now() as f64 + 600.5, "nbf": now() as f64 - 0.5})),
        ),
        ("no iat", saying(json!({"iat": null}))),
        ("a number for a user", saying(json!({"sub": 42}))),
        (
            "one of several auds",
            saying(json!({"aud": ["shop", "chat"]})),
        ),
        (
            "no typ",
            Signer::Secret.sign(Algorithm::HS256, r#"{"alg":"HS256"}"#, &payload(json!({}))),
        ),
        ("typ of RFC 9068", with_header(json!({"typ": "at+JWT"}))),
        (
            "a kid that no JWK has",
            with_header(json!({"kid": "2026-07"})),
        ),
        (
            "a thousand UUIDs",
            saying(json!({"watch": vec!["x".repeat(36); 1000]})),
        ),
        (
            "a role of a wrong type",
            saying(json!({"role": {"admin": true}})),
        ),
    ] {
        let outcome = door.explain(&token).await;
        let user = outcome.as_ref().map(|identity| identity.user_id.as_str());
        assert_eq!(user, Ok("42"), "{what}");
        assert_eq!(outcome.unwrap().roles, [""; 0], "{what}");
    }
}
