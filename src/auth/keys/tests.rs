//! Which keys verify what, and which configurations are refused.

use std::{fs, path::PathBuf};

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::*;
use crate::auth::{
    AuthError,
    testing::{self, SECRET, Signer, claims},
};
use crate::config::JwtKey;

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

/// A secret that another issuer signs with.
const PARTNERS: &str = "test-only secret of a partner, thirty-two bytes";

fn partner() -> JwtKey {
    JwtKey {
        secret: Some(PARTNERS.into()),
        issuer: vec!["https://partner".into()],
        ..JwtKey::default()
    }
}

/// One's own secret with its issuer, and further keys.
fn with_keys(keys: Vec<JwtKey>) -> Jwt {
    Jwt {
        secret: Some(SECRET.into()),
        issuer: vec!["https://own".into()],
        keys,
        ..Jwt::default()
    }
}

/// A token of a secret, with a `kid` that some keys of the tests have.
fn by(secret: &str, kid: Option<&str>, changes: serde_json::Value) -> String {
    let mut header = json!({"alg": "HS256"});
    if let Some(kid) = kid {
        header["kid"] = json!(kid);
    }
    testing::sign_with(
        &jsonwebtoken::EncodingKey::from_secret(secret.as_bytes()),
        Algorithm::HS256,
        header.to_string().as_bytes(),
        claims(changes).as_bytes(),
    )
}

async fn roles_of(jwt: Jwt, token: &str) -> Result<Vec<String>, AuthError> {
    let identity = testing::authenticator(jwt).verify(token).await?;
    Ok(identity.roles)
}

#[tokio::test]
async fn a_key_verifies_what_its_own_issuer_says_and_nothing_else() {
    let jwt = || with_keys(vec![partner()]);
    for (secret, issuer, expected) in [
        (SECRET, Some("https://own"), Ok(())),
        (PARTNERS, Some("https://partner"), Ok(())),
        (PARTNERS, Some("https://own"), Err(AuthError::Invalid)),
        (SECRET, Some("https://partner"), Err(AuthError::Invalid)),
        (PARTNERS, Some("https://other"), Err(AuthError::Invalid)),
        (PARTNERS, None, Err(AuthError::Invalid)),
        (SECRET, None, Err(AuthError::Invalid)),
    ] {
        let token = by(secret, None, json!({"iss": issuer, "role": "admin"}));
        assert_eq!(lets_in(jwt(), &token).await, expected, "{issuer:?}");
    }
    // An issuer that is no text is nobody's.
    for issuer in [json!(["https://partner"]), json!(7), json!({})] {
        let token = by(PARTNERS, None, json!({"iss": issuer}));
        assert_eq!(lets_in(jwt(), &token).await, Err(AuthError::Invalid));
    }
}

#[tokio::test]
async fn a_key_gives_the_roles_that_it_may() {
    let with = |roles: Option<&[&str]>| {
        with_keys(vec![JwtKey {
            roles: roles.map(|roles| roles.iter().map(|role| (*role).into()).collect()),
            ..partner()
        }])
    };
    let claimed = json!({"iss": "https://partner", "role": "admin", "roles": ["user", "editor"]});
    let token = by(PARTNERS, None, claimed);
    let given = async |roles| roles_of(with(roles), &token).await.unwrap();
    assert_eq!(given(None).await, ["admin", "user", "editor"]);
    assert_eq!(given(Some(&["user"])).await, ["user"]);
    assert_eq!(given(Some(&["editor", "user"])).await, ["user", "editor"]);
    assert_eq!(given(Some(&[])).await, [""; 0]);
    // The key of another entry is not cut back.
    let own = by(SECRET, None, json!({"iss": "https://own", "role": "admin"}));
    assert_eq!(
        roles_of(with(Some(&["user"])), &own).await.unwrap(),
        ["admin"]
    );
}

#[tokio::test]
async fn an_entry_has_an_audience_and_algorithms_of_its_own() {
    let jwt = |audience: &str, algorithm: &str| Jwt {
        audience: vec!["chat".into()],
        algorithms: vec!["HS256".into()],
        ..with_keys(vec![JwtKey {
            audience: vec![audience.into()],
            algorithms: vec![algorithm.into()],
            ..partner()
        }])
    };
    let token =
        |secret, issuer, audience| by(secret, None, json!({"iss": issuer, "aud": audience}));
    let partners = |audience| token(PARTNERS, "https://partner", audience);
    assert_eq!(
        lets_in(jwt("desk", "HS256"), &partners("desk")).await,
        Ok(())
    );
    for (jwt, token) in [
        (jwt("desk", "HS256"), partners("chat")),
        (jwt("desk", "HS512"), partners("desk")),
        (jwt("desk", "HS256"), token(SECRET, "https://own", "desk")),
    ] {
        assert_eq!(lets_in(jwt, &token).await, Err(AuthError::Invalid));
    }
    // What an entry leaves out is as in auth.jwt.
    let plain = Jwt {
        audience: vec!["chat".into()],
        algorithms: vec!["HS512".into()],
        ..with_keys(vec![JwtKey {
            issuer: Vec::new(),
            algorithms: vec!["HS256".into()],
            ..partner()
        }])
    };
    let token = |issuer, audience| token(PARTNERS, issuer, audience);
    let good = token("https://own", "chat");
    assert_eq!(lets_in(plain.clone(), &good).await, Ok(()));
    for bad in [token("https://partner", "chat"), token("https://own", "x")] {
        assert_eq!(lets_in(plain.clone(), &bad).await, Err(AuthError::Invalid));
    }
}

#[tokio::test]
async fn the_same_kid_in_two_sets_is_two_keys() {
    let (_one, first) = jwks_file(&json!([Signer::Rsa.jwk(Some("1"))]));
    let (_two, second) = jwks_file(&json!([Signer::OtherRsa.jwk(Some("1"))]));
    let entry = |file: &PathBuf, issuer: &str| JwtKey {
        jwks_file: Some(file.clone()),
        issuer: vec![issuer.into()],
        ..JwtKey::default()
    };
    let jwt = || {
        with_keys(vec![
            entry(&first, "https://a"),
            entry(&second, "https://b"),
        ])
    };
    for (signer, issuer, expected) in [
        (Signer::Rsa, "https://a", Ok(())),
        (Signer::OtherRsa, "https://b", Ok(())),
        (Signer::Rsa, "https://b", Err(AuthError::Invalid)),
        (Signer::OtherRsa, "https://a", Err(AuthError::Invalid)),
        (Signer::Rsa, "https://own", Err(AuthError::Invalid)),
    ] {
        let header = json!({"alg": "RS256", "kid": "1"}).to_string();
        let token = signer.sign(Algorithm::RS256, &header, &claims(json!({"iss": issuer})));
        assert_eq!(
            lets_in(jwt(), &token).await,
            expected,
            "{signer:?} {issuer}"
        );
    }
    // One's own secret has no kid, and is not shut out by one of a set.
    let own = by(SECRET, Some("1"), json!({"iss": "https://own"}));
    assert_eq!(lets_in(jwt(), &own).await, Ok(()));
}

#[tokio::test]
async fn a_namespace_narrows_a_key_that_is_bound() {
    let jwt = with_keys(vec![partner()]);
    let rule = |issuer: Option<&[&str]>| {
        let namespace = crate::config::Namespace {
            issuer: issuer.map(|list| list.iter().map(|issuer| (*issuer).into()).collect()),
            ..crate::config::Namespace::new("/x", crate::config::AuthRule::Required, &[])
        };
        crate::auth::NamespaceRule::new(0, &namespace, &jwt).unwrap()
    };
    let door = testing::authenticator(jwt.clone());
    let partners = by(PARTNERS, None, json!({"iss": "https://partner"}));
    let posing = by(PARTNERS, None, json!({"iss": "https://own"}));
    for (issuer, expected) in [
        (None, Ok(())),
        (Some(&[][..]), Ok(())),
        (Some(&["https://partner"]), Ok(())),
        (Some(&["https://own"]), Err(AuthError::Invalid)),
    ] {
        let rule = rule(issuer);
        let outcome = async |token| door.verify_for(token, &rule).await.map(drop);
        assert_eq!(outcome(&partners).await, expected, "{issuer:?}");
        assert_eq!(
            outcome(&posing).await,
            Err(AuthError::Invalid),
            "{issuer:?}"
        );
    }
}

#[tokio::test]
async fn a_token_of_a_key_at_hand_does_not_wait_for_another_s_url() {
    // Nobody listens there: a fetch would say that the keys are not known.
    let away = JwtKey {
        jwks_url: Some("http://127.0.0.1:9/jwks".into()),
        issuer: vec!["https://away".into()],
        ..JwtKey::default()
    };
    let (_dir, file) = jwks_file(&json!([Signer::P256.jwk(None)]));
    let local = JwtKey {
        jwks_file: Some(file),
        ..JwtKey::default()
    };
    let jwt = || Jwt {
        issuer: Vec::new(),
        ..with_keys(vec![away.clone(), local.clone()])
    };
    let from = |signer: Signer, issuer: &str| {
        let header = json!({"alg": signer.algorithm(), "kid": "unknown"}).to_string();
        signer.sign(signer.algorithm(), &header, &claims(json!({"iss": issuer})))
    };
    assert_eq!(
        lets_in(jwt(), &from(Signer::P256, "https://away")).await,
        Ok(())
    );
    let unknown = lets_in(jwt(), &from(Signer::Ed25519, "https://away")).await;
    assert_eq!(unknown, Err(AuthError::Unavailable));
    // That URL's issuer did not say this: it is not asked.
    let other = lets_in(jwt(), &from(Signer::Ed25519, "https://other")).await;
    assert_eq!(other, Err(AuthError::Invalid));
}

#[test]
fn a_bad_entry_is_named_by_its_place() {
    let missing = JwtKey {
        jwks_file: Some("/nowhere/jwks.json".into()),
        ..JwtKey::default()
    };
    let wrong = problem(&with_keys(vec![partner(), missing]));
    assert!(wrong.starts_with("auth.jwt.keys.1.jwks_file: "), "{wrong}");
    let narrow = JwtKey {
        algorithms: vec!["RS256".into()],
        ..partner()
    };
    let wrong = problem(&with_keys(vec![narrow]));
    assert!(wrong.starts_with("auth.jwt.keys.0.algorithms: "), "{wrong}");
}

#[test]
fn a_private_key_in_a_set_is_refused_and_named() {
    let mut jwk = Signer::P256.jwk(Some("signing-2026"));
    jwk["d"] = json!("c2VjcmV0LXBhcnQ");
    let (_dir, file) = jwks_file(&json!([Signer::Rsa.jwk(Some("good")), jwk]));
    let wrong = problem(&Jwt {
        jwks_file: Some(file),
        ..Jwt::default()
    });
    assert!(wrong.contains("private key"), "{wrong}");
    assert!(wrong.contains("signing-2026"), "{wrong}");
    assert!(!wrong.contains("c2VjcmV0"), "{wrong}");
}
