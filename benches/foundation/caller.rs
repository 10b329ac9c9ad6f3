//! A backend that calls the API on connections that it keeps.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::Value;

use crate::support::{fleet::Fleet, token::KEY};

/// A backend.
pub(crate) struct Caller {
    bases: Vec<String>,
    http: reqwest::Client,
}

impl Caller {
    pub(crate) fn new(fleet: &Fleet) -> Self {
        Self::of(fleet.nodes.iter().map(|node| node.addr))
    }

    /// A backend of these servers.
    pub(crate) fn of(servers: impl Iterator<Item = SocketAddr>) -> Self {
        Self {
            bases: servers.map(|addr| format!("http://{addr}")).collect(),
            http: reqwest::Client::new(),
        }
    }

    /// Asks a node. Anything but 2xx ends the bench.
    pub(crate) async fn get(&self, node: usize, path: &str) -> Bytes {
        let answer = self.call(Method::GET, node, path, None).await;
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Posts to a node. Anything but 2xx ends the bench.
    pub(crate) async fn post(&self, node: usize, path: &str, body: &Value) -> Bytes {
        let answer = self.call(Method::POST, node, path, Some(body)).await;
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Puts something to a node, without a body. Anything but 2xx ends the bench.
    pub(crate) async fn put(&self, node: usize, path: &str) -> Bytes {
        let answer = self.call(Method::PUT, node, path, None).await;
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Deletes something at a node. Anything but 2xx ends the bench.
    pub(crate) async fn delete(&self, node: usize, path: &str) -> Bytes {
        let answer = self.call(Method::DELETE, node, path, None).await;
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Calls a node. An error is why there is no 2xx answer.
    pub(crate) async fn call(
        &self,
        method: Method,
        node: usize,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, String> {
        let url = format!("{}{path}", self.bases[node]);
        let mut request = self.http.request(method, &url).bearer_auth(KEY);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| error.to_string())?;
        match status.is_success() {
            true => Ok(body),
            false => Err(format!(
                "{url}: {status} {}",
                String::from_utf8_lossy(&body)
            )),
        }
    }
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
