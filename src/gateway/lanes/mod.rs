//! Runs what an application and backends do about clients: on a newcomer, on an event, on a connection that is gone.
//!
//! A connection has a `lane`, in which its events are handled in order; `queue` bounds what waits.

mod lane;
mod queue;

use std::{fmt::Display, sync::Arc, time::Duration};

use socketioxide::handler::Value as Packet;
use tokio_util::task::TaskTracker;

pub(super) use self::{
    lane::{Lane, QueuedEvent},
    queue::{Bounds, Queue},
};
use super::{
    application::{Application, ReceivedEvent, Reply},
    arg::{Arg, Arguments, Greeting, arguments},
    connections::{
        LocalConnections,
        local::{CurrentConnection, LocalConnection},
    },
    refusal::Refusal,
    tasks::contain_async,
};
use crate::{config::RunningConfig, connection::NodeId, metrics::Metrics};

/// How long the last handlers get when the node ends.
const LAST: Duration = Duration::from_secs(5);

/// What a client is told whose event can't be read.
const INVALID: &str = "Invalid arguments";

/// The lanes of this node's connections.
pub(crate) struct Lanes {
    pub(crate) application: Application,
    node_id: NodeId,
    config: RunningConfig,
    metrics: Metrics,
    connections: Arc<LocalConnections>,
    /// The tasks that work lanes off.
    running: TaskTracker,
}

impl Lanes {
    /// Runs the handlers of this application.
    pub(super) fn new(
        application: Application,
        node_id: NodeId,
        config: RunningConfig,
        metrics: Metrics,
        connections: Arc<LocalConnections>,
    ) -> Self {
        Self {
            application,
            node_id,
            config,
            metrics,
            connections,
            running: TaskTracker::new(),
        }
    }

    /// The lane of a connection that is about to come. Each has one: a reload may bring a backend that takes its events.
    pub(crate) fn lane(self: &Arc<Self>) -> Arc<Lane> {
        Lane::new(self.clone())
    }

    /// Lets the application decide on a newcomer. Returns what greets it.
    pub(crate) async fn decide(
        &self,
        connection: &Arc<LocalConnection>,
        lane: &Lane,
        auth: Arg,
    ) -> Result<Vec<Greeting>, Refusal> {
        let Some(handler) = self.application.on_connect(&connection.namespace) else {
            return Ok(Vec::new());
        };
        let deciding = handler((connection.clone(), auth));
        let deciding = contain_async("on_connect", &connection.id, deciding);
        lane.expect(&connection.id);
        let patience = self.config.now().limits.handshake_timeout;
        let decided = tokio::select! {
            decided = tokio::time::timeout(patience, deciding) => decided,
            () = connection.session.over() => return Err(undecided(connection, "its client has gone")),
        };
        match decided {
            Ok(Some(Ok(Ok(greetings)))) => Ok(greetings),
            Ok(Some(Ok(Err(message)))) => {
                lane.forget();
                Err(Refusal::Application(message))
            }
            Ok(Some(Err(error))) => Err(undecided(connection, &format!("{error:#}"))),
            Ok(None) => Err(undecided(connection, "it panicked")),
            Err(_) => Err(undecided(
                connection,
                "it took longer than limits.handshake_timeout",
            )),
        }
    }

    /// Runs the handler of an event, and sends its answer.
    async fn hand_over(&self, event: QueuedEvent) {
        // As it is by now: a guest may have become a user. What a client has sent before it left is handled; what one has sent
        // that was ended from this side is not.
        let current = || event.socket.extensions.get::<CurrentConnection>();
        let Some(CurrentConnection(connection)) = current() else {
            return;
        };
        if connection.ending().is_some() {
            return;
        }
        let args = match &event.packet {
            Packet::Str(text, attachments) => arguments(text.as_str(), attachments.as_ref()),
            Packet::Bytes(_) => None,
        };
        let Reply { args, ending } = match args {
            None => Reply::refused(INVALID),
            Some(args) => {
                let subject = format!("{} of {}", event.name, connection.id);
                let running = (event.handler)(ReceivedEvent {
                    local: connection.clone(),
                    connection: connection.record(&self.node_id),
                    name: event.name,
                    args,
                    wants_ack: event.ack.is_some(),
                });
                run("a handler of the application", &subject, running)
                    .await
                    .unwrap_or_else(Reply::unavailable)
            }
        };
        // A guest may have become a user meanwhile.
        let connection = current().map_or(connection, |current| current.0);
        if let Some(ack) = event.ack {
            connection
                .answer(ack, Arguments(&args), self.connections.send_queue_bytes())
                .unwrap_or_else(|error| error.count(&self.metrics));
        }
        if let Some(ending) = ending {
            self.connections.end_all(&[connection], &ending);
        }
    }

    /// Runs the handler of disconnects.
    async fn tell_gone(&self, connection: Arc<LocalConnection>, reason: &'static str) {
        let Some(handler) = self.application.on_disconnect() else {
            return;
        };
        let id = connection.id.clone();
        let what = "the application's handler of disconnects";
        run(what, &id, handler((connection, reason))).await;
    }

    /// Waits until all handlers that are due have run, or for 5 s.
    pub(super) async fn finish(&self) {
        self.running.close();
        if tokio::time::timeout(LAST, self.running.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                running = self.running.len(),
                "handlers of the application have not ended in time"
            );
        }
    }
}

/// Runs a handler, and logs its failure: as `what`, of `subject`. Returns none if it failed.
async fn run<T>(
    what: &'static str,
    subject: impl Display,
    handler: impl Future<Output = anyhow::Result<T>>,
) -> Option<T> {
    let done = contain_async(what, &subject, handler).await?;
    done.map_err(|error| {
        let error = format!("{error:#}");
        tracing::warn!(%subject, error, "{what} failed");
    })
    .ok()
}

/// The application has not decided on a newcomer: its client is to come again.
fn undecided(connection: &Arc<LocalConnection>, error: &str) -> Refusal {
    let namespace = &connection.namespace;
    tracing::warn!(%namespace, error, "the application's on_connect has not decided on a client");
    connection.tell_observer_gone("unavailable");
    Refusal::Unavailable
}
