//! The tokens of `testdata/hostile-tokens.json`.
//!
//! A row says how its token differs from a good one: another `header` (an object, or its text), other `claims`, another `payload`
//! (its text, in which `@` is what stands between the braces of a good one; or its bytes as hexadecimal digits), another `secret`
//! to sign it by, another `signature`, and how the `token` is put together of the three parts.

use serde::Deserialize;
use serde_json::Map;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Row {
    what: &'static str,
    header: Option<Value>,
    #[serde(default)]
    claims: Map<String, Value>,
    payload: Option<String>,
    payload_hex: Option<String>,
    secret: Option<String>,
    signature: Option<String>,
    token: Option<String>,
    /// `expired`, or it is invalid.
    expected: Option<String>,
}

pub(super) fn tokens() -> Vec<(&'static str, String, AuthError)> {
    let rows: Vec<Row> =
        serde_json::from_str(include_str!("../testdata/hostile-tokens.json")).unwrap();
    let token = |row: Row| {
        let expected = match row.expected.as_deref() {
            Some("expired") => Expired,
            other => {
                assert_eq!(other, None, "{}", row.what);
                Invalid
            }
        };
        (row.what, row.token(), expected)
    };
    rows.into_iter().map(token).collect()
}

impl Row {
    fn token(self) -> String {
        let header = match self.header {
            None => HS256.to_owned(),
            Some(Value::String(text)) => text,
            Some(object) => object.to_string(),
        };
        let good = payload(json!({}));
        let payload = match (self.payload, self.payload_hex) {
            (Some(text), _) => text.replace('@', &good[1..good.len() - 1]).into_bytes(),
            (_, Some(digits)) => bytes(&digits),
            _ => changed(&good, self.claims).into_bytes(),
        };
        let secret = self.secret.as_deref().unwrap_or(SECRET);
        let key = EncodingKey::from_secret(secret.as_bytes());
        let signed = sign_with(&key, Algorithm::HS256, header.as_bytes(), &payload);
        let parts: Vec<_> = signed.split('.').collect();
        let signature = self.signature.as_deref().unwrap_or(parts[2]);
        self.token
            .as_deref()
            .unwrap_or("{header}.{payload}.{signature}")
            .replace("{header}", parts[0])
            .replace("{payload}", parts[1])
            .replace("{signature}", signature)
    }
}

/// A payload with changes: `{"absent": true}` takes a claim out, `{"now": 60}` is a minute from now.
fn changed(payload: &str, changes: Map<String, Value>) -> String {
    let mut claims: Map<String, Value> = serde_json::from_str(payload).unwrap();
    for (name, value) in changes {
        if value.get("absent").is_some() {
            claims.remove(&name);
        } else if let Some(seconds) = value.get("now") {
            claims.insert(name, json!(now() + seconds.as_i64().unwrap()));
        } else {
            claims.insert(name, value);
        }
    }
    Value::Object(claims).to_string()
}

fn bytes(digits: &str) -> Vec<u8> {
    let (pairs, _) = digits.as_bytes().as_chunks::<2>();
    pairs
        .iter()
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
