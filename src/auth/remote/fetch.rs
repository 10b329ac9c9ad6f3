//! One fetch of a JWK set, with bounds on redirects, size and time.

use std::time::Duration;

use http::{StatusCode, header::ACCEPT};
use reqwest::{Client, Url, redirect};

use crate::auth::{
    AuthConfigError,
    jwks::{self, NotASet, Parsed},
    keys::Allowed,
};

/// The largest set. One of an issuer with a hundred RSA keys has about 60 KB.
pub(super) const MAX_SET_BYTES: usize = 256 * 1024;

/// A URL that holds a set, and how it is asked.
pub(super) struct Source {
    /// The key of the configuration that has the URL.
    pub(super) name: String,
    client: Client,
    url: Url,
    pub(super) allowed: Allowed,
}

impl Source {
    /// Prepares for a URL; asks nothing yet. `timeout` is that of one fetch.
    pub(super) fn new(
        name: &str,
        url: &str,
        allowed: Allowed,
        timeout: Duration,
    ) -> Result<Self, AuthConfigError> {
        let problem = |problem: String| AuthConfigError::new(name, problem);
        let url = Url::parse(url).map_err(|error| problem(format!("is not a URL: {error}")))?;
        let client = Client::builder()
            .timeout(timeout)
            // What the URL names is trusted, and not what a redirect makes of it.
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .user_agent(concat!("switchboard/", env!("CARGO_PKG_VERSION")));
        let client = match url.scheme() {
            "https" => client,
            // No TLS, so no need of the system's root certificates, which a bare container does not have.
            "http" => client.tls_certs_only([]),
            other => return Err(problem(format!("can be http or https, not {other}"))),
        };
        let client = client
            .build()
            .map_err(|error| problem(format!("can't be asked: {}", Causes(&error))))?;
        Ok(Self {
            name: name.to_owned(),
            client,
            url,
            allowed,
        })
    }

    /// Whether it is the set at this URL, for these algorithms.
    pub(super) fn is_of(&self, url: &str, allowed: &Allowed) -> bool {
        Url::parse(url).is_ok_and(|url| url == self.url) && *allowed == self.allowed
    }

    /// The keys that it holds now.
    pub(super) async fn fetch(&self) -> Result<Parsed, FetchError> {
        let request = self.client.get(self.url.clone());
        let request = request.header(ACCEPT, "application/jwk-set+json, application/json");
        let mut response = request.send().await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_SET_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(jwks::parse(&body, &self.allowed)?)
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{}", Causes(.0))]
    Http(reqwest::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("is larger than {MAX_SET_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    NotASet(#[from] NotASet),
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        // A URL may hold a password.
        Self::Http(error.without_url())
    }
}

/// An error with its sources: `reqwest` says what went wrong, and only the sources say why.
struct Causes<'a>(&'a reqwest::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
