//! What is declared of the series: names, kinds, helps, and the labels' values that are known beforehand.

/// Name, kind and help of every series; what [`Metrics::new`](super::Metrics::new) declares and `docs/metrics.md` explains.
pub(super) const DESCRIPTIONS: &[(&str, Kind, &str)] = &[
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
        "Messages that did not reach their recipients",
    ),
    (
        "switchboard_rooms_refused_total",
        Kind::Counter,
        "Rooms claimed by tokens that there can't be, or too many of them",
    ),
    (
        "switchboard_events_refused_total",
        Kind::Counter,
        "Inbound events refused by the rate limit, and refused verbs of operators",
    ),
    (
        "switchboard_events_unknown_total",
        Kind::Counter,
        "Inbound events that nothing takes",
    ),
    (
        "switchboard_transports_ended_total",
        Kind::Counter,
        "Transports ended for what their clients sent",
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
        "switchboard_registry_unreadable_total",
        Kind::Counter,
        "Times that this node skipped what it can't read in Redis",
    ),
    (
        "switchboard_registry_losses_total",
        Kind::Counter,
        "Shards of the registry whose data Redis had lost when this node looked",
    ),
    (
        "switchboard_connections_reaped_total",
        Kind::Counter,
        "Connections of nodes that died, taken out of the registry by this node",
    ),
    (
        "switchboard_backend_calls_total",
        Kind::Counter,
        "Calls to backends",
    ),
    (
        "switchboard_backend_call_duration_seconds",
        Kind::Histogram,
        "From a call to a backend to the end of its answer",
    ),
    (
        "switchboard_backend_actions_failed_total",
        Kind::Counter,
        "Actions of backends' answers that were not carried out",
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
        "switchboard_ingress_messages_total",
        Kind::Counter,
        "Messages that emitters published and this node heard",
    ),
    (
        "switchboard_ingress_refused_total",
        Kind::Counter,
        "Messages of emitters that this node did not carry out",
    ),
    (
        "switchboard_ingress_up",
        Kind::Gauge,
        "1 while this node hears what emitters publish, or is not to",
    ),
    (
        "switchboard_ingress_gaps_total",
        Kind::Counter,
        "Times that this node stopped hearing what emitters publish",
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
        "switchboard_memory_limit_bytes",
        Kind::Gauge,
        "Resident memory at which this node takes nobody in and ends slow connections; 0: no limit",
    ),
    (
        "switchboard_notifications_queued",
        Kind::Gauge,
        "Notifications that wait for this node to deliver them",
    ),
    (
        "switchboard_notifications_lag_seconds",
        Kind::Gauge,
        "Age of the oldest notification that waits for this node to deliver it",
    ),
    (
        "switchboard_notifications_dropped_total",
        Kind::Counter,
        "Notifications given up, too old or too many, by reason",
    ),
    (
        "switchboard_spans_exported_total",
        Kind::Counter,
        "Spans of traces that the collector has taken",
    ),
    (
        "switchboard_spans_dropped_total",
        Kind::Counter,
        "Spans of traces that the collector has not got, by reason",
    ),
    (
        "switchboard_build_info",
        Kind::Gauge,
        "1; the labels say what runs",
    ),
];

pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The values of `reason` of refused handshakes.
pub(super) const CONNECT_ERRORS: [&str; 21] = [
    "missing",
    "invalid",
    "expired",
    "role",
    "session",
    "revoked",
    "banned",
    "too_many",
    "user_rate",
    "application",
    "backend",
    "namespace",
    "protocol",
    "displaced",
    "full",
    "unavailable",
    "memory",
    "address_connections",
    "address_rate",
    "operator",
    "operator_guesses",
];

/// The values of `reason` of connections that ended otherwise than by the server's order.
pub(super) const DEPARTURES: [&str; 7] = [
    "transport_close",
    "transport_error",
    "ping_timeout",
    "parse_error",
    "multiple_polls",
    "client_disconnect",
    "server_disconnect",
];

/// The values of `kind` of messages.
pub(super) const KINDS: [&str; 4] = ["user", "broadcast", "room", "connection"];

/// The values of `type` of calls to backends.
pub(super) const CALL_TYPES: [&str; 2] = ["client.event", "connection.connect"];

/// The values of `reason` of notifications that were dropped.
pub(super) const NOTIFICATION_DROPS: [&str; 2] = ["expired", "excess"];

/// The values of `reason` of spans that were dropped.
pub(super) const SPAN_DROPS: [&str; 3] = ["queue_full", "failed", "rejected"];

/// The values of `outcome` of calls to backends.
pub(super) const CALL_OUTCOMES: [&str; 9] = [
    "ok",
    "in_flight",
    "down",
    "unreachable",
    "timeout",
    "redirect",
    "status",
    "too_large",
    "invalid",
];

/// The values of `action` of what backends' answers ask for, as far as it can fail.
pub(super) const ACTIONS: [&str; 3] = ["emit", "join", "leave"];

/// The values of `what` of what can't be read in Redis.
pub(super) const UNREADABLE: [&str; 12] = [
    "notification",
    "entry",
    "lease",
    "order",
    "ban",
    "revocation",
    "seen",
    "family",
    "room",
    "member",
    "lasting",
    "user",
];

/// The values of `reason` of dropped messages: an engine's queue that is full, a client that does not read, a node that
/// does not listen, a bus that brings more than is read, a message that can't be read or is of a
/// kind that is not known, a receipt while the link to Redis is down, a node
/// without a lease, a client's answer that is too large, what was sent as volatile, what operators' pages are told.
pub(super) const DROPS: [&str; 13] = [
    "queue_full",
    "slow_consumer",
    "node_deaf",
    "bus_full",
    "unpublished",
    "unknown",
    "unreadable",
    "forged",
    "replayed",
    "no_lease",
    "ack_too_large",
    "volatile",
    "operator",
];

/// The values of `source` of what emitters published.
pub(super) const INGRESS_SOURCES: [&str; 2] = ["emitter", "python"];

/// The values of `reason` of what emitters published and was not carried out.
pub(super) const INGRESS_REFUSALS: [&str; 8] = [
    "too_large",
    "unreadable",
    "namespace",
    "not_allowed",
    "reserved_event",
    "unsupported",
    "room",
    "inbox_full",
];
