//! What a program's handlers get, and what they decide.

use std::{fmt, sync::Arc};

#[cfg(doc)]
use crate::gateway::RESERVED_EVENTS;
use crate::gateway::{
    Gateway,
    application::ReceivedEvent,
    arg::{Arg, Arguments, Greeting, Mismatch},
    connections::local::{LocalConnection, NotSent},
    message::is_sendable,
};
use crate::{auth::Identity, connection::Connection, ending::Ending};

/// An event of a client's, for a handler set with [`Builder::on_event`](crate::Builder::on_event).
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientEvent {
    /// The node's verbs: send, look up, disconnect.
    pub gateway: Gateway,
    /// Whose event it is, as the registry and the API show it, with its namespace.
    pub connection: Connection,
    /// Who the client is; none for a guest.
    pub identity: Option<Arc<Identity>>,
    /// The event's name.
    pub name: String,
    /// The event's arguments.
    pub args: Vec<Arg>,
    /// Whether the client waits for an answer.
    pub wants_ack: bool,
    local: Arc<LocalConnection>,
}

impl fmt::Debug for ClientEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientEvent")
            .field("connection", &self.connection.id)
            .field("name", &self.name)
            .field("args", &self.args)
            .field("wants_ack", &self.wants_ack)
            .finish_non_exhaustive()
    }
}

/// Why an event was not sent to the client that [`ClientEvent::emit`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmitError {
    /// The event's name is empty, or one of [`RESERVED_EVENTS`].
    #[error("an event of that name can't be sent: it is empty or reserved")]
    Reserved,
    /// The connection has ended.
    #[error("the connection has ended")]
    Gone,
    /// More waits for the client than may: the connection ends.
    #[error("too much waits for the client")]
    Full,
}

impl ClientEvent {
    pub(super) fn new(gateway: Gateway, received: ReceivedEvent) -> Self {
        Self {
            gateway,
            connection: received.connection,
            identity: received.local.identity(),
            name: received.name,
            args: received.args,
            wants_ack: received.wants_ack,
            local: received.local,
        }
    }

    /// Reads all arguments as a tuple: `let (room, text): (String, String) = event.read()?`. The arguments are as many as the
    /// tuple has elements.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] where an argument is missing, of another type, or one too many.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Mismatch> {
        Arg::List(self.args.clone()).read()
    }

    /// Sends an event to the client that this one came from, before the answer to it. To others, or from elsewhere, send with
    /// [`ClientEvent::gateway`].
    ///
    /// # Errors
    ///
    /// [`EmitError`]; the client gets nothing then.
    pub fn emit(&self, event: &str, args: &[Arg]) -> Result<(), EmitError> {
        if !is_sendable(event) {
            return Err(EmitError::Reserved);
        }
        let node = &self.gateway.inner;
        node.metrics.messages_sent("connection").increment(1);
        let args = Arguments(args);
        let weight = event.len() + args.weight();
        let limit = node.connections.send_queue_bytes();
        match self.local.emit(event, &args, weight, limit) {
            Ok(()) => {
                let delivered = node.metrics.messages_delivered("connection");
                delivered.increment(1);
                Ok(())
            }
            Err(NotSent::Full) => {
                NotSent::Full.count(&node.metrics);
                Err(EmitError::Full)
            }
            Err(NotSent::Arriving | NotSent::Gone) => Err(EmitError::Gone),
        }
    }
}

/// A client that asks for a namespace, for a handler set with [`Builder::on_connect`](crate::Builder::on_connect). Its credentials
/// are good; no other node knows of it yet.
#[derive(Clone)]
#[non_exhaustive]
pub struct Newcomer {
    /// The node's verbs: send, look up, disconnect.
    pub gateway: Gateway,
    /// What it will be in the registry and in the API, with its namespace.
    pub connection: Connection,
    /// Who the client is; none for a guest.
    pub identity: Option<Arc<Identity>>,
    /// `auth` of the client's handshake, without the token that Switchboard has verified.
    pub auth: Arg,
}

impl Newcomer {
    pub(super) fn new(gateway: Gateway, local: &LocalConnection, mut auth: Arg) -> Self {
        if let (Some(_), Arg::Object(fields)) = (local.user(), &mut auth) {
            fields.retain(|(name, _)| name != "token");
        }
        Self {
            connection: local.record(gateway.node_id()),
            identity: local.identity(),
            auth,
            gateway,
        }
    }
}

impl fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not `auth`, which may hold credentials that are the application's to verify.
        f.debug_struct("Newcomer")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

/// What becomes of a newcomer.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision(Result<Vec<Greeting>, Arc<str>>);

impl Decision {
    /// Lets it in.
    pub fn admit() -> Self {
        Self(Ok(Vec::new()))
    }

    /// Lets it in, and sends it an event right behind `ready`, before any other. Not one of [`RESERVED_EVENTS`]: that is an error
    /// of the handler's.
    pub fn greet(event: impl Into<String>, args: Vec<Arg>) -> Self {
        let event = event.into();
        Self(Ok(vec![Greeting { event, args }]))
    }

    /// Refuses it with a `connect_error` of this message. The stock client does not try again by itself.
    pub fn refuse(message: impl Into<Arc<str>>) -> Self {
        Self(Err(message.into()))
    }

    /// Returns what greets the newcomer, or the message that refuses it.
    ///
    /// # Errors
    ///
    /// A greeting that can't be sent.
    pub(super) fn checked(self) -> anyhow::Result<Result<Vec<Greeting>, Arc<str>>> {
        for greeting in self.0.iter().flatten() {
            anyhow::ensure!(
                is_sendable(&greeting.event),
                "{}: {}",
                greeting.event,
                EmitError::Reserved
            );
        }
        Ok(self.0)
    }
}

/// A connection that is gone, for a handler set with [`Builder::on_disconnect`](crate::Builder::on_disconnect).
#[derive(Clone)]
#[non_exhaustive]
pub struct Departed {
    /// The node's verbs: send, look up, disconnect.
    pub gateway: Gateway,
    /// What it was.
    pub connection: Connection,
    /// Why it is gone, in the words of the metric `switchboard_disconnects_total`: `client_disconnect`, `transport_close`,
    /// `ping_timeout`, `disconnected`, …. `unavailable`, if it never got so far as to be connected.
    pub reason: &'static str,
    /// What its client was told, if the server ended it.
    pub ending: Option<Ending>,
}

impl Departed {
    pub(super) fn new(gateway: Gateway, local: &LocalConnection, reason: &'static str) -> Self {
        Self {
            connection: local.record(gateway.node_id()),
            gateway,
            reason,
            ending: local.ending().cloned(),
        }
    }
}

impl fmt::Debug for Departed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departed")
            .field("connection", &self.connection)
            .field("reason", &self.reason)
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}
