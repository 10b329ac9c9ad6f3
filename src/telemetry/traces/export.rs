//! Spans on their way to the collector: a bounded queue, and the task that empties it.
//!
//! The batch processor of `opentelemetry_sdk` 0.33 does not tell how many spans it drops, and the exporter of `opentelemetry-otlp`
//! 0.33 reads variables of the environment that the configuration does not have. So the queue is a processor of the SDK's, and the
//! exporter posts what `opentelemetry-proto` makes of the spans.

use std::time::Duration;

use anyhow::{Context, bail};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use metrics::Counter;
use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use parking_lot::RwLock;
use prost::Message;
use reqwest::{Client, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{config::Traces, metrics::Metrics};

/// How many spans wait to be sent; the OpenTelemetry SDKs' own number. A span takes about a kilobyte.
const QUEUE: usize = 2_048;

/// How many spans go together, at the most; the OpenTelemetry SDKs' own number.
const BATCH: usize = 512;

/// How long the first span of a batch waits for others.
const GATHERING: Duration = Duration::from_secs(1);

/// How much of the collector's answer is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Takes ended spans in for the exporter, and never waits. What finds no room is counted.
#[derive(Debug)]
pub(super) struct Queue {
    /// None once there are to be no more.
    spans: RwLock<Option<mpsc::Sender<SpanData>>>,
    dropped: Counter,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        let queue = self.spans.read();
        if queue.as_ref().is_none_or(|it| it.try_send(span).is_err()) {
            self.dropped.increment(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.spans.write().take();
        Ok(())
    }
}

/// Sends spans to the collector.
pub(super) struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    client: Client,
    url: Url,
    resource: ResourceAttributesWithSchema,
    metrics: Metrics,
}

/// The queue, and the exporter that empties it, to a collector at `endpoint`.
pub(super) fn exporting(
    endpoint: &str,
    config: &Traces,
    resource: &Resource,
    metrics: &Metrics,
) -> anyhow::Result<(Queue, Exporter)> {
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let url = Url::parse(&url).context("traces.endpoint")?;
    let headers = config.headers.iter().map(header);
    let headers: HeaderMap = headers.collect::<Option<_>>().context("traces.headers")?;
    let client = Client::builder()
        .timeout(config.timeout)
        .default_headers(headers)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("switchboard/", env!("CARGO_PKG_VERSION")));
    // Without TLS there is no need of the system's root certificates, which a bare container does not have.
    let client = match url.scheme() {
        "https" => client,
        _ => client.tls_certs_only([]),
    };
    let (sender, spans) = mpsc::channel(QUEUE);
    let queue = Queue {
        spans: RwLock::new(Some(sender)),
        dropped: metrics.spans_dropped("queue_full"),
    };
    let exporter = Exporter {
        spans,
        client: client.build().context("traces.endpoint can't be called")?,
        url,
        resource: resource.into(),
        metrics: metrics.clone(),
    };
    Ok((queue, exporter))
}

/// A header that is written `name=value`.
fn header(text: &SecretString) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.expose_secret().split_once('=')?;
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::try_from(name).ok()?, value))
}

impl Exporter {
    /// Sends what comes until the queue is closed, and then what is left in it.
    pub(super) async fn run(mut self) {
        loop {
            let batch = self.gather().await;
            if batch.is_empty() {
                return;
            }
            let spans = batch.len() as u64;
            match self.post(batch).await {
                Ok(rejected) => {
                    self.metrics.spans_dropped("rejected").increment(rejected);
                    let taken = spans.saturating_sub(rejected);
                    self.metrics.spans_exported().increment(taken);
                }
                Err(error) => {
                    self.metrics.spans_dropped("failed").increment(spans);
                    let error = format!("{error:#}");
                    tracing::warn!(spans, error, "spans can't be exported, and are dropped");
                }
            }
        }
    }

    /// The next spans to go together; none once the queue is closed and empty.
    async fn gather(&mut self) -> Vec<SpanData> {
        let mut batch = Vec::new();
        self.spans.recv_many(&mut batch, BATCH).await;
        let until = Instant::now() + GATHERING;
        while (1..BATCH).contains(&batch.len()) {
            let room = BATCH - batch.len();
            let more = timeout_at(until, self.spans.recv_many(&mut batch, room)).await;
            if matches!(more, Ok(0) | Err(_)) {
                break;
            }
        }
        batch
    }

    /// Posts spans, and returns how many of them the collector has not taken.
    async fn post(&self, spans: Vec<SpanData>) -> anyhow::Result<u64> {
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(spans, &self.resource),
        };
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(request.encode_to_vec());
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        let status = response.status();
        if !status.is_success() {
            bail!("the collector (traces.endpoint) answered {status}");
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(reqwest::Error::without_url)?
        {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                bail!("the collector's answer is larger than {MAX_ANSWER_BYTES} bytes");
            }
            body.extend_from_slice(&chunk);
        }
        let answer = ExportTraceServiceResponse::decode(&*body)
            .context("the collector's answer can't be read")?;
        let rejected = answer.partial_success.map_or(0, |it| it.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}
