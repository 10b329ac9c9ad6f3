//! Traces: spans of what a node does for others, and which trace they are part of.
//!
//! Each node has its own [`Traces`], with its own provider: nothing is global, so nodes in one test don't mix. Spans are made by the
//! OpenTelemetry SDK and not by `tracing`, whose one subscriber all nodes of a process share, and whose filter is the log's.
//!
//! Which span is the current one goes with a future ([`Span::within`]), and no further: a task that is spawned has none, unless
//! [`carried`] takes it along. What goes to another node or a backend says it as `traceparent`, in the form of W3C Trace Context.
//!
//! A node without `traces.endpoint` has [`Traces::default`], which makes nothing: each call looks at one `None`.

mod export;
mod traceparent;

use std::{borrow::Cow, fmt::Display, sync::Arc, time::Duration};

use futures_util::future::Either;
use http::{HeaderMap, HeaderName};
use opentelemetry::{
    Context, KeyValue, Value,
    trace::{
        FutureExt, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _,
        TracerProvider as _, WithContext,
    },
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::{config, connection::NodeId, metrics::Metrics};

/// The header that says which trace a request is part of.
pub const TRACEPARENT: HeaderName = traceparent::HEADER;

/// How long the end of a node waits for the collector to take the last spans.
const LAST: Duration = Duration::from_secs(1);

/// The longest text of an attribute, in bytes, as a text may come from outside.
const MAX_TEXT: usize = 255;

/// Makes spans, or nothing. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Tracing>>);

#[derive(Debug)]
struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    exporter: Mutex<Option<JoinHandle<()>>>,
}

impl Traces {
    /// The traces of a node, and the task that exports them. Makes nothing where there is no collector.
    ///
    /// # Errors
    ///
    /// A collector that can't be called, as for one of `https` without the system's root certificates.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime, with a collector.
    pub fn new(config: &config::Traces, node: &NodeId, metrics: &Metrics) -> anyhow::Result<Self> {
        let Some(endpoint) = &config.endpoint else {
            return Ok(Self::default());
        };
        let resource = Resource::builder_empty()
            .with_service_name(config.service_name.clone())
            .with_attributes([
                KeyValue::new("service.instance.id", node.to_string()),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            ])
            .build();
        let (queue, exporter) = export::exporting(endpoint, config, &resource, metrics)?;
        let roots = Sampler::TraceIdRatioBased(config.sample_ratio);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(roots)))
            .with_resource(resource)
            .with_span_processor(queue)
            .build();
        let exporter = tokio::spawn(exporter.run());
        Ok(Self(Some(Arc::new(Tracing {
            tracer: provider.tracer("switchboard"),
            provider,
            exporter: Mutex::new(Some(exporter)),
        }))))
    }

    /// Whether spans are made.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span below the current one; without one it begins a trace. `build` is not called where nothing is traced.
    pub fn begin(&self, build: impl FnOnce() -> Begin) -> Span {
        self.under(Context::current, build)
    }

    /// Begins a span below the one that a request's `traceparent` names; without one it begins a trace.
    pub fn answer(&self, headers: &HeaderMap, build: impl FnOnce() -> Begin) -> Span {
        let caller = || remote(traceparent::of_headers(headers));
        self.under(caller, build)
    }

    /// Begins a span below the one that another node's `traceparent` names; without one nothing is begun.
    pub fn follow(&self, trace: Option<&str>, build: impl FnOnce() -> Begin) -> Span {
        match trace.filter(|_| self.is_on()).and_then(traceparent::read) {
            None => Span(None),
            asking => self.under(|| remote(asking), build),
        }
    }

    fn under(&self, parent: impl FnOnce() -> Context, build: impl FnOnce() -> Begin) -> Span {
        Span(self.0.as_ref().map(|tracing| {
            let (parent, Begin(builder)) = (parent(), build());
            let span = tracing.tracer.build_with_context(builder, &parent);
            parent.with_span(span)
        }))
    }

    /// Exports what is left, for the end of a node. Takes a second at the most.
    pub async fn finish(&self) {
        let Some(tracing) = &self.0 else { return };
        // The queue is closed by this; it fails only if that was done before.
        drop(tracing.provider.shutdown());
        let exporter = tracing.exporter.lock().take();
        if let Some(mut exporter) = exporter
            && tokio::time::timeout(LAST, &mut exporter).await.is_err()
        {
            exporter.abort();
            tracing::warn!("the collector has not taken the last spans in time; they are lost");
        }
    }
}

fn remote(caller: Option<SpanContext>) -> Context {
    match caller {
        Some(caller) => Context::new().with_remote_span_context(caller),
        None => Context::new(),
    }
}

/// What a span begins with.
pub struct Begin(SpanBuilder);

impl Begin {
    /// A span of a name, which no user makes up.
    pub fn new(name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Self {
        Self(SpanBuilder::from_name(name).with_kind(kind))
    }

    /// Adds an attribute. A text of more than 255 bytes is cut.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        let attribute = KeyValue::new(name, cut(value.into()));
        self.0.attributes.get_or_insert_default().push(attribute);
        self
    }
}

fn cut(value: Value) -> Value {
    match &value {
        Value::String(text) if text.as_str().len() > MAX_TEXT => {
            let text = text.as_str();
            text[..text.floor_char_boundary(MAX_TEXT)].to_owned().into()
        }
        _ => value,
    }
}

/// A span under way, or nothing. Ends when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Span(Option<Context>);

impl Span {
    /// Whether there is one, sampled or not.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Adds an attribute.
    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            let attribute = KeyValue::new(name, cut(value.into()));
            context.span().set_attribute(attribute);
        }
    }

    /// What it stands for has failed; `error` says nothing that the log may not say.
    pub fn fail(&self, error: &dyn Display) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(error.to_string()));
        }
    }

    /// The `traceparent` of what is asked of others within it; none if there is no span.
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?;
        Some(traceparent::written(context.span().span_context()))
    }

    /// The `traceparent` of what is asked of other nodes within it; none if it is not sampled, as no node would make a span.
    pub fn traceparent_if_sampled(&self) -> Option<String> {
        let sampled = |context: &&Context| context.span().span_context().is_sampled();
        self.0.as_ref().filter(sampled).and(self.traceparent())
    }

    /// Makes it the current span of a future.
    pub fn within<F: Future>(&self, future: F) -> Either<WithContext<F>, F> {
        match &self.0 {
            Some(context) => Either::Left(future.with_context(context.clone())),
            None => Either::Right(future),
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

/// Takes the current span along into a task of its own.
pub fn carried<F: Future>(future: F) -> WithContext<F> {
    future.with_current_context()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn traces(sample_ratio: f64) -> Traces {
        let config = config::Traces {
            endpoint: Some("http://127.0.0.1:9".into()),
            sample_ratio,
            ..config::Traces::default()
        };
        Traces::new(&config, &"n".into(), &Metrics::new().unwrap()).unwrap()
    }

    fn begin() -> Begin {
        Begin::new("test", SpanKind::Internal)
    }

    fn called_by(caller: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(TRACEPARENT, http::HeaderValue::from_static(caller))])
    }

    #[tokio::test]
    async fn without_a_collector_nothing_is_made() {
        let off = Traces::new(
            &config::Traces::default(),
            &"n".into(),
            &Metrics::new().unwrap(),
        );
        let off = off.unwrap();
        let never = || -> Begin { unreachable!() };
        for span in [
            off.begin(never),
            off.answer(&called_by(CALLER), never),
            off.follow(Some(CALLER), never),
        ] {
            assert!(!span.is_some());
            assert_eq!(span.traceparent().or(span.traceparent_if_sampled()), None);
            assert!(matches!(span.within(async {}), Either::Right(_)));
        }
        off.finish().await;
    }

    #[tokio::test]
    async fn what_is_sampled_is_the_callers_to_say_and_otherwise_the_ratio_s() {
        let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        for (ratio, all) in [(0.0, false), (1.0, true)] {
            let traces = traces(ratio);
            let sampled = |span: &Span| span.traceparent_if_sampled().is_some();
            assert_eq!(sampled(&traces.begin(begin)), all);
            assert_eq!(sampled(&traces.answer(&HeaderMap::new(), begin)), all);
            assert!(sampled(&traces.answer(&called_by(CALLER), begin)));
            let span = traces.answer(&called_by(unsampled), begin);
            assert!(!sampled(&span));
            let passed_on = span.traceparent().unwrap();
            assert!(passed_on.starts_with(&unsampled[..36]) && passed_on.ends_with("-00"));
            assert_ne!(passed_on, unsampled, "a span of its own");
            assert!(!traces.follow(None, begin).is_some());
            assert!(!traces.follow(Some("rubbish"), begin).is_some());
            assert!(sampled(&traces.follow(Some(CALLER), begin)));
        }
    }

    #[tokio::test]
    async fn a_span_is_current_within_its_future_and_what_that_carries_along() {
        let traces = traces(1.0);
        let span = traces.answer(&called_by(CALLER), begin);
        let trace = |span: Span| span.traceparent().unwrap()[3..35].to_owned();
        let (within, carried, spawned) = span
            .within(async {
                let (one, other) = (traces.clone(), traces.clone());
                let carried = tokio::spawn(carried(async move { trace(one.begin(begin)) }));
                let spawned = tokio::spawn(async move { trace(other.begin(begin)) });
                let (carried, spawned) = tokio::join!(carried, spawned);
                (trace(traces.begin(begin)), carried, spawned)
            })
            .await;
        assert_eq!(within, CALLER[3..35]);
        assert_eq!(carried.unwrap(), CALLER[3..35]);
        assert_ne!(spawned.unwrap(), CALLER[3..35]);
        assert_ne!(trace(traces.begin(begin)), CALLER[3..35], "it is over");
    }

    #[test]
    fn texts_of_attributes_are_cut() {
        let cut = |text: String| match cut(text.into()) {
            Value::String(text) => text.as_str().len(),
            _ => 0,
        };
        assert_eq!(cut("a".repeat(255)), 255);
        assert_eq!(cut("a".repeat(256)), 255);
        assert_eq!(cut("é".repeat(1000)), 254);
    }
}
