//! What clients may send, and how much of it.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

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

/// The inbound limits of one connection: a token bucket (GCRA), and one of ten times its size.
pub(crate) struct EventLimiter {
    soft: DefaultDirectRateLimiter,
    hard: DefaultDirectRateLimiter,
    events_in: AtomicU64,
}

impl EventLimiter {
    /// Limits as configured; both are at least 1.
    pub(crate) fn new(limits: &Limits) -> Self {
        let quota = |times: u32| {
            let at_least_one =
                |n: u32| NonZeroU32::new(n.saturating_mul(times)).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(at_least_one(limits.events_per_second))
                .allow_burst(at_least_one(limits.events_burst))
        };
        Self {
            soft: RateLimiter::direct(quota(1)),
            hard: RateLimiter::direct(quota(FLOOD)),
            events_in: AtomicU64::new(0),
        }
    }

    /// Judges one event.
    pub(crate) fn judge(&self) -> Verdict {
        self.events_in.fetch_add(1, Ordering::Relaxed);
        if self.hard.check().is_err() {
            Verdict::Flood
        } else if self.soft.check().is_err() {
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

    #[test]
    fn a_burst_passes_then_events_are_refused_then_it_is_a_flood() {
        let limiter = EventLimiter::new(&Limits {
            events_per_second: 1,
            events_burst: 5,
            ..Limits::default()
        });
        let verdicts: Vec<_> = (0..60).map(|_| limiter.judge()).collect();
        assert_eq!(verdicts[..5], [Verdict::Accepted; 5]);
        assert_eq!(verdicts[5], Verdict::Refused);
        assert_eq!(verdicts[49], Verdict::Refused);
        assert_eq!(verdicts[59], Verdict::Flood);
        assert_eq!(limiter.events_in(), 60);
    }
}
