//! Every series of a node, as a field or a method of one value that the node owns.
//!
//! Nothing is global: each node has a recorder of its own, so several nodes in one test don't mix. No label takes a value
//! that users can make up.

use std::{sync::Arc, time::Duration};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder as _, SharedString,
    Unit,
};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_process::Collector;

use crate::ending::Ending;

/// Buckets of the durations that people wait for, in seconds.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// A node's metrics; clones share the series.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    process: Collector,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Name, kind and help of every series; what [`Metrics::new`] declares and the README's table repeats.
const DESCRIPTIONS: &[(&str, Kind, &str)] = &[
    (
        "switchboard_connections",
        Kind::Gauge,
        "Connections of this node",
    ),
    (
        "switchboard_users",
        Kind::Gauge,
        "Users with a connection on this node",
    ),
    (
        "switchboard_cluster_users",
        Kind::Gauge,
        "Users online in the cluster, from the registry",
    ),
    (
        "switchboard_cluster_connections",
        Kind::Gauge,
        "Connections of the cluster, from the registry",
    ),
    (
        "switchboard_connects_total",
        Kind::Counter,
        "Connections that became ready",
    ),
    (
        "switchboard_connect_errors_total",
        Kind::Counter,
        "Handshakes refused",
    ),
    (
        "switchboard_disconnects_total",
        Kind::Counter,
        "Connections that ended",
    ),
    (
        "switchboard_messages_sent_total",
        Kind::Counter,
        "Messages that this node was asked to send",
    ),
    (
        "switchboard_messages_delivered_total",
        Kind::Counter,
        "Messages handed to connections of this node",
    ),
    (
        "switchboard_messages_dropped_total",
        Kind::Counter,
        "Messages that did not reach whom they were for",
    ),
    (
        "switchboard_events_refused_total",
        Kind::Counter,
        "Inbound events refused by the rate limit",
    ),
    (
        "switchboard_api_request_duration_seconds",
        Kind::Histogram,
        "Duration of API requests",
    ),
    (
        "switchboard_registry_duration_seconds",
        Kind::Histogram,
        "Duration of registry operations",
    ),
    (
        "switchboard_registry_errors_total",
        Kind::Counter,
        "Registry operations that failed",
    ),
    (
        "switchboard_connections_reaped_total",
        Kind::Counter,
        "Connections of nodes that died, taken out of the registry by this node",
    ),
    (
        "switchboard_bus_messages_total",
        Kind::Counter,
        "Messages on the bus",
    ),
    (
        "switchboard_bus_up",
        Kind::Gauge,
        "1 while messages go out and come in",
    ),
    (
        "switchboard_bus_reconnects_total",
        Kind::Counter,
        "Times the bus came back after its link broke",
    ),
    (
        "switchboard_ready_duration_seconds",
        Kind::Histogram,
        "From CONNECT packet to ready",
    ),
    (
        "switchboard_ready",
        Kind::Gauge,
        "1 while /readyz answers 200",
    ),
    (
        "switchboard_draining",
        Kind::Gauge,
        "1 from the signal that ends the node until it is gone",
    ),
    (
        "switchboard_connections_limit",
        Kind::Gauge,
        "Connections that this node takes at the most; 0: no limit",
    ),
    (
        "switchboard_build_info",
        Kind::Gauge,
        "1; the labels say what runs",
    ),
];

/// The values of `reason` of refused handshakes.
const CONNECT_ERRORS: [&str; 11] = [
    "missing",
    "invalid",
    "expired",
    "role",
    "session",
    "revoked",
    "banned",
    "too_many",
    "displaced",
    "full",
    "unavailable",
];

/// The values of `reason` of connections that ended otherwise than by the server's order.
const DEPARTURES: [&str; 7] = [
    "transport_close",
    "transport_error",
    "ping_timeout",
    "parse_error",
    "multiple_polls",
    "client_disconnect",
    "server_disconnect",
];

/// The values of `kind` of messages.
const KINDS: [&str; 4] = ["user", "broadcast", "room", "connection"];

/// The values of `reason` of dropped messages: an engine's queue that is full, a client that does not read, a node that
/// does not listen, a bus that brings more than is read, a message that can't be read.
const DROPS: [&str; 7] = [
    "queue_full",
    "slow_consumer",
    "node_deaf",
    "bus_full",
    "bus_stream_full",
    "unreadable",
    "no_lease",
];

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Metrics {
    /// A new set of series, each declared with its help, none shared with another node's.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
            .build_recorder();
        for (name, kind, help) in DESCRIPTIONS {
            let (name, help) = (KeyName::from_const_str(name), SharedString::const_str(help));
            match kind {
                Kind::Counter => recorder.describe_counter(name, Some(Unit::Count), help),
                Kind::Gauge => recorder.describe_gauge(name, Some(Unit::Count), help),
                Kind::Histogram => recorder.describe_histogram(name, Some(Unit::Seconds), help),
            }
        }
        let metrics = Self {
            handle: recorder.handle(),
            recorder: Arc::new(recorder),
            process: Collector::default(),
        };
        metrics::with_local_recorder(&*metrics.recorder, || metrics.process.describe());
        metrics.begin();
        Ok(metrics)
    }

    /// Makes the series whose labels are known begin at nothing: a rate sees the first event only from there.
    fn begin(&self) {
        let counters = CONNECT_ERRORS.map(|reason| self.connect_errors(reason));
        let counters = counters
            .into_iter()
            .chain(KINDS.map(|kind| self.messages_sent(kind)))
            .chain(KINDS.map(|kind| self.messages_delivered(kind)))
            .chain(DROPS.map(|reason| self.messages_dropped(reason)))
            .chain(["in", "out"].map(|direction| self.bus_messages(direction)))
            .chain(
                Ending::LABELS
                    .into_iter()
                    .chain(DEPARTURES)
                    .map(|reason| self.disconnects(reason)),
            )
            .chain([
                self.events_refused(),
                self.bus_reconnects(),
                self.connections_reaped(),
            ]);
        for counter in counters {
            counter.increment(0);
        }
        for operation in ["register", "unregister", "heartbeat"] {
            let labels = vec![Label::new("operation", operation)];
            self.counter("switchboard_registry_errors_total", labels.clone())
                .increment(0);
            self.histogram("switchboard_registry_duration_seconds", labels)
                .record_many(0.0, 0);
        }
        self.ready_duration().record_many(0.0, 0);
        let gauges = [
            self.bus_up(),
            self.ready(),
            self.draining(),
            self.connections_limit(),
            self.users(),
            self.cluster_users(),
            self.cluster_connections(),
        ];
        for gauge in gauges {
            gauge.increment(0.0);
        }
    }

    /// The Prometheus text of all series, those of the process read anew. Lists the process's files, so it takes longer the
    /// more connections there are.
    pub fn render(&self) -> String {
        metrics::with_local_recorder(&*self.recorder, || self.process.collect());
        self.handle.render()
    }

    /// Folds the histograms' samples; they pile up between scrapes otherwise. Called every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder
            .register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder
            .register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder
            .register_histogram(&Key::from_parts(name, labels), &METADATA)
    }

    /// Connections of this node, by namespace (from the configuration) and transport.
    pub fn connections(&self, namespace: &str, transport: &'static str) -> Gauge {
        self.gauge(
            "switchboard_connections",
            vec![
                Label::new("namespace", namespace.to_owned()),
                Label::new("transport", transport),
            ],
        )
    }

    /// Users with a connection on this node.
    pub fn users(&self) -> Gauge {
        self.gauge("switchboard_users", Vec::new())
    }

    /// Users online in the cluster.
    pub fn cluster_users(&self) -> Gauge {
        self.gauge("switchboard_cluster_users", Vec::new())
    }

    /// Connections of the cluster.
    pub fn cluster_connections(&self) -> Gauge {
        self.gauge("switchboard_cluster_connections", Vec::new())
    }

    /// Connections that became ready.
    pub fn connects(&self, namespace: &str) -> Counter {
        self.counter(
            "switchboard_connects_total",
            vec![Label::new("namespace", namespace.to_owned())],
        )
    }

    /// Handshakes refused; `reason` comes from a table.
    pub fn connect_errors(&self, reason: &'static str) -> Counter {
        self.counter(
            "switchboard_connect_errors_total",
            vec![Label::new("reason", reason)],
        )
    }

    /// Connections that ended; `reason` comes from a table.
    pub fn disconnects(&self, reason: &'static str) -> Counter {
        self.counter(
            "switchboard_disconnects_total",
            vec![Label::new("reason", reason)],
        )
    }

    /// Messages that this node was asked to send; `kind` is `user`, `broadcast`, `room` or `connection`.
    pub fn messages_sent(&self, kind: &'static str) -> Counter {
        self.counter(
            "switchboard_messages_sent_total",
            vec![Label::new("kind", kind)],
        )
    }

    /// Messages handed to connections of this node; `kind` as above.
    pub fn messages_delivered(&self, kind: &'static str) -> Counter {
        self.counter(
            "switchboard_messages_delivered_total",
            vec![Label::new("kind", kind)],
        )
    }

    /// Messages that did not reach whom they were for; `reason` comes from a table.
    pub fn messages_dropped(&self, reason: &'static str) -> Counter {
        self.counter(
            "switchboard_messages_dropped_total",
            vec![Label::new("reason", reason)],
        )
    }

    /// Inbound events refused by the rate limit.
    pub fn events_refused(&self) -> Counter {
        self.counter("switchboard_events_refused_total", Vec::new())
    }

    /// An API request; `route` is the router's template, never the path.
    pub fn api_request(&self, route: String, method: &'static str, status: u16, took: Duration) {
        let labels = vec![
            Label::new("route", route),
            Label::new("method", method),
            Label::new("status", status.to_string()),
        ];
        self.histogram("switchboard_api_request_duration_seconds", labels)
            .record(took);
    }

    /// A registry operation, and whether it failed.
    pub fn registry(&self, operation: &'static str, took: Duration, failed: bool) {
        let labels = vec![Label::new("operation", operation)];
        if failed {
            self.counter("switchboard_registry_errors_total", labels.clone())
                .increment(1);
        }
        self.histogram("switchboard_registry_duration_seconds", labels)
            .record(took);
    }

    /// Connections of nodes that died, taken out of the registry by this node.
    pub fn connections_reaped(&self) -> Counter {
        self.counter("switchboard_connections_reaped_total", Vec::new())
    }

    /// Messages on the bus; `direction` is `in` or `out`.
    pub fn bus_messages(&self, direction: &'static str) -> Counter {
        self.counter(
            "switchboard_bus_messages_total",
            vec![Label::new("direction", direction)],
        )
    }

    /// 1 while messages go out and come in.
    pub fn bus_up(&self) -> Gauge {
        self.gauge("switchboard_bus_up", Vec::new())
    }

    /// Times the bus came back after its link broke.
    pub fn bus_reconnects(&self) -> Counter {
        self.counter("switchboard_bus_reconnects_total", Vec::new())
    }

    /// From CONNECT packet to `ready`.
    pub fn ready_duration(&self) -> Histogram {
        self.histogram("switchboard_ready_duration_seconds", Vec::new())
    }

    /// 1 while the node takes connections. Set before a rendering.
    pub fn ready(&self) -> Gauge {
        self.gauge("switchboard_ready", Vec::new())
    }

    /// 1 while the node sends its clients away. Set before a rendering.
    pub fn draining(&self) -> Gauge {
        self.gauge("switchboard_draining", Vec::new())
    }

    /// `limits.connections`. Set before a rendering.
    pub fn connections_limit(&self) -> Gauge {
        self.gauge("switchboard_connections_limit", Vec::new())
    }

    /// Always 1: which version runs as which node.
    pub fn build_info(&self, node_id: &str) -> Gauge {
        let labels = vec![
            Label::new("version", env!("CARGO_PKG_VERSION")),
            Label::new("node_id", node_id.to_owned()),
        ];
        self.gauge("switchboard_build_info", labels)
    }
}
