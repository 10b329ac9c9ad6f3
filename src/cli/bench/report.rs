//! What came of a load, as a table and as JSON.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    pace::{Pace, Recorded},
    servers::Usage,
};

/// Times, in milliseconds.
#[derive(Debug, Serialize)]
struct Times {
    count: u64,
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

impl Times {
    fn of(micros: &Histogram<u64>) -> Self {
        let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: micros.len(),
            min: micros.min() as f64 / 1000.0,
            mean: micros.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros.max() as f64 / 1000.0,
        }
    }
}

/// The report of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    work: &'static str,
    connections: u64,
    /// Operations that were due, and those that succeeded.
    operations: u64,
    succeeded: u64,
    /// A second, as they were asked for.
    rate: f64,
    seconds: f64,
    failures: BTreeMap<String, u64>,
    /// Each from when its operation was due.
    milliseconds: BTreeMap<&'static str, Times>,
    servers: Vec<Usage>,
}

impl Report {
    pub(super) fn new(
        work: &'static str,
        connections: u64,
        (pace, succeeded): (Pace, u64),
        took: Duration,
        recorded: Recorded,
        servers: Vec<Usage>,
    ) -> Self {
        let times = recorded.times.iter();
        Self {
            work,
            connections,
            operations: pace.count,
            succeeded,
            rate: pace.rate,
            seconds: took.as_secs_f64(),
            failures: recorded.failures,
            milliseconds: times
                .map(|(what, micros)| (*what, Times::of(micros)))
                .collect(),
            servers,
        }
    }

    pub(super) fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            work,
            connections,
            operations,
            succeeded,
            rate,
            seconds,
            ..
        } = self;
        write!(
            f,
            "{work}: {succeeded} of {operations} done in {seconds:.1} s, due at {rate} a second, with {connections} clients"
        )?;
        for (why, count) in &self.failures {
            write!(f, "\nFAILED {count}: {why}")?;
        }
        if !self.milliseconds.is_empty() {
            write!(f, "\n\n{:<12}{:>9}", "ms", "count")?;
            for name in ["min", "mean", "p50", "p90", "p99", "p99.9", "max"] {
                write!(f, "{name:>10}")?;
            }
        }
        for (what, times) in &self.milliseconds {
            write!(f, "\n{what:<12}{:>9}", times.count)?;
            for time in [
                times.min, times.mean, times.p50, times.p90, times.p99, times.p999, times.max,
            ] {
                write!(f, "{time:>10.2}")?;
            }
        }
        if !self.servers.is_empty() {
            write!(
                f,
                "\n\n{:<12}{:>9}{:>10}{:>14}{:>14}",
                "pid", "CPU s", "CPU %", "MB before", "MB after"
            )?;
        }
        for server in &self.servers {
            write!(f, "\n{server}")?;
        }
        Ok(())
    }
}
