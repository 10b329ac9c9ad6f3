//! Single connections, and the end of a user's.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    ApiState, audit,
    auth::{Allowed, scope},
    body::{Body, ConnectionPath, Payload, UserPath, reason},
    error::{ApiError, ErrorCode},
    openapi::{BodyProblems, ConnectionProblems, Guarded},
};
use crate::{
    connection::{Connection, ConnectionId},
    ending::Ending,
    gateway::Disconnected,
    registry::MOST_EXCEPTIONS,
};

/// How to end a user's connections. Everything is optional, the body as well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"reason": "Signed out everywhere", "except": ["c5Zk0pXv9Rr2mWqT1nYbLdA"]}))]
pub struct DisconnectRequest {
    /// What the clients are told. Default: the text that goes with the code.
    #[schema(max_length = 512)]
    reason: Option<String>,
    /// What the clients are told. Below 4500 they come back by themselves, from 4500 on they stay away. Default: 4500, or
    /// 4003 with `reconnect`.
    #[schema(minimum = 4000, maximum = 4999)]
    code: Option<i64>,
    /// Whether the clients come back by themselves. Default: as the code says; it may not say otherwise.
    reconnect: Option<bool>,
    /// Connections that stay, at most 1,000.
    #[schema(max_items = 1000)]
    except: Option<Vec<ConnectionId>>,
    /// Whether the user's tokens that were issued before are refused from here on, so that nobody comes back with one.
    /// Default: they are not.
    #[schema(default = false)]
    revoke_tokens: Option<bool>,
}

impl Payload for DisconnectRequest {
    fn when_empty() -> Option<Self> {
        Some(Self::default())
    }
}

impl DisconnectRequest {
    fn ending(&self) -> Result<Ending, ApiError> {
        let code = match (self.code, self.reconnect) {
            (None, Some(true)) => Ending::RECONNECT_REQUESTED,
            (None, _) => Ending::DISCONNECTED,
            (Some(code), _) => u16::try_from(code)
                .ok()
                .filter(|code| (4000..=4999).contains(code))
                .ok_or_else(|| ApiError::new(ErrorCode::OutOfRange, "code: 4000 to 4999"))?,
        };
        let ending = Ending::of(code);
        if self.reconnect.is_some_and(|wish| wish != ending.reconnect) {
            return Err(ApiError::new(
                ErrorCode::InvalidCode,
                "code: below 4500 clients reconnect, from 4500 on they don't; reconnect says otherwise",
            ));
        }
        Ok(match reason(self.reason.clone())? {
            Some(reason) => ending.because(reason),
            None => ending,
        })
    }
}

fn excepted(except: Option<Vec<ConnectionId>>) -> Result<Vec<ConnectionId>, ApiError> {
    let except = except.unwrap_or_default();
    match except.len() > MOST_EXCEPTIONS {
        true => Err(ApiError::new(
            ErrorCode::TooMany,
            format!("except: at most {MOST_EXCEPTIONS}"),
        )),
        false => Ok(except),
    }
}

/// Done, or on its way when something could not be confirmed.
pub(super) fn status(ended: &Disconnected) -> StatusCode {
    if ended.remaining.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    }
}

/// End a user's connections
///
/// In every namespace, on every node. When the answer is 200, every connection that was listed before the call is closed
/// and out of the registry. What could not be confirmed in 5 s is in `remaining`, and the answer is 202. With
/// `revokeTokens`, nobody who is in the middle of a handshake slips in behind it.
#[utoipa::path(
    post,
    path = "/users/{user}/disconnect",
    tag = "disconnect",
    params(("user" = String, Path, description = "The user's id, percent-encoded")),
    request_body(content = Option<DisconnectRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "All are closed", body = Disconnected,
            example = json!({"disconnected": 3, "nodes": 2, "remaining": []})),
        (status = 202, description = "Some could not be confirmed yet", body = Disconnected,
            example = json!({"disconnected": 2, "nodes": 1, "remaining": ["c5Zk0pXv9Rr2mWqT1nYbLdA"]})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["disconnect"])),
)]
pub async fn disconnect_user(
    allowed: Allowed<scope::Disconnect>,
    State(state): State<ApiState>,
    UserPath(user): UserPath,
    Body(request): Body<DisconnectRequest>,
) -> Result<(StatusCode, Json<Disconnected>), ApiError> {
    let ending = request.ending()?;
    let except = excepted(request.except)?;
    let revoke = request.revoke_tokens.unwrap_or_default();
    let what = if revoke {
        "disconnect_user_and_revoke_tokens"
    } else {
        "disconnect_user"
    };
    let ended = audit::leave(allowed.caller().name(), what, user.as_str(), async {
        let gateway = &state.gateway;
        Ok(gateway
            .disconnect_user(&user, except, &ending, revoke)
            .await?)
    })
    .await?;
    Ok((status(&ended), Json(ended)))
}

/// Look a connection up
#[utoipa::path(
    get,
    path = "/connections/{id}",
    tag = "presence",
    params(("id" = String, Path, description = "The connection's id")),
    responses(
        (status = 200, description = "The connection", body = Connection, example = json!({
            "id": "c5Zk0pXv9Rr2mWqT1nYbLdA", "userId": "42", "namespace": "/", "nodeId": "gateway-1-x7",
            "transport": "websocket", "connectedAt": "2030-01-01T00:00:00Z", "expiresAt": "2030-01-01T00:15:00Z",
            "deviceId": "phone", "remoteAddr": "192.0.2.7", "userAgent": "Mozilla/5.0",
        })),
        Guarded,
        ConnectionProblems,
    ),
    security(("key" = ["read"])),
)]
pub async fn get_connection(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
    ConnectionPath(id): ConnectionPath,
) -> Result<Json<Connection>, ApiError> {
    let connection = state.gateway.connection(&id).await?;
    connection.map(Json).ok_or_else(unknown)
}

/// End a connection
///
/// With code 4500: the client does not come back by itself. When the answer is 200, it is closed and out of the registry; when
/// that could not be confirmed in 5 s, it is in `remaining`, and the answer is 202.
#[utoipa::path(
    delete,
    path = "/connections/{id}",
    tag = "disconnect",
    params(("id" = String, Path, description = "The connection's id")),
    responses(
        (status = 200, description = "It is closed", body = Disconnected,
            example = json!({"disconnected": 1, "nodes": 1, "remaining": []})),
        (status = 202, description = "It could not be confirmed yet", body = Disconnected,
            example = json!({"disconnected": 0, "nodes": 0, "remaining": ["c5Zk0pXv9Rr2mWqT1nYbLdA"]})),
        Guarded,
        ConnectionProblems,
    ),
    security(("key" = ["disconnect"])),
)]
pub async fn disconnect_connection(
    allowed: Allowed<scope::Disconnect>,
    State(state): State<ApiState>,
    ConnectionPath(id): ConnectionPath,
) -> Result<(StatusCode, Json<Disconnected>), ApiError> {
    let ending = Ending::of(Ending::DISCONNECTED);
    let who = allowed.caller().name();
    let ended = audit::leave(who, "disconnect_connection", id.as_str(), async {
        let ended = state.gateway.disconnect_connection(&id, &ending).await?;
        ended.ok_or_else(unknown)
    })
    .await?;
    Ok((status(&ended), Json(ended)))
}

fn unknown() -> ApiError {
    ApiError::new(ErrorCode::UnknownConnection, "no such connection")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn ending(code: Option<i64>, reconnect: Option<bool>) -> Result<(u16, bool), ErrorCode> {
        let request = DisconnectRequest {
            code,
            reconnect,
            ..DisconnectRequest::default()
        };
        request
            .ending()
            .map(|ending| (ending.code, ending.reconnect))
            .map_err(|error| error.code)
    }

    #[test]
    fn code_and_reconnect_go_together() {
        assert_eq!(ending(None, None), Ok((4500, false)));
        assert_eq!(ending(None, Some(false)), Ok((4500, false)));
        assert_eq!(ending(None, Some(true)), Ok((4003, true)));
        assert_eq!(ending(Some(4499), None), Ok((4499, true)));
        assert_eq!(ending(Some(4000), Some(true)), Ok((4000, true)));
        assert_eq!(ending(Some(4999), None), Ok((4999, false)));
        assert_eq!(ending(Some(4499), Some(false)), Err(ErrorCode::InvalidCode));
        assert_eq!(ending(Some(4500), Some(true)), Err(ErrorCode::InvalidCode));
        for bad in [i64::MIN, -4500, 0, 3999, 5000, 69_536] {
            assert_eq!(ending(Some(bad), None), Err(ErrorCode::OutOfRange));
        }
    }

    #[test]
    fn a_reason_is_the_callers_or_that_of_the_code() {
        let reason = |reason: Option<String>| {
            let request = DisconnectRequest {
                reason,
                ..DisconnectRequest::default()
            };
            request.ending().map(|ending| ending.reason)
        };
        assert_eq!(reason(None).unwrap(), "Disconnected by an administrator");
        assert_eq!(reason(Some("ж".repeat(512))).unwrap(), "ж".repeat(512));
        assert_eq!(
            reason(Some("ж".repeat(513))).unwrap_err().code,
            ErrorCode::TooLong
        );
    }

    #[test]
    fn so_many_may_stay() {
        let ids = |count| Some(vec![ConnectionId::from("c"); count]);
        assert_eq!(excepted(None).unwrap(), []);
        assert_eq!(excepted(ids(1000)).unwrap().len(), 1000);
        assert_eq!(excepted(ids(1001)).unwrap_err().code, ErrorCode::TooMany);
    }

    #[test]
    fn unconfirmed_is_202() {
        let mut ended = Disconnected::default();
        assert_eq!(status(&ended), StatusCode::OK);
        ended.remaining.push("c".into());
        assert_eq!(status(&ended), StatusCode::ACCEPTED);
    }
}
