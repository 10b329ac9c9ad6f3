//! Random credentials: nothing panics, and nobody comes in who was not let in to the letter.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use jsonwebtoken::Algorithm;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use crate::{
    auth::{
        Authenticator, Credentials,
        cookie::{self, CookieKeys},
        credentials::device_id,
        jwt::Header,
        refresh::{RefreshToken, SuccessorKey},
        session::Reader,
        testing::{SECRET, Signer, authenticator, claims, sign_with},
    },
    config::{Jwt, Session},
};

/// A cookie of the contract's secret, for the id `hello`.
const COOKIE: &str = "s:hello.DGDUkGlIkCzPz+C0B064FNgHdEjox7ch8tOBGslZ5QI";

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        any::<String>().prop_map(Value::from),
        select(vec!["42", "", "HS256", "none", "é\0", "9999999999999"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let name = select(vec!["sub", "user", "id", "role", "passport", "cookie", "x"]);
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((name, inner), 0..4).prop_map(|members| {
                let members = members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value));
                Value::Object(members.collect::<Map<_, _>>())
            }),
        ]
    })
}

/// Some members of an object replaced.
fn changes(names: Vec<&'static str>) -> impl Strategy<Value = Value> {
    vec((select(names), any_json()), 1..4).prop_map(|members| {
        let members = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Value::Object(members.collect())
    })
}

/// Something put in, taken out or exchanged, once or twice.
fn mutated(text: &str) -> impl Strategy<Value = String> + use<> {
    let chars: Vec<char> = text.chars().collect();
    let change = (any::<prop::sample::Index>(), 0..3_u8, any::<char>());
    vec(change, 1..3).prop_map(move |changes| {
        let mut chars = chars.clone();
        for (at, kind, char) in changes {
            let at = at.index(chars.len() + 1);
            match kind {
                0 => chars.insert(at, char),
                1 if at < chars.len() => drop(chars.remove(at)),
                _ if at < chars.len() => chars[at] = char,
                _ => chars.truncate(at / 2),
            }
        }
        chars.into_iter().collect()
    })
}

/// A damaged text, or random bytes.
fn almost(text: &str) -> impl Strategy<Value = String> + use<> {
    prop_oneof![4 => mutated(text), 1 => any::<String>()]
}

fn identity(door: &Authenticator, token: &str) -> Option<String> {
    let verified = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(door.verify(token));
    verified.ok().map(|identity| identity.user_id.to_string())
}

fn door() -> Authenticator {
    authenticator(Jwt {
        secret: Some(SECRET.into()),
        ..Jwt::default()
    })
}

/// A token that is not signed to the letter as it was is refused, whatever was changed in it.
#[test]
fn a_token_that_was_changed_is_no_token() {
    let (door, good) = (door(), Signer::Secret.token(None));
    assert!(identity(&door, &good).is_some());
    proptest!(|(token in almost(&good))| {
        let _ = Header::read(&token);
        prop_assert!(token == good || identity(&door, &token).is_none(), "{}", token);
    });
}

/// What is signed can still say anything.
#[test]
fn a_header_may_say_anything() {
    let door = door();
    let names = vec![
        "alg", "typ", "kid", "crit", "jku", "jwk", "x5u", "zip", "b64", "cty",
    ];
    proptest!(|(changes in changes(names))| {
        let mut header = json!({ "typ": "JWT", "alg": "HS256" });
        for (name, value) in changes.as_object().unwrap() {
            header[name] = value.clone();
        }
        let token = Signer::Secret.sign(Algorithm::HS256, &header.to_string(), &claims(json!({})));
        let let_in = identity(&door, &token).is_some();
        prop_assert!(!let_in || header["alg"] == "HS256", "{}", header);
        prop_assert!(!let_in || header.get("crit").is_none(), "{}", header);
    });
}

#[test]
fn claims_may_say_anything() {
    let door = door();
    let names = vec![
        "sub", "id", "userId", "exp", "nbf", "iat", "jti", "sid", "role", "roles", "username",
        "email", "iss", "aud",
    ];
    proptest!(|(changes in changes(names), rubbish in vec(any::<u8>(), 0..60))| {
        let payload = claims(changes);
        let signed = Signer::Secret.sign(Algorithm::HS256, r#"{"alg":"HS256"}"#, &payload);
        if let Some(user) = identity(&door, &signed) {
            let payload: Value = serde_json::from_str(&payload).unwrap();
            let named = ["sub", "id", "userId"].iter().filter_map(|name| payload.get(name));
            let named = named.filter_map(|value| match value {
                Value::String(text) => Some(text.clone()),
                // A whole number is written as one, also if it came as a float.
                Value::Number(number) if number.is_f64() => number.as_f64().map(|it| format!("{}", it as i64)),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            });
            prop_assert!(named.collect::<Vec<_>>().contains(&user), "{} of {}", user, payload);
            prop_assert!(payload["exp"].is_number(), "{}", payload);
        }
        let none = sign_with(&Signer::Secret.key(), Algorithm::HS256, br#"{"alg":"HS256"}"#, &rubbish);
        prop_assert_eq!(identity(&door, &none), None);
        let three = format!("{}.{}.x", URL_SAFE_NO_PAD.encode(&rubbish), URL_SAFE_NO_PAD.encode(&rubbish));
        prop_assert_eq!(identity(&door, &three), None);
    });
}

#[test]
fn a_cookie_that_was_changed_names_no_session() {
    let keys = CookieKeys::new(&["tobiiscool".into()]);
    assert_eq!(keys.verify(COOKIE).unwrap().expose(), "hello");
    proptest!(|(value in almost(COOKIE))| {
        prop_assert!(value == COOKIE || keys.verify(&value).is_err(), "{}", value);
    });
    // The secret signs any id; one that can be no key of a store is not taken.
    proptest!(|(id in any::<String>())| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"tobiiscool");
        let signature = aws_lc_rs::hmac::sign(&key, id.as_bytes());
        let value = format!("s:{id}.{}", STANDARD_NO_PAD.encode(signature));
        if let Ok(found) = keys.verify(&value) {
            prop_assert_eq!(found.expose(), &id);
            prop_assert!(id.bytes().all(|byte| byte.is_ascii_graphic()) && id.len() <= 256);
        }
    });
}

#[test]
fn cookies_are_read_whatever_is_in_them() {
    let header = "a=b; connect.sid=\"s%3Ahello.x\"; connect.sid=%zz; é=1;;=";
    proptest!(|(header in almost(header), name in any::<String>())| {
        for name in [name.as_str(), "connect.sid", ""] {
            let _ = cookie::named(&header, name);
        }
        if let Some(value) = cookie::named(&header, "connect.sid") {
            prop_assert!(!value.is_empty());
            prop_assert!(header.contains("connect.sid"));
        }
    });
}

#[test]
fn handshakes_are_read_whatever_is_in_them() {
    let name = select(vec![
        header::AUTHORIZATION,
        header::COOKIE,
        HeaderName::from_static("x-other"),
    ]);
    let value = prop_oneof![
        vec(any::<u8>(), 0..40),
        almost("Bearer a.b.c").prop_map(String::into_bytes),
        almost("connect.sid=x").prop_map(String::into_bytes),
    ];
    let auth = prop_oneof![
        any_json(),
        (any_json(), any_json())
            .prop_map(|(token, device)| json!({ "token": token, "deviceId": device })),
        any::<String>().prop_map(|device| json!({ "deviceId": device })),
    ];
    proptest!(|(values in vec((name, value), 0..4), auth in auth)| {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        let credentials = Credentials::from_handshake(Some(&auth), &headers);
        let shown = format!("{credentials:?}");
        prop_assert!(!shown.contains("a.b.c"), "{}", shown);
        if let Some(device) = device_id(Some(&auth)) {
            prop_assert_eq!(&auth["deviceId"], &Value::from(device.clone()));
            prop_assert!((1..=128).contains(&device.chars().count()));
        }
    });
}

#[test]
fn a_session_may_hold_anything() {
    let rules = Reader::new(&Session::default());
    let now = jiff::Timestamp::now();
    let names = vec![
        "cookie", "userId", "user", "passport", "username", "role", "roles",
    ];
    proptest!(|(session in changes(names), rubbish in vec(any::<u8>(), 0..60))| {
        let text = session.to_string();
        let _ = rules.read(text.as_bytes(), now);
        let _ = rules.read(&text.as_bytes()[..text.len() / 2], now);
        prop_assert!(rules.read(&rubbish, now).is_err());
    });
}

#[test]
fn a_refresh_token_that_was_changed_is_nobodys() {
    let key = SuccessorKey::new(&SECRET.into());
    let good = RefreshToken::new("family", &key).unwrap();
    let good = secrecy::ExposeSecret::expose_secret(good.text()).to_owned();
    proptest!(|(text in almost(&good))| {
        if let Some(token) = RefreshToken::parse(&text) {
            prop_assert!(text == good || !token.is_by(&key), "{}", text);
            prop_assert!(text.starts_with(token.family()));
            let _ = token.successor(&key).hash();
        }
    });
}
