//! What clients may send, and how much of it.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;

use crate::config::Limits;

/// Beyond how many times the limit a connection is ended.
const FLOOD: u32 = 10;

/// What becomes of an inbound event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is handled.
    Accepted,
    /// It is refused; the client is told.
    Refused,
    /// The connection ends.
    Flood,
}

/// The inbound limits of one connection.
pub(crate) struct EventLimiter {
    buckets: Mutex<Buckets>,
    events_in: AtomicU64,
}

/// A token bucket (GCRA), and one of ten times its size.
struct Buckets {
    /// `limits.events_per_second` and `.events_burst` that they were made for.
    made_for: (u32, u32),
    soft: DefaultDirectRateLimiter,
    hard: DefaultDirectRateLimiter,
}

impl Buckets {
    /// Full buckets for limits as configured; both are at least 1.
    fn new(limits: &Limits) -> Self {
        let quota = |times: u32| {
            let at_least_one =
                |n: u32| NonZeroU32::new(n.saturating_mul(times)).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(at_least_one(limits.events_per_second))
                .allow_burst(at_least_one(limits.events_burst))
        };
        Self {
            made_for: (limits.events_per_second, limits.events_burst),
            soft: RateLimiter::direct(quota(1)),
            hard: RateLimiter::direct(quota(FLOOD)),
        }
    }
}

impl EventLimiter {
    /// A limiter with full buckets.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            buckets: Mutex::new(Buckets::new(limits)),
            events_in: AtomicU64::new(0),
        }
    }

    /// Judges one event by the limits as they are now. When these are other ones than at the last event, it begins with full
    /// buckets.
    pub(crate) fn judge(&self, limits: &Limits) -> Verdict {
        self.events_in.fetch_add(1, Ordering::Relaxed);
        let mut buckets = self.buckets.lock();
        if buckets.made_for != (limits.events_per_second, limits.events_burst) {
            *buckets = Buckets::new(limits);
        }
        if buckets.hard.check().is_err() {
            Verdict::Flood
        } else if buckets.soft.check().is_err() {
            Verdict::Refused
        } else {
            Verdict::Accepted
        }
    }

    /// Events received.
    pub(crate) fn events_in(&self) -> u64 {
        self.events_in.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(events_per_second: u32, events_burst: u32) -> Limits {
        Limits {
            events_per_second,
            events_burst,
            ..Limits::default()
        }
    }

    #[test]
    fn a_burst_passes_then_events_are_refused_then_it_is_a_flood() {
        let limits = limits(1, 5);
        let limiter = EventLimiter::new(&limits);
        let verdicts: Vec<_> = (0..60).map(|_| limiter.judge(&limits)).collect();
        assert_eq!(verdicts[..5], [Verdict::Accepted; 5]);
        assert_eq!(verdicts[5], Verdict::Refused);
        assert_eq!(verdicts[49], Verdict::Refused);
        assert_eq!(verdicts[59], Verdict::Flood);
        assert_eq!(limiter.events_in(), 60);
    }

    #[test]
    fn other_limits_hold_from_the_next_event_on() {
        let (few, more) = (limits(1, 2), limits(1, 4));
        let limiter = EventLimiter::new(&few);
        let accepted = |limits: &Limits| {
            (0..10)
                .filter(|_| limiter.judge(limits) == Verdict::Accepted)
                .count()
        };
        assert_eq!(accepted(&few), 2);
        assert_eq!(accepted(&more), 4);
        assert_eq!(accepted(&few), 2);
        assert_eq!(accepted(&few), 0);
    }
}
