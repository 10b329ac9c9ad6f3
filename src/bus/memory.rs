//! The bus of a node that runs alone.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use socketioxide_redis::drivers::{ChanItem, MessageStream};
use tokio::sync::{mpsc, watch};

use super::{BusError, INBOX_CAPACITY, Inbox, Received};
use crate::connection::Instance;

/// Hands a node's messages back to it.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    instance: Instance,
    open: Arc<Mutex<Option<Open>>>,
    gaps: watch::Sender<u64>,
}

#[derive(Debug)]
struct Open {
    inbox: mpsc::Sender<Received>,
    streams: HashMap<String, mpsc::Sender<ChanItem>>,
}

fn closed() -> BusError {
    BusError::Unavailable("it is closed".into())
}

impl MemoryBus {
    pub(super) fn new(instance: &Instance) -> (Self, Inbox) {
        let (sender, inbox) = mpsc::channel(INBOX_CAPACITY);
        let open = Open {
            inbox: sender,
            streams: HashMap::new(),
        };
        let bus = Self {
            instance: instance.clone(),
            open: Arc::new(Mutex::new(Some(open))),
            gaps: watch::Sender::new(0),
        };
        (bus, inbox)
    }

    pub(super) fn publish_to(&self, node: &Instance, payload: Vec<u8>) -> Result<bool, BusError> {
        if *node != self.instance {
            return self.open.lock().as_ref().map(|_| false).ok_or_else(closed);
        }
        self.publish_all(payload).map(|heard| heard > 0)
    }

    /// A full inbox is an error here: the publisher is the node that does not read, and waiting for itself would be for ever.
    pub(super) fn publish_all(&self, payload: Vec<u8>) -> Result<u64, BusError> {
        let open = self.open.lock();
        let inbox = &open.as_ref().ok_or_else(closed)?.inbox;
        let from = self.instance.clone();
        match inbox.try_send(Received { from, payload }) {
            Ok(()) => Ok(1),
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(0),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(BusError::Unavailable("the node's inbox is full".into()))
            }
        }
    }

    pub(super) fn subscribers(&self) -> Result<u64, BusError> {
        self.open.lock().as_ref().map(|_| 1).ok_or_else(closed)
    }

    pub(super) fn is_up(&self) -> bool {
        self.open.lock().is_some()
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    pub(super) fn close(&self) {
        *self.open.lock() = None;
    }

    /// What does not fit into a stream is left out: the adapter's messages to itself are all it could be, and the adapter
    /// ignores those (it has already served its own sockets).
    pub(super) fn publish(&self, channel: String, payload: Vec<u8>) -> Result<(), BusError> {
        let open = self.open.lock();
        if let Some(stream) = open.as_ref().ok_or_else(closed)?.streams.get(&channel) {
            let _ = stream.try_send((channel, payload));
        }
        Ok(())
    }

    pub(super) fn subscribe(
        &self,
        channel: String,
        size: usize,
    ) -> Result<MessageStream<ChanItem>, BusError> {
        let (sender, receiver) = mpsc::channel(size.max(1));
        let mut open = self.open.lock();
        let streams = &mut open.as_mut().ok_or_else(closed)?.streams;
        streams.insert(channel, sender);
        Ok(MessageStream::new(receiver))
    }

    pub(super) fn unsubscribe(&self, channel: &str) {
        if let Some(open) = self.open.lock().as_mut() {
            open.streams.remove(channel);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use futures_util::StreamExt as _;
    use socketioxide_redis::drivers::Driver as _;

    use crate::{
        bus::{Bus, BusError, INBOX_CAPACITY},
        connection::Instance,
    };

    #[tokio::test]
    async fn hears_itself_and_nobody_else() {
        let me = Instance::random();
        let (bus, mut inbox) = Bus::memory(&me);
        assert!(bus.publish_to(&me, b"one".to_vec()).await.unwrap());
        let other = Instance::random();
        assert!(!bus.publish_to(&other, b"lost".to_vec()).await.unwrap());
        assert_eq!(bus.publish_all(b"two".to_vec()).await.unwrap(), 1);
        for said in [b"one", b"two"] {
            let received = inbox.recv().await.unwrap();
            assert_eq!((received.from, &*received.payload), (me.clone(), &said[..]));
        }
        assert_eq!(bus.num_serv("any").await.unwrap(), 1);
        assert!(bus.is_up());
        assert_eq!(*bus.gaps().borrow(), 0);
    }

    #[tokio::test]
    async fn streams_deliver_stay_open_and_end_with_the_bus() {
        let (bus, mut inbox) = Bus::memory(&Instance::random());
        let mut stream = bus.subscribe("c".into(), 2).await.unwrap();
        bus.publish("c".into(), b"x".to_vec()).await.unwrap();
        bus.publish("d".into(), b"nobody".to_vec()).await.unwrap();
        assert_eq!(stream.next().await.unwrap(), ("c".into(), b"x".to_vec()));
        assert!(futures_util::poll!(stream.next()).is_pending());
        bus.close().await;
        assert!(stream.next().await.is_none());
        assert!(inbox.recv().await.is_none());
        assert!(!bus.is_up());
        let refused = bus.publish_all(Vec::new()).await;
        assert!(matches!(refused, Err(BusError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_full_inbox_is_told() {
        let me = Instance::random();
        let (bus, _inbox) = Bus::memory(&me);
        for _ in 0..INBOX_CAPACITY {
            bus.publish_all(Vec::new()).await.unwrap();
        }
        let refused = bus.publish_to(&me, Vec::new()).await;
        assert!(matches!(refused, Err(BusError::Unavailable(_))));
    }
}
