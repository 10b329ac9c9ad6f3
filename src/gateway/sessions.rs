//! Sessions that Switchboard keeps for a backend: a family of refresh tokens, each good once.

use std::{sync::Arc, time::Duration};

use derive_more::Constructor;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::gateway::{GatewayError, endings::orders::EndOrders};
use crate::{
    auth::{
        FamilyKey, RefreshToken, SuccessorKey,
        token::{self, NewToken},
    },
    config::RunningConfig,
    connection::UserId,
    ending::Ending,
    metrics::Metrics,
    registry::{
        EndTarget, Family, FamilyToken, Fence, LoginId, Registry, RegistryError, Rotation, Turn,
    },
};

/// How long a refresh token that has just been used gets the same successor once more: two tabs that refresh at once with
/// one cookie are no theft.
const GRACE: Duration = Duration::from_secs(10);

/// What a family keeps as its claims: the claims as text, and the seal on them and on the family's user.
#[derive(Serialize, Deserialize)]
struct Sealed {
    claims: String,
    seal: String,
}

/// The keys that come from one signing secret.
struct RefreshKeys {
    successor: SuccessorKey,
    family: FamilyKey,
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

/// Begins, refreshes and ends the sessions that Switchboard keeps.
#[derive(Constructor)]
pub(super) struct RefreshSessions {
    config: RunningConfig,
    metrics: Metrics,
    registry: Arc<dyn Registry>,
    orders: Arc<EndOrders>,
}

impl RefreshSessions {
    /// Begins a session for a user that the backend has logged in.
    pub(super) async fn open(
        &self,
        user: &UserId,
        claims: &SessionClaims,
    ) -> Result<Issued, GatewayError> {
        let key = self.refresh_keys().into_iter().next();
        let key = key.ok_or_else(|| corrupt("there is no key to issue a refresh token with"))?;
        let id = self.registry.new_family_id(user);
        let text = serde_json::to_string(claims).map_err(corrupt)?;
        let family = Family {
            claims: sealed(&id, user, text, &key)?,
            id,
            user: user.clone(),
            expires_at: self.refresh_expiry()?,
        };
        let refresh_token = RefreshToken::new(family.id.as_str(), &key.successor)
            .ok_or_else(|| corrupt("an id that no refresh token can have"))?;
        let at = self
            .registry
            .open_family(&family, &known(&refresh_token))
            .await?;
        self.issue(&family, claims.clone(), refresh_token, Some(at))
    }

    /// Refreshes a session; none if the token is not good. One that was used before ends its session.
    pub(super) async fn refresh(
        &self,
        presented: &SecretString,
    ) -> Result<Option<Issued>, GatewayError> {
        let keys = self.refresh_keys();
        let (Some(presented), Some(key)) = (issued(presented, &keys), keys.first()) else {
            return Ok(None);
        };
        let successor = presented.successor(&key.successor);
        let turn = Turn {
            presented: &known(&presented),
            successor: &known(&successor),
            grace: GRACE,
            renew: Some(self.config.now().auth.refresh_ttl),
        };
        let (rotation, at) = self
            .registry
            .rotate(&presented.family().into(), turn)
            .await?;
        let (Rotation::Rotated(family)
        | Rotation::Recovered(family)
        | Rotation::Repeated(family)
        | Rotation::Reused(family)) = &rotation
        else {
            return Ok(None);
        };
        let Some(claims) = self.unseal(family, &keys) else {
            return Ok(None);
        };
        self.renew_seal(family, &keys).await;
        if let Rotation::Recovered(family) = &rotation {
            tracing::warn!(
                user = %family.user,
                "a refresh token is newer than the registry's, which has lost writes; the session goes on",
            );
        }
        match rotation {
            Rotation::Rotated(family)
            | Rotation::Recovered(family)
            | Rotation::Repeated(family) => self.issue(&family, claims, successor, at).map(Some),
            Rotation::Reused(family) => {
                tracing::warn!(user = %family.user, "a refresh token was used twice; its session ends");
                self.end_session(family).await?;
                Ok(None)
            }
            Rotation::Refused(_) | Rotation::Unknown => Ok(None),
        }
    }

    /// Ends a session and its connections. Whether there was one.
    pub(super) async fn close(&self, presented: &SecretString) -> Result<bool, GatewayError> {
        let keys = self.refresh_keys();
        let Some(presented) = issued(presented, &keys) else {
            return Ok(false);
        };
        let id = presented.family().into();
        match self.registry.close_family(&id, &known(&presented)).await? {
            Some(family) if self.unseal(&family, &keys).is_some() => {
                self.end_session(family).await.map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// What a family's tokens claim; none, and counted, unless this fleet has sealed that for this user.
    fn unseal(&self, family: &Family, keys: &[RefreshKeys]) -> Option<SessionClaims> {
        let claims = Sealed::deserialize(&family.claims).ok().and_then(|sealed| {
            let (id, user) = (family.id.as_str(), family.user.as_str());
            let holds =
                |key: &RefreshKeys| key.family.holds(&sealed.seal, id, user, &sealed.claims);
            let holds = keys.iter().any(holds);
            holds.then(|| serde_json::from_str(&sealed.claims).ok())?
        });
        if claims.is_none() {
            self.metrics.registry_unreadable("family").increment(1);
            tracing::warn!(family = ?family.id, "a refresh family does not have this fleet's seal; it counts as unknown");
        }
        claims
    }

    async fn end_session(&self, family: Family) -> Result<(), GatewayError> {
        let target = EndTarget::Session {
            user: family.user,
            session: family.id.clone(),
        };
        let fence = Fence::EndSession(family.id);
        let ending = Ending::of(Ending::SESSION_ENDED);
        self.orders.disconnect(target, Some(fence), &ending).await?;
        Ok(())
    }

    /// Seals a family anew that is sealed by a previous secret, so that it outlives that one. If this fails, the next refresh
    /// does it.
    async fn renew_seal(&self, family: &Family, keys: &[RefreshKeys]) {
        let (Some(key), Ok(old)) = (keys.first(), Sealed::deserialize(&family.claims)) else {
            return;
        };
        let (id, user) = (&family.id, &family.user);
        let current = key
            .family
            .holds(&old.seal, id.as_str(), user.as_str(), &old.claims);
        if current {
            return;
        }
        let renewed = async {
            let claims = sealed(id, user, old.claims, key)?;
            Ok::<_, GatewayError>(self.registry.rewrite_claims(family, &claims).await?)
        };
        if let Err(error) = renewed.await {
            tracing::debug!(%error, "can't renew the seal of a refresh family");
        }
    }

    /// `at` is when the registry let the family have it: a revocation that comes before this answers holds against it, and one
    /// whose clock is behind this node's does too.
    fn issue(
        &self,
        family: &Family,
        claims: SessionClaims,
        refresh_token: RefreshToken,
        at: Option<Timestamp>,
    ) -> Result<Issued, GatewayError> {
        let new = NewToken {
            roles: claims.roles,
            username: claims.username,
            extra: claims.extra.into_iter().collect(),
            session: Some(family.id.as_str().to_owned()),
            issued_at: at,
            ..NewToken::new(family.user.clone(), self.config.now().auth.token_ttl)
        };
        let minted = token::mint(&self.config.now().auth.jwt, &new)?;
        Ok(Issued {
            token: minted.token,
            expires_at: minted.expires_at,
            refresh_token: refresh_token.text().clone(),
            refresh_expires_at: family.expires_at,
        })
    }

    /// What refresh tokens are issued and families sealed with, first, and what may have been used before; none on a node that
    /// issues no tokens.
    fn refresh_keys(&self) -> Vec<RefreshKeys> {
        let jwt = &self.config.now().auth.jwt;
        let Some(secret) = &jwt.secret else {
            return Vec::new();
        };
        let secrets = std::iter::once(secret).chain(&jwt.previous_secrets);
        let keys = secrets.map(|secret| RefreshKeys {
            successor: SuccessorKey::new(secret),
            family: FamilyKey::new(secret),
        });
        keys.collect()
    }

    fn refresh_expiry(&self) -> Result<Timestamp, GatewayError> {
        Timestamp::now()
            .checked_add(self.config.now().auth.refresh_ttl)
            .map_err(corrupt)
    }
}

/// What a family keeps as its claims.
fn sealed(
    id: &LoginId,
    user: &UserId,
    claims: String,
    key: &RefreshKeys,
) -> Result<serde_json::Value, GatewayError> {
    let seal = key.family.seal(id.as_str(), user.as_str(), &claims);
    serde_json::to_value(Sealed { claims, seal }).map_err(corrupt)
}

/// A refresh token as the registry knows it.
fn known(token: &RefreshToken) -> FamilyToken {
    FamilyToken {
        number: token.number(),
        hash: token.hash(),
    }
}

/// A refresh token that one of the keys has issued; none for one that somebody made up. Its tag shows that, so it costs the
/// registry nothing, and writing a hash to Redis makes no token good.
fn issued(presented: &SecretString, keys: &[RefreshKeys]) -> Option<RefreshToken> {
    let token = RefreshToken::parse(presented.expose_secret())?;
    keys.iter()
        .any(|key| token.is_by(&key.successor))
        .then_some(token)
}

fn corrupt(error: impl std::fmt::Display) -> GatewayError {
    RegistryError::Corrupt(format!("a session: {error}")).into()
}
