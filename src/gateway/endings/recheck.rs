//! Connections that came in by a session cookie live as long as the session does: it is looked at again, in batches.

use std::{sync::Arc, time::Duration};

use crate::{
    auth::{Authenticator, SessionRef},
    ending::Ending,
    gateway::{
        connections::{LocalConnections, local::LocalConnection},
        tasks::Tasks,
    },
};

/// Looks at the sessions of this node's connections.
pub(crate) struct SessionRecheck {
    auth: Authenticator,
    connections: Arc<LocalConnections>,
}

impl SessionRecheck {
    /// Looks at all sessions each time that `every` has passed, until the node stops.
    pub(crate) fn start(
        auth: Authenticator,
        connections: Arc<LocalConnections>,
        every: Duration,
        tasks: &Tasks,
    ) {
        let recheck = Arc::new(Self { auth, connections });
        tasks.supervise("a look at the sessions", move || recheck.clone().run(every));
    }

    async fn run(self: Arc<Self>, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.recheck().await;
        }
    }

    /// Ends the connections whose sessions are over, or another user's or role's.
    async fn recheck(&self) {
        let connections: Vec<Arc<LocalConnection>> = self.connections.table.all();
        let identities: Vec<_> = connections
            .into_iter()
            .filter_map(|connection| Some((connection.shown()?, connection)))
            .collect();
        let sessions: Vec<_> = identities
            .iter()
            .filter_map(|(identity, connection)| match &identity.session {
                Some(SessionRef::Cookie(id)) => Some((id.clone(), identity.as_ref(), connection)),
                _ => None,
            })
            .collect();
        if sessions.is_empty() {
            return;
        }
        let asked: Vec<_> = sessions
            .iter()
            .map(|(id, identity, _)| (id.clone(), *identity))
            .collect();
        match self.auth.recheck(&asked).await {
            Ok(over) => {
                let ended: Vec<_> = over.into_iter().map(|at| sessions[at].2.clone()).collect();
                self.connections
                    .end_all(&ended, &Ending::of(Ending::SESSION_ENDED));
            }
            // Nobody is ended for a store that is away; the next look finds what this one could not.
            Err(error) => tracing::warn!(%error, "can't look at the sessions"),
        }
    }
}
