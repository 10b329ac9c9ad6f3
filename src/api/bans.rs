//! Keeping users out.

use axum::{Json, extract::State};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState, audit,
    auth::{Allowed, scope},
    body::{Body, Payload, UserPath, reason},
    connections::status,
    error::{ApiError, ErrorCode},
    openapi::{BodyProblems, Guarded, HeadProblems},
    time,
};
use crate::gateway::{Disconnected, access::Ban};

/// A ban. Everything is optional, the body as well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "Spam", "until": "2030-01-08T00:00:00Z"}))]
pub struct BanRequest {
    /// Why, for people.
    #[schema(max_length = 512)]
    reason: Option<String>,
    /// Until when. Absent: until it is lifted.
    #[serde(default, deserialize_with = "time::optional")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

impl Payload for BanRequest {
    fn when_empty() -> Option<Self> {
        Some(Self::default())
    }
}

impl BanRequest {
    fn ban(self, now: Timestamp) -> Result<Ban, ApiError> {
        if self.until.is_some_and(|until| until <= now) {
            return Err(ApiError::new(
                ErrorCode::InvalidTime,
                "until: must be in the future",
            ));
        }
        Ok(Ban {
            reason: reason(self.reason)?,
            until: self.until,
        })
    }
}

/// Whether a user is kept out.
#[derive(Debug, Serialize, ToSchema)]
pub struct BanAnswer {
    /// Whether the user is kept out.
    banned: bool,
    /// Why.
    #[schema(required)]
    reason: Option<String>,
    /// Until when; `null`: until it is lifted.
    #[serde(serialize_with = "time::show_optional")]
    #[schema(required, value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

impl From<Option<Ban>> for BanAnswer {
    fn from(ban: Option<Ban>) -> Self {
        let banned = ban.is_some();
        let Ban { reason, until } = ban.unwrap_or_default();
        Self {
            banned,
            reason,
            until,
        }
    }
}

/// A ban, and what became of the user's connections.
#[derive(Debug, Serialize, ToSchema)]
pub struct BannedAnswer {
    #[serde(flatten)]
    ban: BanAnswer,
    #[serde(flatten)]
    ended: Disconnected,
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ban_ends_in_the_future_or_never() {
        let now = Timestamp::UNIX_EPOCH;
        let until = |text: &str| {
            let request = BanRequest {
                until: Some(text.parse().unwrap()),
                ..BanRequest::default()
            };
            request.ban(now).map(|ban| ban.until.unwrap().to_string())
        };
        assert_eq!(
            until("1970-01-01T02:00:00.5+01:00").unwrap(),
            "1970-01-01T01:00:00.5Z"
        );
        for past in ["1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z"] {
            assert_eq!(until(past).unwrap_err().code, ErrorCode::InvalidTime);
        }
        assert_eq!(BanRequest::default().ban(now), Ok(Ban::default()));
    }

    #[test]
    fn a_reason_has_bounds() {
        let ban = |length| {
            let request = BanRequest {
                reason: Some("ж".repeat(length)),
                until: None,
            };
            request.ban(Timestamp::UNIX_EPOCH).map_err(|e| e.code)
        };
        assert_eq!(ban(512).unwrap().reason, Some("ж".repeat(512)));
        assert_eq!(ban(513), Err(ErrorCode::TooLong));
    }

    #[test]
    fn a_ban_is_shown_as_it_is_and_so_is_none() {
        let shown = |ban: Option<Ban>| serde_json::to_value(BanAnswer::from(ban)).unwrap();
        let ban = Ban {
            reason: Some("Spam".into()),
            until: Some(Timestamp::UNIX_EPOCH),
        };
        assert_eq!(
            shown(Some(ban)),
            json!({"banned": true, "reason": "Spam", "until": "1970-01-01T00:00:00Z"})
        );
        assert_eq!(
            shown(Some(Ban::default())),
            json!({"banned": true, "reason": null, "until": null})
        );
        assert_eq!(
            shown(None),
            json!({"banned": false, "reason": null, "until": null})
        );
    }
}
