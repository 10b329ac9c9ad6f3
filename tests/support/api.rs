//! The HTTP API of a node, as a backend calls it. No connection is kept: the node's file descriptors are its own.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{scrape::Scrape, token::KEY};

/// No call of the tests takes longer; one that does has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node's API, with the key that has every scope.
#[derive(Clone)]
pub(crate) struct Api {
    base: String,
    http: reqwest::Client,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The body; null if it is no JSON.
    pub(crate) body: Value,
    pub(crate) retry_after: Option<String>,
    /// From the call to the last byte.
    pub(crate) took: Duration,
}

impl Answer {
    /// The body of a 2xx answer.
    pub(crate) fn ok(self, what: &str) -> Result<Value, String> {
        match self.status {
            200..300 => Ok(self.body),
            status => Err(format!("{what}: {status} {}", self.body)),
        }
    }
}

impl Api {
    pub(crate) fn new(node: SocketAddr) -> Self {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .timeout(PATIENCE)
            .build()
            .unwrap();
        Self {
            base: format!("http://{node}"),
            http,
        }
    }

    /// Any call. An error is one of the network.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, String> {
        let start = Instant::now();
        let method = method.parse().unwrap();
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(KEY);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request
            .send()
            .await
            .map_err(|error| format!("{path}: {error}"))?;
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let text = answer
            .text()
            .await
            .map_err(|error| format!("{path}: {error}"))?;
        Ok(Answer {
            status,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            retry_after,
            took: start.elapsed(),
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, String> {
        self.call("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Answer, String> {
        self.call("POST", path, Some(body)).await
    }

    /// A GET that must be answered with 2xx.
    pub(crate) async fn read(&self, path: &str) -> Result<Value, String> {
        self.get(path).await?.ok(path)
    }

    /// The ids of a user's connections with the names of their nodes, sorted.
    pub(crate) async fn connections_of(&self, user: &str) -> Result<Vec<(String, String)>, String> {
        let body = self.read(&format!("/v1/users/{user}")).await?;
        let list = body["connections"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut found: Vec<_> = list
            .iter()
            .map(|connection| (text(&connection["id"]), text(&connection["nodeId"])))
            .collect();
        found.sort();
        Ok(found)
    }

    /// Everybody online with the number of connections, by page after page of `limit`.
    pub(crate) async fn everybody(&self, limit: usize) -> Result<Vec<(String, u64)>, String> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self
                .read(&format!("/v1/users?limit={limit}{cursor}"))
                .await?;
            for user in page["users"].as_array().into_iter().flatten() {
                let name = user["userId"].as_str().unwrap_or_default().to_owned();
                found.push((name, user["connections"].as_u64().unwrap_or(0)));
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(found),
            }
        }
    }

    /// Sends an event to a user.
    pub(crate) async fn send(
        &self,
        user: &str,
        event: &str,
        data: Value,
    ) -> Result<Answer, String> {
        let body = json!({ "event": event, "data": data });
        self.post(&format!("/v1/users/{user}/events"), body).await
    }

    /// Ends a user's connections; `body` as in the contract.
    pub(crate) async fn disconnect(&self, user: &str, body: Value) -> Result<Answer, String> {
        self.post(&format!("/v1/users/{user}/disconnect"), body)
            .await
    }

    /// The status of `/readyz`, and what is wrong.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        let answer = self.get("/readyz").await?;
        match answer.status {
            200 => Ok(()),
            status => Err(format!("/readyz: {status} {}", answer.body)),
        }
    }

    pub(crate) async fn metrics(&self) -> Result<Scrape, String> {
        let request = self
            .http
            .get(format!("{}/metrics", self.base))
            .bearer_auth(KEY);
        let answer = request
            .send()
            .await
            .map_err(|error| format!("/metrics: {error}"))?;
        let text = answer
            .text()
            .await
            .map_err(|error| format!("/metrics: {error}"))?;
        Ok(Scrape::new(text))
    }
}
