//! What the routes of sessions take and answer.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    api::{
        body::Payload,
        error::{ApiError, ErrorCode},
    },
    gateway::access::SessionClaims,
};

/// The claims of every token that Switchboard sets itself.
pub(super) const RESERVED: [&str; 5] = ["sub", "iat", "exp", "jti", "sid"];

/// The most that the claims of a session may take as JSON, in bytes: with the longest user id, the token still is one that
/// a handshake takes.
const MAX_CLAIMS_BYTES: usize = 4096;

/// What the tokens of a session say of its user. Everything is optional, the body as well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"username": "ada", "role": "editor", "claims": {"email": "ada@example.com"}}))]
pub struct SessionRequest {
    /// `username`.
    username: Option<String>,
    /// The role, if it is one.
    role: Option<String>,
    /// The roles, if they are several.
    roles: Option<Vec<String>>,
    /// Further claims. `sub`, `iat`, `exp`, `jti` and `sid` are set by Switchboard and can't be given.
    #[schema(value_type = Option<Object>)]
    claims: Option<Map<String, Value>>,
}

impl Payload for SessionRequest {
    fn when_empty() -> Option<Self> {
        Some(Self::default())
    }
}

impl SessionRequest {
    pub(super) fn claims(self) -> Result<SessionClaims, ApiError> {
        let invalid = |detail: String| Err(ApiError::new(ErrorCode::InvalidClaims, detail));
        let extra = self.claims.unwrap_or_default();
        if let Some(name) = RESERVED.iter().find(|name| extra.contains_key(**name)) {
            return invalid(format!("claims.{name}: is set by Switchboard"));
        }
        let roles = match (self.role, self.roles) {
            (Some(_), Some(_)) => return invalid("role and roles: one or the other".into()),
            (Some(role), None) => vec![role],
            (None, roles) => roles.unwrap_or_default(),
        };
        if roles.iter().any(String::is_empty) {
            return invalid("a role has at least one character".into());
        }
        let claims = SessionClaims {
            username: self.username,
            roles,
            extra,
        };
        let size = serde_json::to_vec(&claims).map_or(usize::MAX, |json| json.len());
        if size > MAX_CLAIMS_BYTES {
            return Err(ApiError::new(
                ErrorCode::TooLong,
                format!("all claims together: at most {MAX_CLAIMS_BYTES} bytes as JSON"),
            ));
        }
        Ok(claims)
    }
}

/// A session that has begun. For the browser are `token`, to connect with, and `cookie`, as a `Set-Cookie` header.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionAnswer {
    /// The first access token.
    #[schema(value_type = String)]
    #[serde(serialize_with = "exposed")]
    pub(super) token: SecretString,
    /// Its `exp`.
    #[schema(value_type = String, format = DateTime)]
    pub(super) expires_at: Timestamp,
    /// The refresh token, good once: for clients that keep their cookies themselves.
    #[schema(value_type = String)]
    #[serde(serialize_with = "exposed")]
    pub(super) refresh_token: SecretString,
    /// The value of the `Set-Cookie` header that has the browser keep the refresh token.
    #[schema(value_type = String)]
    #[serde(serialize_with = "exposed")]
    pub(super) cookie: SecretString,
}

/// The next access token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenAnswer {
    /// The token.
    #[schema(value_type = String)]
    #[serde(serialize_with = "exposed")]
    pub(super) token: SecretString,
    /// Its `exp`.
    #[schema(value_type = String, format = DateTime)]
    pub(super) expires_at: Timestamp,
}

fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}
