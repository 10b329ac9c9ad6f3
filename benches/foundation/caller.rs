//! A backend that calls the API on connections that it keeps.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::Value;

use crate::support::{fleet::Fleet, token::KEY};

/// A backend.
pub(crate) struct Caller {
    bases: Vec<String>,
    http: reqwest::Client,
}

impl Caller {
    pub(crate) fn new(fleet: &Fleet) -> Self {
        let bases = fleet.nodes.iter();
        Self {
            bases: bases.map(|node| format!("http://{}", node.addr)).collect(),
            http: reqwest::Client::new(),
        }
    }

    /// Asks a node. Anything but 2xx ends the bench.
    pub(crate) async fn get(&self, node: usize, path: &str) -> Bytes {
        let url = format!("{}{path}", self.bases[node]);
        answer(&url, self.http.get(&url)).await
    }

    /// Posts to a node. Anything but 2xx ends the bench.
    pub(crate) async fn post(&self, node: usize, path: &str, body: &Value) -> Bytes {
        let url = format!("{}{path}", self.bases[node]);
        answer(&url, self.http.post(&url).json(body)).await
    }

    /// Puts something to a node, without a body. Anything but 2xx ends the bench.
    pub(crate) async fn put(&self, node: usize, path: &str) -> Bytes {
        let url = format!("{}{path}", self.bases[node]);
        answer(&url, self.http.put(&url)).await
    }

    /// Deletes something at a node. Anything but 2xx ends the bench.
    pub(crate) async fn delete(&self, node: usize, path: &str) -> Bytes {
        let url = format!("{}{path}", self.bases[node]);
        answer(&url, self.http.delete(&url)).await
    }
}

async fn answer(url: &str, request: reqwest::RequestBuilder) -> Bytes {
    let answer = request.bearer_auth(KEY).send().await;
    let answer = answer.unwrap_or_else(|error| panic!("{url}: {error}"));
    let status = answer.status();
    let body = answer
        .bytes()
        .await
        .unwrap_or_else(|error| panic!("{url}: {error}"));
    assert!(
        status.is_success(),
        "{url}: {status} {}",
        String::from_utf8_lossy(&body)
    );
    body
}

/// Makes calls, so many at once, each with its number.
pub(crate) async fn calls(count: usize, at_once: usize, call: impl AsyncFn(usize)) {
    let call = &call;
    let all = stream::iter(0..count).map(|number| call(number));
    all.buffer_unordered(at_once).for_each(|()| async {}).await;
}

/// The node that the call with this number goes to: one after the other of those that don't hold the user, if there are any.
pub(crate) fn another(number: usize, nodes: usize, holders: [usize; 2]) -> usize {
    let others: Vec<usize> = (0..nodes).filter(|node| !holders.contains(node)).collect();
    match others.as_slice() {
        [] => number % nodes,
        // By a prime, so that users and nodes don't go in step.
        others => others[(number / 7 + number) % others.len()],
    }
}
