//! Node to node. The bus moves bytes and says whether it can; what they mean is the gateway's.
//!
//! It is two things on one pair of Redis connections: the driver of `socketioxide_redis`' adapter (broadcasts), and for
//! each node a channel of its own, plus one that all nodes listen on, for commands that want a receipt.
//!
//! Delivery is at most once, in order per publisher. A message may be lost while a link is down, and that is never
//! silent: [`Bus::gaps`] counts up after each time the node may have missed something, and the gateway then reads from the
//! registry what it missed.

pub mod memory;
pub mod redis;

use socketioxide_redis::drivers::{ChanItem, Driver, MessageStream};
use tokio::sync::{mpsc, watch};

use crate::connection::Instance;

/// Why nothing was published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The link to Redis is down, or too slow. The message may have gone out if it was slow.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
}

/// The messages that reach this node on its own channel and on the one of all nodes.
pub type Inbox = mpsc::Receiver<Vec<u8>>;

/// A handle; clones share the links.
#[derive(Clone, Debug)]
pub enum Bus {
    /// A node that runs alone.
    Memory(memory::MemoryBus),
    /// A fleet around a Redis.
    Redis(redis::RedisBus),
}

impl Bus {
    /// Publishes to one node's channel; says whether anybody was listening there.
    pub async fn publish_to(&self, _node: &Instance, _payload: Vec<u8>) -> Result<bool, BusError> {
        unimplemented!()
    }

    /// Publishes to every node, this one included; returns how many were listening.
    pub async fn publish_all(&self, _payload: Vec<u8>) -> Result<u64, BusError> {
        unimplemented!()
    }

    /// How many nodes listen to the adapter's broadcasts in a namespace, this one included.
    pub async fn listeners(&self, _namespace: &str) -> Result<u64, BusError> {
        unimplemented!()
    }

    /// Whether messages go out and come in at the moment. Reads a flag; never waits.
    pub fn is_up(&self) -> bool {
        unimplemented!()
    }

    /// Counts the times after which this node may have missed messages. Starts at 0, and goes up once the link works again.
    pub fn gaps(&self) -> watch::Receiver<u64> {
        unimplemented!()
    }

    /// Unsubscribes from everything and lets the links go.
    pub async fn close(&self) {
        unimplemented!()
    }
}

impl Driver for Bus {
    type Error = BusError;

    async fn publish(&self, _channel: String, _payload: Vec<u8>) -> Result<(), BusError> {
        unimplemented!()
    }

    async fn subscribe(
        &self,
        _channel: String,
        _size: usize,
    ) -> Result<MessageStream<ChanItem>, BusError> {
        unimplemented!()
    }

    async fn unsubscribe(&self, _channel: String) -> Result<(), BusError> {
        unimplemented!()
    }

    async fn num_serv(&self, _channel: &str) -> Result<u16, BusError> {
        unimplemented!()
    }
}
