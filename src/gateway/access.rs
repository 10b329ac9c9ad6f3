//! What a backend says of a user's right to be connected, and the sessions that Switchboard keeps for it.

use jiff::Timestamp;
use secrecy::SecretString;

use crate::connection::UserId;
use crate::gateway::{
    Gateway, GatewayError,
    message::{Disconnected, TokenRevoked},
};

pub use super::{
    message::Revoked,
    sessions::{Issued, SessionClaims},
};
pub use crate::registry::Ban;

impl Gateway {
    /// Keeps a user out and ends its connections.
    pub async fn ban(&self, user: &UserId, ban: &Ban) -> Result<Disconnected, GatewayError> {
        self.inner.orders.ban(user, ban).await
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
        self.inner.orders.revoke_tokens(user, issued_before).await
    }

    /// Refuses one token by its `jti`, and ends the connections that came in with it.
    pub async fn revoke_token(
        &self,
        token_id: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<TokenRevoked, GatewayError> {
        self.inner.orders.revoke_token(token_id, expires_at).await
    }

    /// Whether this node can issue tokens: it has a signing key.
    pub fn issues_tokens(&self) -> bool {
        self.inner.config.now().auth.jwt.secret.is_some()
    }

    /// Begins a session for a user that the backend has logged in.
    pub async fn open_session(
        &self,
        user: &UserId,
        claims: &SessionClaims,
    ) -> Result<Issued, GatewayError> {
        self.inner.sessions.open(user, claims).await
    }

    /// Refreshes a session; none if the refresh token is not good (used before, unknown, over). One that was used before
    /// ends its session.
    pub async fn refresh_session(
        &self,
        refresh_token: &SecretString,
    ) -> Result<Option<Issued>, GatewayError> {
        self.inner.sessions.refresh(refresh_token).await
    }

    /// Ends a session and its connections. Whether there was one.
    pub async fn close_session(&self, refresh_token: &SecretString) -> Result<bool, GatewayError> {
        self.inner.sessions.close(refresh_token).await
    }
}
