//! The bus carries all messages from node to node. It moves bytes and says whether it can; what they mean is the gateway's.
//!
//! Each node listens on a channel of its own in every shard, and all of them on one more. What is for a user's connections goes to
//! the channels, in the user's shard, of the nodes that hold it: so of a cluster just the server that knows who they are is needed.
//! To each server there is one pair of connections.
//!
//! Every message is sealed: a node takes what another node has said, once, and knows which one it was. See [`seal`].
//!
//! Delivery is at most once. What one node publishes arrives in the order in which it was published, as far as it goes through
//! one server: on a single Redis that is everything. In a cluster a send may overtake a message to all that was published before
//! it and whose receipts were not waited for, since those of a user go through the user's server and those to all through another.
//!
//! A message may be lost while a link is down, and that is never
//! silent: [`Bus::gaps`] counts up after each time the node may have missed something, and the gateway then reads from the
//! registry what it missed. The one exception is counted and makes no gap, since anybody who writes to Redis could make it: a
//! message that comes more than 65,000 of its sender's late, which can't be told from one that is played again.

mod health;
mod heard;
pub mod memory;
mod publisher;
pub mod redis;
pub mod seal;
mod subscriber;
mod subscriptions;

use secrecy::SecretString;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    connection::Instance,
    link::Servers,
    metrics::Metrics,
    registry::keys::{Shard, Shards},
};

/// How many messages wait in an [`Inbox`] for a node that is busy.
///
/// At the tens of microseconds that a command costs, this is about a second's work: more would only hide a node that has
/// stopped reading, and hold its memory.
pub const INBOX_CAPACITY: usize = 16_384;

/// Why a message was not published, or may not have been.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// Nobody got it, and nobody will: it was never written, or Redis has refused it.
    #[error("the bus is unavailable: {0}")]
    NotSent(String),
    /// It was written and Redis has not answered: nobody can say whether it was published.
    #[error("the bus got no answer: {0}")]
    Unanswered(String),
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
    /// Makes the bus of a node that runs alone and hears only itself.
    pub fn memory(instance: &Instance) -> (Self, Inbox) {
        let (bus, inbox) = memory::MemoryBus::new(instance);
        (Self::Memory(bus), inbox)
    }

    /// The bus of a fleet. Does not wait for Redis, and does not fail without it: the bus is down until Redis is there.
    ///
    /// `prefix` begins every channel's name; nodes with the same prefix on the same Redis are one fleet, and have the same number of
    /// shards. The first of `secrets`
    /// seals what they tell each other, and by each of them a seal holds; with none everybody can seal.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime: the links are kept by tasks.
    pub fn redis(
        servers: &Servers,
        prefix: &str,
        shards: Shards,
        instance: &Instance,
        secrets: &[SecretString],
        metrics: &Metrics,
    ) -> (Self, Inbox) {
        let seal = seal::Seal::new(instance, secrets);
        let (bus, inbox) =
            redis::RedisBus::start(servers.clone(), prefix, shards, instance, seal, metrics);
        (Self::Redis(bus), inbox)
    }

    /// Replaces the secrets. The first one seals from now on, by each of them a seal holds.
    pub fn rekey(&self, secrets: &[SecretString]) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(bus) => bus.seal().rekey(secrets),
        }
    }

    /// Publishes to the nodes' channels in a shard, in one go. Says of each node whether anybody listened there.
    ///
    /// # Errors
    ///
    /// [`BusError::NotSent`] means none of them; with [`BusError::Unanswered`] it may be any of them. Where Redis refuses the
    /// channels of some, those did not listen.
    pub async fn publish(
        &self,
        shard: Shard,
        nodes: &[Instance],
        payload: &[u8],
    ) -> Result<Vec<bool>, BusError> {
        match self {
            Self::Memory(bus) => bus.publish(nodes, payload),
            Self::Redis(bus) => bus.publish(shard, nodes, payload).await,
        }
    }

    /// Publishes to one node, and never hears what becomes of it: an answer would wake a thread for each receipt. What can't go out is
    /// counted.
    pub fn post(&self, node: &Instance, payload: &[u8]) {
        match self {
            Self::Memory(bus) => drop(bus.publish(std::slice::from_ref(node), payload)),
            Self::Redis(bus) => bus.post(node, payload),
        }
    }

    /// Publishes to every node, this one included; returns how many were listening.
    ///
    /// # Errors
    ///
    /// [`BusError::NotSent`] means nobody; with [`BusError::Unanswered`] it may be anybody.
    pub async fn publish_all(&self, payload: &[u8]) -> Result<u64, BusError> {
        match self {
            Self::Memory(bus) => bus.publish_all(payload),
            Self::Redis(bus) => bus.publish_all(payload).await,
        }
    }

    /// Runs `work` where the links are served, so that what it awaits of them wakes no other thread. Its timers, and the tasks that
    /// it begins, are those of the caller's runtime. All links wait for each of its turns: they are to be short. On a node that runs alone it is
    /// a task like any other.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match self {
            Self::Memory(_) => tokio::spawn(work),
            Self::Redis(bus) => bus.spawn(work),
        }
    }

    /// Whether messages go out and come in at the moment. Reads a flag; never waits.
    pub fn is_up(&self) -> bool {
        match self {
            Self::Memory(bus) => bus.is_up(),
            Self::Redis(bus) => bus.is_up(),
        }
    }

    /// Returns true while links to more than half of the servers of Redis work. In a cluster some of whose masters are away the rest
    /// works on.
    pub fn is_mostly_up(&self) -> bool {
        match self {
            Self::Memory(bus) => bus.is_up(),
            Self::Redis(bus) => bus.is_mostly_up(),
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

    /// Unsubscribes from everything and lets the links go. The inbox ends.
    pub async fn close(&self) {
        match self {
            Self::Memory(bus) => bus.close(),
            Self::Redis(bus) => bus.close().await,
        }
    }
}
