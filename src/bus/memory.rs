//! The bus of a node that runs alone.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{BusError, INBOX_CAPACITY, Inbox, Received};
use crate::connection::Instance;

/// Hands a node's messages back to it.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    instance: Instance,
    inbox: Arc<Mutex<Option<mpsc::Sender<Received>>>>,
    gaps: watch::Sender<u64>,
}

impl MemoryBus {
    pub(super) fn new(instance: &Instance) -> (Self, Inbox) {
        let (sender, inbox) = mpsc::channel(INBOX_CAPACITY);
        let bus = Self {
            instance: instance.clone(),
            inbox: Arc::new(Mutex::new(Some(sender))),
            gaps: watch::Sender::new(0),
        };
        (bus, inbox)
    }

    pub(super) fn publish(
        &self,
        nodes: &[Instance],
        payload: &[u8],
    ) -> Result<Vec<bool>, BusError> {
        let to_me = |node: &Instance| *node == self.instance;
        let heard = nodes.iter().any(to_me) && self.publish_all(payload)? > 0;
        Ok(nodes.iter().map(|node| heard && to_me(node)).collect())
    }

    /// A full inbox is an error here: the publisher is the node that does not read, and waiting for itself would be for ever.
    pub(super) fn publish_all(&self, payload: &[u8]) -> Result<u64, BusError> {
        let not_sent = |why: &str| BusError::NotSent(why.into());
        let inbox = self.inbox.lock();
        let inbox = inbox.as_ref().ok_or_else(|| not_sent("it is closed"))?;
        let from = self.instance.clone();
        let payload = payload.to_vec();
        match inbox.try_send(Received { from, payload }) {
            Ok(()) => Ok(1),
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(0),
            Err(mpsc::error::TrySendError::Full(_)) => Err(not_sent("the node's inbox is full")),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.inbox.lock().is_some()
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    pub(super) fn close(&self) {
        *self.inbox.lock() = None;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use crate::{
        bus::{Bus, BusError, INBOX_CAPACITY},
        connection::Instance,
        registry::keys::Shard,
    };

    #[tokio::test]
    async fn hears_itself_and_nobody_else() {
        let (me, other) = (Instance::random(), Instance::random());
        let (bus, mut inbox) = Bus::memory(&me);
        let both = [other.clone(), me.clone()];
        let heard = bus.publish(Shard::FIRST, &both, b"one").await.unwrap();
        assert_eq!(heard, [false, true]);
        let nobody = bus.publish(Shard::FIRST, &[other], b"lost").await;
        assert_eq!(nobody.unwrap(), [false]);
        assert_eq!(bus.publish_all(b"two").await.unwrap(), 1);
        bus.post(&me, b"three");
        for said in ["one", "two", "three"] {
            let received = inbox.recv().await.unwrap();
            assert_eq!(
                (received.from, &*received.payload),
                (me.clone(), said.as_bytes())
            );
        }
        assert!(bus.is_up());
        assert_eq!(*bus.gaps().borrow(), 0);
        bus.close().await;
        assert!(inbox.recv().await.is_none());
        assert!(!bus.is_up());
        let refused = bus.publish_all(b"").await;
        assert!(matches!(refused, Err(BusError::NotSent(_))));
    }

    #[tokio::test]
    async fn a_full_inbox_is_told() {
        let me = Instance::random();
        let (bus, _inbox) = Bus::memory(&me);
        for _ in 0..INBOX_CAPACITY {
            bus.publish_all(b"").await.unwrap();
        }
        let refused = bus.publish(Shard::FIRST, &[me], b"").await;
        assert!(matches!(refused, Err(BusError::NotSent(_))));
    }
}
