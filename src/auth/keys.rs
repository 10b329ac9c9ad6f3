//! The keys that verify, each pinned to the algorithms it is good for (RFC 8725 §3.1).

use std::{collections::HashSet, fs, path::Path};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, errors::ErrorKind,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    auth::{
        AuthConfigError, AuthError,
        json::Object,
        jwks,
        jwt::{Header, Refusal},
        pem,
        remote::{Cause, RemoteJwks},
    },
    config::Jwt,
};

/// The length from which a secret of HS256 can't be found by trying (RFC 7518 §3.2).
const GOOD_SECRET_BYTES: usize = 32;

/// One key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    kid: Option<String>,
    decoding: DecodingKey,
    validation: Validation,
}

impl Key {
    /// A key for `algorithms`, which have to be of the key's own family: `jsonwebtoken` refuses every token of a key
    /// that is allowed any other.
    pub(crate) fn new(
        kid: Option<String>,
        decoding: DecodingKey,
        algorithms: Vec<Algorithm>,
    ) -> Self {
        // Signature and algorithm alone: the claims are `claims::Check`'s, which tells an expired token from a wrong one
        // and refuses what `Validation` lets pass, such as an `iss` that is no string.
        let validation = Validation {
            algorithms,
            required_spec_claims: HashSet::new(),
            validate_exp: false,
            validate_aud: false,
            ..Validation::default()
        };
        Self {
            kid,
            decoding,
            validation,
        }
    }

    /// The algorithms it verifies.
    pub(crate) fn algorithms(&self) -> &[Algorithm] {
        &self.validation.algorithms
    }

    /// The payload of a token that this key has signed; none if it has not.
    fn payload(&self, token: &str) -> Option<Result<Object, Refusal>> {
        match decode::<Object>(token, &self.decoding, &self.validation) {
            Ok(token) => Some(Ok(token.claims)),
            Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => {
                Some(Err(Refusal::invalid(
                    "its payload is not a JSON object of distinct names, or its header not that of a token",
                )))
            }
            Err(_) => None,
        }
    }
}

/// `auth.jwt.algorithms`: all, or those that are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed(Vec<Algorithm>);

impl Allowed {
    /// Reads the names (RFC 7518 §3.1).
    pub(crate) fn new(names: &[String]) -> Result<Self, AuthConfigError> {
        let parse = |name: &String| {
            name.parse().map_err(|_| {
                let problem = format!(
                    "{name:?} is not one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
                     ES384, EdDSA"
                );
                AuthConfigError::new("auth.jwt.algorithms", problem)
            })
        };
        names.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether it is one of them.
    pub(crate) fn allows(&self, algorithm: Algorithm) -> bool {
        self.0.is_empty() || self.0.contains(&algorithm)
    }

    /// Those of a key's own algorithms that are allowed.
    pub(crate) fn of(&self, algorithms: &[Algorithm]) -> Vec<Algorithm> {
        let mut allowed = algorithms.to_vec();
        allowed.retain(|algorithm| self.allows(*algorithm));
        allowed
    }
}

/// All keys there are.
#[derive(Debug)]
pub(crate) struct KeyRing {
    local: Vec<Key>,
    remote: Option<RemoteJwks>,
}

impl KeyRing {
    /// Collects the configured keys; a JWKS URL is not asked yet.
    pub(crate) fn new(config: &Jwt) -> Result<Self, AuthConfigError> {
        Self::build(config, None)
    }

    /// The same, with what the one before has learnt from a JWKS URL that has stayed the same.
    pub(crate) fn renewed(config: &Jwt, before: &Self) -> Result<Self, AuthConfigError> {
        Self::build(config, before.remote.as_ref())
    }

    fn build(config: &Jwt, before: Option<&RemoteJwks>) -> Result<Self, AuthConfigError> {
        let allowed = Allowed::new(&config.algorithms)?;
        let mut local = Vec::new();

        let named = config
            .secret
            .iter()
            .map(|secret| ("auth.jwt.secret".to_owned(), secret));
        let previous = config.previous_secrets.iter().enumerate();
        let previous = previous.map(|(i, s)| (format!("auth.jwt.previous_secrets[{i}]"), s));
        for (name, secret) in named.chain(previous) {
            local.push(usable(&name, [secret_key(&name, secret, &allowed)?])?.remove(0));
        }
        if let Some(path) = &config.public_key_file {
            let name = "auth.jwt.public_key_file";
            let text = read(name, path)?;
            let keys = pem::public_keys(&text, &allowed)
                .map_err(|problem| about_file(name, path, &problem))?;
            local.extend(usable(name, keys)?);
        }
        if let Some(path) = &config.jwks_file {
            let name = "auth.jwt.jwks_file";
            let text = read(name, path)?;
            let keys = jwks::parse(text.as_bytes(), &allowed)
                .map_err(|problem| about_file(name, path, &problem.to_string()))?;
            if keys.is_empty() {
                return Err(about_file(name, path, "holds no key that can be used"));
            }
            local.extend(keys);
        }
        let remote = match &config.jwks_url {
            Some(url) => {
                let same = before.filter(|before| before.is_of(url, &allowed));
                Some(match same {
                    Some(before) => before.clone(),
                    None => RemoteJwks::new(url, allowed)?,
                })
            }
            None => None,
        };
        Ok(Self { local, remote })
    }

    /// The payload of a token that one of the keys has signed.
    ///
    /// A `kid` that a JWK set has stands for that key alone. Any other token is tried with each key that its `alg` fits
    /// and that its `kid` does not speak against. Only a token that no key at hand fits makes a JWKS URL be asked, and
    /// only for an algorithm that a key from there could have: not for `HS256`. For as long as that URL has given nothing,
    /// nobody can say whether such a token is good, and its bearer is to try again.
    pub(crate) async fn payload(&self, token: &str, header: &Header) -> Result<Object, Refusal> {
        let remote = self.remote.as_ref();
        let remote = remote.filter(|remote| remote.may_have(header.algorithm));
        let known = match remote {
            Some(remote) => remote.keys().await,
            None => [].into(),
        };
        let has_kid =
            |keys: &[Key]| header.kid.is_some() && keys.iter().any(|k| k.kid == header.kid);

        if has_kid(&known) || has_kid(&self.local) {
            let keys = self.local.iter().chain(known.iter());
            return first(keys.filter(|key| key.kid == header.kid), token, header)
                .unwrap_or(Err(NO_KEY));
        }
        let at_hand = self.local.iter().chain(known.iter());
        if let Some(payload) = first(at_hand.filter(|key| fits(key, header)), token, header) {
            return payload;
        }
        let cause = match header.kid {
            Some(_) => Cause::UnknownKid,
            None => Cause::NoneYet,
        };
        if let Some(remote) = remote
            && remote.refresh(cause).await
        {
            let keys = remote.keys().await;
            let named = has_kid(&keys);
            let chosen = keys.iter().filter(|key| match named {
                true => key.kid == header.kid,
                false => fits(key, header),
            });
            return first(chosen, token, header).unwrap_or(Err(if remote.is_loaded() {
                NO_KEY
            } else {
                NO_SET
            }));
        }
        Err(match remote {
            Some(remote) if !remote.is_loaded() => NO_SET,
            _ => NO_KEY,
        })
    }

    /// Asks the JWKS URL, if there is one and it has not been asked yet.
    pub(crate) async fn warm_up(&self) {
        if let Some(remote) = &self.remote {
            remote.refresh(Cause::NoneYet).await;
        }
    }

    /// Whether a JWKS URL is configured that has given no keys so far.
    pub(crate) fn waits_for_keys(&self) -> bool {
        self.remote
            .as_ref()
            .is_some_and(|remote| !remote.is_loaded())
    }

    #[cfg(test)]
    pub(crate) fn with_remote(remote: RemoteJwks) -> Self {
        Self {
            local: Vec::new(),
            remote: Some(remote),
        }
    }

    /// How many keys need no network.
    pub(crate) fn local_len(&self) -> usize {
        self.local.len()
    }
}

const NO_KEY: Refusal = Refusal::invalid("no key verifies it");

const NO_SET: Refusal = Refusal::new(
    AuthError::Unavailable,
    "the JWK set that may have its key could not be fetched",
);

fn fits(key: &Key, header: &Header) -> bool {
    header.kid.is_none() || key.kid.is_none()
}

fn first<'a>(
    keys: impl Iterator<Item = &'a Key>,
    token: &str,
    header: &Header,
) -> Option<Result<Object, Refusal>> {
    keys.filter(|key| key.algorithms().contains(&header.algorithm))
        .find_map(|key| key.payload(token))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::path::PathBuf;

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
}
