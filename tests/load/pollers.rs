//! Clients without a WebSocket that come back by themselves. All share one HTTP client: one of its own for each, as
//! `support::polling` has it, costs more than the session does.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{Rng, rngs::StdRng};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{regulars::Doors, support::token::token};

/// A polling client; when this is dropped it stops, without a word.
pub(crate) struct Poller {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    rest: tokio::sync::watch::Sender<bool>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// The node that it is on; none: it is on its way.
    pub(crate) at: Option<String>,
    /// How often it had `ready`.
    pub(crate) visits: u32,
    /// The codes of `forceDisconnect` that it was told.
    pub(crate) codes: Vec<u64>,
    /// The statuses that have ended its sessions.
    pub(crate) statuses: Vec<u16>,
    /// A `connect_error`.
    pub(crate) refused: Option<String>,
}

/// An HTTP client for many of them.
pub(crate) fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(90))
        .build()
        .unwrap()
}

impl Poller {
    pub(crate) fn start(user: &str, doors: Doors, http: reqwest::Client, random: StdRng) -> Self {
        let shared = Arc::<Shared>::default();
        let stop = CancellationToken::new();
        let life = come_and_go(token(user), doors, http, random, shared.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(life));
        Self {
            shared,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.shared.state.lock().clone()
    }

    /// Has it go, with a word, and stay away until it is told otherwise.
    pub(crate) fn rest(&self, rests: bool) {
        self.shared.rest.send_replace(rests);
    }
}

async fn come_and_go(
    token: String,
    doors: Doors,
    http: reqwest::Client,
    mut random: StdRng,
    shared: Arc<Shared>,
) {
    let mut rest = shared.rest.subscribe();
    loop {
        let pause = random.random_range(100..500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if *rest.borrow() {
            continue;
        }
        let Some(door) = doors.pick(&mut random, None) else {
            continue;
        };
        let base = format!("http://{door}/socket.io/?EIO=4&transport=polling");
        let Ok(open) = ask(http.get(&base)).await else {
            continue;
        };
        let open: Value =
            serde_json::from_str(open.get(1..).unwrap_or_default()).unwrap_or_default();
        let url = format!("{base}&sid={}", open["sid"].as_str().unwrap_or_default());
        let hello = format!("40{}", serde_json::json!({ "token": token }));
        if ask(http.post(&url).body(hello)).await.is_err() {
            continue;
        }
        let status = tokio::select! {
            status = stay(&http, &url, &shared) => Some(status),
            _ = rest.wait_for(|rests| *rests) => None,
        };
        if status.is_none() {
            ask(http.post(&url).body("1")).await.ok();
        }
        let mut state = shared.state.lock();
        state.at = None;
        state.statuses.extend(status);
    }
}

/// Polls for as long as it may. Returns the status that ended it.
async fn stay(http: &reqwest::Client, url: &str, shared: &Shared) -> u16 {
    loop {
        let text = match ask(http.get(url)).await {
            Ok(text) => text,
            Err(status) => return status,
        };
        for packet in text.split('\x1e') {
            if packet == "2" {
                ask(http.post(url).body("3")).await.ok();
            } else if packet == "1" {
                return 200;
            } else if let Some(error) = packet.strip_prefix("44") {
                shared.state.lock().refused = Some(error.to_owned());
            } else if let Some(event) = packet.strip_prefix("42") {
                let event: Value = serde_json::from_str(event).unwrap_or_default();
                let mut state = shared.state.lock();
                match event[0].as_str() {
                    Some("ready") => {
                        state.visits += 1;
                        state.at = event[1]["nodeId"].as_str().map(str::to_owned);
                    }
                    Some("forceDisconnect") => {
                        state.codes.extend(event[1]["code"].as_u64());
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The body of an answer with status 200; else the status, 0 for no answer.
async fn ask(request: reqwest::RequestBuilder) -> Result<String, u16> {
    let answer = request.send().await.map_err(|_| 0_u16)?;
    match answer.status().as_u16() {
        200 => answer.text().await.map_err(|_| 0),
        status => Err(status),
    }
}
