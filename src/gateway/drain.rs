//! How a node goes: its clients are sent to the others at a pace that those can take.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use derive_more::Constructor;
use rand::seq::SliceRandom;
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    connections::{LocalConnections, local::LocalConnection},
    lanes::Lanes,
    membership::heartbeats::Heartbeats,
    readiness::Readiness,
};
use crate::{config::RunningConfig, ending::Ending, transport::SessionId};

/// The longest pause between two sessions: a node with few clients does not take all of its window for them.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How long the last connections get to be closed and out of the registry.
const LAST: Duration = Duration::from_secs(5);

/// Sends this node's clients away.
#[derive(Constructor)]
pub(super) struct Drain {
    config: RunningConfig,
    readiness: Arc<Readiness>,
    connections: Arc<LocalConnections>,
    heartbeats: Arc<Heartbeats>,
    lanes: Arc<Lanes>,
}

impl Drain {
    /// Sends every client away, spread over `drain.window`, and gives up the node's lease.
    pub(super) async fn run(&self) {
        self.readiness.set_draining();
        self.heartbeats.hurry();
        tokio::time::sleep(self.config.now().drain.delay).await;

        let ending = Ending::of(Ending::SHUTTING_DOWN);
        let mut sessions = self.sessions();
        tracing::info!(sessions = sessions.len(), "draining");
        sessions.shuffle(&mut rand::rng());
        let pause = self.pause(sessions.len());
        let mut ticks = tokio::time::interval(pause.max(Duration::from_nanos(1)));
        // A tick that came late is made up for, so that the window holds.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut gone = Vec::new();
        for connections in sessions {
            ticks.tick().await;
            // As they are by now: a namespace joined meanwhile and left out would need its transport, and the others would be
            // told to stay away.
            let connections = connections
                .first()
                .map(|connection| self.connections.table.of_session(connection.session.id))
                .unwrap_or_default();
            self.connections.end_all(&connections, &ending);
            gone.extend(connections);
        }
        // Those that were in the middle of their handshake.
        for connections in self.sessions() {
            self.connections.end_all(&connections, &ending);
            gone.extend(connections);
        }
        let deadline = Instant::now() + LAST;
        for connection in gone {
            if tokio::time::timeout_at(deadline, connection.closed())
                .await
                .is_err()
            {
                tracing::warn!(connection = %connection.id, "not confirmed as closed");
            }
        }
        self.lanes.finish().await;
        self.heartbeats.leave(LAST).await;
    }

    fn pause(&self, sessions: usize) -> Duration {
        match u32::try_from(sessions) {
            Ok(0) | Err(_) => Duration::ZERO,
            Ok(sessions) => (self.config.now().drain.window / sessions).min(MAX_PAUSE),
        }
    }

    /// The connections of this node, by session.
    fn sessions(&self) -> Vec<Vec<Arc<LocalConnection>>> {
        let mut sessions: BTreeMap<SessionId, Vec<Arc<LocalConnection>>> = BTreeMap::new();
        for connection in self.connections.table.all() {
            sessions
                .entry(connection.session.id)
                .or_default()
                .push(connection);
        }
        sessions.into_values().collect()
    }
}
