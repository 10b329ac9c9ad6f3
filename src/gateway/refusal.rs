//! Why a connection is refused for what its user is: one table for the door and for those inside.

use std::{fmt, sync::Arc};

use crate::{auth::AuthError, registry::Bar};

/// Why a CONNECT packet, or a token later on, is refused. `Display` is the contract's text of the `connect_error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The credentials.
    Auth(AuthError),
    /// What is held against the user or the token.
    Bar(Bar),
    /// The application or a backend, with this message.
    Application(Arc<str>),
    /// The backend that is to decide has not said what to do.
    Backend,
    /// The node or its registry can't serve anybody for now.
    Unavailable,
    /// The node holds as many connections as it may.
    Full,
}

impl Refusal {
    /// Whether the client is to try again by itself: its transport is cut, as a `connect_error` would make it stop.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Backend | Self::Unavailable | Self::Full | Self::Bar(Bar::TooOften)
        )
    }

    /// The value of the metric label `reason`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Auth(AuthError::Missing) => "missing",
            Self::Auth(AuthError::Invalid) => "invalid",
            Self::Auth(AuthError::Expired) => "expired",
            Self::Auth(AuthError::AdminRequired | AuthError::AccessDenied) => "role",
            Self::Auth(AuthError::NotAuthenticated) => "session",
            Self::Auth(AuthError::Revoked) | Self::Bar(Bar::Revoked | Bar::SessionEnded) => {
                "revoked"
            }
            Self::Auth(AuthError::Banned) | Self::Bar(Bar::Banned) => "banned",
            Self::Auth(AuthError::TooMany) | Self::Bar(Bar::TooMany) => "too_many",
            Self::Bar(Bar::TooOften) => "user_rate",
            Self::Application(_) => "application",
            Self::Backend => "backend",
            Self::Auth(AuthError::Unavailable) | Self::Unavailable => "unavailable",
            Self::Full => "full",
        }
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unavailable => Self::Unavailable,
            error => Self::Auth(error),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auth(error) => error.fmt(f),
            Self::Bar(Bar::Banned) => AuthError::Banned.fmt(f),
            // It is a token that says which session it is of; to its client it is one that was revoked.
            Self::Bar(Bar::Revoked | Bar::SessionEnded) => AuthError::Revoked.fmt(f),
            Self::Bar(Bar::TooMany) => AuthError::TooMany.fmt(f),
            Self::Application(message) => f.write_str(message),
            Self::Backend | Self::Unavailable | Self::Full | Self::Bar(Bar::TooOften) => {
                f.write_str("Service unavailable")
            }
        }
    }
}
