//! The socket of a page: what it asks for, and that it leaves.

use std::sync::{Arc, Weak};

use serde_json::Value;
use socketioxide::{
    extract::Event,
    handler::{DisconnectHandler, FromMessageParts, MessageHandler, Value as Packet},
    socket::{DisconnectReason, Socket},
};
use tokio::sync::mpsc;

use super::{
    Operators,
    verbs::{Refused, Verb},
};
use crate::{
    gateway::{
        arg::{Arg, arguments},
        connections::{
            event_limiter::{EventLimiter, Verdict},
            session_of,
        },
    },
    transport::engine::Adapter,
};

/// What a page's socket does with the events of its operator.
#[derive(Clone)]
pub(super) struct Asking(pub(super) Arc<AskingPage>);

pub(super) struct AskingPage {
    pub(super) operators: Weak<Operators>,
    /// To the page's task.
    pub(super) asked: mpsc::Sender<(Verb, String)>,
    pub(super) limiter: EventLimiter,
}

impl MessageHandler<Adapter, ()> for Asking {
    fn call(&self, socket: Arc<Socket<Adapter>>, mut packet: Packet, ack: Option<i64>) {
        let page = &*self.0;
        let Some(operators) = page.operators.upgrade() else {
            return;
        };
        let config = operators.config.now();
        let mut read = || {
            if page.limiter.judge(&config.limits) != Verdict::Accepted {
                return Err(Refused::TooMany);
            }
            let event = Event::from_message_parts(&socket, &mut packet, &ack);
            let (Ok(Event(event)), Packet::Str(text, attachments)) = (event, &packet) else {
                return Err(Refused::Unreadable);
            };
            let args = arguments(text.as_str(), attachments.as_ref()).ok_or(Refused::Unreadable)?;
            let args = args.iter().map(Arg::to_json);
            let said: Vec<_> = std::iter::once(Value::from(event)).chain(args).collect();
            let verb = Verb::read(&said)?;
            verb.check(&config)?;
            let said = serde_json::to_string(&said).map_err(|_| Refused::Unreadable)?;
            let sent = page.asked.try_send((verb, said));
            sent.map_err(|_| Refused::TooMany)
        };
        if let Err(refused) = read() {
            operators.metrics.events_refused().increment(1);
            tracing::warn!(why = %refused, "what an operator asks for is refused");
        }
    }
}

/// What a page's socket does when it leaves the namespace. No function: see
/// [`DisconnectListener`](crate::gateway::connections::departing::DisconnectListener).
pub(super) struct Leaving(pub(super) Weak<Operators>);

impl DisconnectHandler<Adapter, ()> for Leaving {
    fn call_with_defer(
        &self,
        socket: Arc<Socket<Adapter>>,
        _: DisconnectReason,
        remove: fn(Arc<Socket<Adapter>>),
    ) {
        if let (Some(operators), Some(session)) = (self.0.upgrade(), session_of(&socket)) {
            operators.leave(&session);
        }
        remove(socket);
    }
}
