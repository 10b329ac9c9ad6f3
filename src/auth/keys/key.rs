//! One key, and the algorithms that the configuration allows.

use std::collections::HashSet;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, errors::ErrorKind};

use crate::auth::{AuthConfigError, json::Object, jwt::Refusal};

/// One key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(super) kid: Option<String>,
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
    pub(super) fn payload(&self, token: &str) -> Option<Result<Object, Refusal>> {
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

/// The algorithms that may be: all, or those that are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed(Vec<Algorithm>);

impl Allowed {
    /// Reads `auth.jwt.algorithms`.
    pub(crate) fn new(names: &[String]) -> Result<Self, AuthConfigError> {
        Self::named("auth.jwt.algorithms", names)
    }

    /// Reads the names (RFC 7518 §3.1) in a key of the configuration.
    pub(super) fn named(key: &str, names: &[String]) -> Result<Self, AuthConfigError> {
        let parse = |name: &String| {
            name.parse().map_err(|_| {
                let problem = format!(
                    "{name:?} is not one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
                     ES384, EdDSA"
                );
                AuthConfigError::new(key, problem)
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
