//! What is no token: encodings that a lenient decoder takes, parts of other tokens.

use super::*;

pub(super) fn tokens() -> Vec<(&'static str, String, AuthError)> {
    let good = good();
    vec![
        ("nothing", String::new(), Invalid),
        ("a scheme before", format!("Bearer {good}"), Invalid),
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
            "longer than 60 KB",
            saying(json!({"pad": "x".repeat(46_200)})),
            Invalid,
        ),
        (
            "deep payload",
            with_payload("{\"a\":".repeat(800).as_bytes()),
            Invalid,
        ),
    ]
}

/// Another text that a lenient decoder reads as the same bytes: 32 bytes leave two bits over.
fn with_loose_bits(part: &str) -> String {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (head, last) = part.split_at(part.len() - 1);
    let at = alphabet.find(last).unwrap();
    format!("{head}{}", &alphabet[at + 1..=at + 1])
}
