//! What clients send: taken in the order of its arrival, one event of a connection at a time, and no more of it waiting than
//! is bounded.
//!
//! socketioxide runs a handler that is a function as a task of its own for each event, so that two events of one client
//! run side by side and in any order. [`Inbound`] implements the handler's trait itself: it is called by the reader of the
//! connection, for one packet after the other, and puts what is to be handled into a queue. The task that works the queue
//! off lives only while there is something in it. One such handler serves all events of a socket, as its fallback. What an
//! application or a backend handles goes to the connection's [`lane`](crate::gateway::lanes), a queue of its own.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde_json::{Value, json};
use socketioxide::{
    extract::{AckSender, Event, SocketRef, TryData},
    handler::{FromMessageParts, MessageHandler, Value as Packet},
    socket::Socket,
};

use super::{
    admin::{self, AdminVerb, AdminVerbs},
    client_verbs::ClientVerbs,
    verb::{ClientVerb, Offered},
};
use crate::{
    config::{Config, RunningConfig},
    ending::Ending,
    gateway::{
        application::OnEvent,
        calls::Calls,
        connections::{
            LocalConnections,
            event_limiter::Verdict,
            local::{CurrentConnection, LocalConnection},
        },
        lanes::{Bounds, Lane, Lanes, Queue, QueuedEvent},
        lease::OwnLease,
        tail::Happening,
        tasks::contain_async,
    },
    metrics::Metrics,
    transport::engine::Adapter,
};

/// What a client is told of an event that is refused for their number.
const TOO_MANY: &str = "Too many events";

/// What a client is told of an event that nothing takes, if it waits for an answer.
const UNKNOWN_EVENT: &str = "Unknown event";

/// What a client is told that asks while nothing can be said for sure.
const UNAVAILABLE: &str = "Service unavailable";

/// What a client may ask of the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Client(ClientVerb),
    Admin(AdminVerb),
}

impl Verb {
    /// The verb that an event of a namespace is; none if nothing here takes it. `offered`: which verbs there are only where
    /// the configuration says so.
    fn of(namespace: &str, event: &str, offered: impl FnOnce() -> Offered) -> Option<Self> {
        let admin = || {
            (namespace == admin::NAMESPACE)
                .then(|| AdminVerb::of(event))
                .flatten()
        };
        ClientVerb::of(event, offered)
            .map(Self::Client)
            .or_else(|| admin().map(Self::Admin))
    }
}

/// Whether an event of a namespace is one that Switchboard handles itself.
pub(crate) fn is_own_event(config: &Config, namespace: &str, event: &str) -> bool {
    Verb::of(namespace, event, || Offered::by(config, namespace)).is_some()
}

/// The events of one socket.
#[derive(Clone)]
pub(crate) struct Inbound(Arc<SocketEvents>);

struct SocketEvents {
    events: Weak<ClientEvents>,
    /// What waits for the application's handlers, and for backends.
    lane: Arc<Lane>,
    queue: Mutex<Queue<QueuedVerb>>,
}

/// An event that waits for its turn, as it came: what it is in memory once it has been read may be many times that.
struct QueuedVerb {
    verb: Verb,
    packet: Packet,
    ack: Option<i64>,
    bytes: usize,
}

impl Inbound {
    /// The handler of a socket's events.
    pub(crate) fn of(events: &Arc<ClientEvents>, lane: Arc<Lane>) -> Self {
        Self(Arc::new(SocketEvents {
            events: Arc::downgrade(events),
            lane,
            queue: Mutex::default(),
        }))
    }
}

impl MessageHandler<Adapter, ()> for Inbound {
    fn call(&self, socket: Arc<Socket<Adapter>>, mut packet: Packet, ack: Option<i64>) {
        let (Some(events), Some(CurrentConnection(connection))) = (
            self.0.events.upgrade(),
            socket.extensions.get::<CurrentConnection>(),
        ) else {
            return;
        };
        if !events.admit_event(&connection, &socket, ack) {
            return;
        }
        let Ok(Event(event)) = Event::from_message_parts(&socket, &mut packet, &ack) else {
            return;
        };
        events.connections.tail.tell(|| Happening::Event {
            who: connection.who(),
            event: &event,
            bytes: weight(&packet),
        });
        let offered = || Offered::by(&events.config.now(), &connection.namespace);
        let verb = Verb::of(&connection.namespace, &event, offered);
        if verb.is_none()
            && let Some(handler) = events.handler(&connection.namespace, &event)
        {
            let lane = &self.0.lane;
            return events.queue_event(&connection, lane, handler, event, packet, ack, socket);
        }
        let Some(verb) = verb else {
            events.metrics.events_unknown().increment(1);
            return acknowledge(&connection, &socket, ack, Err(UNKNOWN_EVENT.to_owned()));
        };
        let bounds = events.event_bounds();
        let bytes = weight(&packet);
        let asked = QueuedVerb {
            verb,
            packet,
            ack,
            bytes,
        };
        let (fits, idle) = {
            let mut queue = self.0.queue.lock();
            (queue.push(asked, bytes, &bounds), queue.begin())
        };
        if !fits {
            events.refuse_event(&connection, &socket, ack);
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
            let (Some(asked), Some(events)) = (next, self.0.events.upgrade()) else {
                return;
            };
            // As it is by now: a guest may have become a user, and a connection that is gone asks for nothing any more.
            let Some(CurrentConnection(connection)) = socket.extensions.get::<CurrentConnection>()
            else {
                continue;
            };
            if connection.is_gone() || connection.ending().is_some() {
                continue;
            }
            // A panic takes one answer, not all those that wait behind it.
            let id = connection.id.clone();
            let answered = events.answer(connection, &socket, asked);
            contain_async("answering an event", id, answered).await;
        }
    }
}

/// Handles what clients send.
pub(crate) struct ClientEvents {
    config: RunningConfig,
    metrics: Metrics,
    lease: Arc<OwnLease>,
    connections: Arc<LocalConnections>,
    lanes: Arc<Lanes>,
    calls: Arc<Calls>,
    client_verbs: ClientVerbs,
    admin_verbs: Arc<AdminVerbs>,
}

impl ClientEvents {
    /// Handles events with these parts.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one of its parts, given once"
    )]
    pub(crate) fn new(
        config: RunningConfig,
        metrics: Metrics,
        lease: Arc<OwnLease>,
        connections: Arc<LocalConnections>,
        lanes: Arc<Lanes>,
        calls: Arc<Calls>,
        client_verbs: ClientVerbs,
        admin_verbs: Arc<AdminVerbs>,
    ) -> Self {
        Self {
            config,
            metrics,
            lease,
            connections,
            lanes,
            calls,
            client_verbs,
            admin_verbs,
        }
    }

    /// How much of a connection's events may wait, in each of its two queues.
    fn event_bounds(&self) -> Bounds {
        let limits = &self.config.now().limits;
        Bounds {
            events: limits.events_burst as usize,
            bytes: limits.max_payload.as_u64() as usize,
        }
    }

    /// What handles an event that is none of Switchboard's own: the application, or a backend.
    fn handler(&self, namespace: &str, event: &str) -> Option<OnEvent> {
        let handler = self.lanes.application.on_event(namespace, event).cloned();
        handler.or_else(|| {
            let is_own = Verb::of(namespace, event, Offered::all).is_some();
            (!is_own).then(|| self.calls.handler(namespace, event))?
        })
    }

    /// Puts an event into the queue of those that the application or a backend handles.
    #[expect(clippy::too_many_arguments, reason = "each is a part of one event")]
    fn queue_event(
        &self,
        connection: &LocalConnection,
        lane: &Arc<Lane>,
        handler: OnEvent,
        name: String,
        packet: Packet,
        ack: Option<i64>,
        socket: Arc<Socket<Adapter>>,
    ) {
        let bytes = weight(&packet);
        let event = QueuedEvent {
            handler,
            name,
            packet,
            ack: ack_sender(&socket, ack),
            socket: socket.clone(),
        };
        if !lane.push(event, bytes, &self.event_bounds()) {
            self.refuse_event(connection, &socket, ack);
        }
    }

    /// Handles one event.
    async fn answer(
        &self,
        connection: Arc<LocalConnection>,
        socket: &Arc<Socket<Adapter>>,
        mut asked: QueuedVerb,
    ) {
        let read = match asked.verb {
            Verb::Client(verb) if asked.bytes > verb.largest() => Err(verb.too_large()),
            _ => {
                let Ok(TryData(given)) =
                    TryData::<admin::Given>::from_message_parts(socket, &mut asked.packet, &None);
                Ok(given.unwrap_or_default())
            }
        };
        let given = match read {
            Ok(given) => given,
            Err(denied) => {
                return acknowledge(&connection, socket, asked.ack, Err(denied.to_string()));
            }
        };
        let outcome = match asked.verb {
            _ if self
                .lease
                .vouch(self.lease.shards().of_id(&connection.id))
                .is_err() =>
            {
                Err(UNAVAILABLE.to_owned())
            }
            Verb::Client(verb) => {
                let socket = SocketRef::from(socket.clone());
                self.client_verbs
                    .carry_out(verb, &connection, &socket, given.first)
                    .await
                    .map_err(|denied| denied.to_string())
            }
            Verb::Admin(verb) => self
                .admin_verbs
                .carry_out(verb, &connection, given)
                .await
                .map_err(|denied| denied.to_string()),
        };
        acknowledge(&connection, socket, asked.ack, outcome);
    }

    /// Holds an inbound event to the limits. Returns whether it is to be handled.
    fn admit_event(
        &self,
        connection: &Arc<LocalConnection>,
        socket: &Arc<Socket<Adapter>>,
        ack: Option<i64>,
    ) -> bool {
        match connection.events.judge(&self.config.now().limits) {
            _ if connection.ending().is_some() => false,
            Verdict::Accepted => true,
            Verdict::Refused => {
                self.refuse_event(connection, socket, ack);
                false
            }
            Verdict::Flood => {
                self.metrics.events_refused().increment(1);
                let ending = Ending::of(Ending::LIMIT).because(TOO_MANY);
                self.connections
                    .end_all(std::slice::from_ref(connection), &ending);
                false
            }
        }
    }

    /// Tells a client that an event of its is one too many; also by the acknowledgement, where it waits for one.
    fn refuse_event(
        &self,
        connection: &LocalConnection,
        socket: &Arc<Socket<Adapter>>,
        ack: Option<i64>,
    ) {
        self.metrics.events_refused().increment(1);
        connection.send_error(TOO_MANY);
        acknowledge(connection, socket, ack, Err(TOO_MANY.to_owned()));
    }
}

/// What answers the event with this number, if it has one: the client waits for an answer then.
fn ack_sender(socket: &Arc<Socket<Adapter>>, ack: Option<i64>) -> Option<AckSender<Adapter>> {
    let mut packet = Packet::Str(Default::default(), None);
    ack?;
    AckSender::from_message_parts(socket, &mut packet, &ack).ok()
}

/// Answers an event, if its client waits for that: `{ok: true, …}` or `{ok: false, error}`.
fn acknowledge(
    connection: &LocalConnection,
    socket: &Arc<Socket<Adapter>>,
    ack: Option<i64>,
    outcome: Result<Value, String>,
) {
    let Some(ack) = ack_sender(socket, ack) else {
        return;
    };
    let answer = match outcome {
        Ok(Value::Object(mut fields)) => {
            fields.insert("ok".into(), true.into());
            Value::Object(fields)
        }
        Ok(_) => json!({ "ok": true }),
        Err(error) => json!({ "ok": false, "error": error }),
    };
    // A client that is gone gets none.
    connection.by_engine(|| ack.send(&answer)).ok();
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

    #[test]
    fn the_verbs_of_administrators_are_those_of_their_namespace() {
        assert_eq!(
            Verb::of("/", "devices", Offered::default),
            Some(Verb::Client(ClientVerb::Devices))
        );
        assert_eq!(Verb::of("/", "banUser", Offered::default), None);
        assert_eq!(
            Verb::of("/admin", "banUser", Offered::default),
            Some(Verb::Admin(AdminVerb::BanUser))
        );
        assert_eq!(Verb::of("/admin", "chat", Offered::default), None);
    }
}
