//! Credentials of a handshake → an [`Identity`], or a typed refusal. No I/O but the fetch of a JWKS.
//!
//! [`Authenticator`] is the door. Behind it: `credentials` (what a handshake brings), `jwt` (a token's form), `keys` and
//! `pem` (configured keys), `jwks` and `remote` (JWK sets), `claims` (what a payload says), `rule` (who is let into a
//! namespace). [`token`] mints, for `switchboard token` and for backends.
//!
//! The checks follow RFC 8725 (JWT best current practices). Each is a row of a table in the tests.

use jiff::Timestamp;

use crate::connection::UserId;

mod authenticator;
mod claims;
mod credentials;
mod crypto;
mod json;
mod jwks;
mod jwt;
mod keys;
mod pem;
mod remote;
mod rule;
pub mod token;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod testing;

pub use authenticator::Authenticator;
pub use credentials::{Credentials, device_id};
pub use crypto::{CryptoError, install_crypto};
pub use jwt::Refusal;
pub use rule::NamespaceRule;
pub use token::{MintError, Minted, NewToken, mint};

/// Who a verified token says its bearer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user: `sub`, else `id`, else `userId`, or the configured claim.
    pub user_id: UserId,
    /// `username`.
    pub username: Option<String>,
    /// `email`.
    pub email: Option<String>,
    /// `role` and all of `roles`, each once.
    pub roles: Vec<String>,
    /// `exp`.
    pub expires_at: Timestamp,
    /// `iat`.
    pub issued_at: Option<Timestamp>,
    /// `jti`.
    pub token_id: Option<String>,
}

impl Identity {
    /// Whether the token grants `role`.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }
}

/// Why credentials are refused. `Display` is the contract's text of the `connect_error`.
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
    /// Not the role that `/admin` asks for.
    #[error("Admin access required")]
    AdminRequired,
    /// Not a role that the namespace asks for.
    #[error("Access denied")]
    AccessDenied,
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
