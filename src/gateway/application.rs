//! What is asked of an application about the clients of its node: when one comes, says an event, is gone.
//!
//! The gateway knows these handlers and not whose they are: those of a program ([`handlers`](super::handlers)) are made above the
//! gateway, which they may use. A call to a backend is a handler of an event too.

use std::{collections::HashMap, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use serde_json::json;

use super::{
    arg::{Arg, Greeting},
    connections::local::LocalConnection,
};
use crate::{connection::Connection, ending::Ending};

/// What an application does about its clients. The default: nothing.
#[derive(Clone, Default)]
pub struct Application {
    /// By namespace, then by event.
    events: HashMap<String, HashMap<String, OnEvent>>,
    /// By namespace.
    connect: HashMap<String, OnConnect>,
    disconnect: Option<OnDisconnect>,
    without_ready: bool,
}

impl Application {
    /// Sets the handler of an event. Returns false if there was one.
    pub(super) fn set_on_event(&mut self, namespace: &str, event: &str, handler: OnEvent) -> bool {
        let events = self.events.entry(namespace.to_owned()).or_default();
        events.insert(event.to_owned(), handler).is_none()
    }

    /// Sets what decides on a namespace's newcomers. Returns false if something did.
    pub(super) fn set_on_connect(&mut self, namespace: &str, handler: OnConnect) -> bool {
        self.connect.insert(namespace.to_owned(), handler).is_none()
    }

    /// Sets what is told of connections that are gone. Returns false if something was.
    pub(super) fn set_on_disconnect(&mut self, handler: OnDisconnect) -> bool {
        self.disconnect.replace(handler).is_none()
    }

    /// Sends clients no `ready`.
    pub(super) fn leave_out_ready(&mut self) {
        self.without_ready = true;
    }

    /// The namespaces and, where it is one's, the events that there are handlers of.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let connect = self.connect.keys().map(|namespace| (&**namespace, None));
        let events = self.events.iter().flat_map(|(namespace, events)| {
            let events = events.keys();
            events.map(|event| (&**namespace, Some(&**event)))
        });
        connect.chain(events)
    }

    /// Whether clients get `ready`.
    pub(super) fn says_ready(&self) -> bool {
        !self.without_ready
    }

    /// The handler that decides on a namespace's newcomers; none if all are let in.
    pub(super) fn on_connect(&self, namespace: &str) -> Option<&OnConnect> {
        self.connect.get(namespace)
    }

    /// The handler of a client's event; none if the application does not take it.
    pub(super) fn on_event(&self, namespace: &str, event: &str) -> Option<&OnEvent> {
        self.events.get(namespace)?.get(event)
    }

    /// The handler that is told of connections that are gone; none if the application does not ask.
    pub(super) fn on_disconnect(&self) -> Option<&OnDisconnect> {
        self.disconnect.as_ref()
    }
}

/// An async function of an application's.
pub(super) type Handler<I, O> =
    Arc<dyn Fn(I) -> BoxFuture<'static, anyhow::Result<O>> + Send + Sync>;

/// Decides on a newcomer by `auth` of its handshake: events that greet it, or the message of its `connect_error`.
pub(super) type OnConnect = Handler<(Arc<LocalConnection>, Arg), Result<Vec<Greeting>, Arc<str>>>;

/// Handles an event of a client's.
pub(super) type OnEvent = Handler<ReceivedEvent, Reply>;

/// Hears that a connection is gone; the reason is that of the metric of disconnects.
pub(super) type OnDisconnect = Handler<(Arc<LocalConnection>, &'static str), ()>;

/// Makes a handler of an async function.
pub(super) fn handler_of<I, O, F, Fut>(handler: F) -> Handler<I, O>
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

/// An event that a client has sent.
pub(super) struct ReceivedEvent {
    /// The connection that it came over.
    pub(crate) local: Arc<LocalConnection>,
    /// That connection as the registry and the API show it.
    pub(crate) connection: Connection,
    /// The event's name.
    pub(crate) name: String,
    /// The event's arguments.
    pub(crate) args: Vec<Arg>,
    /// Whether the client waits for an answer.
    pub(crate) wants_ack: bool,
}

/// What a client is told whose event has no answer because its handler failed.
const UNAVAILABLE: &str = "Unavailable";

/// What becomes of an event.
#[derive(Default)]
pub(super) struct Reply {
    /// The arguments of the acknowledgement, if the client waits for one.
    pub(crate) args: Vec<Arg>,
    /// How the connection ends, behind the acknowledgement.
    pub(crate) ending: Option<Ending>,
}

impl Reply {
    /// `{ok: false, error}`.
    pub(super) fn refused(error: &str) -> Self {
        Self::from(vec![json!({ "ok": false, "error": error }).into()])
    }

    /// That nobody could handle the event.
    pub(super) fn unavailable() -> Self {
        Self::refused(UNAVAILABLE)
    }
}

impl From<Vec<Arg>> for Reply {
    fn from(args: Vec<Arg>) -> Self {
        Self { args, ending: None }
    }
}
