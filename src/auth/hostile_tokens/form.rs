//! What is no token: parts missing or added, encodings that a lenient decoder takes, payloads that are no object.

use super::*;

pub(super) fn tokens() -> Vec<(&'static str, String, AuthError)> {
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
