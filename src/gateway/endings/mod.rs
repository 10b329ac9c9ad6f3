//! Ending connections.
//!
//! `orders` ends them, on this node and on every node; `expiry` and `recheck` watch over what connections came in by.

pub(in crate::gateway) mod expiry;
pub(in crate::gateway) mod orders;
pub(in crate::gateway) mod recheck;
