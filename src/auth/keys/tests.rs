//! Which keys verify what, and which configurations are refused.

use std::{fs, path::PathBuf};

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::*;
use crate::auth::{
    AuthError,
    testing::{self, SECRET, Signer, claims},
};

fn jwks_file(keys: &serde_json::Value) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
    (dir, path)
}

async fn lets_in(jwt: Jwt, token: &str) -> Result<(), AuthError> {
    testing::authenticator(jwt).verify(token).await.map(drop)
}

fn problem(jwt: &Jwt) -> String {
    KeyRing::new(jwt).unwrap_err().to_string()
}

/// A token in which nothing but the algorithm is special.
fn signed(signer: Signer, algorithm: Algorithm) -> String {
    let header = json!({"alg": algorithm}).to_string();
    signer.sign(algorithm, &header, &claims(json!({})))
}

#[tokio::test]
async fn every_algorithm_verifies_with_its_key_in_pem_and_in_a_set() {
    for (signer, file) in [
        (Signer::Secret, None),
        (Signer::Rsa, Some("rsa2048.pub.pem")),
        (Signer::Rsa, Some("rsa2048.pkcs1.pub.pem")),
        (Signer::P256, Some("p256.pub.pem")),
        (Signer::P384, Some("p384.pub.pem")),
        (Signer::Ed25519, Some("ed25519.pub.pem")),
    ] {
        let (_dir, set) = jwks_file(&json!([signer.jwk(None)]));
        let config = match file {
            None => vec![Jwt {
                secret: Some(SECRET.into()),
                ..Jwt::default()
            }],
            Some(file) => vec![
                Jwt {
                    public_key_file: Some(testing::path(file)),
                    ..Jwt::default()
                },
                Jwt {
                    jwks_file: Some(set),
                    ..Jwt::default()
                },
            ],
        };
        let algorithms = match signer {
            Signer::P256 => &[Algorithm::ES256][..],
            Signer::P384 => &[Algorithm::ES384],
            other => &other.algorithm().family().algorithms().to_vec()[..],
        };
        for jwt in config {
            for algorithm in algorithms {
                let token = signed(signer, *algorithm);
                assert_eq!(lets_in(jwt.clone(), &token).await, Ok(()), "{algorithm:?}");
                let other = Jwt {
                    secret: Some("another".into()),
                    ..Jwt::default()
                };
                let outcome = lets_in(other, &token).await;
                assert_eq!(outcome, Err(AuthError::Invalid), "{algorithm:?}");
            }
        }
    }
}

#[tokio::test]
async fn keys_of_all_sources_serve_together() {
    let (_dir, set) = jwks_file(&json!([
        Signer::P256.jwk(Some("a")),
        Signer::P384.jwk(None)
    ]));
    let jwt = Jwt {
        secret: Some("the new one".into()),
        previous_secrets: vec!["an old one".into(), SECRET.into()],
        public_key_file: Some(testing::path("ed25519.pub.pem")),
        jwks_file: Some(set),
        ..Jwt::default()
    };
    for (signer, kid) in [
        (Signer::Secret, None),
        (Signer::Secret, Some("unknown")),
        (Signer::Ed25519, None),
        (Signer::Ed25519, Some("unknown")),
        (Signer::P256, Some("a")),
        (Signer::P256, None),
        (Signer::P384, None),
        (Signer::P384, Some("unknown")),
    ] {
        let outcome = lets_in(jwt.clone(), &signer.token(kid)).await;
        assert_eq!(outcome, Ok(()), "{signer:?} {kid:?}");
    }
    // A `kid` that the set has is that key's alone, also for a token that another key has signed.
    for signer in [Signer::Secret, Signer::Ed25519, Signer::P384] {
        let outcome = lets_in(jwt.clone(), &signer.token(Some("a"))).await;
        assert_eq!(outcome, Err(AuthError::Invalid), "{signer:?}");
    }
    let outcome = lets_in(jwt, &Signer::P256.token(Some("unknown"))).await;
    assert_eq!(outcome, Err(AuthError::Invalid));
}

#[tokio::test]
async fn the_configured_algorithms_narrow() {
    let jwt = Jwt {
        secret: Some(SECRET.into()),
        algorithms: vec!["HS512".into()],
        ..Jwt::default()
    };
    let allowed = signed(Signer::Secret, Algorithm::HS512);
    assert_eq!(lets_in(jwt.clone(), &allowed).await, Ok(()));
    let other = signed(Signer::Secret, Algorithm::HS256);
    assert_eq!(lets_in(jwt, &other).await, Err(AuthError::Invalid));
}

#[tokio::test]
async fn without_keys_no_token_is_good() {
    for signer in [Signer::Secret, Signer::Rsa, Signer::Ed25519] {
        let outcome = lets_in(Jwt::default(), &signer.token(None)).await;
        assert_eq!(outcome, Err(AuthError::Invalid));
    }
}

#[test]
fn a_wrong_configuration_names_its_key() {
    testing::file("rsa2048.pub.pem");
    let (_dir, oct) = jwks_file(&json!([{"kty": "oct", "k": "c2VjcmV0"}]));
    let missing = PathBuf::from("/nonexistent/key");
    for (jwt, start) in [
        (
            Jwt {
                secret: Some("".into()),
                ..Jwt::default()
            },
            "auth.jwt.secret: is empty",
        ),
        (
            Jwt {
                secret: Some(testing::file("rsa2048.pub.pem").into()),
                ..Jwt::default()
            },
            "auth.jwt.secret: holds a PEM key",
        ),
        (
            Jwt {
                previous_secrets: vec!["a".into(), "".into()],
                ..Jwt::default()
            },
            "auth.jwt.previous_secrets[1]: is empty",
        ),
        (
            Jwt {
                public_key_file: Some(missing.clone()),
                ..Jwt::default()
            },
            "auth.jwt.public_key_file: /nonexistent/key: ",
        ),
        (
            Jwt {
                public_key_file: Some(testing::path("rsa2048.key.pem")),
                ..Jwt::default()
            },
            "auth.jwt.public_key_file: ",
        ),
        (
            Jwt {
                jwks_file: Some(missing),
                ..Jwt::default()
            },
            "auth.jwt.jwks_file: /nonexistent/key: ",
        ),
        (
            Jwt {
                jwks_file: Some(testing::path("p256.pub.pem")),
                ..Jwt::default()
            },
            "auth.jwt.jwks_file: ",
        ),
        (
            Jwt {
                jwks_file: Some(oct),
                ..Jwt::default()
            },
            "auth.jwt.jwks_file: ",
        ),
        (
            Jwt {
                jwks_url: Some("keys".into()),
                ..Jwt::default()
            },
            "auth.jwt.jwks_url: is not a URL",
        ),
        (
            Jwt {
                jwks_url: Some("file:///etc/passwd".into()),
                ..Jwt::default()
            },
            "auth.jwt.jwks_url: can be http or https, not file",
        ),
        (
            Jwt {
                algorithms: vec!["HS256".into(), "none".into()],
                ..Jwt::default()
            },
            "auth.jwt.algorithms: \"none\" is not one of",
        ),
        (
            Jwt {
                algorithms: vec!["hs256".into()],
                ..Jwt::default()
            },
            "auth.jwt.algorithms: ",
        ),
        (
            Jwt {
                secret: Some(SECRET.into()),
                algorithms: vec!["RS256".into()],
                ..Jwt::default()
            },
            "auth.jwt.algorithms: allows nothing that a key of auth.jwt.secret can verify",
        ),
    ] {
        let problem = problem(&jwt);
        assert!(
            problem.starts_with(start),
            "{problem:?} does not start with {start:?}"
        );
        assert!(!problem.contains(SECRET));
    }
}
