//! The newest claims to the slots that were ever heard, by which an old answer is known.
//!
//! Answers carry an epoch, and of several the newest counts. That is not enough: a single answer, from a sentinel that was cut off
//! before a failover, or a server that slept through it, would lead back to a master that has been replaced. So an answer that is
//! older than what is known is refused.
//!
//! Epochs may start over, though: when sentinels are set up anew, or another cluster takes the place of the first, no answer will
//! ever be new enough again. So an older answer counts all the same when
//!
//! - most of the servers of the configuration have answered, none of them with a newer one. A failover takes the votes of most
//!   sentinels, or of most masters, so those that slept through it are not most of them;
//! - for [`HELD_BACK`] there has been no newer answer, and the known master has not said that it is one.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    Address, Map,
    map::{Claim, agree},
};

/// How long an older answer is held back at most. Longer than a failover takes: a sentinel waits 30 s by default before it calls
/// a master down.
pub(super) const HELD_BACK: Duration = Duration::from_secs(60);

/// The answers to one search.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) claims: Vec<Claim>,
    /// The sentinels or servers that made them.
    pub(super) by: BTreeSet<Address>,
}

/// The newest claims that are known.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// At most one to each slot.
    newest: Vec<Claim>,
    /// Since when all answers have been older.
    since: Option<Instant>,
}

impl Memory {
    /// The map that follows from the claims.
    pub(super) fn map(&self) -> Map {
        Map::of(&self.newest)
    }

    /// Returns true if the answers cover all slots, and nothing newer is known.
    pub(super) fn is_met_by(&self, heard: &Heard) -> bool {
        let claims = agree(&heard.claims);
        Map::of(&claims).is_whole() && claims == self.with(heard)
    }

    /// Replaces what is known by the answers.
    pub(super) fn believe(&mut self, heard: &Heard) {
        self.newest = agree(&heard.claims);
        self.since = None;
    }

    /// Merges newer claims; ignores older ones, until they have been held back for long enough: then they replace what is known, and
    /// this returns true. With `holds`, the known master says that it is one, and the time starts anew.
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

    /// Merges the answers with what is known. Of a server that has answered, its answer alone counts.
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
