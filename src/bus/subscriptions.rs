//! Which channels this node listens on, and what becomes of a message that comes.

use std::collections::HashSet;

use metrics::Counter;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
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

/// The channels of a node, and the inbox that their messages go to.
pub(super) struct Subscriptions {
    channels: HashSet<String>,
    /// None once the bus is closed.
    inbox: Mutex<Option<mpsc::Sender<Received>>>,
    changes: watch::Sender<()>,
    seal: Seal,
    received: Counter,
    forged: Counter,
    replayed: Counter,
    inbox_full: Counter,
}

impl Subscriptions {
    pub(super) fn new(
        channels: HashSet<String>,
        inbox: mpsc::Sender<Received>,
        seal: Seal,
        metrics: &Metrics,
    ) -> Self {
        Self {
            channels,
            inbox: Mutex::new(Some(inbox)),
            changes: watch::Sender::new(()),
            seal,
            received: metrics.bus_messages("in"),
            forged: metrics.messages_dropped(Refused::Forged.label()),
            replayed: metrics.messages_dropped(Refused::Replayed.label()),
            inbox_full: metrics.messages_dropped("bus_full"),
        }
    }

    /// Ends the inbox.
    pub(super) fn close(&self) {
        *self.inbox.lock() = None;
    }

    pub(super) fn channels(&self) -> &HashSet<String> {
        &self.channels
    }

    /// Sees every change of where the channels are.
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

    /// Opens a message and hands it on. Runs on the connection's task, so it never waits: what a full inbox can't take is dropped,
    /// counted, and a gap. What does not open is dropped and counted, and no gap: nobody who can write to Redis is to make this
    /// node read the registry anew. Anything that isn't a message is nobody's.
    pub(super) fn dispatch(&self, push: PushInfo, health: &Health) {
        let Some((channel, payload)) = message(push) else {
            return;
        };
        self.received.increment(1);
        if !self.channels.contains(&channel) {
            return;
        }
        let message = match self.seal.open(&channel, payload) {
            Ok(message) => message,
            Err(refused) => return self.refuse(&channel, refused),
        };
        let inbox = self.inbox.lock();
        let sent = inbox.as_ref().map(|inbox| inbox.try_send(message));
        if let Some(Err(TrySendError::Full(_))) = sent {
            self.inbox_full.increment(1);
            health.dropped();
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

    /// That of a node with the channels `a` and `b`, and room for so many messages.
    fn listening(room: usize) -> (Subscriptions, mpsc::Receiver<Received>, Health, Metrics) {
        let metrics = Metrics::new().unwrap();
        let (sender, inbox) = mpsc::channel(room);
        let channels = ["a", "b"].map(str::to_owned).into();
        let subscriptions = Subscriptions::new(channels, sender, seal("me"), &metrics);
        (subscriptions, inbox, Health::new(&metrics), metrics)
    }

    #[test]
    fn takes_what_comes_on_its_channels_and_nothing_else() {
        let (subscriptions, mut inbox, health, _metrics) = listening(8);
        let from = seal("you");
        for channel in ["a", "b", "c"] {
            let sealed = from.seal(channel, format!("\0{channel}").as_bytes());
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
        for payload in [b"\0a", b"\0b"] {
            let received = inbox.try_recv().unwrap();
            assert_eq!(received.from, "you".into());
            assert_eq!(received.payload, payload);
        }
        assert!(inbox.try_recv().is_err());
        assert_eq!(*health.gaps().borrow(), 0);
        subscriptions.close();
        assert!(inbox.is_closed());
    }

    #[test]
    fn a_full_inbox_drops_counts_and_is_a_gap() {
        let (subscriptions, mut inbox, health, metrics) = listening(1);
        let from = seal("you");
        for payload in [b"1", b"2", b"3"] {
            let sealed = from.seal("a", payload);
            subscriptions.dispatch(push(PushKind::SMessage, &[b"a", &sealed]), &health);
        }
        assert_eq!(inbox.try_recv().unwrap().payload, b"1");
        assert!(inbox.try_recv().is_err());
        assert_eq!(*health.gaps().borrow(), 2);
        let dropped = "switchboard_messages_dropped_total{reason=\"bus_full\"} 2";
        assert!(metrics.render().contains(dropped));
    }

    #[test]
    fn what_does_not_open_is_counted_and_no_gap() {
        let (subscriptions, mut inbox, health, metrics) = listening(8);
        let sealed = seal("you").seal("a", b"x");
        for payload in [b"x", &sealed[..], &sealed, &sealed, b"y"] {
            subscriptions.dispatch(push(PushKind::SMessage, &[b"a", payload]), &health);
        }
        assert_eq!(inbox.try_recv().unwrap().payload, b"x");
        assert!(inbox.try_recv().is_err());
        assert_eq!(*health.gaps().borrow(), 0);
        for reason in ["forged", "replayed"] {
            let dropped = format!("switchboard_messages_dropped_total{{reason=\"{reason}\"}} 2");
            assert!(metrics.render().contains(&dropped));
        }
    }
}
