//! Node to node. The bus moves bytes and says whether it can; what they mean is the gateway's.
//!
//! It is two things on one pair of connections to each server of Redis: for each node a channel of its own in every shard,
//! plus one that all nodes listen on, for commands and receipts; and the driver of `socketioxide_redis`' adapter, for whoever emits through socketioxide.
//!
//! Every message is sealed, the adapter's too: a node takes what another node has said, once, and knows which one it was. See
//! [`seal`].
//!
//! Delivery is at most once, in order per publisher and channel. A message may be lost while a link is down, and that is never
//! silent: [`Bus::gaps`] counts up after each time the node may have missed something, and the gateway then reads from the
//! registry what it missed. The one exception is counted and makes no gap, since anybody who writes to Redis could make it: a
//! message that comes more than 65,000 of its sender's late, which can't be told from one that is played again.

mod health;
mod heard;
mod link;
pub mod memory;
mod publisher;
pub mod redis;
pub mod seal;
mod subscriber;
mod subscriptions;

use secrecy::SecretString;
use socketioxide_redis::drivers::{ChanItem, Driver, MessageStream};
use tokio::sync::{mpsc, watch};

use crate::{connection::Instance, link::Servers, metrics::Metrics};

/// How many messages wait in an [`Inbox`] for a node that is busy.
///
/// At the tens of microseconds that a command costs, this is about a second's work: more would only hide a node that has
/// stopped reading, and hold its memory.
pub const INBOX_CAPACITY: usize = 16_384;

/// Why nothing was published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The link to Redis is down, or too slow. The message may have gone out if it was slow.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
}

/// The messages that reach this node on its own channel and on the one of all nodes. Ends when the bus is closed.
pub type Inbox = mpsc::Receiver<Received>;

/// A message, and the node that it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The node that has sealed it.
    pub from: Instance,
    /// What it says.
    pub payload: Vec<u8>,
}

/// A handle; clones share the links. When the last clone is dropped, the bus closes by itself.
#[derive(Clone, Debug)]
pub enum Bus {
    /// A node that runs alone.
    Memory(memory::MemoryBus),
    /// A fleet around a Redis.
    Redis(redis::RedisBus),
}

impl Bus {
    /// The bus of a node that runs alone: it hears itself, and nobody else is there.
    pub fn memory(instance: &Instance) -> (Self, Inbox) {
        let (bus, inbox) = memory::MemoryBus::new(instance);
        (Self::Memory(bus), inbox)
    }

    /// The bus of a fleet. Does not wait for Redis, and does not fail without it: the bus is down until Redis is there.
    ///
    /// `prefix` begins every channel's name; nodes with the same prefix on the same Redis are one fleet. The first of `secrets`
    /// seals what they tell each other, and by each of them a seal holds; with none everybody can seal.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime: the links are kept by tasks.
    pub fn redis(
        servers: &Servers,
        prefix: &str,
        instance: &Instance,
        secrets: &[SecretString],
        metrics: &Metrics,
    ) -> (Self, Inbox) {
        let seal = seal::Seal::new(instance, secrets);
        let (bus, inbox) = redis::RedisBus::start(servers.clone(), prefix, instance, seal, metrics);
        (Self::Redis(bus), inbox)
    }

    /// Replaces the secrets. The first one seals from now on, by each of them a seal holds.
    pub fn rekey(&self, secrets: &[SecretString]) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(bus) => bus.seal().rekey(secrets),
        }
    }

    /// The prefix to configure `socketioxide_redis`' adapter with, for this to count who listens to what it subscribes to.
    pub fn adapter_prefix(prefix: &str) -> String {
        format!("{prefix}:io")
    }

    /// Publishes to one node's channel; says whether anybody was listening there.
    pub async fn publish_to(&self, node: &Instance, payload: Vec<u8>) -> Result<bool, BusError> {
        match self {
            Self::Memory(bus) => bus.publish_to(node, payload),
            Self::Redis(bus) => bus.publish_to(node, payload).await,
        }
    }

    /// Publishes to every node, this one included; returns how many were listening.
    pub async fn publish_all(&self, payload: Vec<u8>) -> Result<u64, BusError> {
        match self {
            Self::Memory(bus) => bus.publish_all(payload),
            Self::Redis(bus) => bus.publish_all(payload).await,
        }
    }

    /// Whether messages go out and come in at the moment. Reads a flag; never waits.
    pub fn is_up(&self) -> bool {
        match self {
            Self::Memory(bus) => bus.is_up(),
            Self::Redis(bus) => bus.is_up(),
        }
    }

    /// Counts the times after which this node may have missed messages. Starts at 0. After a broken link it goes up once
    /// the bus is up again, so that what is read then is complete; for a message dropped on a full queue it goes up at once.
    pub fn gaps(&self) -> watch::Receiver<u64> {
        match self {
            Self::Memory(bus) => bus.gaps(),
            Self::Redis(bus) => bus.gaps(),
        }
    }

    /// Unsubscribes from everything and lets the links go. The inbox and all streams end.
    pub async fn close(&self) {
        match self {
            Self::Memory(bus) => bus.close(),
            Self::Redis(bus) => bus.close().await,
        }
    }
}

impl Driver for Bus {
    type Error = BusError;

    async fn publish(&self, channel: String, payload: Vec<u8>) -> Result<(), BusError> {
        match self {
            Self::Memory(bus) => bus.publish(channel, payload),
            Self::Redis(bus) => bus.publish(&channel, payload).await.map(|_heard| ()),
        }
    }

    async fn subscribe(
        &self,
        channel: String,
        size: usize,
    ) -> Result<MessageStream<ChanItem>, BusError> {
        match self {
            Self::Memory(bus) => bus.subscribe(channel, size),
            Self::Redis(bus) => bus.subscribe(channel, size).await,
        }
    }

    async fn unsubscribe(&self, channel: String) -> Result<(), BusError> {
        match self {
            Self::Memory(bus) => bus.unsubscribe(&channel),
            Self::Redis(bus) => bus.unsubscribe(&channel).await,
        }
        Ok(())
    }

    async fn num_serv(&self, channel: &str) -> Result<u16, BusError> {
        let count = match self {
            Self::Memory(bus) => bus.subscribers()?,
            Self::Redis(bus) => bus.subscribers(channel).await?,
        };
        Ok(count.try_into().unwrap_or(u16::MAX))
    }
}
