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
    /// No token can be issued.
    #[error(transparent)]
    Mint(#[from] MintError),
}
