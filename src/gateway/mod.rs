//! The life of a connection, and the verbs a backend has.

pub mod message;

use std::{sync::Arc, time::Duration};

use crate::{
    bus::BusError,
    connection::{Connection, ConnectionId, UserId},
    ending::Ending,
    metrics::Metrics,
    registry::{Node, Presence, RegistryError, Totals, UserEntry, UsersPage},
};

pub use message::{AckReply, Acked, Delivery, Disconnected, Message, Target};

/// Why a verb can't be carried out.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The registry can't answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The bus can't carry it.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// No such namespace in the configuration.
    #[error("no such namespace: {0}")]
    UnknownNamespace(String),
}

/// A node's gateway; clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<()>,
}

impl Gateway {
    /// Hands a message to connections, wherever they are. No connection is an answer, not an error.
    pub async fn send(
        &self,
        _target: &Target,
        _message: &Message,
    ) -> Result<Delivery, GatewayError> {
        unimplemented!()
    }

    /// The same for a user, and collects what the clients answer within `timeout`.
    pub async fn send_with_ack(
        &self,
        _user: &UserId,
        _message: &Message,
        _timeout: Duration,
    ) -> Result<Acked, GatewayError> {
        unimplemented!()
    }

    /// Hands a message to every connection of a namespace. Returns how many nodes it was handed to.
    pub async fn broadcast(&self, _message: &Message) -> Result<u64, GatewayError> {
        unimplemented!()
    }

    /// A user's connections.
    pub async fn user(&self, _user: &UserId) -> Result<UserEntry, GatewayError> {
        unimplemented!()
    }

    /// Everybody online, a page at a time.
    pub async fn users(
        &self,
        _cursor: Option<&str>,
        _limit: usize,
    ) -> Result<UsersPage, GatewayError> {
        unimplemented!()
    }

    /// The presence of users, in the order asked for.
    pub async fn presence(&self, _users: &[UserId]) -> Result<Vec<Presence>, GatewayError> {
        unimplemented!()
    }

    /// Ends a user's connections on every node, and answers when they are closed and out of the registry, or after 5 s.
    pub async fn disconnect_user(
        &self,
        _user: &UserId,
        _except: Vec<ConnectionId>,
        _ending: &Ending,
    ) -> Result<Disconnected, GatewayError> {
        unimplemented!()
    }

    /// One connection.
    pub async fn connection(&self, _id: &ConnectionId) -> Result<Option<Connection>, GatewayError> {
        unimplemented!()
    }

    /// Ends one connection, with the same promise. None if there is no such connection.
    pub async fn disconnect_connection(
        &self,
        _id: &ConnectionId,
        _ending: &Ending,
    ) -> Result<Option<Disconnected>, GatewayError> {
        unimplemented!()
    }

    /// The live nodes.
    pub async fn nodes(&self) -> Result<Vec<Node>, GatewayError> {
        unimplemented!()
    }

    /// The cluster in three numbers.
    pub async fn totals(&self) -> Result<Totals, GatewayError> {
        unimplemented!()
    }

    /// What keeps this node from being ready; empty when it is.
    pub fn unready(&self) -> Vec<&'static str> {
        unimplemented!()
    }

    /// The node's metrics.
    pub fn metrics(&self) -> &Metrics {
        unimplemented!()
    }

    /// Whether the configuration has the namespace.
    pub fn has_namespace(&self, _path: &str) -> bool {
        let _ = &self.inner;
        unimplemented!()
    }
}
