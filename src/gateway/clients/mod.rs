//! What clients may say.
//!
//! `inbound` takes it in order, `client_verbs` is what they may do about themselves, `admin` what administrators may.

pub(in crate::gateway) mod admin;
pub(in crate::gateway) mod client_verbs;
pub(in crate::gateway) mod inbound;
