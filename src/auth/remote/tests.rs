//! An issuer over HTTP: when it is asked, and what becomes of what it answers.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use futures_util::{StreamExt as _, future::join_all, stream};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{fetch::MAX_SET_BYTES, *};
use crate::auth::{AuthError, Authenticator, install_crypto, testing::Signer};

/// An issuer: what it answers can be changed, and it counts how often it is asked.
#[derive(Clone)]
struct Issuer {
    url: String,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    /// Each answer takes one permit.
    gate: Arc<Semaphore>,
}

#[derive(Clone)]
enum Answer {
    Text(String),
    Endless,
    RedirectTo(String),
    Status(StatusCode),
}

impl Issuer {
    async fn start(keys: Value) -> Self {
        install_crypto().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self {
            url: format!("http://{}/keys", listener.local_addr().unwrap()),
            answer: Arc::new(Mutex::new(Answer::Text(String::new()))),
            asked: Arc::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        };
        issuer.publish(keys);
        let server = issuer.clone();
        let app = Router::new().route(
            "/keys",
            get(move || {
                let server = server.clone();
                async move { server.respond().await }
            }),
        );
        tokio::spawn(async move { axum::serve(listener, app).await });
        issuer
    }

    async fn respond(&self) -> Response {
        self.asked.fetch_add(1, SeqCst);
        self.gate.acquire().await.unwrap().forget();
        let answer = self.answer.lock().clone();
        match answer {
            Answer::Text(text) => text.into_response(),
            Answer::Endless => {
                let chunk = vec![b' '; 64 * 1024];
                let body = stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
                Body::from_stream(body.boxed()).into_response()
            }
            Answer::RedirectTo(url) => Redirect::temporary(&url).into_response(),
            Answer::Status(status) => status.into_response(),
        }
    }

    fn publish(&self, keys: Value) {
        *self.answer.lock() = Answer::Text(json!({"keys": keys}).to_string());
    }

    fn answer(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    fn door(&self, timing: Timing) -> Authenticator {
        let remote =
            RemoteJwks::with_timing("auth.jwt.jwks_url", &self.url, Allowed::default(), timing)
                .unwrap();
        Authenticator::with_remote(remote)
    }
}

/// No cool-down at all.
fn eager() -> Timing {
    Timing {
        cool_down: Duration::ZERO,
        cool_down_without_set: Duration::ZERO,
        ..Timing::default()
    }
}

async fn outcome(door: &Authenticator, token: String) -> Result<(), AuthError> {
    door.verify(&token).await.map(drop)
}

#[tokio::test]
async fn the_first_token_fetches_and_the_next_ones_do_not() {
    let issuer = Issuer::start(json!([Signer::Rsa.jwk(Some("a"))])).await;
    let door = issuer.door(Timing::default());
    assert!(door.waits_for_keys());
    assert_eq!(issuer.asked(), 0);

    for _ in 0..3 {
        assert_eq!(outcome(&door, Signer::Rsa.token(Some("a"))).await, Ok(()));
        assert_eq!(outcome(&door, Signer::Rsa.token(None)).await, Ok(()));
    }
    assert!(!door.waits_for_keys());
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn warming_up_fetches_once() {
    let issuer = Issuer::start(json!([Signer::Rsa.jwk(Some("a"))])).await;
    let door = issuer.door(eager());
    door.warm_up().await;
    door.warm_up().await;
    assert!(!door.waits_for_keys());
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn a_new_key_is_found_by_its_kid() {
    let issuer = Issuer::start(json!([Signer::Rsa.jwk(Some("a"))])).await;
    let door = issuer.door(Timing::default());
    assert_eq!(outcome(&door, Signer::Rsa.token(Some("a"))).await, Ok(()));

    // Right after the first fetch, which is not held against it.
    issuer.publish(json!([Signer::P256.jwk(Some("b"))]));
    assert_eq!(outcome(&door, Signer::P256.token(Some("b"))).await, Ok(()));
    assert_eq!(issuer.asked(), 2);
    // What was withdrawn is gone, and the cool-down holds.
    let withdrawn = outcome(&door, Signer::Rsa.token(Some("a"))).await;
    assert_eq!(withdrawn, Err(AuthError::Invalid));
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn a_thousand_made_up_kids_fetch_once() {
    let issuer = Issuer::start(json!([Signer::P256.jwk(Some("a"))])).await;
    let door = issuer.door(Timing::default());
    assert_eq!(outcome(&door, Signer::P256.token(Some("a"))).await, Ok(()));

    for n in 0..1000 {
        let token = Signer::P256.token(Some(&format!("made-up-{n}")));
        assert_eq!(outcome(&door, token).await, Err(AuthError::Invalid));
    }
    assert_eq!(issuer.asked(), 2);
    assert_eq!(outcome(&door, Signer::P256.token(Some("a"))).await, Ok(()));
}

#[tokio::test]
async fn tokens_that_no_key_of_a_set_could_sign_fetch_nothing() {
    let issuer = Issuer::start(json!([])).await;
    let door = issuer.door(eager());
    let token = Signer::Secret.token(Some("a"));
    assert_eq!(outcome(&door, token).await, Err(AuthError::Invalid));
    assert_eq!(
        outcome(&door, "x.y.z".into()).await,
        Err(AuthError::Invalid)
    );
    assert_eq!(issuer.asked(), 0);
}

#[tokio::test]
async fn those_who_wait_share_one_fetch() {
    let issuer = Issuer::start(json!([Signer::P256.jwk(Some("a"))])).await;
    issuer.gate.forget_permits(Semaphore::MAX_PERMITS);
    let door = issuer.door(eager());
    let token = Signer::P256.token(Some("a"));
    let waiting = (0..100).map(|_| {
        let (door, token) = (door.clone(), token.clone());
        tokio::spawn(async move { outcome(&door, token).await })
    });
    let waiting: Vec<_> = waiting.collect();
    while issuer.asked() == 0 {
        tokio::task::yield_now().await;
    }
    // Who made it fetch goes away, and takes nothing with it.
    waiting[0].abort();
    issuer.gate.add_permits(1);
    let outcomes = join_all(waiting.into_iter().skip(1)).await;
    assert!(
        outcomes
            .into_iter()
            .all(|outcome| outcome.unwrap() == Ok(()))
    );
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn the_last_good_set_stays_whatever_is_answered() {
    let issuer = Issuer::start(json!([Signer::P256.jwk(Some("a"))])).await;
    let door = issuer.door(Timing {
        // Old at once: each token fetches, and waits for it.
        refresh_after: Duration::ZERO,
        wait_after: Duration::ZERO,
        ..eager()
    });
    let token = || Signer::P256.token(Some("a"));
    assert_eq!(outcome(&door, token()).await, Ok(()));

    let elsewhere = Issuer::start(json!([Signer::Rsa.jwk(Some("evil"))])).await;
    let large = format!("{{\"keys\":[]}}{}", " ".repeat(MAX_SET_BYTES));
    for answer in [
        Answer::Status(StatusCode::INTERNAL_SERVER_ERROR),
        Answer::Status(StatusCode::NO_CONTENT),
        Answer::RedirectTo(elsewhere.url.clone()),
        Answer::Endless,
        Answer::Text(large),
        Answer::Text("<html>".into()),
        Answer::Text("{}".into()),
    ] {
        issuer.answer(answer);
        let before = issuer.asked();
        assert_eq!(outcome(&door, token()).await, Ok(()));
        assert!(issuer.asked() > before);
        let evil = outcome(&door, Signer::Rsa.token(Some("evil"))).await;
        assert_eq!(evil, Err(AuthError::Invalid));
    }
    assert_eq!(elsewhere.asked(), 0);

    // An answer all the same: that no key is good any more.
    issuer.publish(json!([]));
    assert_eq!(outcome(&door, token()).await, Err(AuthError::Invalid));
}

#[tokio::test]
async fn an_old_set_serves_while_it_is_fetched_anew() {
    let issuer = Issuer::start(json!([Signer::P256.jwk(Some("a"))])).await;
    let door = issuer.door(Timing {
        refresh_after: Duration::ZERO,
        ..Timing::default()
    });
    door.warm_up().await;
    issuer.gate.forget_permits(Semaphore::MAX_PERMITS);
    issuer.publish(json!([]));
    assert_eq!(outcome(&door, Signer::P256.token(Some("a"))).await, Ok(()));
    issuer.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    while outcome(&door, Signer::P256.token(Some("a"))).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_issuer_that_is_away_is_not_asked_by_every_token() {
    let issuer = Issuer::start(json!([Signer::P256.jwk(Some("a"))])).await;
    issuer.answer(Answer::Status(StatusCode::BAD_GATEWAY));
    let door = issuer.door(Timing::default());
    for _ in 0..100 {
        let token = Signer::P256.token(Some("a"));
        assert_eq!(outcome(&door, token).await, Err(AuthError::Unavailable));
    }
    assert_eq!(issuer.asked(), 1);
    assert!(door.waits_for_keys());
}

#[tokio::test]
async fn a_node_that_starts_without_its_issuer_finds_it_later() {
    install_crypto().unwrap();
    let issuer = Issuer::start(json!([Signer::P256.jwk(Some("a"))])).await;
    issuer.answer(Answer::Status(StatusCode::SERVICE_UNAVAILABLE));
    let door = issuer.door(eager());
    let token = || Signer::P256.token(Some("a"));
    assert_eq!(outcome(&door, token()).await, Err(AuthError::Unavailable));
    issuer.publish(json!([Signer::P256.jwk(Some("a"))]));
    assert_eq!(outcome(&door, token()).await, Ok(()));
}

#[tokio::test]
async fn an_issuer_that_hangs_or_is_gone_costs_one_timeout() {
    let issuer = Issuer::start(json!([])).await;
    issuer.gate.forget_permits(Semaphore::MAX_PERMITS);
    let door = issuer.door(Timing {
        timeout: Duration::from_millis(50),
        ..Timing::default()
    });
    for _ in 0..10 {
        let token = Signer::P256.token(Some("a"));
        assert_eq!(outcome(&door, token).await, Err(AuthError::Unavailable));
    }
    assert_eq!(issuer.asked(), 1);

    // A port that was just free.
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://user:hush@{port}/keys");
    let remote = RemoteJwks::new("auth.jwt.jwks_url", &url, Allowed::default()).unwrap();
    let error = remote.inner.source.fetch().await.unwrap_err();
    let shown = format!("{error} {error:?} {remote:?}");
    assert!(!shown.contains("hush"), "{shown}");
}
