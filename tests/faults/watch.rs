//! Looks on while something goes wrong: who was ever said to be offline, and how long answers took.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::api::{Answer, Api};

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Answers looked at.
    pub(crate) looks: u64,
    /// Users said to be offline, with the time.
    pub(crate) offline: Vec<(Instant, String)>,
    /// Answers that were none, or not 200.
    pub(crate) failed: Vec<String>,
    /// The slowest answer.
    pub(crate) slowest: Duration,
}

/// Asks nodes for the presence of users, over and over, until it is dropped.
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    _guard: DropGuard,
}

impl Watch {
    pub(crate) fn over(apis: Vec<Api>, users: Vec<String>) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let stop = CancellationToken::new();
        for api in apis {
            let look = look(api, users.clone(), seen.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(look));
        }
        Self {
            seen,
            _guard: stop.drop_guard(),
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }
}

async fn look(api: Api, users: Vec<String>, seen: Arc<Mutex<Seen>>) {
    loop {
        let answer = api.post("/v1/presence", json!({ "users": users })).await;
        note(&mut seen.lock(), answer, &users);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn note(seen: &mut Seen, answer: Result<Answer, String>, users: &[String]) {
    match answer {
        Ok(answer) if answer.status == 200 => {
            seen.looks += 1;
            seen.slowest = seen.slowest.max(answer.took);
            for user in users {
                if answer.body["users"][user]["online"] != true {
                    seen.offline.push((Instant::now(), user.clone()));
                }
            }
        }
        Ok(answer) => seen
            .failed
            .push(format!("{} {}", answer.status, answer.body)),
        Err(error) => seen.failed.push(error),
    }
}
