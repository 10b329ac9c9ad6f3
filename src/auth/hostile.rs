//! Hostile tokens: each with what becomes of it (RFC 8725 §2 names most of the attacks).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{io::ErrorKind, net::TcpListener};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
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

fn repad(part: &str) -> String {
    URL_SAFE.encode(URL_SAFE_NO_PAD.decode(part).unwrap())
}

/// Another text that a lenient decoder reads as the same bytes: 32 bytes leave two bits over.
fn with_loose_bits(part: &str) -> String {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (head, last) = part.split_at(part.len() - 1);
    let at = alphabet.find(last).unwrap();
    format!("{head}{}", &alphabet[at + 1..=at + 1])
}

fn form() -> Vec<(&'static str, String, AuthError)> {
    let good = good();
    let (message, _) = good.rsplit_once('.').unwrap();
    let (header, _) = good.split_once('.').unwrap();
    vec![
        ("nothing", String::new(), Invalid),
        ("a word", "token".into(), Invalid),
        ("dots", "..".into(), Invalid),
        ("two parts", message.into(), Invalid),
        ("stripped signature", format!("{message}."), Invalid),
        ("four parts", format!("{good}.AAAA"), Invalid),
        ("five parts, a JWE", format!("{good}.AAAA.AAAA"), Invalid),
        ("a header alone", format!("{header}.."), Invalid),
        ("blank before", format!(" {good}"), Invalid),
        ("blank after", format!("{good} "), Invalid),
        ("newline after", format!("{good}\n"), Invalid),
        ("a scheme before", format!("Bearer {good}"), Invalid),
        ("quoted", format!("\"{good}\""), Invalid),
        ("NUL after", format!("{good}\0"), Invalid),
        (
            "padded header",
            with_part(0, |part| format!("{part}==")),
            Invalid,
        ),
        (
            "padded payload",
            with_part(1, |part| format!("{part}=")),
            Invalid,
        ),
        ("padded signature", with_part(2, repad), Invalid),
        ("loose bits", with_part(2, with_loose_bits), Invalid),
        (
            "standard base64",
            with_part(2, |_| STANDARD.encode([0xff; 32])),
            Invalid,
        ),
        (
            "another payload",
            with_part(1, |_| URL_SAFE_NO_PAD.encode(payload(json!({"sub": "1"})))),
            Invalid,
        ),
        (
            "a bit flipped",
            with_part(2, |part| {
                let mut bytes = URL_SAFE_NO_PAD.decode(part).unwrap();
                bytes[0] ^= 1;
                URL_SAFE_NO_PAD.encode(bytes)
            }),
            Invalid,
        ),
        (
            "a short signature",
            with_part(2, |part| part[..16].into()),
            Invalid,
        ),
        (
            "longer than 8 KB",
            saying(json!({"pad": "x".repeat(7000)})),
            Invalid,
        ),
        (
            "no UTF-8",
            with_payload(b"{\"sub\":\"\xff\",\"exp\":99999999999}"),
            Invalid,
        ),
        ("payload is no object", with_payload(b"[1]"), Invalid),
        ("payload is no JSON", with_payload(b"{"), Invalid),
        ("payload is empty", with_payload(b""), Invalid),
        (
            "two payloads",
            with_payload(format!("{0}{0}", payload(json!({}))).as_bytes()),
            Invalid,
        ),
        (
            "deep payload",
            with_payload("{\"a\":".repeat(800).as_bytes()),
            Invalid,
        ),
        (
            "a claim twice",
            with_payload(
                payload(json!({}))
                    .replacen('{', r#"{"sub":"1","#, 1)
                    .as_bytes(),
            ),
            Invalid,
        ),
        (
            "a claim twice, escaped",
            with_payload(
                payload(json!({}))
                    .replacen('{', r#"{"\u0073ub":"1","#, 1)
                    .as_bytes(),
            ),
            Invalid,
        ),
        (
            "an unknown claim twice",
            with_payload(
                payload(json!({}))
                    .replacen('{', r#"{"role":"user","role":"admin","#, 1)
                    .as_bytes(),
            ),
            Invalid,
        ),
        (
            "a nested name twice",
            with_payload(
                payload(json!({}))
                    .replacen('{', r#"{"x":{"y":1,"y":2},"#, 1)
                    .as_bytes(),
            ),
            Invalid,
        ),
    ]
}

fn header() -> Vec<(&'static str, String, AuthError)> {
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("theirs")});
    let signed = |header: &str| Signer::Secret.sign(Algorithm::HS256, header, &payload(json!({})));
    vec![
        ("none", unsigned(r#"{"alg":"none"}"#, ""), Invalid),
        ("none, signed", signed(r#"{"alg":"none"}"#), Invalid),
        ("None", signed(r#"{"alg":"None"}"#), Invalid),
        ("NONE", signed(r#"{"alg":"NONE"}"#), Invalid),
        ("nOnE", signed(r#"{"alg":"nOnE"}"#), Invalid),
        (
            "none with a signature of blanks",
            unsigned(r#"{"alg":"none"}"#, "AAAA"),
            Invalid,
        ),
        ("no alg", signed(r#"{"typ":"JWT"}"#), Invalid),
        (
            "alg of a wrong type",
            signed(r#"{"alg":["HS256"]}"#),
            Invalid,
        ),
        ("alg null", signed(r#"{"alg":null}"#), Invalid),
        ("alg in lower case", signed(r#"{"alg":"hs256"}"#), Invalid),
        ("alg unknown", signed(r#"{"alg":"HS1"}"#), Invalid),
        (
            "alg twice",
            signed(r#"{"alg":"none","alg":"HS256"}"#),
            Invalid,
        ),
        ("header is no object", signed("[]"), Invalid),
        ("header is no JSON", signed("alg=HS256"), Invalid),
        ("ES256K", signed(r#"{"alg":"ES256K"}"#), Invalid),
        (
            "another HMAC than was used",
            signed(r#"{"alg":"HS512"}"#),
            Invalid,
        ),
        (
            "crit",
            with_header(json!({"crit": ["b64"], "b64": true})),
            Invalid,
        ),
        ("crit, empty", with_header(json!({"crit": []})), Invalid),
        ("crit, null", with_header(json!({"crit": null})), Invalid),
        (
            "crit, of what we know",
            with_header(json!({"crit": ["exp"]})),
            Invalid,
        ),
        ("b64", with_header(json!({"b64": false})), Invalid),
        ("zip", with_header(json!({"zip": "DEF"})), Invalid),
        ("enc", with_header(json!({"enc": "A128GCM"})), Invalid),
        (
            "typ of a logout token",
            with_header(json!({"typ": "logout+jwt"})),
            Invalid,
        ),
        (
            "typ of a wrong type",
            with_header(json!({"typ": 1})),
            Invalid,
        ),
        (
            "kid of a wrong type",
            with_header(json!({"kid": 7})),
            Invalid,
        ),
        ("kid null", with_header(json!({"kid": null})), Invalid),
        (
            "kid of another key",
            with_header(json!({"kid": "a"})),
            Invalid,
        ),
        (
            "jwk of its own",
            hmac_of(b"theirs", &json!({"alg": "HS256", "jwk": jwk}).to_string()),
            Invalid,
        ),
        (
            "kid as a path",
            hmac_of(b"", r#"{"alg":"HS256","kid":"../../../../dev/null"}"#),
            Invalid,
        ),
        (
            "kid as SQL",
            hmac_of(b"x", r#"{"alg":"HS256","kid":"' UNION SELECT 'x"}"#),
            Invalid,
        ),
        ("another secret", hmac_of(b"another", HS256), Invalid),
        ("an empty secret", hmac_of(b"", HS256), Invalid),
    ]
}

fn confusion() -> Vec<(&'static str, String, AuthError)> {
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

fn content() -> Vec<(&'static str, String, AuthError)> {
    let past = now() - 600;
    let future = now() + 600;
    vec![
        ("past exp", saying(json!({"exp": past})), Expired),
        ("negative exp", saying(json!({"exp": -1})), Expired),
        (
            "exp a fraction ago",
            saying(json!({"exp": past as f64 + 0.5})),
            Expired,
        ),
        (
            "past exp, badly signed",
            sign_with(
                &EncodingKey::from_secret(b"x"),
                Algorithm::HS256,
                HS256.as_bytes(),
                payload(json!({"exp": past})).as_bytes(),
            ),
            Invalid,
        ),
        (
            "past exp, another issuer",
            saying(json!({"exp": past, "iss": "https://evil"})),
            Invalid,
        ),
        ("no exp", saying(json!({"exp": null})), Invalid),
        (
            "exp in a string",
            saying(json!({"exp": future.to_string()})),
            Invalid,
        ),
        ("exp in a list", saying(json!({"exp": [future]})), Invalid),
        (
            "exp in milliseconds",
            saying(json!({"exp": future * 1000})),
            Invalid,
        ),
        (
            "exp out of reach",
            saying(json!({"exp": u64::MAX})),
            Invalid,
        ),
        (
            "exp as a huge float",
            saying(json!({"exp": 1e300})),
            Invalid,
        ),
        (
            "exp out of JSON's reach",
            with_payload(
                payload(json!({"exp": 7}))
                    .replace(":7", ":1e999")
                    .as_bytes(),
            ),
            Invalid,
        ),
        ("not yet", saying(json!({"nbf": future})), Invalid),
        (
            "nbf in a string",
            saying(json!({"nbf": past.to_string()})),
            Invalid,
        ),
        ("issued tomorrow", saying(json!({"iat": future})), Invalid),
        (
            "iat in a string",
            saying(json!({"iat": past.to_string()})),
            Invalid,
        ),
        ("no iss", saying(json!({"iss": null})), Invalid),
        (
            "another iss",
            saying(json!({"iss": "https://idp.evil"})),
            Invalid,
        ),
        (
            "iss of a wrong type",
            saying(json!({"iss": ["https://idp"]})),
            Invalid,
        ),
        ("no aud", saying(json!({"aud": null})), Invalid),
        ("another aud", saying(json!({"aud": "shop"})), Invalid),
        (
            "other auds",
            saying(json!({"aud": ["shop", "chat2"]})),
            Invalid,
        ),
        (
            "aud of a wrong type",
            saying(json!({"aud": {"chat": 1}})),
            Invalid,
        ),
        (
            "aud, in part of a wrong type",
            saying(json!({"aud": ["chat", 1]})),
            Invalid,
        ),
        ("nobody", saying(json!({"sub": null})), Invalid),
        ("an empty sub", saying(json!({"sub": ""})), Invalid),
        (
            "sub of a wrong type",
            saying(json!({"sub": {"id": 1}})),
            Invalid,
        ),
        ("sub true", saying(json!({"sub": true})), Invalid),
        ("sub and a half", saying(json!({"sub": 1.5})), Invalid),
        (
            "sub beyond exact floats",
            saying(json!({"sub": 1e17})),
            Invalid,
        ),
        (
            "a very long sub",
            saying(json!({"sub": "x".repeat(1025)})),
            Invalid,
        ),
        ("jti of a wrong type", saying(json!({"jti": {}})), Invalid),
    ]
}

#[tokio::test]
async fn each_is_refused_as_it_should_be() {
    let door = door();
    let good = good();
    assert_eq!(door.verify(&good).await.unwrap().user_id, "42".into());

    let table = [form(), header(), confusion(), content()].concat();
    assert!(table.len() > 40);
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
        ("8 KB", saying(json!({"pad": "x".repeat(5800)}))),
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

#[tokio::test]
async fn a_token_makes_no_one_call_out() {
    let canary = TcpListener::bind("127.0.0.1:0").unwrap();
    canary.set_nonblocking(true).unwrap();
    let url = format!("http://{}/keys", canary.local_addr().unwrap());
    let door = door();
    let jwk = Signer::OtherRsa.jwk(None);
    for extra in [
        json!({"jku": url}),
        json!({"x5u": url}),
        json!({"jku": url, "x5u": url, "jwk": jwk, "x5c": ["AAAA"], "kid": url}),
    ] {
        // Passed over where the token is right, and no help where it is not.
        assert!(door.verify(&with_header(extra.clone())).await.is_ok());
        let mut header = extra;
        header["alg"] = json!("RS256");
        let header = header.to_string();
        let forged = Signer::OtherRsa.sign(Algorithm::RS256, &header, &payload(json!({})));
        assert_eq!(door.verify(&forged).await, Err(Invalid));
    }
    let called = canary.accept().map(drop);
    assert_eq!(called.unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn neither_debug_nor_refusals_show_a_token_or_a_key() {
    let door = door();
    let shown = format!("{door:?} {:?}", door.clone());
    assert!(
        !shown.contains(SECRET) && !shown.contains("secret of"),
        "{shown}"
    );

    let token = with_part(2, |_| "AAAA".into());
    let refusal = door.explain(&token).await.unwrap_err();
    let shown = format!("{refusal} {refusal:?} {:?}", door.verify(&token).await);
    for part in token.split('.') {
        assert!(!shown.contains(part), "{shown}");
    }
}
