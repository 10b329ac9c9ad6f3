//! Operations at a fixed rate, each timed from when it was due.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// How long an operation may take; then it has failed.
pub(super) const OPERATION: Duration = Duration::from_secs(30);

/// Operations under way at once. What is due beyond them is not begun, and has failed.
const AT_ONCE: usize = 10_000;

/// The largest time that is told apart, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

/// What was measured, and what went wrong. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// Times in microseconds, by what was timed.
    pub(super) times: BTreeMap<&'static str, Histogram<u64>>,
    /// How often, by why.
    pub(super) failures: BTreeMap<String, u64>,
}

impl Record {
    /// Keeps how long something took.
    pub(super) fn time(&self, what: &'static str, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST);
        let mut recorded = self.0.lock();
        if !recorded.times.contains_key(what) {
            // Fails for bounds that contradict each other alone.
            let Ok(new) = Histogram::new_with_bounds(1, LONGEST, 3) else {
                return;
            };
            recorded.times.insert(what, new);
        }
        if let Some(times) = recorded.times.get_mut(what) {
            times.saturating_record(micros.max(1));
        }
    }

    /// Counts failures of one kind.
    pub(super) fn failed(&self, why: impl Into<String>, count: u64) {
        if count > 0 {
            *self.0.lock().failures.entry(why.into()).or_default() += count;
        }
    }

    /// Takes what is recorded so far.
    pub(super) fn take(&self) -> Recorded {
        std::mem::take(&mut *self.0.lock())
    }
}

/// How operations follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// A second.
    pub(super) rate: f64,
    pub(super) count: u64,
}

impl Pace {
    /// So many as there are in a time, one at least.
    pub(super) fn lasting(rate: f64, duration: Duration) -> Self {
        Self {
            rate,
            count: (rate * duration.as_secs_f64()).max(1.0) as u64,
        }
    }

    /// Begins each operation when it is due, with its number and that time, whatever has become of the others; returns when all
    /// are done, and how many succeeded. How late they began is recorded as `begun`: what this machine adds to every other time.
    pub(super) async fn run<F>(
        self,
        what: &'static str,
        record: &Record,
        operation: impl Fn(u64, Instant) -> F,
    ) -> u64
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let bar = bar(what, self.count);
        let (mut under_way, mut succeeded) = (JoinSet::new(), 0);
        let mut settle = |done: Result<Result<Result<(), String>, _>, _>| {
            bar.inc(1);
            match done {
                Ok(Ok(Ok(()))) => succeeded += 1,
                Ok(Ok(Err(why))) => record.failed(why, 1),
                Ok(Err(_)) => record.failed(format!("not done within {OPERATION:?}"), 1),
                Err::<_, tokio::task::JoinError>(_) => record.failed("given up", 1),
            }
        };
        let start = Instant::now();
        for number in 0..self.count {
            let due = start + Duration::from_secs_f64(number as f64 / self.rate);
            sleep_until(due).await;
            while let Some(done) = under_way.try_join_next() {
                settle(done);
            }
            if under_way.len() >= AT_ONCE {
                bar.inc(1);
                record.failed(format!("not begun: {AT_ONCE} were under way"), 1);
                continue;
            }
            record.time("begun", due.elapsed());
            under_way.spawn(timeout(OPERATION, operation(number, due)));
        }
        while let Some(done) = under_way.join_next().await {
            settle(done);
        }
        bar.finish_and_clear();
        succeeded
    }
}

/// A bar on standard error, if that is a terminal.
pub(super) fn bar(what: &'static str, count: u64) -> ProgressBar {
    let bar = ProgressBar::new(count).with_message(what);
    // The template is a constant; without it, the bar has its default looks.
    match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stall_is_in_the_times_of_all_that_was_due_meanwhile() {
        let record = Record::default();
        let pace = Pace {
            rate: 100.0,
            count: 20,
        };
        // Nothing is served before the last operation is there.
        let last = Arc::new(tokio::sync::Barrier::new(20));
        let succeeded = pace.run("stalled", &record, |_, due| {
            let (last, record) = (last.clone(), record.clone());
            async move {
                last.wait().await;
                record.time("served", due.elapsed());
                Ok(())
            }
        });
        assert_eq!(succeeded.await, 20);
        let recorded = record.take();
        let served = &recorded.times["served"];
        assert_eq!(served.len(), 20);
        // The first was due 190 ms before the last, and the tenth 100 ms.
        assert!(served.max() >= 189_000, "{served:?}");
        assert!(served.value_at_quantile(0.5) >= 89_000, "{served:?}");
        assert!(recorded.failures.is_empty());
    }

    #[tokio::test]
    async fn what_fails_is_counted_by_why() {
        let record = Record::default();
        let pace = Pace {
            rate: 1000.0,
            count: 3,
        };
        let succeeded = pace.run("failing", &record, |number, _| async move {
            match number {
                0 => Ok(()),
                _ => Err("refused".to_owned()),
            }
        });
        assert_eq!(succeeded.await, 1);
        assert_eq!(record.take().failures["refused"], 2);
    }
}
