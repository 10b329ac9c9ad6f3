//! What a key is bound to: whose tokens it verifies, and what they may give.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::config::JwtKey;

/// What the tokens of an entry of `auth.jwt.keys` have to say, and what they may. The default asks nothing: the keys of
/// `auth.jwt` itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    /// `iss` is one of these; empty: as in `auth.jwt`.
    pub(crate) issuers: Vec<String>,
    /// `aud` is or holds one of these; empty: as in `auth.jwt`.
    pub(crate) audiences: Vec<String>,
    /// The roles that they give; none: any.
    roles: Option<Vec<String>>,
}

impl Bound {
    /// What an entry of the configuration says.
    pub(super) fn new(entry: &JwtKey) -> Self {
        Self {
            issuers: entry.issuer.clone(),
            audiences: entry.audience.clone(),
            roles: entry.roles.clone(),
        }
    }

    /// Whether a token that says it is from `issuer` can be one of this key's. Says so before the signature is looked at: a
    /// key is not even tried for tokens of other issuers (RFC 8725 section 3.8).
    pub(super) fn is_for(&self, issuer: Option<&str>) -> bool {
        self.issuers.is_empty()
            || issuer.is_some_and(|issuer| self.issuers.iter().any(|own| own == issuer))
    }

    /// Of the roles in a token those that the key may give.
    pub(crate) fn given(&self, mut claimed: Vec<String>) -> Vec<String> {
        if let Some(roles) = &self.roles {
            let before = claimed.len();
            claimed.retain(|role| roles.contains(role));
            let left_out = before - claimed.len();
            if left_out > 0 {
                tracing::debug!(left_out, "a token claims roles that its key may not give");
            }
        }
        claimed
    }
}

/// The `iss` of a token whose signature has not been looked at; none if it can't be read.
pub(super) fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Claims { iss } = serde_json::from_slice(&payload).ok()?;
    Some(iss)
}
