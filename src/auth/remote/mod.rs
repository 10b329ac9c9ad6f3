//! A JWK set at a URL: fetched on first use, kept, and fetched anew when it is old or lacks a `kid`.
//!
//! Anyone can make up a `kid`, so what a token brings about is bounded: one fetch at a time for everyone who waits, a
//! cool-down after it, and a cap on its time and size. The last good set stays when a fetch fails.
//!
//! `fetch` is one fetch.

mod fetch;

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::fetch::Source;
use crate::auth::{
    AuthConfigError,
    keys::{Allowed, Key},
};

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

/// The set at a `jwks_url`.
#[derive(Clone)]
pub(crate) struct RemoteJwks {
    inner: Arc<Inner>,
}

struct Inner {
    source: Source,
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

impl std::fmt::Debug for RemoteJwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteJwks").finish_non_exhaustive()
    }
}

impl RemoteJwks {
    /// Prepares for the URL in a key of the configuration; asks nothing yet.
    pub(crate) fn new(name: &str, url: &str, allowed: Allowed) -> Result<Self, AuthConfigError> {
        Self::with_timing(name, url, allowed, Timing::default())
    }

    pub(crate) fn with_timing(
        name: &str,
        url: &str,
        allowed: Allowed,
        timing: Timing,
    ) -> Result<Self, AuthConfigError> {
        Ok(Self {
            inner: Arc::new(Inner {
                source: Source::new(name, url, allowed, timing.timeout)?,
                timing,
                state: Mutex::default(),
            }),
        })
    }

    /// Whether it is the set at this URL, for these algorithms.
    pub(crate) fn is_of(&self, url: &str, allowed: &Allowed) -> bool {
        self.inner.source.is_of(url, allowed)
    }

    /// Whether a key from here could verify the algorithm: symmetric keys are never taken.
    pub(crate) fn may_have(&self, algorithm: Algorithm) -> bool {
        algorithm.family() != AlgorithmFamily::Hmac && self.inner.source.allowed.allows(algorithm)
    }

    /// Whether there is a set.
    pub(crate) fn is_loaded(&self) -> bool {
        self.inner.state.lock().set.is_some()
    }

    /// The key of the configuration that has the URL.
    pub(crate) fn name(&self) -> &str {
        &self.inner.source.name
    }

    /// Fetches the set and keeps nothing of it: how many keys it has, or why none can be used.
    pub(crate) async fn ask(&self) -> Result<usize, String> {
        let set = self.inner.source.fetch().await;
        let set = set.map_err(|error| error.to_string())?;
        match (set.private.first(), set.keys.len()) {
            (Some(key), _) => Err(format!("holds a private key, {key}")),
            (None, 0) => Err("holds no key that can be used".into()),
            (None, keys) => Ok(keys),
        }
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
        let name = &self.source.name;
        let outcome = self.source.fetch().await;
        let mut state = self.state.lock();
        state.flight = None;
        match outcome {
            Ok(set) => {
                if let Some(key) = set.private.first() {
                    tracing::error!(
                        key,
                        "the JWK set at {name} holds a private key: who reads it can sign, so it is not used"
                    );
                }
                if set.keys.is_empty() {
                    tracing::warn!("the JWK set at {name} holds no key that can be used");
                }
                state.set = Some(Fetched {
                    keys: set.keys.into(),
                    at,
                });
                state.failed_at = None;
            }
            Err(error) => {
                state.failed_at = Some(Instant::now());
                let keeps_last = state.set.is_some();
                drop(state);
                tracing::warn!(%error, keeps_last, "can't fetch the JWK set at {name}");
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
