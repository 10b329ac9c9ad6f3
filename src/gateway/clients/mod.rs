//! What clients may say.
//!
//! `inbound` takes it in order, `verb` has the names of what they may ask for about themselves and `client_verbs` does it, `admin`
//! is what administrators may.

pub(crate) mod admin;
pub(crate) mod client_verbs;
pub(crate) mod inbound;
mod verb;
