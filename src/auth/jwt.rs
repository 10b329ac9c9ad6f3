//! The form of a token: what is looked at before any key (RFC 7515 §5.2, RFC 8725 §3).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::auth::{AuthError, json::Object};

/// The longest token, in bytes. Whatever a handshake brings is parsed before its signature is known.
pub(super) const MAX_TOKEN_BYTES: usize = 60 * 1024;

/// Header parameters that change how a token is to be read. One that is not understood must not be passed over
/// (RFC 7515 §4.1.11, RFC 7797), and none of these is: `enc` and `zip` make it a JWE.
const NOT_UNDERSTOOD: [&str; 4] = ["crit", "b64", "zip", "enc"];

/// What `typ` may say of an access token (RFC 7519 §5.1, RFC 9068 §2.1), without `application/`. Tokens for other
/// purposes come from the same issuer and key: `logout+jwt`, `secevent+jwt`, `dpop+jwt` (RFC 8725 §3.11).
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// What tells a token from all others, on every node. Neither the token nor its signature can be had back from it.
///
/// It is of the part that is signed. The signature itself says the same in several ways: of ECDSA, a holder can make a second one
/// that verifies as well (`s` and `n - s`), and would have a second digest by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenDigest([u8; 9]);

impl TokenDigest {
    /// The digest of a token in the compact form.
    pub(crate) fn of(token: &str) -> Self {
        let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
        let mut digest = [0; 9];
        digest.copy_from_slice(&Sha256::digest(signed)[..9]);
        Self(digest)
    }
}

/// 12 characters, as of every digest that the registry keeps.
impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Why a token is refused: for a client no more than the [`AuthError`], for operators the reason too. Shows nothing of
/// the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    error: AuthError,
    reason: &'static str,
}

impl Refusal {
    pub(crate) const fn new(error: AuthError, reason: &'static str) -> Self {
        Self { error, reason }
    }

    pub(crate) const fn invalid(reason: &'static str) -> Self {
        Self::new(AuthError::Invalid, reason)
    }

    /// Why, in words.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error, self.reason)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for AuthError {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

/// What the choice of a key rests on. It chooses among the keys that are configured, and never makes one: `jwk`, `jku`,
/// `x5u` and `x5c` are not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// `alg`; `none`, in whatever case, is not one.
    pub(crate) algorithm: Algorithm,
    /// `kid`.
    pub(crate) kid: Option<String>,
}

impl Header {
    /// Reads the header of a token in the compact form.
    pub(crate) fn read(token: &str) -> Result<Self, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::invalid("it is longer than 60 KB"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(_), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::invalid("it does not have three parts"));
        };
        if signature.is_empty() {
            return Err(Refusal::invalid("it is not signed"));
        }
        let header = URL_SAFE_NO_PAD
            .decode(header)
            .map_err(|_| Refusal::invalid("its header is not base64url"))?;
        let Object(header) = serde_json::from_slice(&header)
            .map_err(|_| Refusal::invalid("its header is not a JSON object of distinct names"))?;

        if NOT_UNDERSTOOD.iter().any(|name| header.contains_key(*name)) {
            return Err(Refusal::invalid("its header asks for an extension"));
        }
        if !header.get("typ").is_none_or(is_access_token) {
            return Err(Refusal::invalid("its typ is that of another kind of token"));
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Refusal::invalid("its kid is not a string")),
        };
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .and_then(|name| name.parse().ok())
            .ok_or(Refusal::invalid("its alg is none that is supported"))?;
        Ok(Self { algorithm, kid })
    }
}

fn is_access_token(typ: &Value) -> bool {
    let Some(typ) = typ.as_str() else {
        return false;
    };
    let typ = typ.to_ascii_lowercase();
    TYPES.contains(&typ.strip_prefix("application/").unwrap_or(&typ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(header: &Value) -> Result<Header, Refusal> {
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        Header::read(&format!("{header}.e30.c2ln"))
    }

    #[test]
    fn reads_what_the_choice_of_a_key_rests_on() {
        let header = read(&json!({"alg": "RS256", "typ": "JWT", "kid": "a"})).unwrap();
        assert_eq!(header.algorithm, Algorithm::RS256);
        assert_eq!(header.kid.as_deref(), Some("a"));
    }

    #[test]
    fn knows_access_tokens_by_their_type() {
        for typ in [
            "JWT",
            "jwt",
            "at+jwt",
            "application/at+jwt",
            "application/JWT",
        ] {
            assert!(read(&json!({"alg": "HS256", "typ": typ})).is_ok(), "{typ}");
        }
        for typ in [
            "logout+jwt",
            "secevent+jwt",
            "dpop+jwt",
            "JWE",
            "",
            "application/",
        ] {
            assert!(read(&json!({"alg": "HS256", "typ": typ})).is_err(), "{typ}");
        }
    }

    #[test]
    fn a_token_has_one_digest_whatever_its_signature_is_written_like() {
        let digest = TokenDigest::of("e30.e30.c2ln");
        assert_eq!(digest, TokenDigest::of("e30.e30.b3RoZXI"));
        assert_ne!(digest, TokenDigest::of("e30.e31.c2ln"));
        assert_eq!(digest.to_string().len(), 12);
    }

    #[test]
    fn a_refusal_says_why_to_operators() {
        let refusal = Header::read("a.b").unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "Invalid token: it does not have three parts"
        );
        assert_eq!(AuthError::from(refusal), AuthError::Invalid);
    }
}
