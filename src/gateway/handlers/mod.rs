//! An application's handlers: what [`Builder`](crate::Builder) takes, and what each of them gets.
//!
//! `application` runs them, `lane` those of one connection's events in order, and `queue` bounds what waits for them.

pub(super) mod application;
pub(super) mod lane;
pub(super) mod queue;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use serde_json::json;
use tokio_util::task::TaskTracker;

pub use super::arg::{Arg, Mismatch};

use self::application::Application;
#[cfg(doc)]
use crate::gateway::RESERVED_EVENTS;
use crate::gateway::{
    Gateway, arg::Greeting, connections::local::LocalConnection, message::is_sendable,
};
use crate::{auth::Identity, connection::Connection, ending::Ending};

/// How long the last handlers get when the node ends.
const LAST: Duration = Duration::from_secs(5);

type Handler<I, O> = Arc<dyn Fn(I) -> BoxFuture<'static, anyhow::Result<O>> + Send + Sync>;

/// A handler of an event.
pub(in crate::gateway) type OnEvent = Handler<ClientEvent, Reply>;

/// What a client is told whose event has no answer because its handler failed.
const UNAVAILABLE: &str = "Unavailable";

/// What becomes of an event.
#[derive(Default)]
pub(in crate::gateway) struct Reply {
    /// The arguments of the acknowledgement, if the client waits for one.
    pub(in crate::gateway) args: Vec<Arg>,
    /// How the connection ends, behind the acknowledgement.
    pub(in crate::gateway) ending: Option<Ending>,
}

impl Reply {
    /// `{ok: false, error}`.
    pub(in crate::gateway) fn refused(error: &str) -> Self {
        Self::from(vec![json!({ "ok": false, "error": error }).into()])
    }

    /// That nobody could handle the event.
    pub(in crate::gateway) fn unavailable() -> Self {
        Self::refused(UNAVAILABLE)
    }
}

impl From<Vec<Arg>> for Reply {
    fn from(args: Vec<Arg>) -> Self {
        Self { args, ending: None }
    }
}

/// Makes a handler of events.
pub(in crate::gateway) fn handler_of<F, Fut>(handler: F) -> OnEvent
where
    F: Fn(ClientEvent) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<Reply>> + Send + 'static,
{
    boxed(handler)
}

/// An application's handlers. The default: none.
#[derive(Clone, Default)]
pub struct Handlers {
    /// By namespace, then by event.
    events: HashMap<String, HashMap<String, OnEvent>>,
    connect: HashMap<String, Handler<Newcomer, Decision>>,
    disconnect: Option<Handler<Departed, ()>>,
    without_ready: bool,
    /// The tasks that work lanes off.
    pub(in crate::gateway) running: TaskTracker,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}

fn boxed<I, O, F, Fut>(handler: F) -> Handler<I, O>
where
    F: Fn(I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<O>> + Send + 'static,
    I: Send + 'static,
    O: 'static,
{
    // Called within the future: a panic before its first await is then one of the future.
    let handler = Arc::new(handler);
    Arc::new(move |input| {
        let handler = handler.clone();
        async move { handler(input).await }.boxed()
    })
}

impl Handlers {
    /// Sets the handler of an event. Returns false if there was one.
    pub(crate) fn on_event<F, Fut>(&mut self, namespace: &str, event: &str, handler: F) -> bool
    where
        F: Fn(ClientEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Vec<Arg>>> + Send + 'static,
    {
        let events = self.events.entry(namespace.to_owned()).or_default();
        let handler = Arc::new(handler);
        let handler = handler_of(move |event| {
            let handler = handler.clone();
            async move { handler(event).await.map(Reply::from) }
        });
        events.insert(event.to_owned(), handler).is_none()
    }

    /// Sets what decides on a namespace's newcomers. Returns false if something did.
    pub(crate) fn on_connect<F, Fut>(&mut self, namespace: &str, handler: F) -> bool
    where
        F: Fn(Newcomer) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Decision>> + Send + 'static,
    {
        let handler = boxed(handler);
        self.connect.insert(namespace.to_owned(), handler).is_none()
    }

    /// Sets what is told of connections that are gone. Returns false if something was.
    pub(crate) fn on_disconnect<F, Fut>(&mut self, handler: F) -> bool
    where
        F: Fn(Departed) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.disconnect.replace(boxed(handler)).is_none()
    }

    /// Sends clients no `ready`.
    pub(crate) fn leave_out_ready(&mut self) {
        self.without_ready = true;
    }

    /// The namespaces and, where it is one's, the events that there are handlers of.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let connect = self.connect.keys().map(|namespace| (&**namespace, None));
        let events = self.events.iter().flat_map(|(namespace, events)| {
            let events = events.keys();
            events.map(|event| (&**namespace, Some(&**event)))
        });
        connect.chain(events)
    }

    /// Whether clients get `ready`.
    pub(in crate::gateway) fn says_ready(&self) -> bool {
        !self.without_ready
    }

    pub(in crate::gateway) fn event(&self, namespace: &str, event: &str) -> Option<&OnEvent> {
        self.events.get(namespace)?.get(event)
    }

    pub(in crate::gateway) fn connect(
        &self,
        namespace: &str,
    ) -> Option<&Handler<Newcomer, Decision>> {
        self.connect.get(namespace)
    }

    pub(in crate::gateway) fn disconnect(&self) -> Option<&Handler<Departed, ()>> {
        self.disconnect.as_ref()
    }

    /// Waits until all handlers that are due have run, or for 5 s.
    pub(in crate::gateway) async fn finish(&self) {
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
    pub(in crate::gateway) local: Arc<LocalConnection>,
    application: Arc<Application>,
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
        self.application.emit(&self.local, event, args)
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
pub struct Decision(pub(in crate::gateway) Result<Vec<Greeting>, Arc<str>>);

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

impl fmt::Debug for Departed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departed")
            .field("connection", &self.connection)
            .field("reason", &self.reason)
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}
