//! The nodes: where they are, what opens them, and their API.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use reqwest::{Method, Url};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::{Load, pace::OPERATION};
use crate::{
    auth::token,
    cli::{
        commands::reachable,
        socket::{Endpoint, with_causes},
    },
    config::{AuthRule, Config, ConfigError, Jwt, KeySecret},
};

/// How long the clients' tokens are good for beyond the load.
const TOKEN: Duration = Duration::from_secs(600);

/// The nodes under load.
pub(super) struct Target {
    endpoints: Vec<Endpoint>,
    addresses: Vec<SocketAddr>,
    jwt: Jwt,
    ttl: Duration,
    api: Url,
    key: Option<KeySecret>,
    http: reqwest::Client,
    /// What the names of the clients' users begin with: random, so that runs don't meet.
    pub(super) run: String,
}

impl Target {
    /// Finds out where the nodes are; elsewhere than on this machine is refused, unless it is allowed.
    pub(super) async fn new(config: &Config, load: &Load) -> anyhow::Result<Self> {
        let own = |address| Url::parse(&format!("http://{}", reachable(address)));
        let urls = match load.urls.as_slice() {
            [] => vec![own(config.listen)?],
            given => given.to_vec(),
        };
        let api = match (&load.api, load.urls.first()) {
            (Some(api), _) => api.clone(),
            (None, Some(first)) => first.clone(),
            (None, None) => own(config.internal_listen.unwrap_or(config.listen))?,
        };
        let mut addresses = Vec::new();
        for url in urls.iter().chain([&api]) {
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or_default();
            let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
            let found: Vec<_> = found
                .with_context(|| format!("--url: no address of {host}"))?
                .collect();
            if !load.allow_remote && !found.iter().all(|address| address.ip().is_loopback()) {
                let says = format!(
                    "{host} is another machine, which load may take down: say --allow-remote if that is meant"
                );
                return Err(ConfigError::at("--url", says).into());
            }
            addresses.extend(found);
        }
        let is_open = config
            .namespaces
            .iter()
            .any(|it| it.path == load.namespace && it.auth == AuthRule::None);
        if config.auth.jwt.secret.is_none() && !is_open {
            let says = "not set, there is nothing to sign the clients' tokens with: set SWITCHBOARD_JWT_SECRET to what the nodes have, or load a namespace that is open to guests (--namespace /public)";
            return Err(ConfigError::at("auth.jwt.secret", says).into());
        }
        let endpoints = urls
            .iter()
            .map(|url| Endpoint::new(url, &config.transport.path));
        Ok(Self {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            addresses,
            jwt: config.auth.jwt.clone(),
            ttl: load.duration + TOKEN,
            api,
            key: config.api.key.clone(),
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(OPERATION)
                .build()?,
            run: URL_SAFE_NO_PAD.encode(rand::random::<[u8; 6]>()),
        })
    }

    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The user of a client.
    pub(super) fn user(&self, number: u64) -> String {
        format!("bench-{}-{number}", self.run)
    }

    /// Where the client with this number connects.
    pub(super) fn endpoint(&self, number: u64) -> &Endpoint {
        let at = usize::try_from(number).unwrap_or_default() % self.endpoints.len();
        &self.endpoints[at]
    }

    /// A token for a user; none for guests.
    pub(super) fn token(&self, user: &str) -> anyhow::Result<Option<String>> {
        if self.jwt.secret.is_none() {
            return Ok(None);
        }
        let minted = token::mint(&self.jwt, &token::NewToken::new(user, self.ttl))?;
        Ok(Some(minted.token.expose_secret().to_owned()))
    }

    /// Fails if there is no key for the API.
    pub(super) fn ensure_key(&self) -> Result<(), ConfigError> {
        match self.key.as_ref().and_then(KeySecret::in_clear) {
            Some(_) => Ok(()),
            None => Err(ConfigError::at(
                "api.key",
                "not set in clear: set SWITCHBOARD_API_KEY to one of the nodes' keys",
            )),
        }
    }

    /// The URL of a call of the API.
    pub(super) fn url(&self, path: &[&str]) -> Url {
        let mut url = self.api.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        url
    }

    /// Calls the API, and returns the body of a 2xx answer.
    pub(super) async fn call(
        &self,
        method: Method,
        url: Url,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let mut request = self.http.request(method, url).json(body);
        if let Some(key) = self.key.as_ref().and_then(KeySecret::in_clear) {
            request = request.bearer_auth(key);
        }
        let answer = request.send().await.map_err(reqwest::Error::without_url);
        let answer = answer.map_err(|error| anyhow::anyhow!(with_causes(&error)))?;
        let status = answer.status();
        let answer: Value = answer.json().await.unwrap_or_default();
        if !status.is_success() {
            let code = answer["code"].as_str().unwrap_or_default();
            bail!("the API answers {status} {code}");
        }
        if status == StatusCode::ACCEPTED {
            bail!("the API answers {status}: not all of it is confirmed");
        }
        Ok(answer)
    }
}
