//! The API, asked all along, whatever else goes on: calls are made when they are due and not when the last one is answered,
//! and the time that each took counts from when it was due.
//!
//! It has a thread and a runtime of its own: what is measured is the nodes, not the clients of the test. Half of the calls
//! come on a connection that is kept, as a backend's do; the others on a new one each, which has to get in first.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rand::{Rng, rngs::StdRng};
use serde_json::json;

use crate::support::{fleet::Node, token::KEY};

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) call: &'static str,
    /// Whether its connection was a kept one.
    pub(crate) kept: bool,
    /// From when it was due.
    pub(crate) took: Duration,
    /// 0: no answer.
    pub(crate) status: u16,
}

/// A backend that asks again and again, until it is dropped.
pub(crate) struct Asker {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: Option<JoinHandle<()>>,
}

impl Asker {
    /// Asks each of the nodes in turn, one call `every` so often, about `users`.
    pub(crate) fn start<'a>(
        nodes: impl IntoIterator<Item = &'a Node>,
        every: Duration,
        users: Vec<String>,
        random: StdRng,
    ) -> Self {
        let nodes = nodes
            .into_iter()
            .map(|node| format!("http://{}", node.addr));
        let (nodes, stop): (Vec<_>, _) = (nodes.collect(), Arc::<AtomicBool>::default());
        let samples = Arc::<Mutex<Vec<Sample>>>::default();
        let ask = ask(nodes, every, users, random, stop.clone(), samples.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(ask);
        });
        Self {
            stop,
            samples,
            thread: Some(thread),
        }
    }

    /// All calls so far that are answered.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap().clone()
    }

    /// Stops asking, waits for the answers that are due, and returns all.
    pub(crate) fn finish(mut self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.samples()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

async fn ask(
    nodes: Vec<String>,
    every: Duration,
    users: Vec<String>,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
) {
    let client = |idle| {
        reqwest::Client::builder()
            .pool_max_idle_per_host(idle)
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap()
    };
    let (kept, fresh) = (client(64), client(0));
    let start = Instant::now();
    let mut under_way = tokio::task::JoinSet::new();
    for number in 0_u32.. {
        let due = every * number;
        tokio::time::sleep_until((start + due).into()).await;
        if stop.load(Ordering::Acquire) {
            break;
        }
        let base = &nodes[number as usize % nodes.len()];
        let keeps = (number as usize / nodes.len()).is_multiple_of(2);
        let http = if keeps { &kept } else { &fresh };
        let user = &users[random.random_range(0..users.len())];
        let (call, request) = match random.random_range(0..5) {
            0 => ("user", http.get(format!("{base}/v1/users/{user}"))),
            1 => ("stats", http.get(format!("{base}/v1/stats"))),
            2 => ("nodes", http.get(format!("{base}/v1/nodes"))),
            3 => (
                "presence",
                http.post(format!("{base}/v1/presence"))
                    .json(&json!({ "users": users.iter().take(100).collect::<Vec<_>>() })),
            ),
            _ => (
                "send",
                http.post(format!("{base}/v1/users/{user}/events"))
                    .json(&json!({ "event": "asked", "data": number })),
            ),
        };
        let (samples, request) = (samples.clone(), request.bearer_auth(KEY));
        under_way.spawn(async move {
            let status = match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    answer.bytes().await.map_or(0, |_| status)
                }
                Err(_) => 0,
            };
            let sample = Sample {
                call,
                kept: keeps,
                took: start.elapsed().saturating_sub(due),
                status,
            };
            samples.lock().unwrap().push(sample);
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// The time within which so many of a hundred were done.
pub(crate) fn percentile(times: impl IntoIterator<Item = Duration>, percent: f64) -> Duration {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort();
    let at = (times.len() as f64 * percent / 100.0).ceil() as usize;
    times.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

/// How long calls took, in words.
pub(crate) fn summary(samples: &[Sample]) -> String {
    let of = |meant: &dyn Fn(&Sample) -> bool| {
        let times: Vec<_> = samples
            .iter()
            .filter(|sample| meant(sample))
            .map(|sample| sample.took)
            .collect();
        let [p50, p99, max] =
            [50.0, 99.0, 100.0].map(|percent| percentile(times.iter().copied(), percent));
        format!(
            "{} calls p50 {p50:.1?} p99 {p99:.1?} max {max:.1?}",
            times.len()
        )
    };
    format!(
        "{}; kept {}; fresh {}; not 2xx: {}",
        of(&|_| true),
        of(&|sample| sample.kept),
        of(&|sample| !sample.kept),
        samples
            .iter()
            .filter(|sample| !(200..300).contains(&sample.status))
            .count()
    )
}
