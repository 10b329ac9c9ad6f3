//! What is sent to a connection: messages, with and without an answer, and events of Switchboard's own. All that its socket is handed
//! goes through [`LocalConnection::by_engine`].

use std::{sync::atomic::Ordering, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use socketioxide::{
    AckError, SendError, SocketError,
    extract::{AckSender, SocketRef},
};

use super::{LocalConnection, answer::FirstArgument, phase::State};
use crate::{
    gateway::{
        arg::Arguments,
        message::{Message, Outgoing},
    },
    metrics::Metrics,
    transport::{EventFrames, Writes, engine::Adapter},
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
    /// Hands it an event of so many bytes. `limit` bounds what may wait for a polling client, in bytes.
    pub(crate) fn emit(
        &self,
        event: &str,
        args: &impl Serialize,
        weight: usize,
        limit: usize,
    ) -> Result<(), NotSent> {
        let state = self.state.lock();
        let socket = self.sendable(&state)?;
        let sent = self.by_engine(|| socket.emit(event, args));
        drop(state);
        self.account(sent, weight, limit)
    }

    /// Hands it a message, whose arguments are `args`: as `frames`, if there are any and nothing is overtaken by them. `limit` bounds
    /// what may wait for a polling client, in bytes.
    pub(crate) fn send(
        &self,
        message: &Message,
        args: &Outgoing<'_>,
        frames: Option<&EventFrames>,
        writes: &mut Writes,
        limit: usize,
    ) -> Result<(), NotSent> {
        let state = self.state.lock();
        let socket = self.sendable(&state)?;
        // The CONNECT packet has left for sure when something has that came after it.
        let past = self.has_spoken.load(Ordering::Relaxed)
            && frames.is_some_and(|frames| self.session.send_past_engine(frames, writes));
        if past {
            drop(state);
            self.messages_out.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let sent = self.by_engine(|| socket.emit(&message.event, args));
        drop(state);
        self.account(sent, message.weight(), limit)
    }

    /// Has `hand` hand the socket an event or an acknowledgement.
    pub(crate) fn by_engine<T, E>(&self, hand: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let handed = self.session.send_by_engine(hand)?;
        self.has_spoken.store(true, Ordering::Relaxed);
        Ok(handed)
    }

    /// Whether its client has not taken yet all that it was sent.
    pub(crate) fn lags(&self) -> bool {
        self.session.unsent() > 0
    }

    /// Answers an event of its client's, which waits for that. `limit` bounds what may wait for a polling client, in bytes.
    pub(crate) fn answer(
        &self,
        ack: AckSender<Adapter>,
        args: Arguments<'_>,
        limit: usize,
    ) -> Result<(), NotSent> {
        let state = self.state.lock();
        self.sendable(&state)?;
        let sent = self.by_engine(|| ack.send(&args));
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
        let sent =
            self.by_engine(|| socket.emit_with_ack::<_, FirstArgument>(&message.event, args));
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
            self.by_engine(|| socket.emit(event, data)).ok();
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
    fn handed(&self, weight: usize, limit: usize) {
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
