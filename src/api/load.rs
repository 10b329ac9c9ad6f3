//! The API's limits: calls a second for each key, calls in flight on the node, and users and messages of large calls that are
//! at Redis.
//!
//! Ends (disconnects, bans, revocations) have a lane of their own and no rate: they work however many other calls there are.
//! Health and metrics are not limited.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::RwLock;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::error::{ApiError, ErrorCode};
use crate::config::{Api, Scope};

/// Ends in flight on this node. Each waits 5 s at the most for other nodes.
const ENDS: usize = 1_024;

/// Users and messages of large calls that are at Redis at once: one call of the largest size. Redis does one thing at a time, so
/// that more would be served no faster, and would hold up what else there is: presence of a user took it 7 µs (measured), so
/// many 7 ms, and as many nodes as share a Redis a multiple of it. Their answers come over the link that everything else
/// comes over.
const ITEMS: usize = 1_000;

/// How long a large call waits for others of its kind before it is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many callers' rates are kept before those that have rested are forgotten. An API key is one, and so is each administrator.
const CALLERS: usize = 1_000;

/// What the API of a node has at work.
pub(super) struct Load {
    rate: RwLock<Option<Rate>>,
    calls: Lane,
    ends: Lane,
    items: Arc<Semaphore>,
}

/// The rate of each caller, by the caller's name.
struct Rate {
    /// `api.rate` that it was made for.
    made_for: NonZeroU32,
    callers: DefaultKeyedRateLimiter<String>,
}

/// Calls of one kind that are in flight.
type Lane = Arc<AtomicUsize>;

/// A call in flight; no longer when this is dropped.
pub(super) struct InFlight(Lane);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Load {
    pub(super) fn new() -> Self {
        Self {
            rate: RwLock::default(),
            calls: Lane::default(),
            ends: Lane::default(),
            items: Arc::new(Semaphore::new(ITEMS)),
        }
    }

    /// Takes a call of `caller` in that needs `scope`, for as long as what is returned lives.
    ///
    /// # Errors
    ///
    /// 429 beyond `api.rate`, 503 beyond `api.in_flight`. Neither counts ends, or refuses one.
    pub(super) fn admit(
        &self,
        caller: &str,
        scope: Scope,
        limits: &Api,
    ) -> Result<InFlight, ApiError> {
        if scope == Scope::Disconnect {
            return enter(&self.ends, ENDS);
        }
        self.count(caller, limits.rate)?;
        let most = match limits.in_flight {
            0 => usize::MAX,
            most => most as usize,
        };
        enter(&self.calls, most)
    }

    /// Waits until Redis may be asked about so many more users, or be given so many more messages; holds them for as long as what
    /// is returned lives. Who came first goes first.
    ///
    /// # Errors
    ///
    /// 503 when there was no room in time.
    pub(super) async fn items(&self, count: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        // At least one, and never more than there are.
        let count = u32::try_from(count.clamp(1, ITEMS)).unwrap_or(u32::MAX);
        let room = timeout(PATIENCE, self.items.clone().acquire_many_owned(count)).await;
        room.ok().and_then(Result::ok).ok_or_else(|| {
            overloaded("large calls are waiting for Redis; try again in a moment, or ask for less")
        })
    }

    /// Counts a call of `caller` against `api.rate`.
    fn count(&self, caller: &str, rate: u32) -> Result<(), ApiError> {
        let Some(rate) = NonZeroU32::new(rate) else {
            return Ok(());
        };
        if let Some(allowed) = self.check(caller, rate) {
            return allowed;
        }
        *self.rate.write() = Some(Rate {
            made_for: rate,
            callers: RateLimiter::keyed(Quota::per_second(rate)),
        });
        self.check(caller, rate).unwrap_or(Ok(()))
    }

    /// Counts a call. None if the rate was another one until now.
    fn check(&self, caller: &str, rate: NonZeroU32) -> Option<Result<(), ApiError>> {
        let current = self.rate.read();
        let current = current.as_ref().filter(|now| now.made_for == rate)?;
        if current.callers.len() > CALLERS {
            current.callers.retain_recent();
        }
        Some(match current.callers.check_key(&caller.to_owned()) {
            Ok(()) => Ok(()),
            Err(_) => Err(ApiError::new(
                ErrorCode::RateLimited,
                format!("{caller} may make {rate} calls a second (api.rate)"),
            )),
        })
    }
}

fn enter(lane: &Lane, most: usize) -> Result<InFlight, ApiError> {
    let place = InFlight(lane.clone());
    match lane.fetch_add(1, Ordering::Relaxed) < most {
        true => Ok(place),
        false => Err(overloaded(
            "the node has as many calls in flight as it may (api.in_flight); try again in a moment",
        )),
    }
}

fn overloaded(detail: &str) -> ApiError {
    ApiError::new(ErrorCode::Overloaded, detail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn limits(rate: u32, in_flight: u32) -> Api {
        Api {
            rate,
            in_flight,
            ..Api::default()
        }
    }

    fn code(result: Result<InFlight, ApiError>) -> Option<ErrorCode> {
        result.err().map(|error| error.code)
    }

    #[test]
    fn each_caller_has_a_rate_and_ends_have_none() {
        let load = Load::new();
        let slow = limits(2, 0);
        let call = |caller, limits: &Api| code(load.admit(caller, Scope::Read, limits));
        assert_eq!(call("key:a", &slow), None);
        assert_eq!(call("key:a", &slow), None);
        assert_eq!(call("key:a", &slow), Some(ErrorCode::RateLimited));
        assert_eq!(call("jwt:a", &slow), None);
        for _ in 0..100 {
            let end = load.admit("key:a", Scope::Disconnect, &slow);
            assert_eq!(code(end), None);
        }
        assert_eq!(call("key:a", &limits(0, 0)), None, "no limit");
        assert_eq!(call("key:a", &limits(1, 0)), None, "another limit");
        assert_eq!(call("key:a", &limits(1, 0)), Some(ErrorCode::RateLimited));
    }

    #[test]
    fn callers_that_rest_are_forgotten() {
        let load = Load::new();
        let fast = limits(1_000_000, 0);
        for n in 0..3 * CALLERS {
            let caller = format!("jwt:{n}");
            assert_eq!(code(load.admit(&caller, Scope::Read, &fast)), None);
        }
        let kept = load.rate.read().as_ref().unwrap().callers.len();
        assert!(kept <= CALLERS + 1, "{kept}");
    }

    #[test]
    fn no_more_calls_are_in_flight_than_may_and_ends_have_their_own_lane() {
        let load = Load::new();
        let call = |limits: &Api| load.admit("key:a", Scope::Read, limits);
        let two = limits(0, 2);
        let (first, second) = (call(&two).unwrap(), call(&two).unwrap());
        assert_eq!(code(call(&two)), Some(ErrorCode::Overloaded));
        let ends: Vec<_> = (0..ENDS)
            .map(|_| load.admit("key:a", Scope::Disconnect, &two).unwrap())
            .collect();
        let end = load.admit("key:a", Scope::Disconnect, &two);
        assert_eq!(code(end), Some(ErrorCode::Overloaded));
        drop((first, ends));
        assert_eq!(code(call(&two)), None);
        let third = call(&limits(0, 3)).unwrap();
        assert_eq!(code(call(&two)), Some(ErrorCode::Overloaded), "fewer");
        drop((second, third));
        assert_eq!(code(call(&limits(0, 0))), None);
        assert_eq!(load.calls.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn large_calls_wait_for_each_other_and_not_for_long() {
        let load = Load::new();
        let most = load.items(10 * ITEMS).await.unwrap();
        let (late, ()) = tokio::join!(load.items(1), async { drop(most) });
        let one = late.unwrap();
        assert_eq!(
            load.items(ITEMS).await.unwrap_err().code,
            ErrorCode::Overloaded
        );
        drop(one);
        assert!(load.items(ITEMS).await.is_ok());
    }
}
