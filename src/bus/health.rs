//! Whether the bus works, and how often it may have missed something.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    link::{Address, Map, Slot},
    metrics::Metrics,
};

/// Collects what the links report, two to each server, and draws the conclusions.
pub(super) struct Health {
    state: Mutex<State>,
    gaps: watch::Sender<u64>,
    up_gauge: Gauge,
    reconnects: Counter,
}

#[derive(Default)]
struct State {
    servers: BTreeMap<Address, Links>,
    /// Those that have a wanted channel; the others don't count. None if a channel has no server.
    needed: Option<BTreeSet<Address>>,
    /// All needed servers' links are up.
    up: bool,
    /// Those of more than half of the needed servers are.
    mostly_up: bool,
    /// The bus has been up before.
    was_up: bool,
    /// Messages of a server that is gone may have been missed.
    missed: bool,
}

#[derive(Default)]
struct Links {
    /// The publishing link's last PING was answered.
    publishing: bool,
    /// The subscribing link's last PING was answered.
    listening: bool,
    /// The subscribing link has every channel that is wanted of this server.
    subscribed: bool,
    /// Messages of this server may have been missed since its links were up.
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
            gaps: watch::Sender::new(0),
            up_gauge,
            reconnects,
        }
    }

    /// Returns true while messages go out and come in, on every server that has a wanted channel.
    pub(super) fn is_up(&self) -> bool {
        self.state.lock().up
    }

    /// Returns true while messages go out and come in on more than half of the servers that have a wanted channel.
    pub(super) fn is_mostly_up(&self) -> bool {
        self.state.lock().mostly_up
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    /// Replaces the servers, and the channels that are wanted of them.
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

    /// Notes that a server has been given channels of another: what was published meanwhile may be lost.
    pub(super) fn given(&self, server: &Address) {
        self.update_one(server, |links| {
            links.missed = true;
            links.subscribed = false;
        });
    }

    /// Notes whether a server's publishing link answers.
    pub(super) fn publishing(&self, server: &Address, answers: bool) {
        self.update_one(server, |links| links.publishing = answers);
    }

    /// Notes whether a server's subscribing link answers.
    pub(super) fn listening(&self, server: &Address, answers: bool) {
        self.update_one(server, |links| links.listening = answers);
    }

    /// Notes whether a server has confirmed every channel that is wanted of it, or refuses some.
    pub(super) fn subscribed(&self, server: &Address, all: bool) {
        self.update_one(server, |links| {
            links.missed |= links.subscribed && !all;
            links.subscribed = all;
        });
    }

    /// Notes that a server's subscribing link has ended, and if it had any channel, that what was published since is missed.
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

    /// Counts a gap at once, for a message that was dropped while the links are fine.
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
        let (up, mostly_up) = state.needed.as_ref().map_or((false, false), |needed| {
            let is_up = |server: &&Address| state.servers.get(*server).is_some_and(Links::are_up);
            let there = needed.iter().filter(is_up).count();
            (there == needed.len(), 2 * there > needed.len())
        });
        state.mostly_up = mostly_up;
        if std::mem::replace(&mut state.up, up) != up {
            self.up_gauge.set(if up { 1 } else { 0 });
            if up && std::mem::replace(&mut state.was_up, true) {
                self.reconnects.increment(1);
            }
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

    fn all(health: &Health, server: &Address) {
        health.publishing(server, true);
        health.listening(server, true);
        health.subscribed(server, true);
    }

    #[test]
    fn only_what_breaks_a_subscription_is_a_gap_and_once_all_is_back() {
        let (health, metrics) = health();
        let (server, says) = (server(), |line: &str| metrics.render().contains(line));
        all(&health, &server);
        health.publishing(&server, false);
        health.listening(&server, false);
        assert!(!health.is_up());
        all(&health, &server);
        assert!(health.is_up() && says("switchboard_bus_up 1"));
        assert_eq!(*health.gaps().borrow(), 0);
        health.subscribed(&server, false);
        assert!(!health.is_up());
        health.subscribed(&server, true);
        assert_eq!(*health.gaps().borrow(), 1);
        health.deaf(&server, true);
        health.publishing(&server, false);
        health.listening(&server, true);
        health.subscribed(&server, true);
        assert_eq!(*health.gaps().borrow(), 1);
        health.publishing(&server, true);
        assert_eq!(*health.gaps().borrow(), 2);
        assert!(says("switchboard_bus_reconnects_total 3"));
    }

    #[test]
    fn another_server_in_its_place_is_a_gap_however_late_the_old_one_goes() {
        let (health, _metrics) = health();
        all(&health, &server());
        let other = Address {
            port: 2,
            ..server()
        };
        health.follow(&Map::of_one(other.clone()), &wanted());
        assert!(!health.is_up());
        health.publishing(&server(), true);
        all(&health, &other);
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
