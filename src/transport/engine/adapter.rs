//! The adapter of socketioxide's namespaces.
//!
//! `socketioxide_redis` wants a driver for its adapter; the sockets that it serves here are this node's alone, as every message
//! between nodes leaves by [`crate::bus`].

use socketioxide::adapter::Emitter;
use socketioxide_redis::{
    CustomRedisAdapter,
    drivers::{ChanItem, Driver, MessageStream},
};

/// The adapter that all namespaces use.
pub type Adapter = CustomRedisAdapter<Emitter, ThisNode>;

/// A driver that reaches no other node.
#[derive(Clone, Copy, Debug)]
pub struct ThisNode;

/// An operator of socketioxide's was used without `local`.
#[derive(Debug, thiserror::Error)]
#[error(
    "socketioxide's adapter reaches this node's sockets alone; other nodes are reached by the bus"
)]
pub struct OtherNodes;

impl Driver for ThisNode {
    type Error = OtherNodes;

    async fn publish(&self, _channel: String, _payload: Vec<u8>) -> Result<(), OtherNodes> {
        Err(OtherNodes)
    }

    async fn subscribe(
        &self,
        _channel: String,
        _size: usize,
    ) -> Result<MessageStream<ChanItem>, OtherNodes> {
        Ok(MessageStream::new_empty())
    }

    async fn unsubscribe(&self, _channel: String) -> Result<(), OtherNodes> {
        Ok(())
    }

    async fn num_serv(&self, _channel: &str) -> Result<u16, OtherNodes> {
        Ok(1)
    }
}
