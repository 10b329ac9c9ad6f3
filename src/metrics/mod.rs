//! Every series of a node, as a field or a method of one value that the node owns.
//!
//! Nothing is global: each node has a recorder of its own, so several nodes in one test don't mix. No label takes a value
//! that users can make up.
//!
//! `table` is what is declared of them, `series` hands them out.

mod recent;
mod series;
mod table;

use std::sync::Arc;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder as _, SharedString,
    Unit,
};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_process::Collector;

use self::recent::Recent;
use self::table::{
    ACTIONS, CALL_OUTCOMES, CALL_TYPES, CONNECT_ERRORS, DEPARTURES, DESCRIPTIONS, DROPS,
    INGRESS_REFUSALS, INGRESS_SOURCES, KINDS, Kind, NOTIFICATION_DROPS, SPAN_DROPS, UNREADABLE,
};
use crate::ending::{Breach, Ending};

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
    recent: Arc<Recent>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
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
            recent: Arc::default(),
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
            .chain(NOTIFICATION_DROPS.map(|reason| self.notifications_dropped(reason)))
            .chain(SPAN_DROPS.map(|reason| self.spans_dropped(reason)))
            .chain(UNREADABLE.map(|what| self.registry_unreadable(what)))
            .chain(["in", "out"].map(|direction| self.bus_messages(direction)))
            .chain(
                Ending::LABELS
                    .into_iter()
                    .chain(DEPARTURES)
                    .chain(Breach::ALL.map(Breach::label))
                    .map(|reason| self.disconnects(reason)),
            )
            .chain(Breach::ALL.map(|breach| self.transports_ended(breach.label())))
            .chain([
                self.events_refused(),
                self.rooms_refused(),
                self.events_unknown(),
                self.bus_reconnects(),
                self.connections_reaped(),
                self.registry_losses(),
                self.spans_exported(),
            ]);
        for counter in counters {
            counter.increment(0);
        }
        for source in INGRESS_SOURCES {
            let refused = INGRESS_REFUSALS.map(|reason| self.ingress_refused(source, reason));
            let heard = [self.ingress_messages(source), self.ingress_gaps(source)];
            for counter in heard.into_iter().chain(refused) {
                counter.increment(0);
            }
            self.ingress_up(source).set(1);
        }
        for operation in ["assert", "unregister", "heartbeat"] {
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
            self.memory_limit(),
            self.notifications_queued(),
            self.notifications_lag(),
            self.users(),
            self.cluster_users(),
            self.cluster_connections(),
        ];
        for gauge in gauges {
            gauge.increment(0.0);
        }
    }

    /// Makes the series of a backend begin at nothing.
    pub fn begin_backend(&self, backend: &str) {
        for kind in CALL_TYPES {
            for outcome in CALL_OUTCOMES {
                self.backend_calls(backend, kind, outcome).increment(0);
            }
            self.backend_call_duration(backend, kind)
                .record_many(0.0, 0);
        }
        for action in ACTIONS {
            self.backend_actions_failed(backend, action).increment(0);
        }
    }

    /// The Prometheus text of all series, those of the process read anew. Lists the process's files, so it takes longer the
    /// more connections there are.
    pub fn render(&self) -> String {
        metrics::with_local_recorder(&*self.recorder, || self.process.collect());
        self.handle.render()
    }

    /// What came and went since the log's last line on it.
    pub fn recent(&self) -> &Recent {
        &self.recent
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
}
