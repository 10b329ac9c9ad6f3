//! Which messages of which senders a node has heard, so that none counts twice.
//!
//! The numbers of a sender don't come in order: it gives them to tasks that run side by side, and sends over more than one
//! connection. So a window of the latest is kept for each, as IPsec has it (RFC 4303 section 3.4.3, by the algorithm of
//! RFC 6479), and what is below counts as heard.

use std::collections::HashMap;

use crate::connection::Instance;

/// How many bits a word has.
const BITS: u64 = u64::BITS as u64;
/// How many words a window has: 8 KB.
const WORDS: u64 = 1024;
/// How far a message may come behind later ones of its sender. A node sends some 20,000 messages a second, and a call to Redis
/// takes up to 0.8 s.
const WINDOW: u64 = (WORDS - 1) * BITS;
/// How many senders are remembered. They are nodes that have run in the time of one process; with another one, the one that
/// has been silent for longest is forgotten.
const SENDERS: usize = 1024;

/// What was heard, by sender.
#[derive(Default)]
pub(super) struct Heard {
    senders: HashMap<Instance, Window>,
    /// How many messages were heard of all.
    total: u64,
}

/// Which of a sender's latest messages were heard.
struct Window {
    /// The highest number that was heard.
    highest: u64,
    /// A bit for each number; its word is found by the number, in turns.
    bits: Box<[u64]>,
    /// [`Heard::total`] when it was last heard of.
    at: u64,
}

impl Heard {
    /// Whether a message is heard for the first time. From now on it is heard.
    pub(super) fn is_new(&mut self, from: &Instance, number: u64) -> bool {
        if !self.senders.contains_key(from) {
            if self.senders.len() >= SENDERS {
                self.forget_one();
            }
            self.senders.insert(from.clone(), Window::new(number));
        }
        self.total += 1;
        let Some(window) = self.senders.get_mut(from) else {
            return false;
        };
        let is_new = window.is_new(number);
        if is_new {
            window.at = self.total;
        }
        is_new
    }

    fn forget_one(&mut self) {
        let silent = self.senders.iter().min_by_key(|(_, window)| window.at);
        if let Some(from) = silent.map(|(from, _)| from.clone()) {
            self.senders.remove(&from);
        }
    }
}

impl Window {
    fn new(highest: u64) -> Self {
        Self {
            highest,
            bits: vec![0; WORDS as usize].into(),
            at: 0,
        }
    }

    fn is_new(&mut self, number: u64) -> bool {
        if self.highest.saturating_sub(number) >= WINDOW {
            return false;
        }
        let (word, highest) = (number / BITS, self.highest / BITS);
        // So many are all of them, however far it jumps.
        for next in (highest + 1..=word).take(WORDS as usize) {
            self.bits[(next % WORDS) as usize] = 0;
        }
        self.highest = self.highest.max(number);
        let bits = &mut self.bits[(word % WORDS) as usize];
        let bit = 1 << (number % BITS);
        let is_new = *bits & bit == 0;
        *bits |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_new_once_in_whatever_order() {
        let mut heard = Heard::default();
        let (a, b) = ("a".into(), "b".into());
        for number in [5, 3, 4, 1000, 2, 1, 70, 65_000, 64] {
            assert!(heard.is_new(&a, number), "{number}");
        }
        for number in [5, 3, 4, 1000, 2, 1, 70, 65_000, 64] {
            assert!(!heard.is_new(&a, number), "{number}");
        }
        assert!(heard.is_new(&b, 5));
    }

    #[test]
    fn what_is_below_the_window_was_heard_and_what_is_in_it_not() {
        let mut heard = Heard::default();
        let a = "a".into();
        for highest in [WINDOW, 10 * WINDOW + 7, 40 * WINDOW, u64::MAX] {
            assert!(heard.is_new(&a, highest));
            assert!(!heard.is_new(&a, highest));
            assert!(!heard.is_new(&a, highest.saturating_sub(WINDOW)));
            if highest > 2 * WINDOW {
                assert!(heard.is_new(&a, highest - WINDOW + 1), "{highest}");
                assert!(heard.is_new(&a, highest - 1), "{highest}");
            }
        }
    }

    /// Against what it stands for: the set of all that was heard.
    #[test]
    fn it_agrees_with_a_set() {
        use std::collections::HashSet;

        use rand::{Rng, SeedableRng, rngs::StdRng};

        let mut random = StdRng::seed_from_u64(1);
        let (mut heard, mut all, mut highest) = (Heard::default(), HashSet::new(), 0_u64);
        for _ in 0..200_000 {
            let number = match random.random_range(0..10) {
                0 => highest + random.random_range(0..2 * WINDOW),
                1..6 => highest + random.random_range(0..3),
                _ => highest.saturating_sub(random.random_range(0..WINDOW + 200)),
            };
            let below = highest.saturating_sub(number) >= WINDOW;
            let expected = !below && all.insert(number);
            highest = highest.max(number);
            assert_eq!(heard.is_new(&"a".into(), number), expected, "{number}");
        }
    }

    #[test]
    fn the_senders_have_a_bound_and_those_who_speak_stay() {
        let mut heard = Heard::default();
        let speaks = "speaks".into();
        for n in 0..3 * SENDERS as u64 {
            assert!(heard.is_new(&Instance::random(), 1));
            assert!(heard.is_new(&speaks, n + 1));
        }
        assert_eq!(heard.senders.len(), SENDERS);
        assert!(!heard.is_new(&speaks, 1));
    }
}
