//! Whether a connection is let in: what it comes with, what is held against it, and the answer.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Entry, Lasting, TOKEN_MARGIN};
use crate::{
    connection::{Connection, Tally},
    ending::Ending,
};

/// The id of a login: of a refresh family, or of a session whose cookie a client has. That of a cookie is half the way
/// into the session, so `Debug` shows a digest, and so does the registry keep it.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LoginId(String);

impl LoginId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the registry keeps of it.
    pub(super) fn digest(&self) -> String {
        digest(&self.0)
    }
}

impl From<&str> for LoginId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for LoginId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for LoginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginId(#{})", self.digest())
    }
}

/// What stands for the id of a token or of a session: 12 characters for any length of id. 72 bits of SHA-256 are enough, as
/// nobody gains by an id that collides with a revoked one.
pub(super) fn digest(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(id)[..9])
}

/// What a connection was let in by, and what revocations are held against. A guest's says nothing, and nothing is held
/// against it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// When it was issued: `iat` of a token, or when a session was read. A grant without it can't show that it is newer than a
    /// revocation.
    pub issued_at: Option<Timestamp>,
    /// `jti` of a token.
    pub token_id: Option<String>,
    /// The login that it stems from.
    pub session: Option<LoginId>,
    /// What tells a token from all others, where its `iat` may be of the future, and when it expires.
    pub ahead: Option<Ahead>,
}

/// A token that may say it is of the future.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ahead {
    /// A digest of the token.
    pub digest: String,
    /// When it expires.
    pub expires_at: Timestamp,
}

impl Ahead {
    /// Until when its first use is remembered: for as long as any node lets it in.
    pub(super) fn kept_until(&self) -> Timestamp {
        let end = self.expires_at.checked_add(TOKEN_MARGIN);
        end.unwrap_or(Timestamp::MAX)
    }
}

/// What is done about a user who has as many connections as a user may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitPolicy {
    /// A further one is refused.
    #[default]
    Reject,
    /// The oldest one ends.
    EvictOldest,
}

/// For how long newcomers of a user are counted together, from the first of them.
pub const RATE_WINDOW: Duration = Duration::from_secs(2);

/// How many connections a user may have on all nodes, and how quickly they may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserLimit {
    /// So many; 0 is any number. Those that have an order to end don't count.
    pub max: u32,
    /// And then?
    pub policy: LimitPolicy,
    /// So many newcomers in one [`RATE_WINDOW`], those among them that are refused as one too many; 0 is any number.
    pub newcomers: u32,
}

/// What keeps a connection out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bar {
    /// The user is banned.
    Banned,
    /// The token is revoked: itself, or all of the user's that are as old.
    Revoked,
    /// The login that it stems from is over.
    SessionEnded,
    /// The user has as many connections as a user may have.
    TooMany,
    /// The user's connections come more quickly than they may. The next one may get in.
    TooOften,
}

impl Bar {
    /// How a connection ends that is open and may not be.
    pub fn ending(self) -> Ending {
        Ending::of(match self {
            Self::Banned => Ending::BANNED,
            Self::Revoked => Ending::TOKEN_REVOKED,
            Self::SessionEnded => Ending::SESSION_ENDED,
            Self::TooMany | Self::TooOften => Ending::LIMIT,
        })
    }
}

/// A connection that is to be in the registry.
#[derive(Clone, Copy, Debug)]
pub struct Assertion<'a> {
    /// What it is like.
    pub connection: &'a Connection,
    /// What it was let in by.
    pub grant: &'a Grant,
    /// Counts the changes of these two: what was said of an earlier one and comes late changes nothing.
    pub version: u64,
    /// When it began, as an earlier [`Admission::Admitted`] said; none if there was none.
    pub start: Option<Timestamp>,
    /// What is held against a newcomer; none for any number.
    pub limit: Option<UserLimit>,
    /// Whether it has been let in before: no limit is held against it, nobody is evicted for it, and its tally is not counted.
    pub again: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is in.
    Admitted {
        /// When it began, by the registry's clock: it is meant by every kick from then on.
        start: Timestamp,
        /// What its user has with it, without those that are evicted; a guest has itself. Beyond 256 connections each further one
        /// counts as a device of its own.
        tally: Tally,
        /// Connections that have been ordered to end ([`Ending::LIMIT`]) to make room. Their nodes have not been told: that
        /// is the caller's. Where there is no room besides them, also those that an earlier call evicted and that are still
        /// there, as its caller may have failed.
        evicted: Vec<Entry>,
        /// The rooms that its user is to be in, of all namespaces, those that are over among them. None for a guest.
        lasting: Vec<Lasting>,
    },
    /// It may not be there. An entry that is there stays until it is unregistered.
    Refused(Bar),
    /// It has been ordered to end. An entry that is there stays until it is unregistered.
    Ended(Ending),
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_not_shown() {
        let grant = Grant {
            session: Some("s3cr3t-session".into()),
            ..Grant::default()
        };
        let shown = format!("{grant:?}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
        let digest = LoginId::from("s3cr3t-session").digest();
        assert_eq!(digest.len(), 12);
        assert!(shown.contains(&digest), "{shown}");
        assert_ne!(LoginId::from("s3cr3t-sessioo").digest(), digest);
    }

    #[test]
    fn each_bar_has_the_code_of_the_contract() {
        let codes = [Bar::Banned, Bar::Revoked, Bar::SessionEnded, Bar::TooMany]
            .map(|bar| bar.ending().code);
        assert_eq!(codes, [4501, 4502, 4503, 4504]);
    }
}
