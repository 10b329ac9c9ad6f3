//! Whether the bus works, and how often it may have missed something.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::atomic::{AtomicBool, Ordering},
};

use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    link::{Address, Map, Slot},
    metrics::Metrics,
};

/// What the links report, two to each server, and what follows from it.
pub(super) struct Health {
    state: Mutex<State>,
    up: AtomicBool,
    mostly_up: AtomicBool,
    gaps: watch::Sender<u64>,
    up_gauge: Gauge,
    reconnects: Counter,
}

#[derive(Default)]
struct State {
    servers: BTreeMap<Address, Links>,
    /// Those that have a wanted channel: what the others do is no matter of this node's. None if a channel has no server.
    needed: Option<BTreeSet<Address>>,
    /// The bus has been up before.
    was_up: bool,
    /// Messages may have been missed, of a server that is none of these any more.
    missed: bool,
}

#[derive(Default)]
struct Links {
    /// The publishing link's last PING was answered.
    publishing: bool,
    /// The subscribing link's last PING was answered.
    listening: bool,
    /// Every channel that is wanted of this server is confirmed on the subscribing link.
    subscribed: bool,
    /// Messages of this server's may have been missed since it was up.
    missed: bool,
}

impl Links {
    fn are_up(&self) -> bool {
        self.publishing && self.listening && self.subscribed
    }
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
            mostly_up: AtomicBool::new(false),
            gaps: watch::Sender::new(0),
            up_gauge,
            reconnects,
        }
    }

    /// Whether messages go out and come in, on every server that has a wanted channel.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// The same on more than half of those servers.
    pub(super) fn is_mostly_up(&self) -> bool {
        self.mostly_up.load(Ordering::Acquire)
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    /// These are the servers from now on, and the channels that are wanted.
    pub(super) fn follow(&self, map: &Map, wanted: &HashSet<String>) {
        let servers = map.servers();
        let needed = wanted
            .iter()
            .map(|channel| map.at(Slot::of(channel.as_bytes())).cloned())
            .collect();
        self.update(|state| {
            state.needed = needed;
            let gone = |server: &Address| !servers.contains(server);
            let missed = state.servers.extract_if(.., |server, _| gone(server));
            state.missed |= missed.filter(|(_, links)| links.missed).count() > 0;
            for server in servers {
                state.servers.entry(server.clone()).or_default();
            }
        });
    }

    /// The server has been given channels that another one had: what was published meanwhile may be lost.
    pub(super) fn given(&self, server: &Address) {
        self.update_one(server, |links| {
            links.missed = true;
            links.subscribed = false;
        });
    }

    /// The server's publishing link answers, or has stopped to.
    pub(super) fn publishing(&self, server: &Address, answers: bool) {
        self.update_one(server, |links| links.publishing = answers);
    }

    /// The server's subscribing link answers, or has stopped to.
    pub(super) fn listening(&self, server: &Address, answers: bool) {
        self.update_one(server, |links| links.listening = answers);
    }

    /// Every channel that is wanted of the server is confirmed, or it refuses some.
    pub(super) fn subscribed(&self, server: &Address, all: bool) {
        self.update_one(server, |links| {
            links.missed |= links.subscribed && !all;
            links.subscribed = all;
        });
    }

    /// The server's subscribing link is gone, and with it what was published since, if it had heard any channel.
    pub(super) fn deaf(&self, server: &Address, had_heard: bool) {
        self.update(|state| match state.servers.get_mut(server) {
            Some(links) => {
                links.missed |= had_heard;
                links.listening = false;
                links.subscribed = false;
            }
            None => state.missed |= had_heard,
        });
    }

    /// A message was dropped. The links are fine, so this is told at once.
    pub(super) fn dropped(&self) {
        self.gaps.send_modify(|gaps| *gaps += 1);
    }

    fn update_one(&self, server: &Address, change: impl FnOnce(&mut Links)) {
        self.update(|state| {
            if let Some(links) = state.servers.get_mut(server) {
                change(links);
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let is_up = |server: &Address| state.servers.get(server).is_some_and(Links::are_up);
        let up = state
            .needed
            .as_ref()
            .is_some_and(|all| all.iter().all(is_up));
        let mostly = state.needed.as_ref().is_some_and(|all| {
            let there = all.iter().filter(|server| is_up(server)).count();
            2 * there > all.len()
        });
        self.mostly_up.store(mostly, Ordering::Release);
        let changed = up != self.up.swap(up, Ordering::AcqRel);
        if changed {
            self.up_gauge.set(if up { 1 } else { 0 });
        }
        if changed && up && std::mem::replace(&mut state.was_up, true) {
            self.reconnects.increment(1);
        }
        // A gap of each server as soon as it is back, whatever the others do. Told last: a task that wakes up by it finds the bus up.
        let mut missed = up && std::mem::take(&mut state.missed);
        for links in state.servers.values_mut().filter(|links| links.are_up()) {
            missed |= std::mem::take(&mut links.missed);
        }
        if missed {
            self.gaps.send_modify(|gaps| *gaps += 1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn server() -> Address {
        Address {
            host: "one".into(),
            port: 1,
        }
    }

    fn wanted() -> HashSet<String> {
        HashSet::from(["a channel".to_owned()])
    }

    /// That of one server.
    fn health() -> (Health, Metrics) {
        let metrics = Metrics::new().unwrap();
        let health = Health::new(&metrics);
        health.follow(&Map::of_one(server()), &wanted());
        (health, metrics)
    }

    fn all(health: &Health) {
        health.publishing(&server(), true);
        health.listening(&server(), true);
        health.subscribed(&server(), true);
    }

    #[test]
    fn up_needs_all_three_and_the_first_time_is_no_gap() {
        let (health, metrics) = health();
        health.publishing(&server(), true);
        health.listening(&server(), true);
        assert!(!health.is_up());
        health.subscribed(&server(), true);
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
        health.deaf(&server(), true);
        health.publishing(&server(), false);
        health.listening(&server(), true);
        health.subscribed(&server(), true);
        assert_eq!(*health.gaps().borrow(), 0);
        health.publishing(&server(), true);
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
        health.listening(&server(), false);
        assert!(!health.is_up());
        health.listening(&server(), true);
        health.publishing(&server(), false);
        assert!(!health.is_up());
        health.publishing(&server(), true);
        assert!(health.is_up());
        assert_eq!(*health.gaps().borrow(), 0);
    }

    #[test]
    fn a_refused_channel_is_a_gap_once_it_is_granted() {
        let (health, _metrics) = health();
        all(&health);
        health.subscribed(&server(), false);
        assert!(!health.is_up());
        health.subscribed(&server(), true);
        assert_eq!(*health.gaps().borrow(), 1);
    }

    #[test]
    fn another_server_in_its_place_is_a_gap_however_late_the_old_one_goes() {
        let (health, _metrics) = health();
        all(&health);
        let other = Address {
            port: 2,
            ..server()
        };
        health.follow(&Map::of_one(other.clone()), &wanted());
        assert!(!health.is_up());
        health.publishing(&server(), true);
        health.publishing(&other, true);
        health.listening(&other, true);
        health.subscribed(&other, true);
        assert!(health.is_up());
        health.deaf(&server(), true);
        assert!(health.is_up());
        assert_eq!(*health.gaps().borrow(), 1);
        health.given(&other);
        assert!(!health.is_up());
        health.subscribed(&other, true);
        assert_eq!(*health.gaps().borrow(), 2);
        health.follow(&Map::default(), &wanted());
        assert!(!health.is_up());
    }
}
