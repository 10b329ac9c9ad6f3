//! The other nodes: which this one knew, and for which it waits once the registry has lost something.
//!
//! A node that finds its lease gone, everywhere or in a part of the registry, can't tell by itself whether only it was forgotten.
//! The entries of the others may be gone too, and come back when each of them finds out. Until then nobody can say that a user is
//! offline, or that nobody was there to be disconnected. So it waits for each node that it knew of from before: until the registry
//! has that one's lease and, by its own word, its entries; or until it has said farewell; or for as long as a lease that it may
//! have renewed at the last moment would have held, from when on a node that is silent counts as gone. One that has its lease
//! back is not silent: it is waited for several times as long. So does a node that is new, for those that it finds.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::connection::Instance;

/// For how many leases a node is waited for that is there and does not get done.
const MOST: u32 = 6;

/// What a node knows of the others.
#[derive(Debug, Default)]
pub(super) struct Others {
    state: Mutex<State>,
    /// There is somebody to wait for.
    missed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Those whose leases held when last nothing was amiss.
    known: HashSet<Instance>,
    /// Those that are waited for.
    awaited: HashMap<Instance, Awaited>,
    /// When all nodes were last told that something was lost, by whomever.
    told: Option<Instant>,
}

/// For how long a node is waited for.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    until: Instant,
    /// How far that can be put off.
    latest: Instant,
}

impl State {
    fn waits(&self) -> bool {
        let now = Instant::now();
        self.awaited.values().any(|awaited| now < awaited.until)
    }
}

impl Others {
    /// These nodes hold leases, and nothing is amiss. While some are waited for, nobody is forgotten; nor for an answer to what was
    /// asked at such a time (not `calm`): who has come back since is not in it.
    pub(super) fn seen(&self, there: impl Iterator<Item = Instance>, calm: bool) {
        let mut state = self.state.lock();
        if calm && !state.waits() {
            state.known.clear();
        }
        state.known.extend(there);
    }

    /// The nodes whose leases held when last nothing was amiss, without this one.
    pub(super) fn known(&self) -> HashSet<Instance> {
        self.state.lock().known.clone()
    }

    /// Something is lost: waits for all that are known, for at most `lease`, and longer for [`Others::are_coming`].
    pub(super) fn await_all(&self, lease: Duration) {
        let now = Instant::now();
        let awaited = Awaited {
            until: now + lease,
            latest: now + MOST * lease,
        };
        let mut state = self.state.lock();
        state.awaited = state.known.iter().map(|it| (it.clone(), awaited)).collect();
        drop(state);
        self.missed.notify_one();
    }

    /// The registry has all of these nodes: they are waited for no longer.
    pub(super) fn are_back(&self, settled: &[Instance]) {
        let mut state = self.state.lock();
        for instance in settled {
            state.awaited.remove(instance);
        }
    }

    /// These nodes hold leases, and put back what was lost: they are alive, and waited for on.
    pub(super) fn are_coming(&self, there: &[Instance], lease: Duration) {
        let until = Instant::now() + lease;
        let mut state = self.state.lock();
        for instance in there {
            if let Some(awaited) = state.awaited.get_mut(instance) {
                awaited.until = until.min(awaited.latest);
            }
        }
    }

    /// A node has left, with nobody on it.
    pub(super) fn has_left(&self, instance: &Instance) {
        let mut state = self.state.lock();
        state.known.remove(instance);
        state.awaited.remove(instance);
    }

    /// Whether nobody is waited for.
    pub(super) fn are_there(&self) -> bool {
        !self.state.lock().waits()
    }

    /// Gives those up whose time is over. Returns them.
    pub(super) fn give_up(&self) -> Vec<Instance> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let over = state.awaited.extract_if(|_, awaited| awaited.until <= now);
        over.map(|(instance, _)| instance).collect()
    }

    /// Returns when there is, or may be, somebody to wait for.
    pub(super) async fn missed(&self) {
        self.missed.notified().await;
    }

    /// Has [`Others::missed`] return once more: whoever was waiting for somebody may not be any more.
    pub(super) fn look_again(&self) {
        self.missed.notify_one();
    }

    /// Whether all nodes are to be told of a loss by this one: true once in `interval`, and false after [`Others::were_told`].
    pub(super) fn to_be_told(&self, interval: Duration) -> bool {
        let mut state = self.state.lock();
        let told = state.told.is_some_and(|told| told.elapsed() < interval);
        if !told {
            state.told = Some(Instant::now());
        }
        !told
    }

    /// Another node has told all of them of a loss.
    pub(super) fn were_told(&self) {
        self.state.lock().told = Some(Instant::now());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn names(names: &[&str]) -> Vec<Instance> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn those_that_were_known_are_waited_for_until_they_are_back_or_have_left() {
        let others = Others::default();
        others.await_all(LEASE);
        assert!(others.are_there(), "nobody was known");
        others.seen(names(&["a", "b", "c"]).into_iter(), true);
        others.await_all(LEASE);
        others.are_back(&names(&["a", "newcomer"]));
        assert!(!others.are_there());
        others.has_left(&"b".into());
        assert!(!others.are_there());
        others.are_back(&names(&["c"]));
        assert!(others.are_there());
        assert_eq!(others.give_up(), []);
    }

    #[test]
    fn an_answer_from_before_they_were_back_takes_nobody_off() {
        let others = Others::default();
        others.seen(names(&["a", "b"]).into_iter(), true);
        others.await_all(LEASE);
        let calm = others.are_there();
        others.are_back(&names(&["a", "b"]));
        others.seen(names(&["a"]).into_iter(), calm);
        others.await_all(LEASE);
        others.are_back(&names(&["a"]));
        assert!(!others.are_there());
    }

    #[test]
    fn a_node_that_is_dead_is_waited_for_until_its_lease_is_over() {
        let others = Others::default();
        others.seen(names(&["dead"]).into_iter(), true);
        others.await_all(LEASE);
        assert!(!others.are_there());
        assert_eq!(others.give_up(), []);
        // The registry has lost something again meanwhile, and with it a node that came in between.
        others.seen(names(&["new"]).into_iter(), true);
        others.await_all(LEASE);
        others.are_back(&names(&["dead"]));
        assert!(!others.are_there());
        others.are_back(&names(&["new"]));
        assert!(others.are_there());
        others.await_all(Duration::ZERO);
        assert!(others.are_there());
        let mut over = others.give_up();
        over.sort();
        assert_eq!(over, names(&["dead", "new"]));
        others.seen(names(&["new"]).into_iter(), true);
        others.await_all(LEASE);
        others.are_back(&names(&["new"]));
        assert!(others.are_there(), "the dead one is forgotten");
    }

    #[test]
    fn a_node_that_is_at_it_is_waited_for_longer_and_not_for_ever() {
        let others = Others::default();
        others.seen(names(&["busy", "silent"]).into_iter(), true);
        others.await_all(LEASE);
        let awaited = |name: &str| others.state.lock().awaited[&name.into()];
        let first = awaited("busy");
        others.are_coming(&names(&["busy", "stranger"]), LEASE);
        assert!(awaited("busy").until > first.until);
        assert_eq!(awaited("silent").until, first.until);
        others.are_coming(&names(&["busy"]), LEASE * (MOST + 1));
        assert_eq!(awaited("busy").until, first.latest);
        assert_eq!(first.latest - first.until, LEASE * (MOST - 1));
    }

    #[test]
    fn one_of_many_that_find_a_loss_tells_all() {
        let others = Others::default();
        assert!(others.to_be_told(LEASE));
        assert!(!others.to_be_told(LEASE));
        assert!(others.to_be_told(Duration::ZERO));
        let others = Others::default();
        others.were_told();
        assert!(!others.to_be_told(LEASE));
    }
}
