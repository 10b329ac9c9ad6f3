//! Which channels this node listens on, and where each one's messages go.

use std::collections::{HashMap, HashSet};

use metrics::Counter;
use parking_lot::RwLock;
use redis::{PushInfo, PushKind, Value};
use socketioxide_redis::drivers::ChanItem;
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    watch,
};

use super::{
    Received,
    health::Health,
    seal::{Refused, Seal},
};
use crate::metrics::Metrics;

/// Where a channel's messages go.
pub(super) enum Sink {
    /// To the node's inbox.
    Inbox(mpsc::Sender<Received>),
    /// To a stream of the adapter.
    Stream(mpsc::Sender<ChanItem>),
}

impl Sink {
    fn is_closed(&self) -> bool {
        match self {
            Self::Inbox(inbox) => inbox.is_closed(),
            Self::Stream(stream) => stream.is_closed(),
        }
    }
}

/// The wanted channels and their sinks; none once the bus is closed.
pub(super) struct Subscriptions {
    sinks: RwLock<Option<HashMap<String, Sink>>>,
    changes: watch::Sender<()>,
    seal: Seal,
    received: Counter,
    forged: Counter,
    replayed: Counter,
    inbox_full: Counter,
    stream_full: Counter,
}

impl Subscriptions {
    pub(super) fn new(seal: Seal, metrics: &Metrics) -> Self {
        Self {
            sinks: RwLock::new(Some(HashMap::new())),
            changes: watch::Sender::new(()),
            seal,
            received: metrics.bus_messages("in"),
            forged: metrics.messages_dropped(Refused::Forged.label()),
            replayed: metrics.messages_dropped(Refused::Replayed.label()),
            inbox_full: metrics.messages_dropped("bus_full"),
            stream_full: metrics.messages_dropped("bus_stream_full"),
        }
    }

    /// From now on the channel is wanted, and its messages go there. False if the bus is closed.
    pub(super) fn insert(&self, channel: String, sink: Sink) -> bool {
        let inserted = match self.sinks.write().as_mut() {
            Some(sinks) => {
                sinks.insert(channel, sink);
                true
            }
            None => false,
        };
        self.changed();
        inserted
    }

    pub(super) fn remove(&self, channel: &str) {
        if let Some(sinks) = self.sinks.write().as_mut() {
            sinks.remove(channel);
        }
        self.changed();
    }

    /// Ends every stream and the inbox.
    pub(super) fn close(&self) {
        *self.sinks.write() = None;
    }

    pub(super) fn wanted(&self) -> HashSet<String> {
        let sinks = self.sinks.read();
        sinks
            .iter()
            .flat_map(|sinks| sinks.keys().cloned())
            .collect()
    }

    /// Sees every change of the wanted channels, and of where they are.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Tells those who look after channels to look.
    pub(super) fn changed(&self) {
        self.changes.send_replace(());
    }

    /// What opens the messages that come, and seals those that go.
    pub(super) fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Opens a message and hands it on. Runs on the connection's task, so it never waits: what a full sink can't take is dropped,
    /// counted, and a gap. What does not open is dropped and counted, and no gap: nobody who can write to Redis is to make this
    /// node read the registry anew. Anything that isn't a message is nobody's.
    pub(super) fn dispatch(&self, push: PushInfo, health: &Health) {
        let Some((channel, payload)) = message(push) else {
            return;
        };
        self.received.increment(1);
        let sinks = self.sinks.read();
        let Some(sink) = sinks.as_ref().and_then(|sinks| sinks.get(&channel)) else {
            return;
        };
        let message = match self.seal.open(&channel, payload) {
            Ok(message) => message,
            Err(refused) => {
                drop(sinks);
                return self.refuse(&channel, refused);
            }
        };
        let closed = match sink {
            Sink::Inbox(inbox) => match inbox.try_send(message) {
                Ok(()) => None,
                Err(TrySendError::Full(_)) => {
                    self.inbox_full.increment(1);
                    health.dropped();
                    None
                }
                Err(TrySendError::Closed(_)) => Some(channel),
            },
            Sink::Stream(stream) => match stream.try_send((channel, message.payload)) {
                Ok(()) => None,
                Err(TrySendError::Full(_)) => {
                    self.stream_full.increment(1);
                    health.dropped();
                    None
                }
                Err(TrySendError::Closed((channel, _))) => Some(channel),
            },
        };
        drop(sinks);
        if let Some(channel) = closed {
            self.forget(&channel);
        }
    }

    fn refuse(&self, channel: &str, refused: Refused) {
        match refused {
            Refused::Forged => {
                self.forged.increment(1);
                tracing::warn!(
                    channel,
                    "a message on the bus without the fleet's seal is dropped"
                );
            }
            Refused::Replayed => {
                self.replayed.increment(1);
                tracing::warn!(
                    channel,
                    "a message on the bus that was there before is dropped"
                );
            }
        }
    }

    /// The reader went away without unsubscribing, as the adapter's does when its namespace is deleted.
    fn forget(&self, channel: &str) {
        if let Some(sinks) = self.sinks.write().as_mut()
            && sinks.get(channel).is_some_and(Sink::is_closed)
        {
            sinks.remove(channel);
            self.changed();
        }
    }
}

fn message(push: PushInfo) -> Option<(String, Vec<u8>)> {
    if push.kind != PushKind::SMessage {
        return None;
    }
    let mut parts = push.data.into_iter();
    match (parts.next()?, parts.next()?) {
        (Value::BulkString(channel), Value::BulkString(payload)) => {
            Some((String::from_utf8(channel).ok()?, payload))
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn seal(name: &str) -> Seal {
        Seal::new(&name.into(), &["s".into()])
    }

    fn push(kind: PushKind, data: &[&[u8]]) -> PushInfo {
        let data = data.iter().map(|part| Value::BulkString(part.to_vec()));
        PushInfo {
            kind,
            data: data.collect(),
        }
    }

    fn all() -> (Subscriptions, Health, Metrics) {
        let metrics = Metrics::new().unwrap();
        let subscriptions = Subscriptions::new(seal("me"), &metrics);
        (subscriptions, Health::new(&metrics), metrics)
    }

    #[test]
    fn goes_to_its_channel_only() {
        let (subscriptions, health, _metrics) = all();
        let (a, mut a_messages) = mpsc::channel(8);
        let (b, mut b_messages) = mpsc::channel(8);
        assert!(subscriptions.insert("a".into(), Sink::Stream(a)));
        assert!(subscriptions.insert("b".into(), Sink::Inbox(b)));
        let from = seal("you");
        for channel in ["a", "b", "c"] {
            let sealed = from.seal(channel, b"\0\xff".to_vec());
            let message = push(PushKind::SMessage, &[channel.as_bytes(), &sealed]);
            subscriptions.dispatch(message, &health);
        }
        subscriptions.dispatch(push(PushKind::SMessage, &[b"\xff\xfe", b"x"]), &health);
        subscriptions.dispatch(push(PushKind::SMessage, &[b"a"]), &health);
        subscriptions.dispatch(push(PushKind::Message, &[b"a", b"x"]), &health);
        subscriptions.dispatch(push(PushKind::SMessage, &[]), &health);
        let odd = PushInfo {
            kind: PushKind::SMessage,
            data: vec![Value::Int(1), Value::Nil],
        };
        subscriptions.dispatch(odd, &health);
        assert_eq!(
            a_messages.try_recv().unwrap(),
            ("a".into(), b"\0\xff".to_vec())
        );
        let received = b_messages.try_recv().unwrap();
        assert_eq!(received.from, "you".into());
        assert_eq!(received.payload, b"\0\xff");
        assert!(a_messages.try_recv().is_err());
        assert!(b_messages.try_recv().is_err());
    }

    #[test]
    fn a_full_sink_drops_counts_and_is_a_gap() {
        let (subscriptions, health, metrics) = all();
        let (stream, mut messages) = mpsc::channel(1);
        subscriptions.insert("s".into(), Sink::Stream(stream));
        let from = seal("you");
        for payload in [b"1", b"2", b"3"] {
            let sealed = from.seal("s", payload.to_vec());
            subscriptions.dispatch(push(PushKind::SMessage, &[b"s", &sealed]), &health);
        }
        assert_eq!(messages.try_recv().unwrap().1, b"1");
        assert!(messages.try_recv().is_err());
        assert_eq!(*health.gaps().borrow(), 2);
        let dropped = "switchboard_messages_dropped_total{reason=\"bus_stream_full\"} 2";
        assert!(metrics.render().contains(dropped));
    }

    #[test]
    fn a_reader_that_went_away_is_forgotten() {
        let (subscriptions, health, _metrics) = all();
        let (stream, messages) = mpsc::channel(1);
        subscriptions.insert("s".into(), Sink::Stream(stream));
        drop(messages);
        let sealed = seal("you").seal("s", b"x".to_vec());
        subscriptions.dispatch(push(PushKind::SMessage, &[b"s", &sealed]), &health);
        assert!(subscriptions.wanted().is_empty());
        assert_eq!(*health.gaps().borrow(), 0);
    }

    #[test]
    fn what_does_not_open_is_counted_and_no_gap() {
        let (subscriptions, health, metrics) = all();
        let (stream, mut messages) = mpsc::channel(1);
        subscriptions.insert("s".into(), Sink::Stream(stream));
        let sealed = seal("you").seal("s", b"x".to_vec());
        for payload in [b"x", &sealed[..], &sealed, &sealed, b"y"] {
            subscriptions.dispatch(push(PushKind::SMessage, &[b"s", payload]), &health);
        }
        assert_eq!(messages.try_recv().unwrap().1, b"x");
        assert!(messages.try_recv().is_err());
        assert_eq!(*health.gaps().borrow(), 0);
        for reason in ["forged", "replayed"] {
            let dropped = format!("switchboard_messages_dropped_total{{reason=\"{reason}\"}} 2");
            assert!(metrics.render().contains(&dropped));
        }
    }
}
