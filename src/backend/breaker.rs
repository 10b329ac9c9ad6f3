//! Spares a backend that is down, and those who would wait for it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So many requests in a row without any answer, and the backend counts as down.
const FAILURES: u32 = 10;

/// How often a request is let through to a backend that is down.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether a backend answers requests of one sort. One that is down gets one a second, until it has answered one.
#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    /// Requests without an answer since the last one with.
    failures: u32,
    /// When the next request is let through, while the backend is down.
    next: Option<Instant>,
}

impl Breaker {
    /// Whether a request may be made now.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        match state.next {
            Some(next) if now < next => return false,
            Some(_) => state.next = Some(now + PAUSE),
            None => {}
        }
        true
    }

    /// The backend has answered, whatever it was. Returns whether it was down.
    pub(super) fn answered(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).next.is_some()
    }

    /// The backend has not answered. Returns whether it counts as down from this on.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        let opens = state.failures >= FAILURES && state.next.is_none();
        if opens {
            state.next = Some(now + PAUSE);
        }
        opens
    }

    /// Whether the backend is down.
    pub(super) fn is_open(&self) -> bool {
        self.0.lock().next.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_down_gets_a_call_a_second_until_it_answers() {
        let (breaker, begin) = (Breaker::default(), Instant::now());
        for failure in 1..=FAILURES {
            assert!(breaker.admits(begin) && !breaker.is_open());
            assert_eq!(breaker.failed(begin), failure == FAILURES);
        }
        assert!(breaker.is_open() && !breaker.admits(begin));
        let later = begin + PAUSE;
        assert!(breaker.admits(later), "one is let through");
        assert!(!breaker.admits(later), "and no other");
        assert!(!breaker.failed(later), "it was down before");
        assert!(breaker.admits(later + PAUSE));
        assert!(breaker.answered() && !breaker.is_open());
        assert!(breaker.admits(later) && breaker.admits(later));
        assert!(!breaker.failed(later), "failures are counted anew");
    }
}
