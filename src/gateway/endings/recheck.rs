//! Connections that came in by a session cookie live as long as the session does: it is looked at again, in batches.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;

use crate::gateway::{Inner, connections::local::LocalConnection};
use crate::{auth::SessionRef, ending::Ending};

impl Inner {
    /// Looks at the sessions again and again, until the node is gone.
    pub(in crate::gateway) async fn recheck_sessions(self: Arc<Self>, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let looked = AssertUnwindSafe(self.recheck()).catch_unwind();
            if looked.await.is_err() {
                tracing::error!("a look at the sessions panicked");
            }
        }
    }

    /// Ends the connections whose sessions are over, or another user's or role's.
    async fn recheck(self: &Arc<Self>) {
        let connections: Vec<Arc<LocalConnection>> = self.table.all();
        let identities: Vec<_> = connections
            .into_iter()
            .filter_map(|connection| Some((connection.identity()?, connection)))
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
                self.end_all(&ended, &Ending::of(Ending::SESSION_ENDED));
            }
            // Nobody is ended for a store that is away; the next look finds what this one could not.
            Err(error) => tracing::warn!(%error, "can't look at the sessions"),
        }
    }
}
