//! Which messages this node has handed over that may be sent again.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::registry::CALL_KEPT;

/// How many messages are remembered: some 10 MB. Of more, those that were handed over first are forgotten: what is sent again then
/// is handed over again.
const MOST: usize = 100_000;

/// How often what is over is looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// The ids of messages that were handed over, with how many connections got each.
#[derive(Default)]
pub(super) struct Repeats(Mutex<State>);

#[derive(Default)]
struct State {
    handed: HashMap<String, (u64, Instant)>,
    swept: Option<Instant>,
}

impl Repeats {
    /// Hands a message over unless it was before. Returns what came of it, by `count`, or how many connections had got it then.
    /// What reached nobody counts as not handed over.
    pub(super) fn once<T>(
        &self,
        id: &str,
        hand: impl FnOnce() -> T,
        count: impl FnOnce(&T) -> u64,
    ) -> Result<T, u64> {
        // Held while the message is handed over, which never waits: the same message may come twice at once.
        let mut state = self.0.lock();
        state.sweep();
        if let Some((connections, at)) = state.handed.get(id)
            && at.elapsed() < CALL_KEPT
        {
            return Err(*connections);
        }
        let outcome = hand();
        let connections = count(&outcome);
        if connections > 0 {
            let handed = (connections, Instant::now());
            state.handed.insert(id.to_owned(), handed);
        }
        Ok(outcome)
    }
}

impl State {
    fn sweep(&mut self) {
        let due = self.swept.is_none_or(|at| at.elapsed() >= SWEEP);
        if !due && self.handed.len() < MOST {
            return;
        }
        self.swept = Some(Instant::now());
        self.handed.retain(|_, (_, at)| at.elapsed() < CALL_KEPT);
        if self.handed.len() >= MOST {
            let mut times: Vec<_> = self.handed.values().map(|(_, at)| *at).collect();
            let (_, middle, _) = times.select_nth_unstable(MOST / 2);
            let middle = *middle;
            self.handed.retain(|_, (_, at)| *at > middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_handed_over_once() {
        let repeats = Repeats::default();
        let hand = |id: &str, connections: u64| repeats.once(id, || connections, |count| *count);
        assert_eq!(hand("a", 0), Ok(0), "reached nobody");
        assert_eq!(hand("a", 2), Ok(2));
        assert_eq!(hand("a", 3), Err(2), "again");
        assert_eq!(hand("b", 1), Ok(1));
    }
}
