//! The one error of the API: an [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem with a stable code.
//!
//! [`ErrorCode`] is the table that callers program against. A status may have several codes; a code has one status.

use std::fmt;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    bus::BusError,
    gateway::{
        GatewayError,
        requests::{Fault, Invalid},
    },
    registry::{Bar, RegistryError},
};

/// Seconds after which a caller may try again what Redis, or the load of other calls, kept from being done.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What went wrong, as a word that stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: not JSON, a wrong type, a missing or an unknown field, a path that is not UTF-8. The detail names the place.
    Malformed,
    /// 400: a cursor that this server did not give.
    InvalidCursor,
    /// 401: no key or token, or one that is not valid, or not any more: it was revoked, or its user is banned.
    Unauthorized,
    /// 401: no cookie `refreshToken`.
    MissingRefreshToken,
    /// 401: a refresh token that was used before, or whose session is over.
    InvalidRefreshToken,
    /// 403: the key or token is valid, and lacks the scope.
    Forbidden,
    /// 403: a page of an origin that may not use the user's cookies.
    ForbiddenOrigin,
    /// 404: no such route, or none where the node holds no signing key.
    NotFound,
    /// 404: no such connection, or no longer.
    UnknownConnection,
    /// 405: the route has no such method.
    MethodNotAllowed,
    /// 413: the body, or a message's data, is larger than the limits allow.
    PayloadTooLarge,
    /// 422: the event's name is empty or too long.
    InvalidEvent,
    /// 422: the event's name belongs to Socket.IO.
    ReservedEvent,
    /// 422: both `data` and `args`, or a `$base64` that is none.
    InvalidData,
    /// 422: the configuration has no such namespace.
    UnknownNamespace,
    /// 422: not exactly one of `user`, `connection` and `room`, or an empty one.
    InvalidTarget,
    /// 422: a user id that is empty or too long.
    InvalidUser,
    /// 422: a room's name that is empty or longer than 200 characters.
    InvalidRoom,
    /// 422: a room's name that is Switchboard's own: nobody can be put into it, or taken out.
    ReservedRoom,
    /// 422: the connection, or the user, is in as many rooms as `limits.rooms_per_connection` allows.
    TooManyRooms,
    /// 409: the connection is in the room because its user has been put into it: take the user out.
    LastingMembership,
    /// 422: more items than one call takes.
    TooMany,
    /// 422: a number outside its range.
    OutOfRange,
    /// 422: the text is too long.
    TooLong,
    /// 422: `code` and `reconnect` contradict each other.
    InvalidCode,
    /// 422: a time that would have to be in the future.
    InvalidTime,
    /// 422: a `jti` that is empty or too long.
    InvalidTokenId,
    /// 422: claims that are Switchboard's own to set, or that contradict each other.
    InvalidClaims,
    /// 422: an `Idempotency-Key` that is empty, too long, or not ASCII, or two of them.
    InvalidIdempotencyKey,
    /// 422: the `Idempotency-Key` stands for a call with another path or body, for 5 minutes.
    IdempotencyKeyReused,
    /// 409: the first call with this `Idempotency-Key` is under way.
    CallUnderWay,
    /// 409: the first call with this `Idempotency-Key` is done, and its answer was too large to be kept.
    AnswerNotKept,
    /// 429: the key calls more often than `api.rate` allows, or the caller's address calls or has failed to authenticate too
    /// often. Nothing was done.
    RateLimited,
    /// 500: a fault of the server's own.
    Internal,
    /// 503: the node has as many calls in flight as it may. Nothing was done.
    Overloaded,
    /// 503: Redis can't be reached, or the keys of tokens can't. What was to be sent has reached nobody; anything else may or may
    /// not have happened.
    Unavailable,
    /// 504: Redis has left it unanswered, or it was not done in time. It may or may not have happened.
    OutcomeUnknown,
}

impl ErrorCode {
    /// The status of answers with this code.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::InvalidCursor => StatusCode::BAD_REQUEST,
            Self::Unauthorized | Self::MissingRefreshToken | Self::InvalidRefreshToken => {
                StatusCode::UNAUTHORIZED
            }
            Self::Forbidden | Self::ForbiddenOrigin => StatusCode::FORBIDDEN,
            Self::NotFound | Self::UnknownConnection => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InvalidEvent
            | Self::ReservedEvent
            | Self::InvalidData
            | Self::UnknownNamespace
            | Self::InvalidTarget
            | Self::InvalidUser
            | Self::InvalidRoom
            | Self::ReservedRoom
            | Self::TooManyRooms
            | Self::TooMany
            | Self::OutOfRange
            | Self::TooLong
            | Self::InvalidCode
            | Self::InvalidTime
            | Self::InvalidTokenId
            | Self::InvalidClaims
            | Self::InvalidIdempotencyKey
            | Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::CallUnderWay | Self::AnswerNotKept | Self::LastingMembership => {
                StatusCode::CONFLICT
            }
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Overloaded | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// The word, as answers have it.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Why a call is not carried out: a code, and the details of this case for the person who reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ItemError)]
pub struct ApiError {
    /// What went wrong.
    pub code: ErrorCode,
    /// Where, and what would have been right.
    pub detail: String,
}

impl ApiError {
    /// An error with the details of this case.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }

    /// No credentials, or bad ones. Says no more than that: a guess must not learn how close it came.
    pub fn unauthorized() -> Self {
        Self::new(
            ErrorCode::Unauthorized,
            "an API key or an admin's token is required: Authorization: Bearer KEY",
        )
    }

    /// An administrator's token that something is held against. It has verified, so its bearer may know what.
    pub fn barred(bar: Bar) -> Self {
        let detail = match bar {
            Bar::Banned => "the user of this token is banned",
            Bar::Revoked => "this token is revoked",
            Bar::SessionEnded => "the session of this token has ended",
            Bar::TooMany => "the user of this token has too many connections",
            Bar::TooOften => "the user of this token connects too often",
        };
        Self::new(ErrorCode::Unauthorized, detail)
    }

    /// Redis is away.
    pub fn unavailable() -> Self {
        Self::new(
            ErrorCode::Unavailable,
            "Redis can't be reached; try again in a moment",
        )
    }

    /// Redis was given it, and has not answered.
    pub fn outcome_unknown() -> Self {
        Self::new(
            ErrorCode::OutcomeUnknown,
            "Redis has not answered; it may or may not have happened",
        )
    }
}

/// The body of every error, `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the title is that of the status, and `code` tells problems apart.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status, in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// Where, and what would have been right.
    detail: String,
    /// What went wrong, as a word that stays the same.
    code: ErrorCode,
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        let status = error.code.status();
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: error.detail,
            code: error.code,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let mut response = (status, Json(Problem::from(self))).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            _ => {}
        }
        response
    }
}

impl From<GatewayError> for ApiError {
    /// What Redis itself said goes to the log only: it names hosts and keys that callers have no business with.
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::Registry(RegistryError::BadCursor) => {
                Self::new(ErrorCode::InvalidCursor, "cursor: not one of this server's")
            }
            GatewayError::UnknownNamespace(path) => Self::unknown_namespace(&path),
            GatewayError::TooManyRooms => {
                let detail = "room: in as many rooms as limits.rooms_per_connection allows";
                Self::new(ErrorCode::TooManyRooms, detail)
            }
            GatewayError::LastingMembership => {
                let detail = "room: the connection's user has been put into it; take the user out";
                Self::new(ErrorCode::LastingMembership, detail)
            }
            GatewayError::Registry(RegistryError::Unavailable(_))
            | GatewayError::Bus(BusError::NotSent(_)) => {
                tracing::warn!(%error, "API call refused: Redis is away");
                Self::unavailable()
            }
            GatewayError::Bus(BusError::Unanswered(_)) => {
                tracing::warn!(%error, "a send is in doubt: Redis has not answered");
                Self::outcome_unknown()
            }
            GatewayError::Registry(RegistryError::Corrupt(_)) | GatewayError::Mint(_) => {
                tracing::error!(%error, "API call failed");
                Self::new(ErrorCode::Internal, "an internal error; the log says more")
            }
        }
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        let code = match invalid.fault {
            Fault::InvalidData => ErrorCode::InvalidData,
            Fault::PayloadTooLarge => ErrorCode::PayloadTooLarge,
            Fault::InvalidEvent => ErrorCode::InvalidEvent,
            Fault::ReservedEvent => ErrorCode::ReservedEvent,
            Fault::UnknownNamespace => ErrorCode::UnknownNamespace,
            Fault::InvalidTarget => ErrorCode::InvalidTarget,
            Fault::InvalidUser => ErrorCode::InvalidUser,
            Fault::InvalidRoom => ErrorCode::InvalidRoom,
            Fault::ReservedRoom => ErrorCode::ReservedRoom,
            Fault::TooMany => ErrorCode::TooMany,
            Fault::OutOfRange => ErrorCode::OutOfRange,
            Fault::TooLong => ErrorCode::TooLong,
            Fault::InvalidCode => ErrorCode::InvalidCode,
            Fault::InvalidTime => ErrorCode::InvalidTime,
        };
        Self::new(code, invalid.detail)
    }
}

impl ApiError {
    /// A namespace that the configuration does not have.
    pub fn unknown_namespace(path: &str) -> Self {
        Self::new(
            ErrorCode::UnknownNamespace,
            format!("namespace: there is no {path:?}"),
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn an_error_is_a_problem() {
        let response = ApiError::new(ErrorCode::OutOfRange, "limit: 0").into_response();
        assert_eq!(response.status(), 422);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            json!({
                "type": "about:blank",
                "title": "Unprocessable Entity",
                "status": 422,
                "detail": "limit: 0",
                "code": "out_of_range",
            })
        );
    }

    #[test]
    fn a_code_is_the_same_word_in_answers_and_in_the_log() {
        assert_eq!(ErrorCode::ForbiddenOrigin.to_string(), "forbidden_origin");
        assert_eq!(json!(ErrorCode::ForbiddenOrigin), "forbidden_origin");
    }

    #[test]
    fn redis_away_is_503_with_retry_after_and_keeps_redis_words_to_itself() {
        for error in [
            GatewayError::from(RegistryError::Unavailable("redis-7.internal:6379".into())),
            GatewayError::from(BusError::NotSent("redis-7.internal:6379".into())),
        ] {
            let error = ApiError::from(error);
            assert_eq!(error.code, ErrorCode::Unavailable);
            assert!(!error.detail.contains("internal"), "{}", error.detail);
            let response = error.into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
    }

    #[test]
    fn what_redis_left_unanswered_is_504_and_says_so() {
        let error = GatewayError::from(BusError::Unanswered("redis-7.internal:6379".into()));
        let error = ApiError::from(error);
        assert_eq!(error.code.to_string(), "outcome_unknown");
        assert!(!error.detail.contains("internal"), "{}", error.detail);
        assert_eq!(error.into_response().status(), 504);
    }

    #[test]
    fn other_faults_of_the_gateway_have_their_codes() {
        let code = |error: GatewayError| ApiError::from(error).code;
        assert_eq!(
            code(RegistryError::BadCursor.into()),
            ErrorCode::InvalidCursor
        );
        assert_eq!(
            code(RegistryError::Corrupt("x".into()).into()),
            ErrorCode::Internal
        );
        assert_eq!(
            code(GatewayError::UnknownNamespace("/x".into())),
            ErrorCode::UnknownNamespace
        );
    }
}
