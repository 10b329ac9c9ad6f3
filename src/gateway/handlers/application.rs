//! Runs an application's handlers: on a newcomer, on an event, on a connection that is gone.

use std::{
    fmt::Display,
    sync::{Arc, OnceLock, Weak},
};

use socketioxide::handler::Value as Packet;

use super::{
    ClientEvent, Decision, Departed, EmitError, Handlers, Newcomer, Reply,
    lane::{Lane, QueuedEvent},
};
use crate::{
    config::RunningConfig,
    connection::NodeId,
    gateway::{
        Composition, Gateway,
        arg::{Arg, Arguments, Greeting, arguments},
        connections::local::{CurrentConnection, LocalConnection, NotSent},
        message::is_sendable,
        refusal::Refusal,
        tasks::contain_async,
    },
    metrics::Metrics,
};

/// What a client is told whose event can't be read.
const INVALID: &str = "Invalid arguments";

/// Runs an application's handlers.
pub(crate) struct Application {
    /// What it handles.
    pub(crate) handlers: Handlers,
    node_id: NodeId,
    config: RunningConfig,
    metrics: Metrics,
    /// For the handlers, which may ask the node for anything; set once it is built. Weak: the node owns this.
    node: OnceLock<Weak<Composition>>,
}

impl Application {
    /// Runs these handlers, once [`Application::serve`] has been called.
    pub(crate) fn new(
        handlers: Handlers,
        node_id: NodeId,
        config: RunningConfig,
        metrics: Metrics,
    ) -> Self {
        Self {
            handlers,
            node_id,
            config,
            metrics,
            node: OnceLock::new(),
        }
    }

    /// Gives this node to the handlers, as [`Gateway`].
    pub(crate) fn serve(&self, node: &Arc<Composition>) {
        self.node.set(Arc::downgrade(node)).ok();
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
        mut auth: Arg,
    ) -> Result<Vec<Greeting>, Refusal> {
        let Some(handler) = self.handlers.connect(&connection.namespace) else {
            return Ok(Vec::new());
        };
        if let (Some(_), Arg::Object(fields)) = (connection.user(), &mut auth) {
            fields.retain(|(name, _)| name != "token");
        }
        let deciding = handler(Newcomer {
            gateway: self.gateway().ok_or(Refusal::Unavailable)?,
            connection: connection.record(&self.node_id),
            identity: connection.identity(),
            auth,
        });
        let deciding = contain_async("on_connect", &connection.id, deciding);
        lane.expect(&connection.id);
        let patience = self.config.now().limits.handshake_timeout;
        let decided = tokio::select! {
            decided = tokio::time::timeout(patience, deciding) => decided,
            () = connection.session.over() => return Err(undecided(connection, "its client has gone")),
        };
        match decided {
            Ok(Some(Ok(Decision(Ok(greetings))))) => {
                match greetings.iter().find(|it| !is_sendable(&it.event)) {
                    None => Ok(greetings),
                    Some(greeting) => {
                        let error = format!("{}: {}", greeting.event, EmitError::Reserved);
                        Err(undecided(connection, &error))
                    }
                }
            }
            Ok(Some(Ok(Decision(Err(message))))) => {
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
    pub(super) async fn hand_over(self: &Arc<Self>, event: QueuedEvent) {
        // As it is by now: a guest may have become a user. What a client has sent before it left is handled; what one has sent
        // that was ended from this side is not.
        let current = || event.socket.extensions.get::<CurrentConnection>();
        let (Some(CurrentConnection(connection)), Some(gateway)) = (current(), self.gateway())
        else {
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
                let running = (event.handler)(ClientEvent {
                    gateway: gateway.clone(),
                    connection: connection.record(&self.node_id),
                    identity: connection.identity(),
                    name: event.name.clone(),
                    args,
                    wants_ack: event.wants_ack,
                    local: connection.clone(),
                    application: self.clone(),
                });
                run("a handler of the application", &subject, running)
                    .await
                    .unwrap_or_else(Reply::unavailable)
            }
        };
        // A guest may have become a user meanwhile.
        let connection = current().map_or(connection, |current| current.0);
        if event.wants_ack {
            connection
                .answer(event.ack, Arguments(&args), self.send_queue_bytes())
                .unwrap_or_else(|error| error.count(&self.metrics));
        }
        if let Some(ending) = ending {
            let connections = &gateway.inner.connections;
            connections.end_all(&[connection], &ending);
        }
    }

    /// Runs the handler of disconnects.
    pub(super) async fn tell_gone(&self, connection: &Arc<LocalConnection>, reason: &'static str) {
        let (Some(handler), Some(gateway)) = (self.handlers.disconnect(), self.gateway()) else {
            return;
        };
        let running = handler(Departed {
            gateway,
            connection: connection.record(&self.node_id),
            reason,
            ending: connection.ending().cloned(),
        });
        let what = "the application's handler of disconnects";
        run(what, &connection.id, running).await;
    }

    /// Sends an event to a connection.
    pub(super) fn emit(
        &self,
        connection: &LocalConnection,
        event: &str,
        args: &[Arg],
    ) -> Result<(), EmitError> {
        self.metrics.messages_sent("connection").increment(1);
        let args = Arguments(args);
        let weight = event.len() + args.weight();
        match connection.emit(event, &args, weight, self.send_queue_bytes()) {
            Ok(()) => {
                let delivered = self.metrics.messages_delivered("connection");
                delivered.increment(1);
                Ok(())
            }
            Err(NotSent::Full) => {
                NotSent::Full.count(&self.metrics);
                Err(EmitError::Full)
            }
            Err(NotSent::Arriving | NotSent::Gone) => Err(EmitError::Gone),
        }
    }

    /// How many bytes may wait for one client.
    fn send_queue_bytes(&self) -> usize {
        self.config.now().limits.send_queue_bytes.as_u64() as usize
    }

    /// The face of the node, as handlers get it; none while the node is being built or has been dropped.
    fn gateway(&self) -> Option<Gateway> {
        let inner = self.node.get()?.upgrade()?;
        Some(Gateway { inner })
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
