//! Sessions that Switchboard keeps for a backend: a family of refresh tokens, each good once.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{
    GatewayError, Inner,
    access::{Issued, SessionClaims},
};
use crate::{
    auth::{
        RefreshToken, SuccessorKey,
        token::{self, NewToken},
    },
    connection::UserId,
    ending::Ending,
    registry::{EndTarget, Family, Fence, RegistryError, Rotation, Turn},
};

/// How long a refresh token that has just been used gets the same successor once more: two tabs that refresh at once with
/// one cookie are no theft.
const GRACE: Duration = Duration::from_secs(10);

impl Inner {
    /// Begins a session for a user whom the backend has logged in.
    pub(super) async fn open_session(
        &self,
        user: &UserId,
        claims: &SessionClaims,
    ) -> Result<Issued, GatewayError> {
        let family = Family {
            id: self.registry.new_family_id(user),
            user: user.clone(),
            claims: serde_json::to_value(claims).map_err(corrupt)?,
            expires_at: self.refresh_expiry()?,
        };
        let key = self.refresh_keys().into_iter().next();
        let key = key.ok_or_else(|| corrupt("there is no key to issue a refresh token with"))?;
        let refresh_token = RefreshToken::new(family.id.as_str(), &key)
            .ok_or_else(|| corrupt("an id that no refresh token can have"))?;
        let at = self
            .registry
            .open_family(&family, &refresh_token.hash())
            .await?;
        self.issue(&family, refresh_token, Some(at))
    }

    /// Refreshes a session; none if the token is not good. One that was used before ends its session.
    pub(super) async fn refresh_session(
        self: &Arc<Self>,
        presented: &SecretString,
    ) -> Result<Option<Issued>, GatewayError> {
        let keys = self.refresh_keys();
        let (Some(presented), Some(key)) = (issued(presented, &keys), keys.first()) else {
            return Ok(None);
        };
        let successor = presented.successor(key);
        let turn = Turn {
            presented: &presented.hash(),
            successor: &successor.hash(),
            grace: GRACE,
            renew: Some(self.config.auth.refresh_ttl),
        };
        let (rotation, at) = self
            .registry
            .rotate(&presented.family().into(), turn)
            .await?;
        match rotation {
            Rotation::Rotated(family) | Rotation::Repeated(family) => {
                self.issue(&family, successor, at).map(Some)
            }
            Rotation::Reused(family) => {
                tracing::warn!(user = %family.user, "a refresh token was used twice; its session ends");
                self.end_session(family).await?;
                Ok(None)
            }
            Rotation::Refused(_) | Rotation::Unknown => Ok(None),
        }
    }

    /// Ends a session and its connections. Whether there was one.
    pub(super) async fn close_session(
        self: &Arc<Self>,
        presented: &SecretString,
    ) -> Result<bool, GatewayError> {
        let Some(presented) = issued(presented, &self.refresh_keys()) else {
            return Ok(false);
        };
        let id = presented.family().into();
        match self.registry.close_family(&id, &presented.hash()).await? {
            Some(family) => self.end_session(family).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn end_session(self: &Arc<Self>, family: Family) -> Result<(), GatewayError> {
        let target = EndTarget::Session {
            user: family.user,
            session: family.id.clone(),
        };
        let fence = Fence::EndSession(family.id);
        let ending = Ending::of(Ending::SESSION_ENDED);
        self.disconnect(target, Some(fence), &ending).await?;
        Ok(())
    }

    /// `at` is when the registry let the family have it: a revocation that comes before this answers holds against it, and one
    /// whose clock is behind this node's does too.
    fn issue(
        &self,
        family: &Family,
        refresh_token: RefreshToken,
        at: Option<Timestamp>,
    ) -> Result<Issued, GatewayError> {
        let claims: SessionClaims =
            serde_json::from_value(family.claims.clone()).map_err(corrupt)?;
        let new = NewToken {
            roles: claims.roles,
            username: claims.username,
            extra: claims.extra.into_iter().collect(),
            session: Some(family.id.as_str().to_owned()),
            issued_at: at,
            ..NewToken::new(family.user.clone(), self.config.auth.token_ttl)
        };
        let minted = token::mint(&self.jwt(), &new)?;
        Ok(Issued {
            token: minted.token,
            expires_at: minted.expires_at,
            refresh_token: refresh_token.text().clone(),
            refresh_expires_at: family.expires_at,
        })
    }

    /// What refresh tokens are issued with, first, and what they may have been issued with before; none on a node that issues
    /// no tokens.
    fn refresh_keys(&self) -> Vec<SuccessorKey> {
        let jwt = self.jwt();
        let Some(secret) = &jwt.secret else {
            return Vec::new();
        };
        let secrets = std::iter::once(secret).chain(&jwt.previous_secrets);
        secrets.map(SuccessorKey::new).collect()
    }

    fn refresh_expiry(&self) -> Result<Timestamp, GatewayError> {
        Timestamp::now()
            .checked_add(self.config.auth.refresh_ttl)
            .map_err(corrupt)
    }
}

/// A refresh token that one of the keys has issued; none for one that somebody made up: its tag shows that, and it costs the
/// registry nothing.
fn issued(presented: &SecretString, keys: &[SuccessorKey]) -> Option<RefreshToken> {
    let token = RefreshToken::parse(presented.expose_secret())?;
    keys.iter().any(|key| token.is_by(key)).then_some(token)
}

fn corrupt(error: impl std::fmt::Display) -> GatewayError {
    RegistryError::Corrupt(format!("a session: {error}")).into()
}
