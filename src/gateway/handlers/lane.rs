//! The work of one connection for an application's handlers: its events, in the order in which they came, and then its end.
//!
//! It is a queue beside that of Switchboard's own verbs, so that a slow handler holds up none of those. The task that works it
//! off lives only while there is something in it. It begins with `ready`: what a client has sent before waits.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use parking_lot::Mutex;
use serde_json::json;
use socketioxide::{extract::AckSender, handler::Value as Packet, socket::Socket};

use crate::gateway::{
    Gateway, Inner,
    arg::{Arg, Arguments, arguments},
    arriving::CurrentConnection,
    connections::local::LocalConnection,
    handlers::queue::{Bounds, Queue},
    handlers::{ClientEvent, Departed, OnEvent},
};
use crate::{connection::ConnectionId, transport::engine::Adapter};

/// What a client is told whose event has no answer because its handler failed.
const UNAVAILABLE: &str = "Unavailable";

/// What a client is told whose event can't be read.
const INVALID: &str = "Invalid arguments";

/// An event that waits for an application's handler, as it came.
pub(in crate::gateway) struct QueuedEvent {
    pub(in crate::gateway) handler: OnEvent,
    pub(in crate::gateway) name: String,
    pub(in crate::gateway) packet: Packet,
    pub(in crate::gateway) ack: AckSender<Adapter>,
    pub(in crate::gateway) wants_ack: bool,
    pub(in crate::gateway) socket: Arc<Socket<Adapter>>,
}

enum Work {
    Event(Box<QueuedEvent>),
    /// The connection is gone, for this reason.
    Gone(Arc<LocalConnection>, &'static str),
}

/// What waits for an application's handlers, of one connection.
#[derive(Default)]
pub(in crate::gateway) struct Lane(Mutex<State>);

#[derive(Default)]
struct State {
    queue: Queue<Work>,
    /// The connection whose end is to be told. Changes when a guest becomes somebody.
    whose: Option<ConnectionId>,
    /// Whether the client has been told that it is connected.
    open: bool,
}

impl Lane {
    /// The application is asked about the connection: it is to hear of its end.
    pub(in crate::gateway) fn expect(&self, id: &ConnectionId) {
        self.0.lock().whose = Some(id.clone());
    }

    /// The application has refused the connection: it is told nothing more of it.
    pub(in crate::gateway) fn forget(&self) {
        self.0.lock().whose = None;
    }

    /// Begins the work: the client has been told that it is connected.
    pub(in crate::gateway) fn open(self: &Arc<Self>, gateway: &Arc<Inner>, id: &ConnectionId) {
        let mut state = self.0.lock();
        state.open = true;
        // A guest may have become somebody already.
        state.whose.get_or_insert_with(|| id.clone());
        self.begin(gateway, &mut state);
    }

    /// A guest's client goes on as this connection.
    pub(in crate::gateway) fn pass_on(&self, id: &ConnectionId) {
        self.0.lock().whose = Some(id.clone());
    }

    /// Takes an event in. Returns false if no more may wait.
    pub(in crate::gateway) fn push(
        self: &Arc<Self>,
        gateway: &Arc<Inner>,
        event: QueuedEvent,
        bytes: usize,
        bounds: &Bounds,
    ) -> bool {
        let mut state = self.0.lock();
        let work = Work::Event(Box::new(event));
        let taken = state.queue.push(work, bytes, bounds);
        self.begin(gateway, &mut state);
        taken
    }

    /// The connection is gone: that is told behind its events, once. Of one that was never told that it is connected, events are
    /// left out.
    pub(in crate::gateway) fn close(
        self: &Arc<Self>,
        gateway: &Arc<Inner>,
        connection: &Arc<LocalConnection>,
        reason: &'static str,
    ) {
        let mut state = self.0.lock();
        if state.whose.as_ref() != Some(&connection.id) {
            return;
        }
        state.whose = None;
        if !std::mem::replace(&mut state.open, true) {
            state.queue = Queue::default();
        }
        let gone = Work::Gone(connection.clone(), reason);
        state.queue.push_anyway(gone, 0);
        self.begin(gateway, &mut state);
    }

    fn begin(self: &Arc<Self>, gateway: &Arc<Inner>, state: &mut State) {
        if state.open && state.queue.begin() {
            let work = self.clone().work_off(gateway.clone());
            gateway.handlers.running.spawn(work);
        }
    }

    async fn work_off(self: Arc<Self>, gateway: Arc<Inner>) {
        loop {
            let Some(work) = self.0.lock().queue.pop() else {
                return;
            };
            match work {
                Work::Event(event) => gateway.hand_over(*event).await,
                Work::Gone(connection, reason) => gateway.tell_gone(&connection, reason).await,
            }
        }
    }
}

impl Inner {
    /// Runs the handler of an event, and sends its answer.
    async fn hand_over(self: &Arc<Self>, event: QueuedEvent) {
        // As it is by now: a guest may have become somebody. What a client has sent before it left is handled; what one has sent
        // that was ended from this side is not.
        let Some(CurrentConnection(connection)) =
            event.socket.extensions.get::<CurrentConnection>()
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
        let answer = match args {
            None => vec![refused(INVALID)],
            Some(args) => {
                let name = event.name;
                let running = (event.handler)(ClientEvent {
                    gateway: Gateway {
                        inner: self.clone(),
                    },
                    connection: connection.record(&self.node_id),
                    identity: connection.identity(),
                    name: name.clone(),
                    args,
                    wants_ack: event.wants_ack,
                    local: connection.clone(),
                });
                match AssertUnwindSafe(running).catch_unwind().await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(error)) => {
                        let error = format!("{error:#}");
                        tracing::warn!(connection = %connection.id, event = name, error, "a handler of the application failed");
                        vec![refused(UNAVAILABLE)]
                    }
                    Err(_) => {
                        tracing::error!(connection = %connection.id, event = name, "a handler of the application panicked");
                        vec![refused(UNAVAILABLE)]
                    }
                }
            }
        };
        if event.wants_ack {
            connection
                .answer(event.ack, Arguments(&answer), self.send_queue_bytes())
                .unwrap_or_else(|error| self.dropped(error));
        }
    }

    async fn tell_gone(self: &Arc<Self>, connection: &Arc<LocalConnection>, reason: &'static str) {
        let Some(handler) = self.handlers.disconnect() else {
            return;
        };
        let running = handler(Departed {
            gateway: Gateway {
                inner: self.clone(),
            },
            connection: connection.record(&self.node_id),
            reason,
            ending: connection.ending().cloned(),
        });
        match AssertUnwindSafe(running).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = format!("{error:#}");
                tracing::warn!(connection = %connection.id, error, "the application's handler of disconnects failed");
            }
            Err(_) => {
                tracing::error!(connection = %connection.id, "the application's handler of disconnects panicked");
            }
        }
    }
}

/// What the acknowledgement of an event says that was not handled.
fn refused(error: &str) -> Arg {
    json!({ "ok": false, "error": error }).into()
}
