//! Bounds in time. Each is what the product promises, times `SWITCHBOARD_TEST_SLACK` (1 by default) for machines that are busy
//! with other things.

use std::{sync::LazyLock, time::Duration};

use tokio::time::{Instant, sleep};

static SLACK: LazyLock<f64> = LazyLock::new(|| {
    let given = std::env::var("SWITCHBOARD_TEST_SLACK").ok();
    given.map_or(1.0, |text| {
        text.parse()
            .expect("SWITCHBOARD_TEST_SLACK is a number, 1 or more")
    })
});

/// Whether the machine is all the tests' own: then nothing is late by itself.
pub(crate) fn is_strict() -> bool {
    *SLACK <= 1.0
}

/// How long something that has no bound of its own is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A bound of the product's, on this machine.
pub(crate) fn bound(promised: Duration) -> Duration {
    promised.mul_f64(*SLACK)
}

/// The same, in seconds.
pub(crate) fn seconds(promised: f64) -> Duration {
    bound(Duration::from_secs_f64(promised))
}

/// Looks again and again until what it looks for is there, at most for `limit`. Returns how long it took and what was found;
/// on failure says what the last look saw.
pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> (Duration, T) {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return (start.elapsed(), found),
            Err(saw) => assert!(
                start.elapsed() < limit,
                "not within {limit:?}: {what}; the last look saw: {saw}"
            ),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// `Ok` if it holds, else what was seen.
pub(crate) fn ensure(holds: bool, saw: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(saw()) }
}
