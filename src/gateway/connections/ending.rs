//! Ending connections of this node, and waiting until they are closed.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::{
    LocalConnections,
    local::{LocalConnection, Phase},
};
use crate::{connection::ConnectionId, ending::Ending, gateway::tasks::contain};

/// Waits until connections of this node are closed and out of the registry. Returns those that are, by the deadline.
pub(crate) async fn closed(
    connections: Vec<Arc<LocalConnection>>,
    deadline: Instant,
) -> Vec<ConnectionId> {
    let mut closed = Vec::with_capacity(connections.len());
    for connection in connections {
        if timeout_at(deadline, connection.closed()).await.is_ok() {
            closed.push(connection.id.clone());
        }
    }
    closed
}

impl LocalConnections {
    /// Ends connections of this node: each is told why, and with the last one of a session its transport is closed.
    /// Connections that are being ended already are left to that, and one that has not arrived yet is ended when it does.
    pub(crate) fn end_all(self: &Arc<Self>, connections: &[Arc<LocalConnection>], ending: &Ending) {
        // All are marked before the first is ended: whether a session has others left is then the same for each.
        let marked: Vec<_> = connections
            .iter()
            .filter(|connection| connection.set_ending(ending.clone()))
            .collect();
        let ready = marked
            .into_iter()
            .filter(|connection| connection.phase() == Phase::Ready)
            .cloned()
            .collect::<Vec<_>>();
        let carry_out = || self.carry_out(ready.clone(), ending);
        if contain("ending connections", ready.len(), carry_out).is_none() {
            // They have their ending: nobody else carries it out.
            for connection in ready {
                connection.session.abort();
                self.depart(&connection, Ending::label(ending.code));
            }
        }
    }

    /// Ends connections as their ending says.
    pub(crate) fn carry_out(
        self: &Arc<Self>,
        connections: Vec<Arc<LocalConnection>>,
        ending: &Ending,
    ) {
        let mut over = Vec::new();
        for connection in &connections {
            let alone = self
                .table
                .of_session(connection.session.id)
                .iter()
                .all(|other| other.ending().is_some());
            connection.say_goodbye(ending, alone);
            if alone {
                over.push(connection.session.clone());
            }
        }
        // After the last goodbye: the end of a session lets nothing more into its queue.
        for session in over {
            match ending.reconnect {
                true => session.close(),
                false => session.end(),
            }
        }
        for connection in connections {
            self.depart(&connection, Ending::label(ending.code));
        }
    }

    /// Ends the connections of this node that came in by a token. Returns them.
    pub(crate) fn end_token(self: &Arc<Self>, token_id: &str) -> Vec<Arc<LocalConnection>> {
        let mut connections = self.table.all();
        connections.retain(|connection| connection.grant().token_id.as_deref() == Some(token_id));
        self.end_all(&connections, &Ending::of(Ending::TOKEN_REVOKED));
        connections
    }
}
