//! Confusion of algorithms and keys: what one key has signed, held against another.

use super::*;

pub(super) fn tokens() -> Vec<(&'static str, String, AuthError)> {
    let pem = file("rsa2048.pub.pem");
    let zeros = |count| URL_SAFE_NO_PAD.encode(vec![0; count]);
    let ones = |count| URL_SAFE_NO_PAD.encode(vec![0xff; count]);
    let signed = |signer: Signer, algorithm, header: &str| {
        signer.sign(algorithm, header, &payload(json!({})))
    };
    vec![
        (
            "the public PEM as secret",
            hmac_of(pem.as_bytes(), HS256),
            Invalid,
        ),
        (
            "the same, trimmed",
            hmac_of(pem.trim().as_bytes(), HS256),
            Invalid,
        ),
        (
            "the same, called RS256",
            hmac_of(pem.as_bytes(), r#"{"alg":"RS256"}"#),
            Invalid,
        ),
        (
            "the modulus as secret",
            hmac_of(
                Signer::Rsa.jwk(None)["n"].as_str().unwrap().as_bytes(),
                HS256,
            ),
            Invalid,
        ),
        (
            "RSA, called HS256",
            signed(Signer::Rsa, Algorithm::RS256, HS256),
            Invalid,
        ),
        (
            "RSA PKCS#1, called PS256",
            signed(Signer::Rsa, Algorithm::RS256, r#"{"alg":"PS256"}"#),
            Invalid,
        ),
        (
            "RS256 for a key pinned to RS512",
            signed(
                Signer::Rsa,
                Algorithm::RS256,
                r#"{"alg":"RS256","kid":"b"}"#,
            ),
            Invalid,
        ),
        (
            "another RSA key",
            signed(Signer::OtherRsa, Algorithm::RS256, r#"{"alg":"RS256"}"#),
            Invalid,
        ),
        (
            "a key that is not configured",
            signed(Signer::Ed25519, Algorithm::EdDSA, r#"{"alg":"EdDSA"}"#),
            Invalid,
        ),
        (
            "P-384 where P-256 is",
            signed(
                Signer::P384,
                Algorithm::ES384,
                r#"{"alg":"ES384","kid":"a"}"#,
            ),
            Invalid,
        ),
        (
            "the kid of another key",
            with_header(json!({"kid": "a"})),
            Invalid,
        ),
        (
            "ES256 of zeros",
            unsigned(r#"{"alg":"ES256","kid":"a"}"#, &zeros(64)),
            Invalid,
        ),
        (
            "ES256 of ones",
            unsigned(r#"{"alg":"ES256","kid":"a"}"#, &ones(64)),
            Invalid,
        ),
        (
            "ES256 of nothing",
            unsigned(r#"{"alg":"ES256","kid":"a"}"#, ""),
            Invalid,
        ),
        (
            "RS256 of zeros",
            unsigned(r#"{"alg":"RS256"}"#, &zeros(256)),
            Invalid,
        ),
        (
            "an unknown kid on a JWK's signature",
            signed(
                Signer::P256,
                Algorithm::ES256,
                r#"{"alg":"ES256","kid":"z"}"#,
            ),
            Invalid,
        ),
    ]
}
