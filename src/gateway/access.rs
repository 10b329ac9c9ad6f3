//! What a backend says of a user's right to be connected, and the sessions that Switchboard keeps for it.

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Gateway, GatewayError, message::Disconnected};
use crate::connection::UserId;

/// A user that is kept out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ban {
    /// Why, for people.
    pub reason: Option<String>,
    /// Until when; none: until it is lifted.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

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
    pub async fn ban(&self, _user: &UserId, _ban: &Ban) -> Result<Disconnected, GatewayError> {
        unimplemented!()
    }

    /// Lets a user in again. Whether it was kept out.
    pub async fn unban(&self, _user: &UserId) -> Result<bool, GatewayError> {
        unimplemented!()
    }

    /// A user's ban.
    pub async fn ban_of(&self, _user: &UserId) -> Result<Option<Ban>, GatewayError> {
        unimplemented!()
    }

    /// Refuses a user's tokens that were issued before a time (none: now), and ends the connections that came in with one.
    pub async fn revoke_tokens(
        &self,
        _user: &UserId,
        _issued_before: Option<Timestamp>,
    ) -> Result<Revoked, GatewayError> {
        unimplemented!()
    }

    /// Refuses one token by its `jti`, and ends the connections that came in with it.
    pub async fn revoke_token(
        &self,
        _token_id: &str,
        _expires_at: Option<Timestamp>,
    ) -> Result<Disconnected, GatewayError> {
        unimplemented!()
    }

    /// Whether this node can issue tokens: it has a signing key.
    pub fn issues_tokens(&self) -> bool {
        unimplemented!()
    }

    /// Begins a session for a user whom the backend has logged in.
    pub async fn open_session(
        &self,
        _user: &UserId,
        _claims: &SessionClaims,
    ) -> Result<Issued, GatewayError> {
        unimplemented!()
    }

    /// Refreshes a session; none if the refresh token is not good (used before, unknown, over). One that was used before
    /// ends its session.
    pub async fn refresh_session(
        &self,
        _refresh_token: &SecretString,
    ) -> Result<Option<Issued>, GatewayError> {
        unimplemented!()
    }

    /// Ends a session and its connections. Whether there was one.
    pub async fn close_session(&self, _refresh_token: &SecretString) -> Result<bool, GatewayError> {
        unimplemented!()
    }
}
