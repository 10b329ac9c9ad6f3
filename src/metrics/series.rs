//! Each series, by the method that hands it out.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label};

use super::Metrics;

impl Metrics {
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
        let counter = self.counter(
            "switchboard_connects_total",
            vec![Label::new("namespace", namespace.to_owned())],
        );
        self.recent.connected(counter)
    }

    /// Handshakes refused; `reason` comes from a table.
    pub fn connect_errors(&self, reason: &'static str) -> Counter {
        let counter = self.counter(
            "switchboard_connect_errors_total",
            vec![Label::new("reason", reason)],
        );
        self.recent.refused(counter, reason)
    }

    /// Connections that ended; `reason` comes from a table.
    pub fn disconnects(&self, reason: &'static str) -> Counter {
        let counter = self.counter(
            "switchboard_disconnects_total",
            vec![Label::new("reason", reason)],
        );
        self.recent.gone(counter, reason)
    }

    /// Messages that this node was asked to send; `kind` is `user`, `broadcast`, `room` or `connection`.
    pub fn messages_sent(&self, kind: &'static str) -> Counter {
        self.counter(
            "switchboard_messages_sent_total",
            vec![Label::new("kind", kind)],
        )
    }

    /// Messages handed to connections of this node, by `kind` of recipient: `user`, `broadcast`, `room` or `connection`.
    pub fn messages_delivered(&self, kind: &'static str) -> Counter {
        self.counter(
            "switchboard_messages_delivered_total",
            vec![Label::new("kind", kind)],
        )
    }

    /// Messages that did not reach their recipients; `reason` comes from a table.
    pub fn messages_dropped(&self, reason: &'static str) -> Counter {
        self.counter(
            "switchboard_messages_dropped_total",
            vec![Label::new("reason", reason)],
        )
    }

    /// Inbound events refused by the rate limit, and what pages of operators ask for and is not carried out.
    pub fn events_refused(&self) -> Counter {
        self.counter("switchboard_events_refused_total", Vec::new())
    }

    /// Rooms of a token that its connection is not in: it is in as many as it may be, or no room has such a name.
    pub fn rooms_refused(&self) -> Counter {
        self.counter("switchboard_rooms_refused_total", Vec::new())
    }

    /// Inbound events that nothing takes.
    pub fn events_unknown(&self) -> Counter {
        self.counter("switchboard_events_unknown_total", Vec::new())
    }

    /// Transports ended for what their clients have sent; `reason` is a [`Breach`](crate::ending::Breach)'s label.
    pub fn transports_ended(&self, reason: &'static str) -> Counter {
        self.counter(
            "switchboard_transports_ended_total",
            vec![Label::new("reason", reason)],
        )
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

    /// Times that this node skipped what it can't read in Redis; `what` is one of a few words.
    pub fn registry_unreadable(&self, what: &'static str) -> Counter {
        self.counter(
            "switchboard_registry_unreadable_total",
            vec![Label::new("what", what)],
        )
    }

    /// Shards of the registry whose data Redis had lost when this node looked.
    pub fn registry_losses(&self) -> Counter {
        self.counter("switchboard_registry_losses_total", Vec::new())
    }

    /// Connections of nodes that died, taken out of the registry by this node.
    pub fn connections_reaped(&self) -> Counter {
        self.counter("switchboard_connections_reaped_total", Vec::new())
    }

    /// Calls to a backend (from the configuration), by their type and by what came of them, both of a few words.
    pub fn backend_calls(
        &self,
        backend: &str,
        kind: &'static str,
        outcome: &'static str,
    ) -> Counter {
        let labels = vec![
            Label::new("backend", backend.to_owned()),
            Label::new("type", kind),
            Label::new("outcome", outcome),
        ];
        self.counter("switchboard_backend_calls_total", labels)
    }

    /// From a call to a backend to the end of its answer.
    pub fn backend_call_duration(&self, backend: &str, kind: &'static str) -> Histogram {
        let labels = vec![
            Label::new("backend", backend.to_owned()),
            Label::new("type", kind),
        ];
        self.histogram("switchboard_backend_call_duration_seconds", labels)
    }

    /// Actions of a backend's answers that were not carried out; `action` is what was to be done.
    pub fn backend_actions_failed(&self, backend: &str, action: &'static str) -> Counter {
        let labels = vec![
            Label::new("backend", backend.to_owned()),
            Label::new("action", action),
        ];
        self.counter("switchboard_backend_actions_failed_total", labels)
    }

    /// Notifications that wait for this node to deliver them.
    pub fn notifications_queued(&self) -> Gauge {
        self.gauge("switchboard_notifications_queued", Vec::new())
    }

    /// How old the oldest of those is, in seconds.
    pub fn notifications_lag(&self) -> Gauge {
        self.gauge("switchboard_notifications_lag_seconds", Vec::new())
    }

    /// Spans that the collector has taken.
    pub fn spans_exported(&self) -> Counter {
        self.counter("switchboard_spans_exported_total", Vec::new())
    }

    /// Spans that the collector has not got; `reason` is `queue_full`, `failed` or `rejected`.
    pub fn spans_dropped(&self, reason: &'static str) -> Counter {
        let labels = vec![Label::new("reason", reason)];
        self.counter("switchboard_spans_dropped_total", labels)
    }

    /// Notifications that were given up; `reason` is `expired` or `excess`.
    pub fn notifications_dropped(&self, reason: &'static str) -> Counter {
        self.counter(
            "switchboard_notifications_dropped_total",
            vec![Label::new("reason", reason)],
        )
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

    /// Messages that emitters published and this node heard; `source` is `emitter` or `python`.
    pub fn ingress_messages(&self, source: &'static str) -> Counter {
        let labels = vec![Label::new("source", source)];
        self.counter("switchboard_ingress_messages_total", labels)
    }

    /// Messages of emitters that this node did not carry out; `source` is `emitter` or `python`, `reason` comes from a table.
    pub fn ingress_refused(&self, source: &'static str, reason: &'static str) -> Counter {
        let labels = vec![Label::new("source", source), Label::new("reason", reason)];
        self.counter("switchboard_ingress_refused_total", labels)
    }

    /// 1 while this node hears what emitters publish, or is not to; `source` is `emitter` or `python`.
    pub fn ingress_up(&self, source: &'static str) -> Gauge {
        self.gauge("switchboard_ingress_up", vec![Label::new("source", source)])
    }

    /// Times that this node stopped hearing what emitters publish; `source` is `emitter` or `python`.
    pub fn ingress_gaps(&self, source: &'static str) -> Counter {
        let labels = vec![Label::new("source", source)];
        self.counter("switchboard_ingress_gaps_total", labels)
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

    /// `limits.memory`. Set before a rendering.
    pub fn memory_limit(&self) -> Gauge {
        self.gauge("switchboard_memory_limit_bytes", Vec::new())
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
