//! What a verified payload says: the registered claims (RFC 7519 §4.1), and who the user is.
//!
//! `user` finds the user, `times` reads the times.

mod times;
mod user;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use self::{
    times::{issued_at, millis, time, timestamp},
    user::text,
};
use crate::auth::{
    AuthError, Identity, SessionRef,
    json::Object,
    jwt::{Refusal, TokenDigest},
    keys::Bound,
    rule::Intended,
};
use crate::connection::UserId;

pub(super) use self::{
    times::MAX_TIME,
    user::{UserClaim, user_id},
};

/// The longest `sid` that is kept.
const MAX_SID_BYTES: usize = 256;

/// What to hold a payload against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check<'a> {
    /// The time that counts as now.
    pub(crate) now: Timestamp,
    /// Tolerance for `exp`, `nbf` and `iat`.
    pub(crate) leeway: Duration,
    /// `iss` and `aud`.
    pub(crate) intended: &'a Intended,
    /// What the key is bound to that has verified it.
    pub(crate) bound: &'a Bound,
    /// The user's claim.
    pub(crate) user: &'a UserClaim,
    /// The claim with the rooms.
    pub(crate) rooms: &'a str,
    /// What tells the token from all others.
    pub(crate) digest: TokenDigest,
}

impl Check<'_> {
    /// The identity in the payload of a token whose signature is good. Whether it is past `exp` is looked at last, so
    /// that `Expired` is said of a token that is otherwise right, and of no other.
    pub(crate) fn identity(&self, Object(claims): &Object) -> Result<Identity, Refusal> {
        let expires_at = time(claims, "exp")?.ok_or(Refusal::invalid("it has no exp"))?;
        // Held against the clock in whole seconds: one node's milliseconds are in the future of another.
        if self.is_ahead(time(claims, "iat")?) {
            return Err(Refusal::invalid("its iat is in the future"));
        }
        if self.is_ahead(time(claims, "nbf")?) {
            return Err(Refusal::invalid("its nbf is in the future"));
        }
        self.check_issuer(claims)?;
        self.check_audience(claims)?;
        let user_id = user_id(self.user.find(claims))?;
        let token_id = present(claims, "jti").map(text).transpose()?;

        if self.now_millis() >= millis(expires_at) + self.leeway_millis() {
            return Err(Refusal::new(AuthError::Expired, "it is past its exp"));
        }
        Ok(Identity {
            user_id,
            username: string(claims, "username"),
            email: string(claims, "email"),
            roles: self.bound.given(roles(claims)),
            rooms: granted(claims.get(self.rooms)),
            watch: watched(claims),
            expires_at: Some(timestamp(expires_at)),
            issued_at: issued_at(claims),
            token_id,
            digest: Some(self.digest),
            session: family(claims),
        })
    }

    fn is_ahead(&self, seconds: Option<i64>) -> bool {
        seconds.is_some_and(|seconds| millis(seconds) > self.now_millis() + self.leeway_millis())
    }

    fn now_millis(&self) -> i128 {
        self.now.as_millisecond().into()
    }

    fn leeway_millis(&self) -> i128 {
        i128::try_from(self.leeway.as_millis()).unwrap_or(i128::from(i64::MAX))
    }

    fn check_issuer(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let issuer = claims.get("iss");
        let is_one = |issuers: &[String]| {
            let known = |value: &Value| issuers.iter().any(|issuer| value == issuer.as_str());
            issuer.is_some_and(known)
        };
        let mut wanted = self.intended.issuers.of_key(&self.bound.issuers);
        if wanted.all(is_one) {
            Ok(())
        } else {
            Err(Refusal::invalid("its iss is not the configured one"))
        }
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let audience = claims.get("aud");
        let holds_one = |audiences: &[String]| {
            let ours = |value: &Value| audiences.iter().any(|audience| value == audience.as_str());
            match audience {
                Some(Value::Array(values)) => {
                    values.iter().all(Value::is_string) && values.iter().any(ours)
                }
                Some(value) => ours(value),
                None => false,
            }
        };
        let mut wanted = self.intended.audiences.of_key(&self.bound.audiences);
        if wanted.all(holds_one) {
            Ok(())
        } else {
            Err(Refusal::invalid("its aud is not the configured one"))
        }
    }
}

/// A claim that is there and not `null`.
fn present<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).filter(|value| !value.is_null())
}

fn string(claims: &Map<String, Value>, name: &str) -> Option<String> {
    claims.get(name)?.as_str().map(str::to_owned)
}

/// The session that a token is of: `sid`, as Switchboard mints it. Other issuers have their own `sid` (OpenID Connect), which
/// is kept just as well; one that can't be a session's id is none.
fn family(claims: &Map<String, Value>) -> Option<SessionRef> {
    let sid = string(claims, "sid")?;
    let fits = (1..=MAX_SID_BYTES).contains(&sid.len());
    fits.then_some(SessionRef::Family(sid))
}

fn roles(claims: &Map<String, Value>) -> Vec<String> {
    let both = ["role", "roles"].into_iter();
    granted(both.filter_map(|name| claims.get(name)))
}

/// The users in the claim `watch`.
fn watched(claims: &Map<String, Value>) -> Vec<UserId> {
    let ids = claims.get("watch").and_then(Value::as_array);
    let ids = ids.into_iter().flatten();
    ids.filter_map(|id| user_id(Some(id)).ok()).collect()
}

/// All roles, or rooms, in some values, each of them a string or a list of strings; what is neither grants nothing.
pub(crate) fn granted<'a>(values: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let mut roles = Vec::new();
    let mut grant = |role: &Value| {
        if let Some(role) = role.as_str()
            && !role.is_empty()
            && !roles.iter().any(|held| held == role)
        {
            roles.push(role.to_owned());
        }
    };
    for value in values {
        match value {
            Value::Array(items) => items.iter().for_each(&mut grant),
            one => grant(one),
        }
    }
    roles
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
