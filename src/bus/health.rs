//! Whether the bus works, and how often it may have missed something.

use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What the two links report, and what follows from it.
pub(super) struct Health {
    state: Mutex<State>,
    up: AtomicBool,
    publishing: AtomicBool,
    gaps: watch::Sender<u64>,
    up_gauge: Gauge,
    reconnects: Counter,
}

#[derive(Default)]
struct State {
    /// The publishing link's last PING was answered.
    publishing: bool,
    /// The subscribing link's last PING was answered.
    listening: bool,
    /// Every wanted channel is confirmed on the subscribing link.
    subscribed: bool,
    /// The bus has been up before.
    was_up: bool,
    /// Messages may have been missed since the bus was up.
    missed: bool,
}

impl Health {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let up_gauge = metrics.bus_up();
        up_gauge.set(0);
        let reconnects = metrics.bus_reconnects();
        reconnects.absolute(0);
        Self {
            state: Mutex::default(),
            up: AtomicBool::new(false),
            publishing: AtomicBool::new(false),
            gaps: watch::Sender::new(0),
            up_gauge,
            reconnects,
        }
    }

    /// Whether messages go out and come in.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Whether messages go out, as far as the last PING knows.
    pub(super) fn is_publishing(&self) -> bool {
        self.publishing.load(Ordering::Acquire)
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    /// The publishing link answers, or has stopped to.
    pub(super) fn publishing(&self, answers: bool) {
        self.publishing.store(answers, Ordering::Release);
        self.update(|state| state.publishing = answers);
    }

    /// The subscribing link answers, or has stopped to.
    pub(super) fn listening(&self, answers: bool) {
        self.update(|state| state.listening = answers);
    }

    /// Every wanted channel is confirmed, or Redis refuses some.
    pub(super) fn subscribed(&self, all: bool) {
        self.update(|state| {
            state.missed |= state.subscribed && !all;
            state.subscribed = all;
        });
    }

    /// The subscribing link is gone, and with it what was published since, if it had heard any channel.
    pub(super) fn deaf(&self, had_heard: bool) {
        self.update(|state| {
            state.listening = false;
            state.subscribed = false;
            state.missed |= had_heard;
        });
    }

    /// A message was dropped. The links are fine, so this is told at once.
    pub(super) fn dropped(&self) {
        self.gaps.send_modify(|gaps| *gaps += 1);
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let up = state.publishing && state.listening && state.subscribed;
        if up == self.up.swap(up, Ordering::AcqRel) {
            return;
        }
        self.up_gauge.set(if up { 1 } else { 0 });
        if !up {
            return;
        }
        if std::mem::replace(&mut state.was_up, true) {
            self.reconnects.increment(1);
        }
        // Last, so that whoever wakes up by it finds the bus up.
        if std::mem::take(&mut state.missed) {
            self.gaps.send_modify(|gaps| *gaps += 1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn health() -> (Health, Metrics) {
        let metrics = Metrics::new().unwrap();
        (Health::new(&metrics), metrics)
    }

    fn all(health: &Health) {
        health.publishing(true);
        health.listening(true);
        health.subscribed(true);
    }

    #[test]
    fn up_needs_all_three_and_the_first_time_is_no_gap() {
        let (health, metrics) = health();
        health.publishing(true);
        health.listening(true);
        assert!(!health.is_up());
        health.subscribed(true);
        assert!(health.is_up());
        assert_eq!(*health.gaps().borrow(), 0);
        assert!(metrics.render().contains("switchboard_bus_up 1"));
        assert!(
            metrics
                .render()
                .contains("switchboard_bus_reconnects_total 0")
        );
    }

    #[test]
    fn a_broken_subscription_is_a_gap_once_both_links_are_back() {
        let (health, metrics) = health();
        all(&health);
        health.deaf(true);
        health.publishing(false);
        health.listening(true);
        health.subscribed(true);
        assert_eq!(*health.gaps().borrow(), 0);
        health.publishing(true);
        assert_eq!(*health.gaps().borrow(), 1);
        assert!(
            metrics
                .render()
                .contains("switchboard_bus_reconnects_total 1")
        );
    }

    #[test]
    fn what_only_stalls_or_only_publishes_misses_nothing() {
        let (health, _metrics) = health();
        all(&health);
        health.listening(false);
        assert!(!health.is_up());
        health.listening(true);
        health.publishing(false);
        assert!(!health.is_publishing());
        health.publishing(true);
        assert!(health.is_up());
        assert_eq!(*health.gaps().borrow(), 0);
    }

    #[test]
    fn a_refused_channel_is_a_gap_once_it_is_granted() {
        let (health, _metrics) = health();
        all(&health);
        health.subscribed(false);
        assert!(!health.is_up());
        health.subscribed(true);
        assert_eq!(*health.gaps().borrow(), 1);
    }
}
