//! Hostile cookies and sessions: each with what becomes of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{io, sync::Arc};

use aws_lc_rs::hmac;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION, header::COOKIE};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    auth::{
        AuthError::{self, AccessDenied, AdminRequired, Missing, NotAuthenticated, Unavailable},
        Authenticator, Credentials, Identity, MemorySessions, SessionRef, install_crypto,
        testing::SECRET,
    },
    config::{Auth, AuthRule, Config, Jwt, Namespace, Session},
};

const COOKIE_SECRET: &str = "test-only cookie secret";
const OLD_SECRET: &str = "test-only old cookie secret";

/// A door with two secrets, and a store of some sessions; `good` is user 42's.
fn door() -> (Authenticator, MemorySessions) {
    install_crypto().unwrap();
    let auth = Auth {
        jwt: Jwt {
            secret: Some(SECRET.into()),
            ..Jwt::default()
        },
        session: Session {
            secrets: vec![COOKIE_SECRET.into(), OLD_SECRET.into()],
            ..Session::default()
        },
        ..Auth::default()
    };
    let mut namespaces = Config::default().namespaces;
    namespaces.push(Namespace::new("/staff", AuthRule::Required, &["staff"]));
    let store = MemorySessions::default();
    store.set("good", json!({"cookie": {}, "userId": 42}).to_string());
    store.set(
        "admin",
        json!({"userId": 1, "username": "root", "role": "admin"}).to_string(),
    );
    let door = Authenticator::new(&auth, &namespaces).unwrap();
    (door.with_sessions(Arc::new(store.clone())), store)
}

fn signature(id: &str, secret: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, id.as_bytes()).as_ref().to_vec()
}

/// `s:<id>.<signature>`, as it is before it is encoded for a header.
fn signed(id: &str) -> String {
    let signature = STANDARD_NO_PAD.encode(signature(id, COOKIE_SECRET));
    format!("s:{id}.{signature}")
}

fn escaped(value: &str) -> String {
    let all = percent_encoding::NON_ALPHANUMERIC;
    percent_encoding::utf8_percent_encode(value, all).to_string()
}

fn headers(cookies: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for cookies in cookies {
        headers.append(COOKIE, HeaderValue::from_bytes(cookies).unwrap());
    }
    headers
}

async fn enter(
    door: &Authenticator,
    path: &str,
    headers: &HeaderMap,
) -> Result<Option<Identity>, AuthError> {
    let credentials = Credentials::from_handshake(None, headers);
    door.authenticate(&credentials, &door.rule(path).unwrap())
        .await
}

/// The user that a `Cookie` header lets into `/`.
async fn user(door: &Authenticator, cookies: impl AsRef<[u8]>) -> Result<String, AuthError> {
    let identity = enter(door, "/", &headers(&[cookies.as_ref()])).await?;
    Ok(identity.unwrap().user_id.as_str().to_owned())
}

/// A good cookie with its signature changed.
fn with_signature(change: impl FnOnce(Vec<u8>) -> String) -> String {
    let changed = change(signature("good", COOKIE_SECRET));
    format!("connect.sid={}", escaped(&format!("s:good.{changed}")))
}

fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let good = signed("good");
    let cookie = |value: &str| format!("connect.sid={}", escaped(value)).into_bytes();
    let plain = |value: &str| format!("connect.sid={value}").into_bytes();
    let (unsigned, _) = good.rsplit_once('.').unwrap();
    let bare = &good[2..];
    let flipped = |at: usize| {
        with_signature(|mut signature| {
            signature[at] ^= 1;
            STANDARD_NO_PAD.encode(signature)
        })
    };
    vec![
        ("a word", plain("good")),
        ("unsigned", plain("s%3Agood")),
        ("unsigned, with a dot", cookie("s:good.")),
        ("a dot alone", cookie("s:.")),
        ("the prefix alone", cookie("s:")),
        ("no prefix", cookie(bare)),
        ("another prefix", cookie(&format!("j:{bare}"))),
        ("prefix in upper case", cookie(&format!("S:{bare}"))),
        ("prefix twice", cookie(&format!("s:{good}"))),
        ("a blank before", cookie(&format!(" {good}"))),
        ("a blank after", cookie(&format!("{good} "))),
        ("a line feed after", cookie(&format!("{good}\n"))),
        ("NUL after", cookie(&format!("{good}\0"))),
        ("NUL in the id", cookie(&good.replace("good", "good\0"))),
        ("another id", cookie(&good.replace("good", "admin"))),
        ("an id in upper case", cookie(&good.replace("good", "GOOD"))),
        ("first bit flipped", flipped(0).into()),
        ("last bit flipped", flipped(31).into()),
        (
            "a short signature",
            with_signature(|it| STANDARD_NO_PAD.encode(&it[..31])).into(),
        ),
        (
            "half a signature",
            with_signature(|it| STANDARD_NO_PAD.encode(&it[..16])).into(),
        ),
        (
            "a long signature",
            with_signature(|it| STANDARD_NO_PAD.encode([&it[..], &[0]].concat())).into(),
        ),
        (
            "signature of zeros",
            with_signature(|it| STANDARD_NO_PAD.encode(vec![0; it.len()])).into(),
        ),
        (
            "padded signature",
            with_signature(|it| STANDARD.encode(it)).into(),
        ),
        (
            "base64url",
            // One that has a `+` or a `/`, for there to be a difference.
            {
                let id = (0..).map(|n| format!("id{n}"));
                let mut both = id.map(|id| (signature(&id, COOKIE_SECRET), id));
                let (signature, id) = both
                    .find(|(it, _)| STANDARD_NO_PAD.encode(it) != URL_SAFE_NO_PAD.encode(it))
                    .unwrap();
                cookie(&format!("s:{id}.{}", URL_SAFE_NO_PAD.encode(signature)))
            },
        ),
        (
            "bits left over",
            with_signature(|it| {
                let text = STANDARD_NO_PAD.encode(it);
                let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
                let at = alphabet.find(&text[42..]).unwrap();
                format!("{}{}", &text[..42], &alphabet[at + 1..=at + 1])
            })
            .into(),
        ),
        (
            "hexadecimal",
            with_signature(|it| it.iter().map(|byte| format!("{byte:02x}")).collect()).into(),
        ),
        (
            "another secret",
            with_signature(|_| STANDARD_NO_PAD.encode(signature("good", "another"))).into(),
        ),
        (
            "an empty secret",
            with_signature(|_| STANDARD_NO_PAD.encode(signature("good", ""))).into(),
        ),
        (
            "the secret that signs tokens",
            with_signature(|_| STANDARD_NO_PAD.encode(signature("good", SECRET))).into(),
        ),
        (
            "signed with its prefix",
            with_signature(|_| STANDARD_NO_PAD.encode(signature("s:good", COOKIE_SECRET))).into(),
        ),
        ("a dot more", cookie(&format!("{good}."))),
        (
            "a signature more",
            cookie(&format!("{good}.{}", &bare[5..])),
        ),
        (
            "split at the first dot",
            cookie(&format!("{unsigned}.x.{}", &bare[5..])),
        ),
        ("encoded twice", plain(&escaped(&escaped(&good)))),
        ("a broken escape", plain(&format!("{}%", escaped(&good)))),
        (
            "an escape of no UTF-8",
            plain(&format!("{}%ff", escaped(&good))),
        ),
        ("no UTF-8", [plain(&good), vec![0xff]].concat()),
        ("half a quote", plain(&format!("\"{}", escaped(&good)))),
        (
            "a bad one before a good one",
            plain(&format!("x; connect.sid={}", escaped(&good))),
        ),
        ("very long", cookie(&"s:".repeat(4000))),
        // Signed, as only the application can, and still no key of a store's.
        ("an empty id", cookie(&signed(""))),
        ("a very long id", cookie(&signed(&"x".repeat(257)))),
        (
            "an id with a line break",
            cookie(&signed("good\r\nFLUSHALL")),
        ),
        ("an id with a blank", cookie(&signed("go od"))),
        ("an id with NUL", cookie(&signed("good\0"))),
        ("an id beyond ASCII", cookie(&signed("gööd"))),
        ("no such session", cookie(&signed("gone"))),
    ]
}

#[tokio::test]
async fn each_is_refused_with_the_same_words_and_is_a_guest_where_everyone_is_let_in() {
    let (door, _) = door();
    let good = format!("connect.sid={}", escaped(&signed("good")));
    assert_eq!(user(&door, &good).await.as_deref(), Ok("42"));

    let table = hostile();
    assert!(table.len() >= 40);
    for (what, cookies) in table {
        assert_ne!(cookies, good.as_bytes(), "{what}");
        assert_eq!(user(&door, &cookies).await, Err(NotAuthenticated), "{what}");
        let headers = headers(&[&cookies]);
        assert_eq!(enter(&door, "/public", &headers).await, Ok(None), "{what}");
    }
    let refusal = user(&door, "connect.sid=x").await.unwrap_err();
    assert_eq!(refusal.to_string(), "Not authenticated");
}

#[tokio::test]
async fn every_bit_of_a_signature_counts() {
    let (door, _) = door();
    for bit in 0..256 {
        let cookie = with_signature(|mut signature| {
            signature[bit / 8] ^= 1 << (bit % 8);
            STANDARD_NO_PAD.encode(signature)
        });
        assert_eq!(user(&door, cookie).await, Err(NotAuthenticated), "{bit}");
    }
}

#[tokio::test]
async fn what_is_no_session_cookie_is_none() {
    let (door, _) = door();
    let good = escaped(&signed("good"));
    for cookies in [
        String::new(),
        "connect.sid".into(),
        "connect.sid=".into(),
        "connect.sid=\"\"".into(),
        "connect.sid= ; a=b".into(),
        format!("Connect.sid={good}"),
        format!("connect%2Esid={good}"),
        format!("xconnect.sid={good}"),
        format!("connect.sid.x={good}"),
        format!("a=connect.sid={good}"),
        format!("connect.sid:{good}"),
        format!("a=b, connect.sid={good}"),
        good.clone(),
    ] {
        assert_eq!(user(&door, &cookies).await, Err(Missing), "{cookies}");
    }
    assert_eq!(enter(&door, "/", &HeaderMap::new()).await, Err(Missing));
}

#[tokio::test]
async fn what_looks_odd_and_is_right_is_let_in() {
    let (door, store) = door();
    let good = signed("good");
    let encoded = escaped(&good);
    let old = STANDARD_NO_PAD.encode(signature("good", OLD_SECRET));
    for cookies in [
        format!("connect.sid={good}"),
        format!("connect.sid=\"{encoded}\""),
        format!("connect.sid = {encoded} "),
        format!("\tconnect.sid\t=\t{encoded}\t"),
        format!("a; ;;=; b=c=d; connect.sid={encoded}; e=f"),
        format!("connect.sid={encoded};connect.sid=x"),
        format!("connect.sid=s%3agood.{}", escaped(&good[7..])),
        format!("connect.sid=s:good.{old}"),
    ] {
        assert_eq!(
            user(&door, &cookies).await.as_deref(),
            Ok("42"),
            "{cookies}"
        );
    }
    // Several headers are one.
    let several = headers(&[b"a=b", format!("connect.sid={encoded}").as_bytes()]);
    assert!(enter(&door, "/", &several).await.is_ok());
    let several = headers(&[
        b"connect.sid=x",
        format!("connect.sid={encoded}").as_bytes(),
    ]);
    assert_eq!(enter(&door, "/", &several).await, Err(NotAuthenticated));

    let longest = "~".repeat(256);
    for id in ["a", "a.b.", "sess:{x}/*?[a]", "%41", &longest] {
        store.set(id, json!({"userId": 42}).to_string());
        let cookies = format!("connect.sid={}", escaped(&signed(id)));
        assert_eq!(user(&door, cookies).await.as_deref(), Ok("42"), "{id}");
    }
}

#[tokio::test]
async fn hostile_sessions_are_nobody_s() {
    let (door, store) = door();
    let deep = format!("{}1{}", "{\"a\":".repeat(1000), "}".repeat(1000));
    let wide = format!("{{\"userId\":42,\"a\":\"{}\"}}", "x".repeat(1_000_000));
    for session in [
        "",
        "null",
        "42",
        "\"42\"",
        "[{\"userId\":42}]",
        "{",
        "{\"userId\":42}{\"userId\":43}",
        "{\"userId\":42,\"userId\":43}",
        "{\"userId\":42,\"passport\":{\"user\":1,\"user\":2}}",
        "{'userId':42}",
        "{}",
        "{\"userId\":null}",
        "{\"userId\":\"\"}",
        "{\"userId\":0.5}",
        "{\"userId\":1e17}",
        "{\"userId\":1e999}",
        "{\"userId\":true}",
        "{\"userId\":false}",
        "{\"userId\":[42]}",
        "{\"userId\":{\"$ne\":null}}",
        "{\"__proto__\":{\"userId\":42}}",
        "{\"userId\":\"\\ud800\"}",
        "{\"cookie\":{\"expires\":\"2020-01-01T00:00:00.000Z\"},\"userId\":42}",
        "{\"cookie\":{\"expires\":{}},\"userId\":42}",
        &format!("{{\"userId\":\"{}\"}}", "x".repeat(1025)),
        &deep,
        &wide,
    ] {
        store.set("hostile", session);
        let cookies = format!("connect.sid={}", escaped(&signed("hostile")));
        let outcome = user(&door, cookies).await;
        assert_eq!(outcome, Err(NotAuthenticated), "{session:.80}");
    }
    store.set("hostile", b"{\"userId\":\"\xff\"}".as_slice());
    let cookies = format!("connect.sid={}", escaped(&signed("hostile")));
    assert_eq!(user(&door, &cookies).await, Err(NotAuthenticated));
    // What else is of the wrong type grants nothing.
    let odd = json!({"userId": 42, "username": {"a": 1}, "role": {"admin": true}});
    store.set("hostile", odd.to_string());
    let identity = enter(&door, "/", &headers(&[cookies.as_bytes()])).await;
    let identity = identity.unwrap().unwrap();
    assert_eq!((identity.username, identity.roles), (None, vec![]));
}

#[tokio::test]
async fn a_session_has_the_rights_of_its_roles() {
    let (door, _) = door();
    let (user, admin) = (signed("good"), signed("admin"));
    let enter = async |path, cookie: &str| {
        let headers = headers(&[format!("connect.sid={}", escaped(cookie)).as_bytes()]);
        enter(&door, path, &headers).await.map(Option::unwrap)
    };
    assert_eq!(enter("/admin", &user).await, Err(AdminRequired));
    assert_eq!(enter("/staff", &user).await, Err(AccessDenied));
    let root = enter("/admin", &admin).await.unwrap();
    assert_eq!(root.username.as_deref(), Some("root"));
    assert_eq!(root.expires_at, None);
    assert!(matches!(root.session, Some(SessionRef::Cookie(id)) if id.expose() == "admin"));
    // Where no credentials are asked for, good ones count.
    assert_eq!(enter("/public", &user).await.unwrap().user_id, "42".into());
}

#[tokio::test]
async fn a_token_comes_before_the_cookie_be_it_good_or_bad() {
    let (door, _) = door();
    let rule = door.rule("/").unwrap();
    let mut headers = headers(&[format!("connect.sid={}", escaped(&signed("good"))).as_bytes()]);
    let outcome = async |token: Option<&str>, headers: &HeaderMap| {
        let auth = token.map(|token| json!({"token": token}));
        let credentials = Credentials::from_handshake(auth.as_ref(), headers);
        let identity = door.authenticate(&credentials, &rule).await;
        identity.map(|it| it.unwrap().user_id.as_str().to_owned())
    };
    let token = crate::auth::testing::Signer::Secret.sign(
        jsonwebtoken::Algorithm::HS256,
        r#"{"alg":"HS256"}"#,
        &crate::auth::testing::claims(json!({"sub": "7"})),
    );
    assert_eq!(outcome(Some(&token), &headers).await.as_deref(), Ok("7"));
    assert_eq!(outcome(Some("x"), &headers).await, Err(AuthError::Invalid));
    assert_eq!(outcome(Some(""), &headers).await.as_deref(), Ok("42"));
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    assert_eq!(outcome(None, &headers).await, Err(AuthError::Invalid));
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
    assert_eq!(outcome(None, &headers).await.as_deref(), Ok("42"));
}

#[tokio::test]
async fn a_store_that_is_away_makes_nobody_a_guest() {
    let (door, store) = door();
    let good = headers(&[format!("connect.sid={}", escaped(&signed("good"))).as_bytes()]);
    store.set_away(true);
    assert!(!door.has_session_store());
    for path in ["/", "/public", "/admin"] {
        assert_eq!(enter(&door, path, &good).await, Err(Unavailable), "{path}");
    }
    // It takes no store to see that this is no session.
    let bad = headers(&[b"connect.sid=x"]);
    assert_eq!(enter(&door, "/", &bad).await, Err(NotAuthenticated));
    store.set_away(false);
    assert!(enter(&door, "/", &good).await.is_ok() && door.has_session_store());
}

#[tokio::test]
async fn with_sessions_off_no_cookie_is_looked_at() {
    let namespaces = Config::default().namespaces;
    let door = Authenticator::new(&Auth::default(), &namespaces).unwrap();
    let good = headers(&[format!("connect.sid={}", escaped(&signed("good"))).as_bytes()]);
    assert_eq!(enter(&door, "/", &good).await, Err(Missing));
    assert!(door.has_session_store());
}

#[tokio::test]
async fn a_reload_changes_the_secrets_of_all_clones() {
    let (door, _) = door();
    let clone = door.clone();
    let good = format!("connect.sid={}", escaped(&signed("good")));
    assert!(user(&clone, &good).await.is_ok());

    let mut auth = Auth::default();
    auth.session.secrets = vec!["another".into()];
    auth.jwt.algorithms = vec!["none".into()];
    let namespaces = Config::default().namespaces;
    assert!(door.reload(&auth, &namespaces).is_err());
    assert!(user(&clone, &good).await.is_ok(), "nothing is changed");

    auth.jwt.algorithms.clear();
    door.reload(&auth, &namespaces).unwrap();
    assert_eq!(user(&clone, &good).await, Err(NotAuthenticated));
    let new = STANDARD_NO_PAD.encode(signature("good", "another"));
    let cookie = format!("connect.sid=s:good.{new}");
    assert_eq!(user(&clone, cookie).await.as_deref(), Ok("42"));
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_of_a_cookie_or_a_session_is_shown_or_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);

    let (door, store) = door();
    store.set("hush-id", json!({"userId": "hush-user"}).to_string());
    store.set("hush-broken", "{\"hush\":");
    let mut shown = String::new();
    for id in ["hush-id", "hush-broken", "hush-gone"] {
        for value in [signed(id), format!("s:{id}.AAAA"), id.to_owned()] {
            let headers = headers(&[format!("connect.sid={}", escaped(&value)).as_bytes()]);
            let credentials = Credentials::from_handshake(None, &headers);
            let identity = enter(&door, "/", &headers).await;
            shown += &format!("{credentials:?} {door:?}");
            match identity {
                Ok(identity) => shown += &format!("{:?}", identity.unwrap().session),
                Err(error) => shown += &format!("{error} {error:?}"),
            }
            store.set_away(true);
            let _ = enter(&door, "/", &headers).await;
            store.set_away(false);
        }
    }
    drop(guard);
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(log.contains("a session cookie is refused"), "{log}");
    assert!(log.contains("can't look up a session"), "{log}");
    for text in [log, shown] {
        for secret in ["hush", COOKIE_SECRET, OLD_SECRET, SECRET] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
