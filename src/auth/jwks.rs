//! JWK sets (RFC 7517 §5): which of their keys are taken, and for what.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use crate::auth::keys::{Allowed, Key};

/// A text that is no JWK set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a JWK set")]
pub(crate) struct NotASet;

/// What a set holds.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// The keys that can be used.
    pub(crate) keys: Vec<Key>,
    /// Names of the private keys in it. None of them is used: who can read the set can sign with them.
    pub(crate) private: Vec<String>,
}

/// The members that only private keys have (RFC 7518 §6.2.2, §6.3.2).
const PRIVATE_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// The longest `kid` that is shown, in bytes.
const MAX_SHOWN_KID: usize = 64;

/// The keys of a set that can be used. The others are left out and don't spoil it: a set may hold keys for other purposes,
/// and of kinds that are not known yet (RFC 7517 §5).
pub(crate) fn parse(text: &[u8], allowed: &Allowed) -> Result<Parsed, NotASet> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).map_err(|_| NotASet)?;
    let mut parsed = Parsed::default();
    for (index, value) in set.keys.into_iter().enumerate() {
        if PRIVATE_MEMBERS.iter().any(|name| value.get(name).is_some()) {
            parsed.private.push(name(index, &value));
            continue;
        }
        match take(value, allowed) {
            Ok(key) => parsed.keys.push(key),
            Err(reason) => tracing::debug!(index, reason, "a key of a JWK set is left out"),
        }
    }
    Ok(parsed)
}

/// What people know a key of a set by: its `kid`, else its place.
fn name(index: usize, jwk: &Value) -> String {
    match jwk.get("kid").and_then(Value::as_str) {
        Some(kid) => format!("kid {:?}", &kid[..kid.floor_char_boundary(MAX_SHOWN_KID)]),
        None => format!("number {} of the set, without a kid", index + 1),
    }
}

fn take(value: Value, allowed: &Allowed) -> Result<Key, &'static str> {
    // A symmetric key in a set that anyone may read is known to everyone; `jsonwebtoken` would take it for HS256.
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it is malformed")?;
    let own: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if is_rsa_size(&rsa.n) => AlgorithmFamily::Rsa.algorithms(),
        AlgorithmParameters::RSA(_) => return Err("its modulus does not have 2048 to 8192 bits"),
        AlgorithmParameters::EllipticCurve(ec) => {
            let (size, algorithm): (_, &[Algorithm]) = match ec.curve {
                EllipticCurve::P256 => (32, &[Algorithm::ES256]),
                EllipticCurve::P384 => (48, &[Algorithm::ES384]),
                _ => return Err("its curve is not supported"),
            };
            if !has_length(&ec.x, size) || !has_length(&ec.y, size) {
                return Err("its point does not have the curve's size");
            }
            algorithm
        }
        AlgorithmParameters::OctetKeyPair(okp)
            if okp.curve == EllipticCurve::Ed25519 && has_length(&okp.x, 32) =>
        {
            AlgorithmFamily::Ed.algorithms()
        }
        _ => return Err("its kind is not supported"),
    };
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err("it is not for signatures");
    }
    if let Some(operations) = &common.key_operations
        && !operations.contains(&KeyOperations::Verify)
    {
        return Err("it is not for signatures");
    }
    let own = match common.key_algorithm {
        None => own,
        Some(pinned) => match own
            .iter()
            .position(|algorithm| pinned == (*algorithm).into())
        {
            Some(at) => &own[at..=at],
            None => return Err("its alg is not one of its kind's"),
        },
    };
    let algorithms = allowed.of(own);
    if algorithms.is_empty() {
        return Err("the configured algorithms leave it nothing");
    }
    let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| "it is malformed")?;
    Ok(Key::new(jwk.common.key_id, decoding, algorithms))
}

/// Whether an RSA modulus has a size that is neither weak (RFC 7518 §3.3) nor a burden to verify with.
pub(crate) fn is_rsa_size(modulus: &str) -> bool {
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(modulus) else {
        return false;
    };
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bits = bytes.get(zeros).map_or(0, |first| {
        (bytes.len() - zeros) * 8 - first.leading_zeros() as usize
    });
    (2048..=8192).contains(&bits)
}

fn has_length(text: &str, length: usize) -> bool {
    URL_SAFE_NO_PAD
        .decode(text)
        .is_ok_and(|bytes| bytes.len() == length)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::testing::Signer;

    /// The algorithms of what is taken from a set of one key, with `changes` made to it.
    fn taken(signer: Signer, changes: Value) -> Option<Vec<Algorithm>> {
        let mut key = signer.jwk(None);
        for (name, value) in changes.as_object().unwrap() {
            key[name] = value.clone();
        }
        let set = json!({"keys": [key]}).to_string();
        let Parsed { keys, .. } = parse(set.as_bytes(), &Allowed::default()).unwrap();
        keys.first().map(|key| key.algorithms().to_vec())
    }

    #[test]
    fn a_key_is_pinned_to_its_kind_and_to_its_own_alg() {
        let rsa = AlgorithmFamily::Rsa.algorithms().to_vec();
        assert_eq!(taken(Signer::Rsa, json!({})), Some(rsa.clone()));
        assert_eq!(taken(Signer::Rsa, json!({"use": "sig"})), Some(rsa));
        assert_eq!(
            taken(Signer::Rsa, json!({"alg": "PS384"})),
            Some(vec![Algorithm::PS384])
        );
        assert_eq!(taken(Signer::P256, json!({})), Some(vec![Algorithm::ES256]));
        assert_eq!(taken(Signer::P384, json!({})), Some(vec![Algorithm::ES384]));
        assert_eq!(
            taken(Signer::Ed25519, json!({})),
            Some(vec![Algorithm::EdDSA])
        );
        let verify = json!({"key_ops": ["verify"]});
        assert_eq!(taken(Signer::P256, verify), Some(vec![Algorithm::ES256]));
    }

    #[test]
    fn what_can_not_be_used_is_left_out() {
        for (signer, changes) in [
            (Signer::Rsa, json!({"use": "enc"})),
            (Signer::Rsa, json!({"alg": "HS256"})),
            (Signer::Rsa, json!({"alg": "ES256"})),
            (Signer::Rsa, json!({"alg": "RSA-OAEP"})),
            (Signer::Rsa, json!({"alg": "RS1"})),
            (Signer::Rsa, json!({"key_ops": ["encrypt"]})),
            (Signer::Rsa, json!({"n": "AQAB"})),
            (
                Signer::Rsa,
                json!({"n": URL_SAFE_NO_PAD.encode([0xff; 128])}),
            ),
            (
                Signer::Rsa,
                json!({"n": URL_SAFE_NO_PAD.encode([&[0; 200][..], &[0xff; 128]].concat())}),
            ),
            (
                Signer::Rsa,
                json!({"n": URL_SAFE_NO_PAD.encode([0xff; 2048])}),
            ),
            (Signer::Rsa, json!({"n": "!"})),
            (Signer::Rsa, json!({"kty": "EC"})),
            (Signer::P256, json!({"alg": "ES384"})),
            (Signer::P256, json!({"crv": "P-384"})),
            (Signer::P256, json!({"crv": "P-521"})),
            (Signer::P256, json!({"crv": "secp256k1"})),
            (Signer::P256, json!({"x": "AA"})),
            (Signer::Ed25519, json!({"crv": "X25519"})),
            (Signer::Ed25519, json!({"x": "AA"})),
            (Signer::Ed25519, json!({"kty": "LWE"})),
        ] {
            assert_eq!(taken(signer, changes.clone()), None, "{signer:?} {changes}");
        }
    }

    #[test]
    fn a_symmetric_key_is_left_out_and_the_rest_stays() {
        let set = json!({"keys": [
            {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "a"},
            {"kty": "oct", "k": "c2VjcmV0"},
            7, null, {}, {"kty": "RSA"},
            Signer::P256.jwk(Some("b")),
        ]});
        let Parsed { keys, private } =
            parse(set.to_string().as_bytes(), &Allowed::default()).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].algorithms(), [Algorithm::ES256]);
        assert_eq!(private, [""; 0]);
    }

    #[test]
    fn a_private_key_is_not_used_and_named() {
        let with = |signer: Signer, kid: Option<&str>, member: &str| {
            let mut jwk = signer.jwk(kid);
            jwk[member] = json!("AQAB");
            jwk
        };
        let long = "k".repeat(100);
        let set = json!({"keys": [
            with(Signer::Rsa, Some("a\nb"), "d"),
            with(Signer::Rsa, Some(&long), "qi"),
            with(Signer::P256, None, "d"),
            Signer::Ed25519.jwk(Some("public")),
        ]});
        let Parsed { keys, private } =
            parse(set.to_string().as_bytes(), &Allowed::default()).unwrap();
        assert_eq!(keys.len(), 1);
        let cut = format!("kid {:?}", "k".repeat(64));
        let third = "number 3 of the set, without a kid".to_owned();
        assert_eq!(private, [r#"kid "a\nb""#.to_owned(), cut, third]);
    }

    #[test]
    fn the_configured_algorithms_narrow() {
        let allowed = Allowed::new(&["RS256".into(), "PS256".into()]).unwrap();
        let set = json!({"keys": [Signer::Rsa.jwk(None), Signer::P256.jwk(None)]});
        let Parsed { keys, .. } = parse(set.to_string().as_bytes(), &allowed).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].algorithms(), [Algorithm::RS256, Algorithm::PS256]);
    }

    #[test]
    fn what_is_no_set_is_said_to_be_none() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":null}"#,
            "<html>",
        ] {
            assert!(
                parse(text.as_bytes(), &Allowed::default()).is_err(),
                "{text}"
            );
        }
        assert!(
            parse(br#"{"keys":[]}"#, &Allowed::default())
                .unwrap()
                .keys
                .is_empty()
        );
    }
}
