//! This node's membership of the fleet.
//!
//! `heartbeats` keeps its lease and tells of it; `registrar` keeps the registry's entry of each connection, and `repair` makes
//! them exact again after a loss.

pub(crate) mod heartbeats;
pub(crate) mod registrar;
pub(crate) mod repair;
