//! Ending connections for a reason, here and on every node.
//!
//! `orders` ends them on every node; `expiry` and `recheck` watch over what this node's connections came in by. How one
//! connection of this node ends is in [`connections::ending`](super::connections::ending).

pub(crate) mod expiry;
pub(crate) mod orders;
pub(crate) mod recheck;
