//! The bus of a fleet around a Redis: one link that publishes, one that listens, so that a flood of messages in delays none
//! out.

use std::{fmt, sync::Arc, time::Duration};

use metrics::Counter;
use redis::Client;
use socketioxide_redis::drivers::{ChanItem, MessageStream};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    BusError, INBOX_CAPACITY, Inbox,
    health::Health,
    publisher::Publisher,
    subscriber::Subscriber,
    subscriptions::{Sink, Subscriptions},
};
use crate::{connection::Instance, metrics::Metrics, registry::keys::Keys};

/// How long [`RedisBus::close`] waits for the links' tasks; each of their steps has a deadline below this.
const CLOSING: Duration = Duration::from_secs(3);

/// A handle; clones share the links.
#[derive(Clone)]
pub struct RedisBus {
    links: Arc<Links>,
    keys: Keys,
    sent: Counter,
    tasks: TaskTracker,
    closed: CancellationToken,
    /// Ends the links' tasks with the last handle. The tasks hold [`Links`], and no handle.
    _last: Arc<DropGuard>,
}

/// What the handles share with the two tasks.
struct Links {
    health: Arc<Health>,
    publisher: Publisher,
    subscriber: Subscriber,
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus")
            .field("keys", &self.keys)
            .field("up", &self.is_up())
            .finish_non_exhaustive()
    }
}

impl RedisBus {
    pub(super) fn start(
        client: Client,
        prefix: &str,
        instance: &Instance,
        metrics: &Metrics,
    ) -> (Self, Inbox) {
        let keys = Keys::new(prefix);
        let (sender, inbox) = mpsc::channel(INBOX_CAPACITY);
        let subscriptions = Subscriptions::new(metrics);
        for channel in [keys.node_channel(instance), keys.all_channel()] {
            subscriptions.insert(channel, Sink::Inbox(sender.clone()));
        }
        let links = Arc::new(Links {
            health: Arc::new(Health::new(metrics)),
            publisher: Publisher::default(),
            subscriber: Subscriber::new(subscriptions),
        });
        let closed = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn({
            let (links, client, closed) = (Arc::clone(&links), client.clone(), closed.clone());
            async move {
                let Links {
                    publisher, health, ..
                } = &*links;
                publisher.run(&client, health, &closed).await;
            }
        });
        tasks.spawn({
            let (links, closed) = (Arc::clone(&links), closed.clone());
            async move {
                let Links {
                    subscriber, health, ..
                } = &*links;
                subscriber.run(&client, health, &closed).await;
            }
        });
        tasks.close();
        let bus = Self {
            links,
            keys,
            sent: metrics.bus_messages("out"),
            tasks,
            closed: closed.clone(),
            _last: Arc::new(closed.drop_guard()),
        };
        (bus, inbox)
    }

    /// Publishes; returns how many were listening.
    pub(super) async fn publish(&self, channel: &str, payload: Vec<u8>) -> Result<u64, BusError> {
        let publish = redis::Cmd::publish(channel, payload);
        let heard = self.call(&publish).await?;
        self.sent.increment(1);
        Ok(heard)
    }

    pub(super) async fn publish_to(
        &self,
        node: &Instance,
        payload: Vec<u8>,
    ) -> Result<bool, BusError> {
        let channel = self.keys.node_channel(node);
        self.publish(&channel, payload).await.map(|heard| heard > 0)
    }

    pub(super) async fn publish_all(&self, payload: Vec<u8>) -> Result<u64, BusError> {
        self.publish(&self.keys.all_channel(), payload).await
    }

    pub(super) async fn subscribers(&self, channel: &str) -> Result<u64, BusError> {
        let mut numsub = redis::cmd("PUBSUB");
        numsub.arg("NUMSUB").arg(channel);
        let (_channel, count): (String, u64) = self.call(&numsub).await?;
        Ok(count)
    }

    async fn call<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, BusError> {
        let Links {
            publisher, health, ..
        } = &*self.links;
        publisher.call(health, command).await
    }

    pub(super) fn is_up(&self) -> bool {
        self.links.health.is_up()
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.links.health.gaps()
    }

    pub(super) async fn subscribe(
        &self,
        channel: String,
        size: usize,
    ) -> Result<MessageStream<ChanItem>, BusError> {
        let (sender, receiver) = mpsc::channel(size.max(1));
        let subscriber = &self.links.subscriber;
        let sink = Sink::Stream(sender);
        if !subscriber.subscriptions.insert(channel.clone(), sink) {
            return Err(BusError::Unavailable("it is closed".into()));
        }
        subscriber.settled(&channel, true).await;
        Ok(MessageStream::new(receiver))
    }

    pub(super) async fn unsubscribe(&self, channel: &str) {
        let subscriber = &self.links.subscriber;
        subscriber.subscriptions.remove(channel);
        subscriber.settled(channel, false).await;
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        if timeout(CLOSING, self.tasks.wait()).await.is_err() {
            tracing::warn!("the bus's links are still closing");
        }
        self.links.subscriber.subscriptions.close();
    }
}
