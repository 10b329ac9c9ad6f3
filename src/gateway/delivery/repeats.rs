//! Which messages this node has handed over that may be sent again.

use moka::{policy::EvictionPolicy, sync::Cache};

use crate::registry::CALL_KEPT;

/// How many messages are remembered. Of more, those that were handed over first are forgotten: what is sent again then is handed over
/// again.
const MOST: u64 = 100_000;

/// The ids of messages that were handed over, with how many connections got each.
pub(super) struct Repeats(Cache<String, u64>);

impl Default for Repeats {
    fn default() -> Self {
        let cache = Cache::builder()
            .max_capacity(MOST)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(CALL_KEPT);
        Self(cache.build())
    }
}

impl Repeats {
    /// Hands a message over unless it was before. Returns what came of it, by `count`, or how many connections had got it then.
    /// What reached nobody counts as not handed over. The same message that comes twice at once waits for the first.
    pub(super) fn once<T>(
        &self,
        id: &str,
        hand: impl FnOnce() -> T,
        count: impl FnOnce(&T) -> u64,
    ) -> Result<T, u64> {
        let mut outcome = None;
        let entry = self.0.entry_by_ref(id).or_insert_with(|| {
            let handed = hand();
            let connections = count(&handed);
            outcome = Some(handed);
            connections
        });
        if *entry.value() == 0 {
            self.0.invalidate(id);
        }
        outcome.ok_or(entry.into_value())
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

    #[test]
    fn of_too_many_the_first_are_forgotten() {
        let repeats = Repeats::default();
        let hand = |id: u64| repeats.once(&id.to_string(), || 1, |count| *count);
        for id in 0..=MOST {
            assert_eq!(hand(id), Ok(1));
        }
        repeats.0.run_pending_tasks();
        assert!(repeats.0.entry_count() <= MOST);
        assert_eq!(hand(MOST), Err(1));
        assert_eq!(hand(0), Ok(1));
    }
}
