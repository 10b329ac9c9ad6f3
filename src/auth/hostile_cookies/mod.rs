//! Hostile cookies and sessions: each with what becomes of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod precedence;
mod silence;
mod stored;
mod value;

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION, header::COOKIE};
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
