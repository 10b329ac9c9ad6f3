//! This node's membership of the fleet.
//!
//! `heartbeats` keeps its lease, `repair` keeps the registry true to its connections.

pub(in crate::gateway) mod heartbeats;
pub(in crate::gateway) mod repair;
