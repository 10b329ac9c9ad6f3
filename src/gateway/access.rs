//! What a backend says of a user's right to be connected, and the sessions that Switchboard keeps for it.

use std::sync::Arc;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::gateway::{
    Gateway, GatewayError, Inner,
    message::{Disconnected, TokenRevoked},
};
use crate::{
    connection::UserId,
    ending::Ending,
    registry::{EndTarget, Fence},
};

pub use crate::registry::Ban;

/// What became of a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Tokens issued before are refused; by the registry's clock.
    pub revoked_before: Timestamp,
    /// The connections that had come in with one.
    pub disconnected: Disconnected,
}

/// A session that Switchboard keeps: who it is for, and what its tokens say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionClaims {
    /// `username` of the tokens.
    pub username: Option<String>,
    /// `role` of the tokens.
    pub roles: Vec<String>,
    /// Further claims of the tokens.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// What is issued when a session begins, and each time it is refreshed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The access token.
    pub token: SecretString,
    /// Its `exp`.
    pub expires_at: Timestamp,
    /// The next refresh token, good once.
    pub refresh_token: SecretString,
    /// When the session ends if it is not refreshed.
    pub refresh_expires_at: Timestamp,
}

impl Gateway {
    /// Keeps a user out and ends its connections.
    pub async fn ban(&self, user: &UserId, ban: &Ban) -> Result<Disconnected, GatewayError> {
        self.inner.ban(user, ban).await
    }

    /// Lets a user in again. Whether it was kept out.
    pub async fn unban(&self, user: &UserId) -> Result<bool, GatewayError> {
        Ok(self.inner.registry.unban(user).await?)
    }

    /// A user's ban.
    pub async fn ban_of(&self, user: &UserId) -> Result<Option<Ban>, GatewayError> {
        Ok(self.inner.registry.ban_of(user).await?)
    }

    /// Refuses a user's tokens that were issued before a time (none: now), and ends the connections that came in with one.
    pub async fn revoke_tokens(
        &self,
        user: &UserId,
        issued_before: Option<Timestamp>,
    ) -> Result<Revoked, GatewayError> {
        self.inner.revoke_tokens(user, issued_before).await
    }

    /// Refuses one token by its `jti`, and ends the connections that came in with it.
    pub async fn revoke_token(
        &self,
        token_id: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<TokenRevoked, GatewayError> {
        self.inner.revoke_token(token_id, expires_at).await
    }

    /// Whether this node can issue tokens: it has a signing key.
    pub fn issues_tokens(&self) -> bool {
        self.inner.config().auth.jwt.secret.is_some()
    }

    /// Begins a session for a user whom the backend has logged in.
    pub async fn open_session(
        &self,
        user: &UserId,
        claims: &SessionClaims,
    ) -> Result<Issued, GatewayError> {
        self.inner.open_session(user, claims).await
    }

    /// Refreshes a session; none if the refresh token is not good (used before, unknown, over). One that was used before
    /// ends its session.
    pub async fn refresh_session(
        &self,
        refresh_token: &SecretString,
    ) -> Result<Option<Issued>, GatewayError> {
        self.inner.refresh_session(refresh_token).await
    }

    /// Ends a session and its connections. Whether there was one.
    pub async fn close_session(&self, refresh_token: &SecretString) -> Result<bool, GatewayError> {
        self.inner.close_session(refresh_token).await
    }
}

impl Inner {
    pub(super) async fn ban(
        self: &Arc<Self>,
        user: &UserId,
        ban: &Ban,
    ) -> Result<Disconnected, GatewayError> {
        let fence = Fence::Ban(ban.clone());
        let mut ending = Ending::of(Ending::BANNED);
        if let Some(reason) = &ban.reason {
            ending = ending.because(reason);
        }
        self.disconnect(everybody(user), Some(fence), &ending).await
    }

    pub(super) async fn revoke_tokens(
        self: &Arc<Self>,
        user: &UserId,
        issued_before: Option<Timestamp>,
    ) -> Result<Revoked, GatewayError> {
        let target = EndTarget::Revoked { user: user.clone() };
        let fence = Fence::RevokeBefore(issued_before);
        let ending = Ending::of(Ending::TOKEN_REVOKED);
        let (disconnected, revoked_before) = self.order(target, Some(fence), &ending).await?;
        Ok(Revoked {
            revoked_before: revoked_before
                .or(issued_before)
                .unwrap_or_else(Timestamp::now),
            disconnected,
        })
    }
}

fn everybody(user: &UserId) -> EndTarget {
    EndTarget::User {
        user: user.clone(),
        except: Vec::new(),
    }
}
