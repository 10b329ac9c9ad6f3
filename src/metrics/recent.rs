//! What came and went since the last look, for one line of the log: a line for each connection would let clients turn the log
//! over.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, CounterFn};
use parking_lot::Mutex;

/// Counts connections beside the metrics, which can't be read back.
#[derive(Debug, Default)]
pub struct Recent {
    connected: Arc<AtomicU64>,
    gone: Reasons,
    refused: Reasons,
}

/// How many, by reason. Reasons come from tables.
type Reasons = Arc<Mutex<BTreeMap<&'static str, u64>>>;

impl Recent {
    /// Counts connections that became ready, too.
    pub(super) fn connected(&self, counter: Counter) -> Counter {
        let connected = self.connected.clone();
        both(counter, move |n| {
            connected.fetch_add(n, Ordering::Relaxed);
        })
    }

    /// Counts connections that ended, too.
    pub(super) fn gone(&self, counter: Counter, reason: &'static str) -> Counter {
        by_reason(counter, &self.gone, reason)
    }

    /// Counts handshakes that were refused, too.
    pub(super) fn refused(&self, counter: Counter, reason: &'static str) -> Counter {
        by_reason(counter, &self.refused, reason)
    }

    /// Logs what was counted since the last call as one line, if there was anything. `connections` is how many there are now.
    pub fn log(&self, connections: usize) {
        let connected = self.connected.swap(0, Ordering::Relaxed);
        let (gone, reasons) = take(&self.gone);
        let (refused, refusals) = take(&self.refused);
        if connected + gone + refused > 0 {
            tracing::info!(
                connections,
                connected,
                gone,
                reasons,
                refused,
                refusals,
                "connections came and went"
            );
        }
    }
}

/// Empties `reasons`: how many in all, and "client_disconnect 3, kicked 1".
fn take(reasons: &Reasons) -> (u64, Option<String>) {
    let reasons = std::mem::take(&mut *reasons.lock());
    let text: Vec<_> = reasons
        .iter()
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect();
    (
        reasons.values().sum(),
        (!text.is_empty()).then(|| text.join(", ")),
    )
}

fn by_reason(counter: Counter, reasons: &Reasons, reason: &'static str) -> Counter {
    let reasons = reasons.clone();
    both(counter, move |n| {
        // Series that begin at nothing are no news.
        if n > 0 {
            *reasons.lock().entry(reason).or_default() += n;
        }
    })
}

/// A counter that `also` hears of.
fn both(counter: Counter, also: impl Fn(u64) + Send + Sync + 'static) -> Counter {
    Counter::from_arc(Arc::new(Both { counter, also }))
}

struct Both<F> {
    counter: Counter,
    also: F,
}

impl<F: Fn(u64)> CounterFn for Both<F> {
    fn increment(&self, value: u64) {
        self.counter.increment(value);
        (self.also)(value);
    }

    fn absolute(&self, value: u64) {
        self.counter.absolute(value);
    }
}
