//! Credentials of a handshake → an [`Identity`], or a typed refusal. No I/O but the fetch of a JWKS.

use jiff::Timestamp;
use secrecy::SecretString;

use crate::connection::UserId;

pub mod jwks;
pub mod jwt;
pub mod keys;
pub mod token;

/// Who a verified token says its bearer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user: `sub`, else `id`, else `userId`, or the configured claim.
    pub user_id: UserId,
    /// `username`.
    pub username: Option<String>,
    /// `email`.
    pub email: Option<String>,
    /// `role`, or all of `roles`.
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

/// What a handshake brings. The order of preference is the order of the fields.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `auth.token` of the CONNECT packet.
    pub token: Option<SecretString>,
    /// The token of the handshake request's `Authorization: Bearer`.
    pub bearer: Option<SecretString>,
}
