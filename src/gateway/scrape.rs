//! What the metrics read of the node's state: series whose labels the configuration has, and gauges that are set when they
//! are asked for, so that a scrape says just what `/readyz` says.

use crate::connection::TransportKind;
use crate::gateway::{Composition, Gateway, memory};

impl Gateway {
    /// What keeps this node from being ready; empty when it is.
    pub fn unready(&self) -> Vec<&'static str> {
        self.inner.readiness.unready()
    }

    /// The shards of the registry that can't be reached, by their hexadecimal digit: what the users in them ask for is refused, and
    /// all others are served.
    pub fn shards_away(&self) -> Vec<String> {
        let away = self.inner.registry.away();
        away.iter()
            .map(|shard| format!("{:x}", shard.index()))
            .collect()
    }

    /// Returns true while session cookies are looked at and the Redis that has the sessions does not answer: who comes by one is told
    /// to try again.
    pub fn lacks_session_store(&self) -> bool {
        self.inner.readiness.lacks_session_store()
    }

    /// The Prometheus text of all series. Takes milliseconds on a busy node: not for a thread that serves sockets.
    pub fn render_metrics(&self) -> String {
        self.inner.set_state_gauges();
        self.inner.metrics.render()
    }

    /// Logs how many connections came and went since the last call, if any did.
    pub fn log_recent(&self) {
        self.inner
            .metrics
            .recent()
            .log(self.inner.connections.table.len());
    }
}

impl Composition {
    /// Makes the series of the configured namespaces, and the node's own, begin.
    pub(super) fn begin_series(&self) {
        for namespace in &self.config.now().namespaces {
            self.metrics.connects(&namespace.path).increment(0);
            for kind in [TransportKind::Polling, TransportKind::Websocket] {
                let gauge = self.metrics.connections(&namespace.path, kind.as_str());
                gauge.increment(0.0);
            }
        }
        self.metrics.build_info(self.node_id.as_str()).set(1);
    }

    fn set_state_gauges(&self) {
        self.metrics
            .ready()
            .set(one_if(self.readiness.unready().is_empty()));
        self.metrics
            .draining()
            .set(one_if(self.readiness.is_draining()));
        let config = self.config.now();
        let limits = &config.limits;
        let connections = limits
            .connections
            .map_or(self.door.descriptors(), |limit| limit as usize);
        self.metrics.connections_limit().set(connections as f64);
        let memory = memory::limit(limits.memory).unwrap_or_default();
        self.metrics.memory_limit().set(memory as f64);
    }
}

fn one_if(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}
