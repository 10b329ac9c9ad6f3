//! What goes between nodes: commands and receipts.
//!
//! `wire` is their format, `receipts` who was asked and what they have said.

pub(in crate::gateway) mod receipts;
pub(in crate::gateway) mod wire;
