//! What is sent to a connection: messages, with and without an answer, and events of Switchboard's own.

use std::{sync::atomic::Ordering, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use socketioxide::{
    AckError, SendError, SocketError,
    extract::{AckSender, SocketRef},
    operators::BroadcastOperators,
};

use super::{LocalConnection, answer::FirstArgument, phase::State};
use crate::{
    gateway::{
        arg::Arguments,
        message::{Message, Outgoing},
    },
    metrics::Metrics,
    transport::engine::Adapter,
};

/// Why a message was not handed to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// It is not ready yet: its client may be about to hear that it is.
    Arriving,
    /// It is gone: it was not to be sent to.
    Gone,
    /// More waits for its client than may.
    Full,
}

impl NotSent {
    /// Counts the message if it was lost because too much waits for its client. A connection that is gone loses nothing.
    pub(crate) fn count(self, metrics: &Metrics) {
        if self == Self::Full {
            metrics.messages_dropped("queue_full").increment(1);
        }
    }
}

impl LocalConnection {
    /// Hands it a message, whose arguments are `args`. `limit` bounds what may wait for a polling client, in bytes.
    pub(crate) fn send(
        &self,
        message: &Message,
        args: &Outgoing<'_>,
        limit: usize,
    ) -> Result<(), NotSent> {
        self.emit(&message.event, args, message.weight(), limit)
    }

    /// Hands it an event of so many bytes. `limit` bounds what may wait for a polling client, in bytes.
    pub(crate) fn emit(
        &self,
        event: &str,
        args: &impl Serialize,
        weight: usize,
        limit: usize,
    ) -> Result<(), NotSent> {
        let state = self.state.lock();
        let sent = self.sendable(&state)?.emit(event, args);
        drop(state);
        self.account(sent, weight, limit)
    }

    /// Whether its client has not taken yet all that it was sent.
    pub(crate) fn lags(&self) -> bool {
        self.session.unsent() > 0
    }

    /// What sends to its namespace, and leaves it out; none if it is not ready.
    pub(crate) fn all_but_this(&self) -> Option<BroadcastOperators<Adapter>> {
        match &*self.state.lock() {
            State::Ready(socket) => Some(socket.broadcast()),
            _ => None,
        }
    }

    /// Answers an event of its client's. `limit` bounds what may wait for a polling client, in bytes.
    pub(crate) fn answer(
        &self,
        ack: AckSender<Adapter>,
        args: Arguments<'_>,
        limit: usize,
    ) -> Result<(), NotSent> {
        let state = self.state.lock();
        self.sendable(&state)?;
        let sent = ack.send(&args);
        drop(state);
        self.account(sent, args.weight(), limit)
    }

    /// Hands it a message; the future waits for its client's answer, and gives its first argument as JSON: null if there is none,
    /// or if it is no JSON.
    pub(crate) fn send_with_ack(
        &self,
        message: &Message,
        args: &Outgoing<'_>,
        limit: usize,
        timeout: Duration,
    ) -> Result<impl Future<Output = Option<Box<str>>> + Send + use<>, NotSent> {
        let state = self.state.lock();
        let socket = self.sendable(&state)?.timeout(timeout);
        let sent = socket.emit_with_ack::<_, FirstArgument>(&message.event, args);
        drop(state);
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => {
                self.account(Err(error), message.weight(), limit)?;
                return Err(NotSent::Gone);
            }
        };
        self.account(Ok(()), message.weight(), limit)?;
        Ok(async move {
            match answer.await {
                Ok(FirstArgument(answer)) => Some(answer),
                Err(AckError::Decode(_)) => Some("null".into()),
                Err(_) => None,
            }
        })
    }

    /// Sends the client an `error` event.
    pub(crate) fn send_error(&self, message: &str) {
        self.tell("error", &json!({ "message": message }));
    }

    /// Tells its client that the token is about to run out.
    pub(crate) fn warn(&self, expires_at: Timestamp) {
        self.warned.store(true, Ordering::Release);
        self.tell("tokenExpiring", &json!({ "expiresAt": expires_at }));
    }

    /// Sends the client an event of Switchboard's own.
    pub(super) fn tell(&self, event: &str, data: &Value) {
        let state = self.state.lock();
        if let Ok(socket) = self.sendable(&state) {
            socket.emit(event, data).ok();
        }
    }

    fn sendable<'a>(&self, state: &'a State) -> Result<&'a SocketRef<Adapter>, NotSent> {
        match state {
            State::Ready(socket) if self.ending().is_none() => Ok(socket),
            State::Arriving => Err(NotSent::Arriving),
            _ => Err(NotSent::Gone),
        }
    }

    /// Counts an event of so many bytes that it was handed. `limit` bounds what may wait for a polling client, in bytes.
    pub(crate) fn handed(&self, weight: usize, limit: usize) {
        self.messages_out.fetch_add(1, Ordering::Relaxed);
        if self.session.sent(weight, limit) {
            self.session.stalled();
        }
    }

    fn account(
        &self,
        sent: Result<(), SendError>,
        weight: usize,
        limit: usize,
    ) -> Result<(), NotSent> {
        match sent {
            Ok(()) => {
                self.handed(weight, limit);
                Ok(())
            }
            Err(SendError::Socket(SocketError::InternalChannelFull)) => {
                self.session.stalled();
                Err(NotSent::Full)
            }
            Err(_) => Err(NotSent::Gone),
        }
    }
}
