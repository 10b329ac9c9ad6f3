//! Ending connections for a reason, here and on every node.
//!
//! `orders` ends them on every node; `expiry` and `recheck` watch over what this node's connections came in by. How one
//! connection of this node ends is in [`connections::ending`](super::connections::ending).

pub(in crate::gateway) mod expiry;
pub(in crate::gateway) mod orders;
pub(in crate::gateway) mod recheck;
