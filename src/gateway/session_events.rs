//! What the sessions that carry connections tell the gateway.

use std::sync::{Arc, Weak};

use crate::gateway::Inner;
use crate::{
    ending::{Breach, Ending},
    transport::{Session, SessionEvents},
};

/// What a session tells, passed on to the gateway. Weak: the gateway owns the sessions, in the end.
pub(super) struct SessionListener(Weak<Inner>);

impl SessionListener {
    /// What the gateway hears of its sessions.
    pub(super) fn of(gateway: &Arc<Inner>) -> Self {
        Self(Arc::downgrade(gateway))
    }

    fn inner(&self) -> Option<Arc<Inner>> {
        self.0.upgrade()
    }
}

impl SessionEvents for SessionListener {
    fn admit(&self) -> Result<(), &'static str> {
        let inner = self.inner().ok_or("stopped")?;
        if let Some(wrong) = inner.unready().first() {
            inner.metrics.connect_errors("unavailable").increment(1);
            return Err(wrong);
        }
        let limit = inner.configured_connections();
        if limit > 0 && inner.table.len() >= limit {
            inner.metrics.connect_errors("full").increment(1);
            return Err("full");
        }
        Ok(())
    }

    fn displaced(&self) {
        if let Some(inner) = self.inner() {
            inner.metrics.connect_errors("displaced").increment(1);
        }
    }

    fn other_protocol(&self) {
        if let Some(inner) = self.inner() {
            inner.metrics.connect_errors("protocol").increment(1);
        }
    }

    fn stalled(&self, session: &Arc<Session>) {
        let Some(inner) = self.inner() else {
            return;
        };
        let connections = inner.table.of_session(session.id);
        // Before the end: that counts what is lost, a message for each connection at the least. More may be lost than is known
        // here, in the kernel's buffer.
        session.is_too_slow_for(connections.len());
        inner.end_all(&connections, &Ending::of(Ending::SLOW_CONSUMER));
        session.end();
    }

    fn no_namespace(&self) {
        if let Some(inner) = self.inner() {
            inner.metrics.connect_errors("namespace").increment(1);
        }
    }

    fn breached(&self, breach: Breach) {
        if let Some(inner) = self.inner() {
            inner.metrics.transports_ended(breach.label()).increment(1);
        }
    }

    fn lost(&self, messages: u64) {
        if let Some(inner) = self.inner() {
            let dropped = inner.metrics.messages_dropped("slow_consumer");
            dropped.increment(messages);
        }
    }

    fn is_websocket(&self, session: &Session) -> bool {
        self.inner().is_some_and(|inner| {
            let connections = inner.table.of_session(session.id);
            connections
                .iter()
                .any(|connection| connection.is_on_websocket())
        })
    }

    fn upgraded(&self, session: &Arc<Session>) {
        let Some(inner) = self.inner() else {
            return;
        };
        for connection in inner.table.of_session(session.id) {
            if !connection.is_registered() {
                continue;
            }
            inner.table.count(&connection);
            inner.update(&connection);
        }
    }

    fn over(&self, session: &Arc<Session>) {
        let Some(inner) = self.inner() else {
            return;
        };
        for connection in inner.table.of_session(session.id) {
            inner.depart(&connection, "transport_close");
        }
    }
}
