//! Single connections, and the end of a user's.

use axum::{Json, extract::State};
use http::StatusCode;

use super::{
    ApiState, audit,
    auth::{Allowed, scope},
    body::{Body, ConnectionPath, Payload, UserPath},
    error::{ApiError, ErrorCode},
    openapi::{BodyProblems, ConnectionProblems, Guarded},
};
use crate::{
    connection::Connection,
    ending::Ending,
    gateway::{Disconnected, requests::end::DisconnectRequest},
};

impl Payload for DisconnectRequest {
    fn when_empty() -> Option<Self> {
        Some(Self::default())
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
    let revoke = request.revoke_tokens.unwrap_or_default();
    let except = request.excepted()?;
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
            "rooms": ["chat:1"],
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

pub(super) fn unknown() -> ApiError {
    ApiError::new(ErrorCode::UnknownConnection, "no such connection")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn unconfirmed_is_202() {
        let mut ended = Disconnected::default();
        assert_eq!(status(&ended), StatusCode::OK);
        ended.remaining.push("c".into());
        assert_eq!(status(&ended), StatusCode::ACCEPTED);
    }
}
