//! This node's membership of the fleet.
//!
//! `heartbeats` keeps its lease and tells of it; `registrar` keeps the registry's entry of each connection, and `repair` makes
//! them exact again after a loss.

pub(in crate::gateway) mod heartbeats;
pub(in crate::gateway) mod registrar;
pub(in crate::gateway) mod repair;
