//! What a page is told of a node every two seconds.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counts what happens, by second and type, between two looks.
#[derive(Default)]
pub(super) struct Aggregate(BTreeMap<(i64, &'static str, Option<String>), u64>);

/// What has happened in one second, as the protocol says it. The time is in milliseconds.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Count {
    timestamp: i64,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_type: Option<String>,
    count: u64,
}

impl Aggregate {
    /// Counts `count` of a type, and of a type within that type, in a second since 1970.
    pub(super) fn add(
        &mut self,
        second: i64,
        kind: &'static str,
        sub_type: Option<&str>,
        count: u64,
    ) {
        let key = (second, kind, sub_type.map(str::to_owned));
        *self.0.entry(key).or_default() += count;
    }

    /// Takes what was counted, the oldest first.
    pub(super) fn take(&mut self) -> Vec<Count> {
        let counted = std::mem::take(&mut self.0).into_iter();
        let counts = counted.map(|((second, kind, sub_type), count)| Count {
            timestamp: second * 1_000,
            kind,
            sub_type,
            count,
        });
        counts.collect()
    }
}

/// `server_stats`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServerStats {
    /// The node's name.
    pub(super) server_id: String,
    pub(super) hostname: String,
    pub(super) pid: u32,
    /// Seconds since the node started.
    pub(super) uptime: f64,
    /// Transports that carry connections.
    pub(super) clients_count: usize,
    /// Those of them that poll.
    pub(super) polling_clients_count: usize,
    pub(super) aggregated_events: Vec<Count>,
    pub(super) namespaces: Vec<NamespaceStats>,
}

/// How many connections of a namespace a node has.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NamespaceStats {
    pub(super) name: String,
    pub(super) sockets_count: usize,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_happens_is_counted_by_second_and_type_and_told_once() {
        let mut aggregate = Aggregate::default();
        aggregate.add(7, "bytesIn", None, 3);
        aggregate.add(7, "bytesIn", None, 4);
        aggregate.add(8, "bytesIn", None, 1);
        aggregate.add(7, "rawDisconnection", Some("ping_timeout"), 1);
        assert_eq!(
            serde_json::to_value(aggregate.take()).unwrap(),
            json!([
                {"timestamp": 7_000, "type": "bytesIn", "count": 7},
                {"timestamp": 7_000, "type": "rawDisconnection", "subType": "ping_timeout", "count": 1},
                {"timestamp": 8_000, "type": "bytesIn", "count": 1},
            ])
        );
        assert_eq!(aggregate.take(), []);
    }
}
