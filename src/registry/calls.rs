//! Calls of the API that may be repeated without being carried out twice: who carries one out, and what it answered.
//!
//! A call is claimed before anything is done for it. The claim holds for [`CLAIM_KEPT`] and is prolonged while the call is under way,
//! so that the call of a node that dies can be taken up by another. What a call answered is kept for [`CALL_KEPT`].

use std::time::Duration;

use async_trait::async_trait;

use super::RegistryError;

/// How long an answer is kept, and for how long a key stands for one call.
pub const CALL_KEPT: Duration = Duration::from_secs(300);

/// How long a claim holds unless it is prolonged.
pub const CLAIM_KEPT: Duration = Duration::from_secs(15);

/// A call, and one attempt to carry it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// SHA-256 of who calls, and of the key that the caller gave the call.
    pub key: [u8; 32],
    /// SHA-256 of what is asked for: path and body.
    pub asked: [u8; 32],
    /// The attempt, by a random name.
    pub claim: String,
}

/// What a claim meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody is carrying the call out: the caller does from here on.
    Taken,
    /// Another attempt is under way.
    UnderWay,
    /// The key stands for a call that asked for something else.
    Other,
    /// The call is done, and this is what [`CallEnd::Done`] kept of it.
    Done(Vec<u8>),
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd<'a> {
    /// With this answer, which is given again.
    Done(&'a [u8]),
    /// Nobody can say: the same call may be carried out again, and no other one under its key.
    Unknown,
    /// Surely nothing was done: the key is free.
    Free,
}

impl CallEnd<'_> {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Unknown => "unknown",
            Self::Free => "free",
        }
    }
}

/// Where calls are kept.
#[async_trait]
pub trait Calls: Send + Sync {
    /// Claims a call, or prolongs the claim of this attempt. Unavailable: nothing may be done for the call.
    async fn claim_call(&self, call: &Call) -> Result<Claim, RegistryError>;

    /// Gives the call its end, unless another attempt has taken the place of this one.
    async fn settle_call(&self, call: &Call, end: CallEnd<'_>) -> Result<(), RegistryError>;
}
