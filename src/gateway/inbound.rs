//! What clients send: taken in the order of its arrival, one event of a connection at a time, and no more of it waiting than
//! is bounded.
//!
//! socketioxide runs a handler that is a function as a task of its own for each event, so that two events of one client
//! run side by side and in any order. [`Inbound`] implements the handler's trait itself: it is called by the reader of the
//! connection, for one packet after the other, and puts what is to be handled into a queue. The task that works the queue
//! off lives only while there is something in it. One such handler serves all events of a socket, as its fallback.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use socketioxide::{
    extract::{AckSender, Event, SocketRef, TryData},
    handler::{FromMessageParts, MessageHandler, Value as Packet},
    socket::Socket,
};

use super::{Inner, admin, connect::Current, events::Verdict, live::Live, own};
use crate::{ending::Ending, registry::keys::Shard, transport::engine::Adapter};

/// What a client is told of an event that is refused for their number.
const TOO_MANY: &str = "Too many events";

/// What a client is told of an event that nothing takes, if it waits for an answer.
const UNKNOWN_EVENT: &str = "Unknown event";

/// What a client is told that asks while nothing can be said for sure.
const UNAVAILABLE: &str = "Service unavailable";

/// The largest packet that asks for an own verb, in bytes: a token, an id, or a page. Read into a tree of values it may take
/// a hundred times as much, for as long as the verb takes.
const MAX_OWN: usize = 16 * 1024;

/// What a client may ask of the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Own(own::Verb),
    Admin(admin::Verb),
}

impl Verb {
    /// The verb that an event of a namespace is; none if nothing here takes it.
    fn of(namespace: &str, event: &str) -> Option<Self> {
        let admin = || {
            (namespace == admin::NAMESPACE)
                .then(|| admin::Verb::of(event))
                .flatten()
        };
        own::Verb::of(event)
            .map(Self::Own)
            .or_else(|| admin().map(Self::Admin))
    }
}

/// The events of one socket.
#[derive(Clone)]
pub(super) struct Inbound(Arc<Events>);

struct Events {
    gateway: Weak<Inner>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Asked>,
    /// Of what waits, as it came.
    bytes: usize,
    /// Whether a task works the queue off.
    busy: bool,
}

/// An event that waits for its turn, as it came: what it is in memory once it has been read may be many times that.
struct Asked {
    verb: Verb,
    packet: Packet,
    ack: Option<i64>,
    bytes: usize,
}

/// How much may wait.
struct Bounds {
    events: usize,
    bytes: usize,
}

impl Queue {
    /// Takes an event in, unless that is more than may wait. An event that is alone always may.
    fn push(&mut self, asked: Asked, bounds: &Bounds) -> bool {
        let fits = self.waiting.len() < bounds.events && self.bytes + asked.bytes <= bounds.bytes;
        if fits || self.waiting.is_empty() {
            self.bytes += asked.bytes;
            self.waiting.push_back(asked);
            return true;
        }
        false
    }

    /// The next event. With none left nobody is at work any more, and the memory goes.
    fn pop(&mut self) -> Option<Asked> {
        match self.waiting.pop_front() {
            Some(asked) => {
                self.bytes -= asked.bytes;
                Some(asked)
            }
            None => {
                *self = Self::default();
                None
            }
        }
    }
}

impl Inbound {
    /// The handler of a socket's events.
    pub(super) fn of(gateway: &Arc<Inner>) -> Self {
        Self(Arc::new(Events {
            gateway: Arc::downgrade(gateway),
            queue: Mutex::default(),
        }))
    }
}

impl MessageHandler<Adapter, ()> for Inbound {
    fn call(&self, socket: Arc<Socket<Adapter>>, mut packet: Packet, ack: Option<i64>) {
        let (Some(gateway), Some(Current(live))) =
            (self.0.gateway.upgrade(), socket.extensions.get::<Current>())
        else {
            return;
        };
        if !gateway.admit_event(&live) {
            return;
        }
        let Ok(Event(event)) = Event::from_message_parts(&socket, &mut packet, &ack) else {
            return;
        };
        let Some(verb) = Verb::of(&live.namespace, &event) else {
            gateway.metrics.events_unknown().increment(1);
            let Ok(ack) = AckSender::<Adapter>::from_message_parts(&socket, &mut packet, &ack);
            return acknowledge(ack, Err(UNKNOWN_EVENT.to_owned()));
        };
        let config = gateway.config();
        let limits = &config.limits;
        let bounds = Bounds {
            events: limits.events_burst as usize,
            bytes: limits.max_payload.as_u64() as usize,
        };
        let bytes = weight(&packet);
        let asked = Asked {
            verb,
            packet,
            ack,
            bytes,
        };
        let (fits, idle) = {
            let mut queue = self.0.queue.lock();
            let fits = queue.push(asked, &bounds);
            (fits, fits && !std::mem::replace(&mut queue.busy, true))
        };
        if !fits {
            gateway.refuse_event(&live);
        }
        if idle {
            tokio::spawn(self.clone().work_off(socket));
        }
    }
}

impl Inbound {
    async fn work_off(self, socket: Arc<Socket<Adapter>>) {
        loop {
            let next = self.0.queue.lock().pop();
            let (Some(asked), Some(gateway)) = (next, self.0.gateway.upgrade()) else {
                return;
            };
            // As it is by now: a guest may have become somebody, and whoever is gone asks for nothing any more.
            let Some(Current(live)) = socket.extensions.get::<Current>() else {
                continue;
            };
            if live.is_gone() || live.ending().is_some() {
                continue;
            }
            let verb = asked.verb;
            // A panic takes one answer, not all those that wait behind it.
            let handled = AssertUnwindSafe(gateway.answer(live, &socket, asked)).catch_unwind();
            if handled.await.is_err() {
                tracing::error!(?verb, "a handler panicked");
            }
        }
    }
}

impl Inner {
    /// Handles one event.
    async fn answer(
        self: &Arc<Self>,
        live: Arc<Live>,
        socket: &Arc<Socket<Adapter>>,
        mut asked: Asked,
    ) {
        let read = match asked.verb {
            Verb::Own(verb) if asked.bytes > MAX_OWN => Err(own::too_large(verb)),
            _ => {
                let Ok(TryData(given)) =
                    TryData::<admin::Given>::from_message_parts(socket, &mut asked.packet, &None);
                Ok(given.unwrap_or_default())
            }
        };
        let Ok(ack) =
            AckSender::<Adapter>::from_message_parts(socket, &mut asked.packet, &asked.ack);
        let given = match read {
            Ok(given) => given,
            Err(denied) => return acknowledge(ack, Err(denied.to_string())),
        };
        let outcome = match asked.verb {
            _ if self.vouch(Shard::of_id(&live.id)).is_err() => Err(UNAVAILABLE.to_owned()),
            Verb::Own(verb) => {
                let socket = SocketRef::from(socket.clone());
                self.carry_out_own(verb, &live, &socket, given.first)
                    .await
                    .map_err(|denied| denied.to_string())
            }
            Verb::Admin(verb) => self
                .carry_out_admin(verb, &live, given)
                .await
                .map_err(|denied| denied.to_string()),
        };
        acknowledge(ack, outcome);
    }

    /// Holds an inbound event to the limits. Returns whether it is to be handled.
    fn admit_event(self: &Arc<Self>, live: &Arc<Live>) -> bool {
        match live.events.judge(&self.config().limits) {
            _ if live.ending().is_some() => false,
            Verdict::Accepted => true,
            Verdict::Refused => {
                self.refuse_event(live);
                false
            }
            Verdict::Flood => {
                self.metrics.events_refused().increment(1);
                let ending = Ending::of(Ending::LIMIT).because(TOO_MANY);
                self.end_all(std::slice::from_ref(live), &ending);
                false
            }
        }
    }

    fn refuse_event(&self, live: &Live) {
        self.metrics.events_refused().increment(1);
        live.send_error(TOO_MANY);
    }
}

/// `{ok: true, …}` or `{ok: false, error}`.
fn acknowledge(ack: AckSender<Adapter>, outcome: Result<Value, String>) {
    let answer = match outcome {
        Ok(Value::Object(mut fields)) => {
            fields.insert("ok".into(), true.into());
            Value::Object(fields)
        }
        Ok(_) => json!({ "ok": true }),
        Err(error) => json!({ "ok": false, "error": error }),
    };
    // A client that did not ask for an answer, or is gone, gets none.
    ack.send(&answer).ok();
}

/// The bytes of a packet.
fn weight(packet: &Packet) -> usize {
    match packet {
        Packet::Str(text, attachments) => {
            text.len()
                + attachments
                    .iter()
                    .flatten()
                    .map(|bytes| bytes.len())
                    .sum::<usize>()
        }
        Packet::Bytes(bytes) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(bytes: usize) -> Asked {
        Asked {
            verb: Verb::Own(own::Verb::Devices),
            packet: Packet::Str("".into(), None),
            ack: None,
            bytes,
        }
    }

    const BOUNDS: Bounds = Bounds {
        events: 3,
        bytes: 100,
    };

    #[test]
    fn no_more_waits_than_may() {
        let mut queue = Queue::default();
        let taken = (0..5).map(|_| queue.push(asked(1), &BOUNDS));
        assert_eq!(Vec::from_iter(taken), [true, true, true, false, false]);
        assert!(queue.pop().is_some());
        assert!(queue.push(asked(98), &BOUNDS));
        assert!(queue.pop().is_some());
        assert!(!queue.push(asked(2), &BOUNDS), "too many bytes");
    }

    #[test]
    fn an_event_alone_is_taken_whatever_its_size_and_an_empty_queue_holds_no_memory() {
        let mut queue = Queue::default();
        assert!(queue.push(asked(1000), &BOUNDS));
        assert!(!queue.push(asked(1), &BOUNDS));
        assert!(queue.pop().is_some());
        assert!(queue.pop().is_none());
        assert_eq!((queue.bytes, queue.waiting.capacity()), (0, 0));
    }

    #[test]
    fn the_verbs_of_administrators_are_those_of_their_namespace() {
        assert_eq!(
            Verb::of("/", "devices"),
            Some(Verb::Own(own::Verb::Devices))
        );
        assert_eq!(Verb::of("/", "banUser"), None);
        assert_eq!(
            Verb::of("/admin", "banUser"),
            Some(Verb::Admin(admin::Verb::BanUser))
        );
        assert_eq!(Verb::of("/admin", "chat"), None);
    }
}
