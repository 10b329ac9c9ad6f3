//! One backend, and a call to it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{StatusCode, header::CONTENT_TYPE};
use jiff::Timestamp;
use opentelemetry::trace::SpanKind;
use reqwest::{Client, RequestBuilder, Response, Url, redirect};
use serde::Serialize;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP};
use tokio::sync::Semaphore;

use super::{BackendError, breaker::Breaker, signature::Signer};
use crate::{
    config,
    metrics::Metrics,
    telemetry::traces::{Begin, Span, TRACEPARENT, Traces},
};

/// The largest answer that is read.
pub const MAX_ANSWER_BYTES: usize = 1_000_000;

/// How long a connection is kept for the next call. Shorter than the 5 s after which Node.js closes an idle one: a call that is
/// sent in that moment would fail, as none is repeated.
const IDLE: Duration = Duration::from_secs(4);

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallType {
    /// A client has sent an event.
    Event,
    /// A client asks to be let in.
    Connect,
}

impl CallType {
    /// `type` of the call, and of its metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "client.event",
            Self::Connect => "connection.connect",
        }
    }
}

/// Why a call has no answer that counts. Says nothing of what was asked or answered.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// As many calls wait for their answers as may.
    #[error("as many calls as in_flight allows wait for their answers")]
    InFlight,
    /// It has not answered for a while, and is not called but once a second.
    #[error("it is down")]
    Down,
    /// It could not be reached, or the connection broke.
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It named another place, which is not asked.
    #[error("answered {0}, and redirects are not followed")]
    Redirect(StatusCode),
    /// It answered no 2xx.
    #[error("answered {0}")]
    Status(StatusCode),
    /// It answered more than is read.
    #[error("the answer is larger than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
    /// It answered what is no answer to this call.
    #[error("the answer can't be read: {0}")]
    Invalid(String),
}

impl Failure {
    /// The value of the metric label `outcome`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::Down => "down",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// The body of a request: what it is, when that was, and what it is about.
///
/// # Errors
///
/// Those of `data`.
pub fn envelope(
    kind: &'static str,
    timestamp: Timestamp,
    data: &impl Serialize,
) -> serde_json::Result<String> {
    serde_json::to_string(&Call {
        kind,
        timestamp,
        data,
    })
}

#[derive(Serialize)]
struct Call<'a, D> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: Timestamp,
    data: &'a D,
}

/// A backend that can be called.
pub struct Backend {
    pub(super) config: config::Backend,
    url: Url,
    client: Client,
    signer: Signer,
    calls: Allowance,
    /// Notifications don't take the places of calls, for which clients wait, and a backend that hangs over them is not down for calls.
    notifications: Allowance,
    metrics: Metrics,
    traces: Traces,
}

/// How many requests of one sort may be under way, and whether any are made.
struct Allowance {
    places: Semaphore,
    breaker: Breaker,
}

impl Allowance {
    fn new(config: &config::Backend) -> Self {
        Self {
            places: Semaphore::new(config.in_flight as usize),
            breaker: Breaker::default(),
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.config.name).finish()
    }
}

impl Backend {
    /// The `index`-th backend of the configuration.
    pub(super) fn new(
        index: usize,
        config: &config::Backend,
        metrics: Metrics,
        traces: Traces,
    ) -> Result<Self, BackendError> {
        let problem = |key: &str, problem: String| BackendError {
            key: format!("backends.{index}.{key}"),
            problem,
        };
        let url = Url::parse(&config.url).map_err(|error| problem("url", error.to_string()))?;
        let signer = Signer::new(config.all_secrets());
        let signer = signer.map_err(|error| problem("secret", error.to_string()))?;
        let client = Client::builder()
            .timeout(config.timeout)
            .redirect(redirect::Policy::none())
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("switchboard/", env!("CARGO_PKG_VERSION")));
        // Without TLS there is no need of the system's root certificates, which a bare container does not have.
        let client = match url.scheme() {
            "https" => client,
            _ => client.tls_certs_only([]),
        };
        let client = client.build().map_err(|error| {
            let error = anyhow::Error::new(error);
            problem("url", format!("can't be called: {error:#}"))
        })?;
        metrics.begin_backend(&config.name);
        Ok(Self {
            url,
            client,
            signer,
            calls: Allowance::new(config),
            notifications: Allowance::new(config),
            metrics,
            traces,
            config: config.clone(),
        })
    }

    /// What is configured of it.
    pub fn config(&self) -> &config::Backend {
        &self.config
    }

    /// What makes the spans of calls to it.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Whether it has not answered calls, or not notifications, for a while.
    pub fn is_down(&self) -> bool {
        let both = [&self.calls, &self.notifications];
        both.iter().any(|allowance| allowance.breaker.is_open())
    }

    /// Asks it, and reads the body of its answer, which is empty if it has none. What `read` can't read has failed. Counted by
    /// outcome, and a failure is logged.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn call<T>(
        &self,
        kind: CallType,
        data: &impl Serialize,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let span = self.span(kind.as_str());
        let answered = match self.ask(kind, data, &span).await {
            Ok(body) => read(&body).map_err(Failure::Invalid),
            Err(failure) => Err(failure),
        };
        self.counted(kind.as_str(), answered, &span)
    }

    /// Tells it of something, by a body of [`envelope`] and an id that is the same whenever it is told of that. Waits for its turn.
    /// Counted and logged like a call.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn notify(&self, kind: &'static str, id: &str, body: String) -> Result<(), Failure> {
        let allowance = &self.notifications;
        let _permit = allowance.places.acquire().await;
        let span = self.span(kind);
        let told = match self.request(id, Timestamp::now(), body, &span) {
            Ok(request) => self.send(allowance, kind, told(request)).await,
            Err(error) => Err(Failure::Unreachable(error)),
        };
        self.counted(kind, told, &span)
    }

    /// The span of one request.
    fn span(&self, kind: &'static str) -> Span {
        self.traces.begin(|| {
            let name = &self.config.name;
            let begin = Begin::new(format!("{kind} {name}"), SpanKind::Client);
            begin.with("switchboard.backend", name.clone())
        })
    }

    fn counted<T>(
        &self,
        kind: &'static str,
        answered: Result<T, Failure>,
        span: &Span,
    ) -> Result<T, Failure> {
        let name = &self.config.name;
        let outcome = match &answered {
            Ok(_) => "ok",
            Err(failure) => {
                tracing::warn!(backend = name, kind, error = %failure, "a call to a backend failed");
                span.fail(failure);
                failure.outcome()
            }
        };
        span.set("switchboard.outcome", outcome);
        self.metrics.backend_calls(name, kind, outcome).increment(1);
        answered
    }

    async fn ask(
        &self,
        kind: CallType,
        data: &impl Serialize,
        span: &Span,
    ) -> Result<Vec<u8>, Failure> {
        let allowance = &self.calls;
        let permit = allowance.places.try_acquire();
        let _permit = permit.map_err(|_| Failure::InFlight)?;
        let now =
            Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default();
        let id = format!("msg_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()));
        let request = envelope(kind.as_str(), now, data)
            .map_err(anyhow::Error::from)
            .and_then(|body| self.request(&id, now, body, span));
        let request = request.map_err(Failure::Unreachable)?;
        self.send(allowance, kind.as_str(), asked(request)).await
    }

    /// Awaits `sending`, unless the backend is down for requests of its sort, and counts it. Its outer error means that the backend did
    /// not answer, the inner one that the answer does not count.
    async fn send<T>(
        &self,
        allowance: &Allowance,
        kind: &'static str,
        sending: impl Future<Output = reqwest::Result<Result<T, Failure>>>,
    ) -> Result<T, Failure> {
        if !allowance.breaker.admits(Instant::now()) {
            return Err(Failure::Down);
        }
        let (name, began) = (&self.config.name, Instant::now());
        let answered = sending.await;
        let took = self.metrics.backend_call_duration(name, kind);
        took.record(began.elapsed());
        let error = match answered {
            Ok(answer) => {
                if allowance.breaker.answered() {
                    tracing::info!(backend = name, kind, "a backend answers again");
                }
                return answer;
            }
            Err(error) => error,
        };
        if allowance.breaker.failed(Instant::now()) {
            tracing::error!(
                backend = name,
                kind,
                "a backend is down: it gets a request a second until it answers"
            );
        }
        Err(match error.is_timeout() {
            true => Failure::Timeout(self.config.timeout),
            // The URL may hold what is nobody's to see.
            false => Failure::Unreachable(error.without_url().into()),
        })
    }

    fn request(
        &self,
        id: &str,
        now: Timestamp,
        body: String,
        span: &Span,
    ) -> anyhow::Result<RequestBuilder> {
        let signature = self.signer.sign(id, now.as_second(), &body)?;
        let mut request = self.client.post(self.url.clone());
        if let Some(trace) = span.traceparent() {
            span.set("switchboard.webhook_id", id.to_owned());
            request = request.header(TRACEPARENT, trace);
        }
        Ok(request
            .header(CONTENT_TYPE, "application/json")
            .header(HEADER_WEBHOOK_ID, id)
            .header(HEADER_WEBHOOK_TIMESTAMP, now.as_second())
            .header(HEADER_WEBHOOK_SIGNATURE, signature)
            .body(body))
    }
}

/// Sends a request, and reads what is answered.
async fn asked(request: RequestBuilder) -> reqwest::Result<Result<Vec<u8>, Failure>> {
    match accepted(request).await? {
        Ok(response) => body_of(response).await,
        Err(failure) => Ok(Err(failure)),
    }
}

/// Sends a request whose answer is its status.
async fn told(request: RequestBuilder) -> reqwest::Result<Result<(), Failure>> {
    let accepted = accepted(request).await?;
    Ok(match accepted {
        // The body is read for the sake of the connection, which serves the next request then.
        Ok(response) => {
            body_of(response).await.ok();
            Ok(())
        }
        Err(failure) => Err(failure),
    })
}

/// Sends a request. Returns the answer if it is a 2xx.
async fn accepted(request: RequestBuilder) -> reqwest::Result<Result<Response, Failure>> {
    let response = request.send().await?;
    let status = response.status();
    Ok(if status.is_success() {
        Ok(response)
    } else if status.is_redirection() {
        Err(Failure::Redirect(status))
    } else {
        Err(Failure::Status(status))
    })
}

/// The body of an answer. The inner error: it is larger than [`MAX_ANSWER_BYTES`].
async fn body_of(mut response: Response) -> reqwest::Result<Result<Vec<u8>, Failure>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Ok(Err(Failure::TooLarge));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Ok(body))
}
