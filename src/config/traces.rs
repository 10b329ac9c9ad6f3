//! Where spans go: `traces`.

use std::time::Duration;

use secrecy::SecretString;

use super::{section::section, validate::texts};

section! {
    /// Spans of API calls, of sends and of calls to backends, for an OpenTelemetry collector. [Tracing](tracing.md).
    Traces in "traces." {
        /// The collector, which spans are sent to by OTLP over HTTP: a URL such as `http://127.0.0.1:4318`, to which `/v1/traces` is
        /// added, as for `OTEL_EXPORTER_OTLP_ENDPOINT`. Without it nothing is traced.
        endpoint: Option<String> = None, shown("none: no traces"), fits(texts::collector_url);
        /// Headers of the requests to the collector, each as `name=value`, such as the key that a vendor asks for.
        headers: Vec<SecretString> = Vec::new(), fits(texts::header);
        /// The share of the traces that begin on this node which are sampled, from `0` to `1`. Of a trace that a caller has begun, by
        /// its `traceparent`, the caller has decided.
        sample_ratio: f64 = 1.0;
        /// What the collector calls this fleet: `service.name`. A node's own name is `service.instance.id`.
        service_name: String = "switchboard".into(), fits(texts::named);
        /// How long the collector may take for a request. What it has not taken by then is dropped, and counted.
        timeout: Duration = Duration::from_secs(10), positive;
    }
}
