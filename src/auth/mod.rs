//! Credentials of a handshake → an [`Identity`], or a typed refusal. No I/O but the fetch of a JWKS and the look-up of a
//! session.
//!
//! [`Authenticator`] is the door. Behind it: `credentials` (what a handshake brings), `kept` (what of it stays), `payload` (the
//! `auth` of a CONNECT packet), `jwt` (a token's form), `keys` and
//! `pem` (configured keys), `jwks` and `remote` (JWK sets), `claims` (what a payload says), `rule` (who is let into a
//! namespace); and for the cookies of an Express application `cookie` (whose signature), `session` (what is stored),
//! `session_store` (where), `sessions` (all three). Which pages may bring one is [`crate::transport::origin`]'s to say.
//! [`token`] mints, for `switchboard token` and for backends; [`refresh`] makes what a client gets the next token for.
//!
//! The checks follow RFC 8725 (JWT best current practices). Each is a row of a table in the tests.

use jiff::Timestamp;

use crate::connection::UserId;

mod authenticator;
mod claims;
mod cookie;
mod credentials;
mod crypto;
mod family_seal;
mod json;
mod jwks;
mod jwt;
mod kept;
mod keys;
mod payload;
mod pem;
pub mod refresh;
mod remote;
mod rule;
mod session;
mod session_store;
mod sessions;
pub mod token;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hostile_cookies;
#[cfg(test)]
mod hostile_tokens;
#[cfg(test)]
mod testing;

pub use authenticator::Authenticator;
pub use cookie::StoredSessionId;
pub use credentials::{Credentials, device_id, is_device_id};
pub use crypto::{CryptoError, install_crypto};
pub use family_seal::FamilyKey;
pub use jwt::{Refusal, TokenDigest};
pub use kept::KeptHeaders;
pub use payload::ConnectPayload;
pub use refresh::{RefreshToken, SuccessorKey};
pub use rule::NamespaceRule;
#[cfg(test)]
pub(crate) use session_store::MemorySessions;
pub use session_store::{Found, RedisSessions, SessionStore, StoreUnavailable};
pub use token::{MintError, Minted, NewToken, mint};

/// Who a verified token or a session says its bearer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user: `sub`, else `id`, else `userId`, or the configured claim; of a session, what its pointer leads to.
    pub user_id: UserId,
    /// `username`.
    pub username: Option<String>,
    /// `email`.
    pub email: Option<String>,
    /// `role` and all of `roles`, each once.
    pub roles: Vec<String>,
    /// The rooms that it claims, each once; they may be none that there can be.
    pub rooms: Vec<String>,
    /// `watch`: the users that it may watch, as far as they are users' ids.
    pub watch: Vec<UserId>,
    /// `exp`. None for a session cookie: it holds until the session is looked at again.
    pub expires_at: Option<Timestamp>,
    /// What revocations are held against. `iat`, in milliseconds if it has them; of a session cookie, the millisecond before the
    /// session was looked up in the handshake, by the store's clock; of a backend's answer, when it was asked. So it is a token's time of
    /// issue only where there is a `digest`.
    pub issued_at: Option<Timestamp>,
    /// `jti`.
    pub token_id: Option<String>,
    /// What tells the token from all others. None where no token says who it is: a session cookie, a backend's answer.
    pub digest: Option<TokenDigest>,
    /// What it ends with, besides.
    pub session: Option<SessionRef>,
}

/// A session that an identity came from, and ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionRef {
    /// An application's, from a session cookie. To be looked at again with [`Authenticator::recheck`].
    Cookie(StoredSessionId),
    /// `sid` of a token: the family of refresh tokens that it was given for, if Switchboard minted it.
    Family(String),
}

impl Identity {
    /// Whether the bearer has `role`.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }
}

/// Why credentials are refused. `Display` is the contract's text of the `connect_error`, which clients written after the lesson compare. The
/// `data.code` that goes with it is made of the text by `transport::packets`, which names the exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credentials at all.
    #[error("Authentication token required")]
    Missing,
    /// A token that can't be parsed or verified, or is not for us.
    #[error("Invalid token")]
    Invalid,
    /// A token that verified but is past `exp`.
    #[error("Invalid or expired token")]
    Expired,
    /// A token that was revoked, by itself or with all of its user's.
    #[error("Token revoked")]
    Revoked,
    /// A user who is banned.
    #[error("User banned")]
    Banned,
    /// Not the role that `/admin` asks for.
    #[error("Admin access required")]
    AdminRequired,
    /// Not a role that the namespace asks for.
    #[error("Access denied")]
    AccessDenied,
    /// A session cookie that names no live, logged-in session.
    #[error("Not authenticated")]
    NotAuthenticated,
    /// More connections than a user may have.
    #[error("Too many connections")]
    TooMany,
    /// A store or key server that has to be asked does not answer. No `connect_error`, which would make the client stop: its
    /// transport is closed, and it tries again.
    #[error("Service unavailable")]
    Unavailable,
}

/// A configuration that no authenticator can be built from. `Display` begins with the key at fault, such as
/// `auth.jwt.public_key_file`, and shows no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct AuthConfigError {
    key: String,
    problem: String,
}

impl AuthConfigError {
    pub(crate) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// The configuration key at fault.
    pub fn key(&self) -> &str {
        &self.key
    }
}
