//! What the sessions that carry connections tell the gateway.

use std::sync::Arc;

use derive_more::Constructor;

use super::{
    connections::LocalConnections, membership::registrar::Registrar, operators::Operators,
    readiness::Readiness, tail::Happening,
};
use crate::{
    ending::{Breach, Ending},
    metrics::Metrics,
    transport::{Session, SessionEvents},
};

/// Does what the sessions tell.
#[derive(Constructor)]
pub(super) struct SessionListener {
    metrics: Metrics,
    readiness: Arc<Readiness>,
    connections: Arc<LocalConnections>,
    registrar: Arc<Registrar>,
    operators: Arc<Operators>,
}

impl SessionEvents for SessionListener {
    fn admit(&self) -> Result<(), &'static str> {
        if let Some(wrong) = self.readiness.unready().first() {
            self.metrics.connect_errors("unavailable").increment(1);
            return Err(wrong);
        }
        let limit = self.connections.limit();
        if limit > 0 && self.connections.table.len() >= limit {
            self.metrics.connect_errors("full").increment(1);
            return Err("full");
        }
        Ok(())
    }

    fn displaced(&self) {
        self.metrics.connect_errors("displaced").increment(1);
    }

    fn other_protocol(&self) {
        self.metrics.connect_errors("protocol").increment(1);
    }

    fn stalled(&self, session: &Arc<Session>) {
        let connections = self.connections.table.of_session(session.id);
        // Before the end: that counts what is lost, a message for each connection at the least. More may be lost than is known
        // here, in the kernel's buffer.
        session.is_too_slow_for(connections.len());
        self.connections
            .end_all(&connections, &Ending::of(Ending::SLOW_CONSUMER));
        session.end();
    }

    fn no_namespace(&self) {
        self.metrics.connect_errors("namespace").increment(1);
    }

    fn breached(&self, breach: Breach) {
        self.metrics.transports_ended(breach.label()).increment(1);
    }

    fn lost(&self, messages: u64) {
        let dropped = self.metrics.messages_dropped("slow_consumer");
        dropped.increment(messages);
    }

    fn is_websocket(&self, session: &Session) -> bool {
        let connections = self.connections.table.of_session(session.id);
        connections
            .iter()
            .any(|connection| connection.is_on_websocket())
            || self.operators.is_on_websocket(session.id)
    }

    fn upgraded(&self, session: &Arc<Session>) {
        for connection in self.connections.table.of_session(session.id) {
            if !connection.is_registered() {
                continue;
            }
            self.connections.table.count(&connection);
            self.registrar.update(&connection);
            self.connections.tail.tell(|| Happening::Upgraded {
                who: connection.who(),
                transport: session.kind().as_str(),
            });
        }
    }

    fn over(&self, session: &Arc<Session>) {
        for connection in self.connections.table.of_session(session.id) {
            self.connections.depart(&connection, "transport_close");
        }
        self.operators.leave(session);
    }
}
