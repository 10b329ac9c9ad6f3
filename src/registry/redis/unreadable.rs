//! What Redis holds and can't be read: skipped, counted, and said once in a while.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{metrics::Metrics, registry::RegistryError};

/// The pause between two warnings: every read of a page may cross the same entry.
const PAUSE: Duration = Duration::from_secs(60);

/// Counts what can't be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    metrics: Metrics,
    warned: Mutex<Option<Instant>>,
}

impl Unreadable {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            warned: Mutex::default(),
        }
    }

    /// What was read; none, and counted as `what`, if it could not be.
    pub(super) fn skip<T>(&self, what: &'static str, read: Result<T, RegistryError>) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                self.found(what, &error);
                None
            }
        }
    }

    /// Counts one as `what`.
    pub(super) fn found(&self, what: &'static str, error: &RegistryError) {
        self.metrics.registry_unreadable(what).increment(1);
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| at.elapsed() >= PAUSE) {
            *warned = Some(Instant::now());
            tracing::warn!(what, %error, "skipped what can't be read in Redis");
        }
    }
}

/// Bytes as text; what is no UTF-8 is replaced, and is then the name of nothing.
pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
