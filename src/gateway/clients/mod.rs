//! What clients may say.
//!
//! `inbound` takes it in order, `client_verbs` is what they may do about themselves, `admin` what administrators may.

pub(crate) mod admin;
pub(crate) mod client_verbs;
pub(crate) mod inbound;
