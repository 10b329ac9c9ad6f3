//! The work of one connection for an application's handlers and for backends: its events, in the order in which they came, and
//! then its end.
//!
//! It is a queue beside that of Switchboard's own verbs, so that a slow handler holds up none of those. The task that works it
//! off lives only while there is something in it. It begins with `ready`: what a client has sent before waits.

use std::sync::Arc;

use parking_lot::Mutex;
use socketioxide::{extract::AckSender, handler::Value as Packet, socket::Socket};

use super::{
    Lanes,
    queue::{Bounds, Queue},
};
use crate::gateway::{
    application::OnEvent,
    connections::local::{ConnectionObserver, LocalConnection},
};
use crate::{connection::ConnectionId, transport::engine::Adapter};

/// An event that waits for an application's handler, as it came.
pub(crate) struct QueuedEvent {
    pub(crate) handler: OnEvent,
    pub(crate) name: String,
    pub(crate) packet: Packet,
    /// None where the client waits for no answer.
    pub(crate) ack: Option<AckSender<Adapter>>,
    pub(crate) socket: Arc<Socket<Adapter>>,
}

enum Work {
    Event(Box<QueuedEvent>),
    /// The connection is gone, for this reason.
    Gone(Arc<LocalConnection>, &'static str),
}

/// What waits for an application's handlers, of one connection.
pub(crate) struct Lane {
    lanes: Arc<Lanes>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: Queue<Work>,
    /// The connection whose end is to be told. Changes when a guest becomes a user.
    whose: Option<ConnectionId>,
    /// Whether the client has been told that it is connected.
    open: bool,
}

impl Lane {
    /// A lane of a connection that is about to come.
    pub(super) fn new(lanes: Arc<Lanes>) -> Arc<Self> {
        Arc::new(Self {
            lanes,
            state: Mutex::default(),
        })
    }

    /// The application is asked about the connection: it is to hear of its end.
    pub(crate) fn expect(&self, id: &ConnectionId) {
        self.state.lock().whose = Some(id.clone());
    }

    /// The application has refused the connection: it is told nothing more of it.
    pub(crate) fn forget(&self) {
        self.state.lock().whose = None;
    }

    /// Begins the work: the client has been told that it is connected.
    pub(crate) fn open(self: &Arc<Self>, id: &ConnectionId) {
        let mut state = self.state.lock();
        state.open = true;
        // A guest may have become a user already.
        state.whose.get_or_insert_with(|| id.clone());
        self.begin(&mut state);
    }

    /// Takes an event in. Returns false if no more may wait.
    pub(crate) fn push(
        self: &Arc<Self>,
        event: QueuedEvent,
        bytes: usize,
        bounds: &Bounds,
    ) -> bool {
        let mut state = self.state.lock();
        let work = Work::Event(Box::new(event));
        let taken = state.queue.push(work, bytes, bounds);
        self.begin(&mut state);
        taken
    }

    fn begin(self: &Arc<Self>, state: &mut State) {
        if state.open && state.queue.begin() {
            let work = self.clone().work_off();
            self.lanes.running.spawn(work);
        }
    }

    async fn work_off(self: Arc<Self>) {
        loop {
            let Some(work) = self.state.lock().queue.pop() else {
                return;
            };
            match work {
                Work::Event(event) => self.lanes.hand_over(*event).await,
                Work::Gone(connection, reason) => self.lanes.tell_gone(connection, reason).await,
            }
        }
    }
}

impl ConnectionObserver for Lane {
    fn passed_on(&self, id: &ConnectionId) {
        self.state.lock().whose = Some(id.clone());
    }

    /// The end is told behind the connection's events, once. Of one that was never told that it is connected, events are left out.
    fn gone(self: Arc<Self>, connection: &Arc<LocalConnection>, reason: &'static str) {
        let mut state = self.state.lock();
        let told = self.lanes.application.on_disconnect().is_some();
        if !told || state.whose.as_ref() != Some(&connection.id) {
            return;
        }
        state.whose = None;
        if !std::mem::replace(&mut state.open, true) {
            state.queue = Queue::default();
        }
        let gone = Work::Gone(connection.clone(), reason);
        state.queue.push_anyway(gone, 0);
        self.begin(&mut state);
    }
}
