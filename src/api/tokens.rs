//! Revoking tokens before they run out.

use axum::{Json, extract::State};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState, audit,
    auth::{Allowed, scope},
    body::{Body, Payload, UserPath},
    connections::status,
    error::{ApiError, ErrorCode},
    openapi::{BodyProblems, Guarded},
};
use crate::gateway::{
    Disconnected,
    requests::{
        end::{RevokeTokensRequest, RevokedAnswer},
        time,
    },
};

/// The longest `jti`, in bytes. A token that has a longer one is revoked with its user's others.
const MAX_TOKEN_ID_BYTES: usize = 1024;

impl Payload for RevokeTokensRequest {
    fn when_empty() -> Option<Self> {
        Some(Self::default())
    }
}

/// Revoke a user's tokens
///
/// Those with an older `iat`, or none, are refused from here on, and the connections that came in with one are ended in
/// every namespace, with code 4502. Nobody who is in the middle of a handshake slips in behind it. Those whose end could not be
/// confirmed in 5 s are in `remaining`, and the answer is 202; the revocation holds in either case.
#[utoipa::path(
    post,
    path = "/users/{user}/revoke-tokens",
    tag = "access",
    params(("user" = String, Path, description = "The user's id, percent-encoded")),
    request_body(content = Option<RevokeTokensRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "They are revoked", body = RevokedAnswer,
            example = json!({"revokedBefore": "2030-01-01T00:00:00Z", "disconnected": 2, "nodes": 1, "remaining": []})),
        (status = 202, description = "Done; of the connections in `remaining` the end could not be confirmed yet",
            body = RevokedAnswer, example = json!({"revokedBefore": "2030-01-01T00:00:00Z", "disconnected": 1, "nodes": 1,
                "remaining": ["c5Zk0pXv9Rr2mWqT1nYbLdA"]})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["disconnect"])),
)]
pub async fn revoke_user_tokens(
    allowed: Allowed<scope::Disconnect>,
    State(state): State<ApiState>,
    UserPath(user): UserPath,
    Body(request): Body<RevokeTokensRequest>,
) -> Result<(StatusCode, Json<RevokedAnswer>), ApiError> {
    let who = allowed.caller().name();
    let revoked = audit::leave(who, "revoke_tokens", user.as_str(), async {
        let gateway = &state.gateway;
        Ok(gateway.revoke_tokens(&user, request.issued_before).await?)
    })
    .await?;
    Ok((status(&revoked.disconnected), Json(revoked.into())))
}

/// Which token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"jti": "5e3b1c9a", "expiresAt": "2030-01-01T00:15:00Z"}))]
pub struct RevokeTokenRequest {
    /// Its id.
    #[schema(min_length = 1, max_length = 1024)]
    jti: String,
    /// Its `exp`: so long the revocation has to be kept. Absent: as long as any token can live.
    #[serde(default, deserialize_with = "time::optional")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

impl Payload for RevokeTokenRequest {}

impl RevokeTokenRequest {
    fn token_id(&self) -> Result<&str, ApiError> {
        if (1..=MAX_TOKEN_ID_BYTES).contains(&self.jti.len()) {
            Ok(&self.jti)
        } else {
            Err(ApiError::new(
                ErrorCode::InvalidTokenId,
                format!("jti: has 1 to {MAX_TOKEN_ID_BYTES} bytes"),
            ))
        }
    }
}

/// What was revoked, and which connections had come in by it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenRevokedAnswer {
    #[serde(flatten)]
    ended: Disconnected,
    /// How many nodes have not said that all of theirs are closed; absent if all have. One that has said nothing at all, as it
    /// hangs, can have connections that are not in `remaining`; it ends them when it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    unconfirmed: Option<u64>,
}

/// Revoke one token
///
/// By its `jti`. It is refused from here on, and the connections that came in with it are ended, with code 4502. Nothing but the
/// nodes themselves knows which they are, so all nodes are asked. The answer is 200 when each has said that its own are closed and
/// out of the registry; else it is 202 after 5 s, with those in `remaining` that nodes have named and not yet closed.
#[utoipa::path(
    post,
    path = "/tokens/revoke",
    tag = "access",
    request_body = RevokeTokenRequest,
    responses(
        (status = 200, description = "It is revoked", body = TokenRevokedAnswer,
            example = json!({"disconnected": 1, "nodes": 1, "remaining": []})),
        (status = 202, description = "Done; of the connections in `remaining` the end could not be confirmed yet",
            body = TokenRevokedAnswer, example = json!({"disconnected": 0, "nodes": 0, "remaining": [], "unconfirmed": 1})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["disconnect"])),
)]
pub async fn revoke_token(
    allowed: Allowed<scope::Disconnect>,
    State(state): State<ApiState>,
    Body(request): Body<RevokeTokenRequest>,
) -> Result<(StatusCode, Json<TokenRevokedAnswer>), ApiError> {
    let jti = request.token_id()?;
    let ended = audit::leave(allowed.caller().name(), "revoke_token", jti, async {
        Ok(state.gateway.revoke_token(jti, request.expires_at).await?)
    })
    .await?;
    let status = match ended.unconfirmed {
        0 => status(&ended.disconnected),
        _ => StatusCode::ACCEPTED,
    };
    let answer = TokenRevokedAnswer {
        ended: ended.disconnected,
        unconfirmed: Some(ended.unconfirmed).filter(|nodes| *nodes > 0),
    };
    Ok((status, Json(answer)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::access::Revoked;

    #[test]
    fn a_token_id_has_bounds() {
        let ok = |length: usize| {
            let request = RevokeTokenRequest {
                jti: "x".repeat(length),
                expires_at: None,
            };
            request.token_id().is_ok()
        };
        assert!(ok(1) && ok(1024));
        assert!(!ok(0) && !ok(1025));
    }

    #[test]
    fn what_was_revoked_is_shown_with_what_it_ended() {
        let revoked = Revoked {
            revoked_before: Timestamp::UNIX_EPOCH,
            disconnected: Disconnected {
                disconnected: 3,
                nodes: 2,
                remaining: vec!["c".into()],
            },
        };
        assert_eq!(
            json!(RevokedAnswer::from(revoked)),
            json!({"revokedBefore": "1970-01-01T00:00:00Z", "disconnected": 3, "nodes": 2, "remaining": ["c"]})
        );
    }
}
