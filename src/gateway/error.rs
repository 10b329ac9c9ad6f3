//! Why a node can't do what it is asked.

use crate::{auth::token::MintError, bus::BusError, registry::RegistryError};

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
    /// The connection, or the user, is in as many rooms as `limits.rooms_per_connection` allows.
    #[error("in as many rooms as limits.rooms_per_connection allows")]
    TooManyRooms,
    /// The connection is in the room because its user is to be, which is undone for the user.
    #[error("the connection's user is to be in the room")]
    LastingMembership,
    /// No token can be issued.
    #[error(transparent)]
    Mint(#[from] MintError),
}
