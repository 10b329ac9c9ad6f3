//! Session cookies against a real Redis, with what the real packages put there (`src/auth/testdata/sessions.mjs`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/mod.rs"]
mod support;

use support::redis_server;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header::COOKIE};
use redis::AsyncTypedCommands;
use serde_json::Value;
use switchboard::{
    auth::{AuthError, Authenticator, Credentials, Identity, RedisSessions, SessionRef},
    config::{Auth, Config, Session},
    link::Link,
    metrics::Metrics,
};

use redis_server::Server;

async fn door(server: &Server) -> Authenticator {
    switchboard::auth::install_crypto().unwrap();
    let auth = Auth {
        session: Session {
            secrets: vec!["test-only secret".into(), "older secret".into()],
            ..Session::default()
        },
        ..Auth::default()
    };
    let link = Link::new(&server.servers_of(""), Metrics::new().unwrap()).unwrap();
    let store = RedisSessions::new(link, &auth.session.key_prefix);
    Authenticator::new(&auth, &Config::default().namespaces)
        .unwrap()
        .with_sessions(Arc::new(store))
}

fn made() -> Vec<Value> {
    let made = include_str!("../src/auth/testdata/sessions.json");
    let made: Value = serde_json::from_str(made).unwrap();
    made["sessions"].as_array().unwrap().clone()
}

fn text<'a>(visit: &'a Value, field: &str) -> &'a str {
    visit[field].as_str().unwrap()
}

async fn enter(door: &Authenticator, cookie: &str) -> Result<Identity, AuthError> {
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::from_str(cookie).unwrap());
    let credentials = Credentials::from_handshake(None, &headers);
    let rule = door.rule("/").unwrap();
    let identity = door.authenticate(&credentials, &rule).await?;
    Ok(identity.expect("no guest"))
}

/// Stores a session as it was found, with what it had left, and enters with its cookie.
async fn outcome(
    door: &Authenticator,
    redis: &mut redis::aio::MultiplexedConnection,
    visit: &Value,
) -> Result<Identity, AuthError> {
    let (key, session) = (text(visit, "key"), text(visit, "json"));
    redis.set(key, session).await.unwrap();
    if let Some(left) = visit["pttl"].as_i64().filter(|left| *left > 0) {
        redis.pexpire(key, left).await.unwrap();
    }
    enter(door, text(visit, "cookie")).await
}

#[tokio::test]
async fn what_express_stored_lets_in() {
    let server = Server::start().await;
    let (door, mut redis) = (door(&server).await, server.connection().await);
    let (mut in_, mut out) = (Vec::new(), Vec::new());
    for visit in made() {
        // Whether these are past their time is the clock's to say; they have a test of their own.
        if text(&visit, "what").contains("expires") {
            continue;
        }
        match outcome(&door, &mut redis, &visit).await {
            Ok(_) => in_.push(text(&visit, "what").to_owned()),
            Err(error) => out.push((text(&visit, "what").to_owned(), error)),
        }
    }
    assert_eq!(in_.len(), 8, "{in_:?}");
    let refused = |what: &str| (what.to_owned(), AuthError::NotAuthenticated);
    assert_eq!(out, [refused("nobody"), refused("a foreign secret")]);
}

#[tokio::test]
async fn the_store_says_how_long_a_session_has_left() {
    let server = Server::start().await;
    let (door, mut redis) = (door(&server).await, server.connection().await);
    let mut visit = made().swap_remove(0);
    let past =
        r#"{"cookie":{"originalMaxAge":60000,"expires":"2001-01-01T00:00:00.000Z"},"userId":42}"#;
    visit["json"] = past.into();
    for (left, lives) in [(-1, false), (59_000, true), (90_000, false)] {
        visit["pttl"] = left.into();
        let outcome = outcome(&door, &mut redis, &visit).await;
        assert_eq!(outcome.is_ok(), lives, "{left}: {outcome:?}");
    }
}

#[tokio::test]
async fn connections_of_sessions_that_are_gone_or_changed_are_over() {
    let server = Server::start().await;
    let (door, mut redis) = (door(&server).await, server.connection().await);
    let mut visits = made();
    visits.retain(|visit| {
        matches!(
            text(visit, "what"),
            "a number" | "passport" | "no end" | "several roles"
        )
    });
    let mut identities = Vec::new();
    for visit in &visits {
        identities.push(outcome(&door, &mut redis, visit).await.unwrap());
    }
    let held: Vec<_> = identities
        .iter()
        .map(|identity| match &identity.session {
            Some(SessionRef::Cookie(id)) => (id.clone(), identity),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(door.recheck(&held).await.unwrap(), [0; 0]);
    assert_eq!(door.recheck(&[]).await.unwrap(), [0; 0]);

    redis.del(text(&visits[0], "key")).await.unwrap();
    redis
        .set(text(&visits[1], "key"), r#"{"userId":42,"role":"user"}"#)
        .await
        .unwrap();
    // A key of another type is no session, and no reason to know nothing of the others.
    redis.del(text(&visits[2], "key")).await.unwrap();
    redis.lpush(text(&visits[2], "key"), "x").await.unwrap();
    assert_eq!(door.recheck(&held).await.unwrap(), [0, 1, 2]);
}

/// The time of Redis, in ms.
async fn time(redis: &mut redis::aio::MultiplexedConnection) -> i64 {
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(redis).await.unwrap();
    seconds * 1000 + micros / 1000
}

#[tokio::test]
async fn a_session_s_word_is_as_old_as_the_look_by_the_store_s_clock() {
    let server = Server::start().await;
    let (door, mut redis) = (door(&server).await, server.connection().await);
    let visit = made().swap_remove(0);
    let before = time(&mut redis).await;
    let identity = outcome(&door, &mut redis, &visit).await.unwrap();
    let after = time(&mut redis).await;
    let issued_at = identity.issued_at.unwrap().as_millisecond();
    assert!(
        (before - 1..after).contains(&issued_at),
        "{before} {issued_at} {after}"
    );
}

#[tokio::test]
async fn a_redis_that_is_away_says_nothing_of_anyone() {
    let server = Server::start().await;
    let (door, mut redis) = (door(&server).await, server.connection().await);
    let visit = made().swap_remove(0);
    let identity = outcome(&door, &mut redis, &visit).await.unwrap();
    drop(server);

    let came = tokio::time::timeout(
        Duration::from_secs(20),
        enter(&door, text(&visit, "cookie")),
    );
    assert_eq!(came.await.unwrap(), Err(AuthError::Unavailable));
    let Some(SessionRef::Cookie(id)) = identity.session.clone() else {
        panic!("{identity:?}");
    };
    assert!(door.recheck(&[(id, &identity)]).await.is_err());
}
