//! The work of one connection for an application's handlers: its events, in the order in which they came, and then its end.
//!
//! It is a queue beside that of Switchboard's own verbs, so that a slow handler holds up none of those. The task that works it
//! off lives only while there is something in it. It begins with `ready`: what a client has sent before waits.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use parking_lot::Mutex;
use serde_json::json;
use socketioxide::{extract::AckSender, handler::Value as Packet, socket::Socket};

use super::{
    Gateway, Inner,
    connect::Current,
    handlers::{Arg, Arguments, ClientEvent, Departed, OnEvent, arguments},
    live::Live,
    queue::{Bounds, Queue},
};
use crate::{connection::ConnectionId, transport::engine::Adapter};

/// What a client is told whose event has no answer because its handler failed.
const UNAVAILABLE: &str = "Unavailable";

/// What a client is told whose event can't be read.
const INVALID: &str = "Invalid arguments";

/// An event that waits for an application's handler, as it came.
pub(super) struct Awaiting {
    pub(super) handler: OnEvent,
    pub(super) name: String,
    pub(super) packet: Packet,
    pub(super) ack: AckSender<Adapter>,
    pub(super) wants_ack: bool,
    pub(super) socket: Arc<Socket<Adapter>>,
}

enum Work {
    Event(Box<Awaiting>),
    /// The connection is gone, for this reason.
    Gone(Arc<Live>, &'static str),
}

/// What waits for an application's handlers, of one connection.
#[derive(Default)]
pub(super) struct Lane(Mutex<State>);

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
    pub(super) fn expect(&self, id: &ConnectionId) {
        self.0.lock().whose = Some(id.clone());
    }

    /// The application has refused the connection: it is told nothing more of it.
    pub(super) fn forget(&self) {
        self.0.lock().whose = None;
    }

    /// Begins the work: the client has been told that it is connected.
    pub(super) fn open(self: &Arc<Self>, gateway: &Arc<Inner>, id: &ConnectionId) {
        let mut state = self.0.lock();
        state.open = true;
        // A guest may have become somebody already.
        state.whose.get_or_insert_with(|| id.clone());
        self.begin(gateway, &mut state);
    }

    /// A guest's client goes on as this connection.
    pub(super) fn pass_on(&self, id: &ConnectionId) {
        self.0.lock().whose = Some(id.clone());
    }

    /// Takes an event in. Returns false if no more may wait.
    pub(super) fn push(
        self: &Arc<Self>,
        gateway: &Arc<Inner>,
        event: Awaiting,
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
    pub(super) fn close(
        self: &Arc<Self>,
        gateway: &Arc<Inner>,
        live: &Arc<Live>,
        reason: &'static str,
    ) {
        let mut state = self.0.lock();
        if state.whose.as_ref() != Some(&live.id) {
            return;
        }
        state.whose = None;
        if !std::mem::replace(&mut state.open, true) {
            state.queue = Queue::default();
        }
        let gone = Work::Gone(live.clone(), reason);
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
                Work::Gone(live, reason) => gateway.tell_gone(&live, reason).await,
            }
        }
    }
}

impl Inner {
    /// Runs the handler of an event, and sends its answer.
    async fn hand_over(self: &Arc<Self>, event: Awaiting) {
        // As it is by now: a guest may have become somebody. What a client has sent before it left is handled; what one has sent
        // that was ended from this side is not.
        let Some(Current(live)) = event.socket.extensions.get::<Current>() else {
            return;
        };
        if live.ending().is_some() {
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
                    connection: live.record(&self.node_id),
                    identity: live.identity(),
                    name: name.clone(),
                    args,
                    wants_ack: event.wants_ack,
                    live: live.clone(),
                });
                match AssertUnwindSafe(running).catch_unwind().await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(error)) => {
                        let error = format!("{error:#}");
                        tracing::warn!(connection = %live.id, event = name, error, "a handler of the application failed");
                        vec![refused(UNAVAILABLE)]
                    }
                    Err(_) => {
                        tracing::error!(connection = %live.id, event = name, "a handler of the application panicked");
                        vec![refused(UNAVAILABLE)]
                    }
                }
            }
        };
        if event.wants_ack {
            live.answer(event.ack, Arguments(&answer), self.send_queue_bytes())
                .unwrap_or_else(|error| self.dropped(error));
        }
    }

    async fn tell_gone(self: &Arc<Self>, live: &Arc<Live>, reason: &'static str) {
        let Some(handler) = self.handlers.disconnect() else {
            return;
        };
        let running = handler(Departed {
            gateway: Gateway {
                inner: self.clone(),
            },
            connection: live.record(&self.node_id),
            reason,
            ending: live.ending().cloned(),
        });
        match AssertUnwindSafe(running).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = format!("{error:#}");
                tracing::warn!(connection = %live.id, error, "the application's handler of disconnects failed");
            }
            Err(_) => {
                tracing::error!(connection = %live.id, "the application's handler of disconnects panicked");
            }
        }
    }
}

/// What the acknowledgement of an event says that was not handled.
fn refused(error: &str) -> Arg {
    json!({ "ok": false, "error": error }).into()
}
