//! The newest that was ever heard of who has which slots, for an old answer to be known as one.
//!
//! Answers carry an epoch, and among those that come together the newest counts. That is not enough: where only one comes, from
//! a sentinel that was cut off before a failover, or a server that slept through it, it is the newest there is and leads back
//! to a master that has been replaced. So an answer that is older than what is known already is refused.
//!
//! Epochs may start over, though: sentinels are set up anew, or another cluster takes the place of the first, and no answer
//! will ever be new enough again. A node must not stay deaf to that, so there are two ways to be believed all the same:
//!
//! - most of the servers of the configuration have answered, and none of them knows better. A failover takes the votes of most
//!   sentinels, and of most masters, so those who have forgotten it are not most of them;
//! - nobody else has been heard for [`HELD_BACK`], and what is known does not prove true in all that time either.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    Address, Map,
    map::{Claim, agree},
};

/// How long an older answer is held back at most. Longer than a failover takes that nobody hurries: a sentinel waits 30 s by
/// default before it calls a master down.
pub(super) const HELD_BACK: Duration = Duration::from_secs(60);

/// What has come in of a search.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) claims: Vec<Claim>,
    /// Those that made them.
    pub(super) by: BTreeSet<Address>,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// As agreed on.
    newest: Vec<Claim>,
    /// Since when nothing but older answers was heard.
    since: Option<Instant>,
}

impl Memory {
    /// What follows from it.
    pub(super) fn map(&self) -> Map {
        Map::of(&self.newest)
    }

    /// Whether what was heard is whole, and nothing is known that is newer.
    pub(super) fn is_met_by(&self, heard: &Heard) -> bool {
        let claims = agree(&heard.claims);
        Map::of(&claims).is_whole() && claims == self.with(heard)
    }

    /// Believes what was heard, all else forgotten.
    pub(super) fn believe(&mut self, heard: &Heard) {
        self.newest = agree(&heard.claims);
        self.since = None;
    }

    /// Believes what is newer than what is known, and no more. Of what is left of it that is older, `holds` says whether what
    /// is known proves true against it. Returns whether it is believed at last.
    pub(super) fn add(&mut self, heard: &Heard, holds: bool, now: Instant) -> bool {
        let since = self.since.filter(|_| !holds).unwrap_or(now);
        if now.duration_since(since) >= HELD_BACK {
            self.believe(heard);
            return true;
        }
        let older = !self.is_met_by(heard);
        self.newest = self.with(heard);
        self.since = older.then_some(since);
        false
    }

    /// What is known, and what was heard on top of it. A server that has answered is not said to have more than it says.
    fn with(&self, heard: &Heard) -> Vec<Claim> {
        let known = self.newest.iter();
        let known = known.filter(|claim| !heard.by.contains(&claim.server));
        agree(known.chain(&heard.claims))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> Address {
        Address {
            host: "a".into(),
            port,
        }
    }

    /// A sentinel says so.
    fn heard(port: u16, epoch: u64) -> Heard {
        Heard {
            claims: vec![Claim::to_all(server(port), epoch)],
            by: BTreeSet::from([server(26379)]),
        }
    }

    fn knowing(port: u16, epoch: u64) -> Memory {
        let mut memory = Memory::default();
        memory.believe(&heard(port, epoch));
        memory
    }

    #[test]
    fn what_is_newer_is_believed_and_what_is_older_is_not() {
        let mut memory = Memory::default();
        assert!(memory.is_met_by(&heard(1, 0)));
        for (port, epoch, then) in [(1, 0, 1), (2, 3, 2), (1, 2, 2), (2, 3, 2), (3, 4, 3)] {
            memory.add(&heard(port, epoch), false, Instant::now());
            assert_eq!(memory.map(), Map::of_one(server(then)), "{port} {epoch}");
        }
        assert!(memory.is_met_by(&heard(3, 4)));
        assert!(!memory.is_met_by(&heard(3, 3)));
        assert!(!memory.is_met_by(&Heard::default()));
    }

    #[test]
    fn one_epoch_for_two_servers_is_the_same_one_whoever_answers_last() {
        for ports in [[1, 2], [2, 1], [1, 1]] {
            let mut memory = Memory::default();
            for port in ports {
                memory.add(&heard(port, 0), false, Instant::now());
            }
            assert_eq!(memory.map(), Map::of_one(server(1)), "{ports:?}");
        }
    }

    #[test]
    fn an_older_answer_is_believed_once_nothing_speaks_against_it_for_long() {
        let mut memory = knowing(2, 5);
        let start = Instant::now();
        let tick = HELD_BACK / 4;
        for n in 0..4 {
            assert!(!memory.add(&heard(1, 0), false, start + tick * n));
        }
        // A newer one, or the master itself, starts the time anew.
        memory.add(&heard(2, 5), false, start + tick * 4);
        for n in 4..8 {
            assert!(!memory.add(&heard(1, 0), false, start + tick * n));
        }
        assert!(!memory.add(&heard(1, 0), true, start + tick * 8));
        for n in 8..12 {
            assert!(!memory.add(&heard(1, 0), false, start + tick * n));
            assert_eq!(memory.map(), Map::of_one(server(2)));
        }
        assert!(memory.add(&heard(1, 0), false, start + tick * 12));
        assert_eq!(memory.map(), Map::of_one(server(1)));
        // And from there it counts as usual.
        memory.add(&heard(3, 1), false, start + tick * 12);
        assert_eq!(memory.map(), Map::of_one(server(3)));
    }
}
