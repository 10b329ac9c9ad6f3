//! A JWK set at a URL: fetched on first use, kept, and fetched anew when it is old or lacks a `kid`.
//!
//! Anyone can make up a `kid`, so what a token brings about is bounded: one fetch at a time for everyone who waits, a
//! cool-down after it, and a cap on its time and size. The last good set stays when a fetch fails.

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::{StatusCode, header::ACCEPT};
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use parking_lot::Mutex;
use reqwest::{Client, Url, redirect};
use tokio::time::Instant;

use crate::auth::{
    AuthConfigError,
    jwks::{self, NotASet},
    keys::{Allowed, Key},
};

/// The configuration key.
const NAME: &str = "auth.jwt.jwks_url";

/// The largest set. One of an issuer with a hundred RSA keys has about 60 KB.
const MAX_SET_BYTES: usize = 256 * 1024;

/// When a set is fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// One fetch, from the connection to the last byte. A handshake may wait this long.
    pub(crate) timeout: Duration,
    /// Between two fetches for an unknown `kid`, and after one that failed.
    pub(crate) cool_down: Duration,
    /// After a fetch that failed when there is no set yet, so that a node which starts along with its issuer does not
    /// refuse everyone for a whole [`Timing::cool_down`].
    pub(crate) cool_down_without_set: Duration,
    /// The age, counted from the fetch, from which a set is fetched anew while the old one still serves.
    pub(crate) refresh_after: Duration,
    /// The age from which tokens wait for that. Only a node that saw no token for long has so old a set, and a key may
    /// have been withdrawn meanwhile.
    pub(crate) wait_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            cool_down: Duration::from_secs(30),
            cool_down_without_set: Duration::from_secs(5),
            refresh_after: Duration::from_secs(10 * 60),
            wait_after: Duration::from_secs(20 * 60),
        }
    }
}

/// Why a set is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// There is none yet; nothing happens if there is.
    NoneYet,
    /// It does not have a token's `kid`.
    UnknownKid,
    /// It is old.
    Age,
}

/// The set at `auth.jwt.jwks_url`.
#[derive(Clone)]
pub(crate) struct RemoteJwks {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    url: Url,
    allowed: Allowed,
    timing: Timing,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    set: Option<Fetched>,
    failed_at: Option<Instant>,
    asked_for_kid_at: Option<Instant>,
    flight: Option<Flight>,
}

struct Fetched {
    keys: Arc<[Key]>,
    at: Instant,
}

type Flight = Shared<BoxFuture<'static, ()>>;

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{}", Causes(.0))]
    Http(reqwest::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("is larger than {MAX_SET_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    NotASet(#[from] NotASet),
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        // A URL may hold a password.
        Self::Http(error.without_url())
    }
}

/// An error with its sources: `reqwest` says what went wrong, and only the sources say why.
struct Causes<'a>(&'a reqwest::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl std::fmt::Debug for RemoteJwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteJwks").finish_non_exhaustive()
    }
}

impl RemoteJwks {
    /// Prepares for a URL; asks nothing yet.
    pub(crate) fn new(url: &str, allowed: Allowed) -> Result<Self, AuthConfigError> {
        Self::with_timing(url, allowed, Timing::default())
    }

    pub(crate) fn with_timing(
        url: &str,
        allowed: Allowed,
        timing: Timing,
    ) -> Result<Self, AuthConfigError> {
        let problem = |problem: String| AuthConfigError::new(NAME, problem);
        let url = Url::parse(url).map_err(|error| problem(format!("is not a URL: {error}")))?;
        let client = Client::builder()
            .timeout(timing.timeout)
            // What the URL names is trusted, and not what a redirect makes of it.
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .user_agent(concat!("switchboard/", env!("CARGO_PKG_VERSION")));
        let client = match url.scheme() {
            "https" => client,
            // No TLS, so no need of the system's root certificates, which a bare container does not have.
            "http" => client.tls_certs_only([]),
            other => return Err(problem(format!("can be http or https, not {other}"))),
        };
        let client = client
            .build()
            .map_err(|error| problem(format!("can't be asked: {}", Causes(&error))))?;
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                url,
                allowed,
                timing,
                state: Mutex::default(),
            }),
        })
    }

    /// Whether it is the set at this URL, for these algorithms.
    pub(crate) fn is_of(&self, url: &str, allowed: &Allowed) -> bool {
        Url::parse(url).is_ok_and(|url| url == self.inner.url) && *allowed == self.inner.allowed
    }

    /// Whether a key from here could verify the algorithm: symmetric keys are never taken.
    pub(crate) fn may_have(&self, algorithm: Algorithm) -> bool {
        algorithm.family() != AlgorithmFamily::Hmac && self.inner.allowed.allows(algorithm)
    }

    /// Whether there is a set.
    pub(crate) fn is_loaded(&self) -> bool {
        self.inner.state.lock().set.is_some()
    }

    /// The keys there are; none before the first fetch. Sees to it that they don't grow old.
    pub(crate) async fn keys(&self) -> Arc<[Key]> {
        let age = {
            let state = self.inner.state.lock();
            state.set.as_ref().map(|set| set.at.elapsed())
        };
        let timing = &self.inner.timing;
        if age.is_some_and(|age| age >= timing.refresh_after)
            && let Some(flight) = self.flight(Cause::Age)
            && age.is_some_and(|age| age >= timing.wait_after)
        {
            flight.await;
        }
        let state = self.inner.state.lock();
        state
            .set
            .as_ref()
            .map_or_else(|| [].into(), |set| set.keys.clone())
    }

    /// Fetches the set, or waits for the fetch that is under way. False if there is no cause to, or it is too early.
    pub(crate) async fn refresh(&self, cause: Cause) -> bool {
        match self.flight(cause) {
            Some(flight) => {
                flight.await;
                true
            }
            None => false,
        }
    }

    fn flight(&self, cause: Cause) -> Option<Flight> {
        let timing = &self.inner.timing;
        let mut state = self.inner.state.lock();
        // One that is over is still here only if it panicked.
        if let Some(flight) = state
            .flight
            .as_ref()
            .filter(|flight| flight.peek().is_none())
        {
            return Some(flight.clone());
        }
        let within = |at: Option<Instant>, span: Duration| at.is_some_and(|at| at.elapsed() < span);
        let after_failure = match state.set {
            Some(_) => timing.cool_down,
            None => timing.cool_down_without_set,
        };
        if within(state.failed_at, after_failure) {
            return None;
        }
        match cause {
            Cause::NoneYet if state.set.is_some() => return None,
            // The first fetch is everyone's, and does not count as one for this `kid`.
            Cause::UnknownKid if state.set.is_some() => {
                if within(state.asked_for_kid_at, timing.cool_down) {
                    return None;
                }
                state.asked_for_kid_at = Some(Instant::now());
            }
            _ => {}
        }
        // A task of its own: a handshake that goes away must not take the fetch with it that others wait for.
        let fetch = tokio::spawn(self.inner.clone().fetch_and_keep());
        let flight = fetch.map(drop).boxed().shared();
        state.flight = Some(flight.clone());
        Some(flight)
    }
}

impl Inner {
    async fn fetch_and_keep(self: Arc<Self>) {
        // Counted from before the request: the set may have changed while its answer was under way.
        let at = Instant::now();
        let outcome = self.fetch().await;
        let mut state = self.state.lock();
        state.flight = None;
        match outcome {
            Ok(keys) => {
                if keys.is_empty() {
                    tracing::warn!("the JWK set at {NAME} holds no key that can be used");
                }
                state.set = Some(Fetched {
                    keys: keys.into(),
                    at,
                });
                state.failed_at = None;
            }
            Err(error) => {
                state.failed_at = Some(Instant::now());
                let keeps_last = state.set.is_some();
                drop(state);
                tracing::warn!(%error, keeps_last, "can't fetch the JWK set at {NAME}");
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, FetchError> {
        let request = self.client.get(self.url.clone());
        let request = request.header(ACCEPT, "application/jwk-set+json, application/json");
        let mut response = request.send().await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_SET_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(jwks::parse(&body, &self.allowed)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use axum::{
        Router,
        body::Body,
        response::{IntoResponse, Redirect, Response},
        routing::get,
    };
    use futures_util::{StreamExt as _, future::join_all, stream};
    use serde_json::{Value, json};
    use tokio::{net::TcpListener, sync::Semaphore};

    use super::*;
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
            let remote = RemoteJwks::with_timing(&self.url, Allowed::default(), timing).unwrap();
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
        let remote = RemoteJwks::new(&url, Allowed::default()).unwrap();
        let error = remote.inner.fetch().await.unwrap_err();
        let shown = format!("{error} {error:?} {remote:?}");
        assert!(!shown.contains("hush"), "{shown}");
    }
}
