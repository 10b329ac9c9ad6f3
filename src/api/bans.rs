//! Keeping users out.

use axum::{Json, extract::State};
use http::StatusCode;
use jiff::Timestamp;

use super::{
    ApiState, audit,
    auth::{Allowed, scope},
    body::{Body, Payload, UserPath},
    connections::status,
    error::ApiError,
    openapi::{BodyProblems, Guarded, HeadProblems},
};
use crate::gateway::requests::end::{BanAnswer, BanRequest, BannedAnswer};

impl Payload for BanRequest {
    fn when_empty() -> Option<Self> {
        Some(Self::default())
    }
}

/// Ban a user
///
/// In place of the ban there is, if there is one. It also ends the user's connections in every namespace, with code 4501,
/// and nobody who is in the middle of a handshake slips in behind it. The answer is 200 when they are closed and out of the
/// registry, and 202 when that could not be confirmed in 5 s of those in `remaining`; the ban holds in either case.
#[utoipa::path(
    put,
    path = "/users/{user}/ban",
    tag = "access",
    params(("user" = String, Path, description = "The user's id, percent-encoded")),
    request_body(content = Option<BanRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "The user is kept out", body = BannedAnswer,
            example = json!({"banned": true, "reason": "Spam", "until": "2030-01-08T00:00:00Z",
                "disconnected": 2, "nodes": 1, "remaining": []})),
        (status = 202, description = "Done; of the connections in `remaining` the end could not be confirmed yet", body = BannedAnswer,
            example = json!({"banned": true, "reason": null, "until": null,
                "disconnected": 1, "nodes": 1, "remaining": ["c5Zk0pXv9Rr2mWqT1nYbLdA"]})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["disconnect"])),
)]
pub async fn ban_user(
    allowed: Allowed<scope::Disconnect>,
    State(state): State<ApiState>,
    UserPath(user): UserPath,
    Body(request): Body<BanRequest>,
) -> Result<(StatusCode, Json<BannedAnswer>), ApiError> {
    let ban = request.ban(Timestamp::now())?;
    let ended = audit::leave(allowed.caller().name(), "ban", user.as_str(), async {
        Ok(state.gateway.ban(&user, &ban).await?)
    })
    .await?;
    let status = status(&ended);
    let ban = Some(ban).into();
    Ok((status, Json(BannedAnswer { ban, ended })))
}

/// Lift a user's ban
///
/// A user without one is no error.
#[utoipa::path(
    delete,
    path = "/users/{user}/ban",
    tag = "access",
    params(("user" = String, Path, description = "The user's id, percent-encoded")),
    responses(
        (status = 200, description = "The user may come in", body = BanAnswer,
            example = json!({"banned": false, "reason": null, "until": null})),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["disconnect"])),
)]
pub async fn unban_user(
    allowed: Allowed<scope::Disconnect>,
    State(state): State<ApiState>,
    UserPath(user): UserPath,
) -> Result<Json<BanAnswer>, ApiError> {
    audit::leave(allowed.caller().name(), "unban", user.as_str(), async {
        Ok(state.gateway.unban(&user).await?)
    })
    .await?;
    Ok(Json(None.into()))
}

/// Look a user's ban up
#[utoipa::path(
    get,
    path = "/users/{user}/ban",
    tag = "access",
    params(("user" = String, Path, description = "The user's id, percent-encoded")),
    responses(
        (status = 200, description = "The ban, or that there is none", body = BanAnswer,
            example = json!({"banned": true, "reason": "Spam", "until": null})),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["read"])),
)]
pub async fn get_ban(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
    UserPath(user): UserPath,
) -> Result<Json<BanAnswer>, ApiError> {
    Ok(Json(state.gateway.ban_of(&user).await?.into()))
}
