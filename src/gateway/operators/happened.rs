//! What the tail says of this node, as pages are told it.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::source::Source;
use crate::connection::ConnectionId;

/// A happening of the tail, as far as pages are told of it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Happened {
    Connected(Who),
    Disconnected {
        #[serde(flatten)]
        who: Who,
        reason: String,
    },
    Upgraded(Who),
    Joined(Who),
    Left(Who),
    Message {
        kind: String,
        to: Option<String>,
        namespace: String,
        event: String,
        bytes: u64,
        connections: u64,
    },
    Event {
        #[serde(flatten)]
        who: Who,
        event: String,
        bytes: u64,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Who {
    connection: ConnectionId,
    namespace: String,
}

#[derive(Deserialize)]
struct Stamped {
    at: Timestamp,
    #[serde(flatten)]
    happened: Happened,
}

impl Source {
    /// Tells pages of a happening, and counts it.
    pub(super) fn happened(&self, text: &str) {
        let Ok(Stamped { at, happened }) = serde_json::from_str(text) else {
            return;
        };
        self.count(at, &happened);
        match happened {
            Happened::Connected(who)
            | Happened::Upgraded(who)
            | Happened::Joined(who)
            | Happened::Left(who) => {
                if let Some(connection) = self.connections.table.get(&who.connection) {
                    self.tell_changes(&connection, at);
                }
            }
            Happened::Disconnected { who, reason } => self.tell_gone(&who.connection, &reason, at),
            Happened::Event { who, event, bytes } => {
                if self.sample.lock().shown.contains_key(&who.connection) {
                    let args = json!([event, {"bytes": bytes}]);
                    let args = [json!(who.namespace), json!(who.connection), args, json!(at)];
                    self.tell_event(Some(who.connection), "event_received", &args);
                }
            }
            Happened::Message {
                kind,
                to,
                namespace,
                event,
                bytes,
                connections,
            } => {
                let about = to.as_deref().filter(|_| kind == "connection");
                let about = about.map(ConnectionId::from);
                if connections > 0 {
                    let args =
                        json!([event, {"to": kind, "bytes": bytes, "connections": connections}]);
                    // The page makes a link of it, which can't be empty.
                    let to = to.unwrap_or_else(|| "*".to_owned());
                    let args = [json!(namespace), json!(to), args, json!(at)];
                    self.tell_event(about, "event_sent", &args);
                }
            }
            Happened::Other => {}
        }
    }

    /// Counts a happening for the next `server_stats`.
    fn count(&self, at: Timestamp, happened: &Happened) {
        let (mut aggregate, second) = (self.aggregate.lock(), at.as_second());
        let mut add = |kind, sub_type, count| aggregate.add(second, kind, sub_type, count);
        match happened {
            Happened::Connected(_) => add("rawConnection", None, 1),
            Happened::Disconnected { reason, .. } => {
                add("rawDisconnection", Some(reason.as_str()), 1)
            }
            Happened::Event { bytes, .. } => {
                add("packetsIn", None, 1);
                add("bytesIn", None, *bytes);
            }
            Happened::Message {
                bytes, connections, ..
            } => {
                add("packetsOut", None, *connections);
                add("bytesOut", None, bytes * connections);
            }
            _ => {}
        }
    }
}
