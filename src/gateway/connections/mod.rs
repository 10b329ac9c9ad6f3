//! The connections of this node.
//!
//! `table` finds them, `local` is one of them, `departing` is the one way out, `event_limiter` bounds what each may send.

pub(in crate::gateway) mod departing;
pub(in crate::gateway) mod event_limiter;
pub(in crate::gateway) mod local;
pub(in crate::gateway) mod table;
