//! One run of a test: a seed that decides everything that is random, and a history that is printed when it fails.
//!
//! `SWITCHBOARD_TEST_SEED` repeats a run; the seed is printed in any case, past libtest's capture.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Instant,
};

use rand::{SeedableRng, rngs::StdRng};

/// How many lines of history a failure shows.
const SHOWN: usize = 400;

/// A run. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Run {
    name: &'static str,
    seed: u64,
    start: Instant,
    history: Arc<History>,
}

#[derive(Default)]
struct History(Mutex<Vec<String>>);

impl Run {
    /// Begins a run of the test called `name`.
    pub(crate) fn begin(name: &'static str) -> Self {
        let given = std::env::var("SWITCHBOARD_TEST_SEED").ok();
        let seed = given.map_or_else(
            || u64::from(rand::random::<u32>()),
            |text| text.parse().expect("SWITCHBOARD_TEST_SEED is a number"),
        );
        say(&format!(
            "{name}: seed {seed} (repeat with SWITCHBOARD_TEST_SEED={seed})"
        ));
        switchboard::auth::install_crypto().unwrap();
        Self {
            name,
            seed,
            start: Instant::now(),
            history: Arc::default(),
        }
    }

    /// Its random numbers. Parts that run at the same time take one each, by a name of their own, so that the order in which
    /// they run does not matter.
    pub(crate) fn random(&self, part: &str) -> StdRng {
        let salt = part.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        StdRng::seed_from_u64(self.seed ^ salt)
    }

    /// Keeps what happened, so that a failure can be understood.
    pub(crate) fn note(&self, what: impl std::fmt::Display) {
        let line = format!("{:>9.3} {what}", self.start.elapsed().as_secs_f64());
        self.history.0.lock().unwrap().push(line);
    }

    /// The same, and prints it: a measurement.
    pub(crate) fn tell(&self, what: impl std::fmt::Display) {
        say(&format!("{}: {what}", self.name));
        self.note(what);
    }

    /// Seconds since it began.
    pub(crate) fn clock(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Prints the history.
    pub(crate) fn show(&self) {
        let lines = self
            .history
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let from = lines.len().saturating_sub(SHOWN);
        eprintln!(
            "--- {} failed; seed {}; its history ---",
            self.name, self.seed
        );
        for line in &lines[from..] {
            eprintln!("{line}");
        }
    }
}

/// Past the capture of libtest, which shows nothing of tests that pass.
fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}
