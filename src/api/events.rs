//! Sending: to a user, to a connection, and to everybody in a namespace.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::{Allowed, scope},
    body::{Body, ConnectionPath, Payload, UserPath},
    error::ApiError,
    idempotency::CallId,
    openapi::{BodyProblems, Guarded},
};
use crate::gateway::{
    Acked, Delivery, Message, Target,
    requests::{
        device_id,
        send::{self, AckRequest, Content, EventRequest, SendRequest},
    },
};

impl Payload for SendRequest {}

impl Payload for EventRequest {}

/// Where an event went, and with `ack` what came back.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum SendAnswer {
    /// With `ack`.
    Acked(Acked),
    /// Without.
    Delivery(Delivery),
}

/// Send an event to a user
///
/// It is handed to all connections of the user in the namespace, or to those of one `device`, on whatever nodes they are. Nobody there is an answer
/// with zeros, not an error. `unconfirmed` nodes hold connections of the user and have not said in time (1 s) what became of
/// it: it may have reached them. With `ack` the clients are asked for an acknowledgement, and the answer comes when all have
/// given it, or when the time is up. An answer beyond `limits.ack_bytes` is not passed on, nor what goes beyond 16 MB
/// together: those come as `error: "too_large"`.
#[utoipa::path(
    post,
    path = "/users/{user}/events",
    tag = "send",
    params(("user" = String, Path, description = "The user's id, percent-encoded")),
    request_body = SendRequest,
    responses(
        (status = 200, description = "Handed over", body = SendAnswer, examples(
            ("sent" = (value = json!({"connections": 2, "nodes": 1, "unconfirmed": 0}))),
            ("acknowledged" = (value = json!({
                "connections": 3, "nodes": 1, "unconfirmed": 0, "missing": 1,
                "acks": [
                    {"connectionId": "c5Zk0pXv9Rr2mWqT1nYbLdA", "data": "seen"},
                    {"connectionId": "c0bLdA5Zk0pXv9Rr2mWqT1nY", "error": "too_large"},
                ],
            }))),
        )),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn send_to_user(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    call: CallId,
    UserPath(user): UserPath,
    Body(request): Body<SendRequest>,
) -> Result<axum::Json<SendAnswer>, ApiError> {
    let (content, device, ack) = request.parts();
    let timeout = ack.as_ref().map(AckRequest::timeout).transpose()?;
    let device = device.map(device_id).transpose()?;
    let message = call.message(state.message(content)?);
    let target = Target::user(user, device);
    let answer = match timeout {
        Some(timeout) => {
            let acked = state.gateway.send_with_ack(&target, &message, timeout);
            SendAnswer::Acked(acked.await?)
        }
        None => SendAnswer::Delivery(state.gateway.send(target, message).await?),
    };
    Ok(axum::Json(answer))
}

/// Send an event to a connection
///
/// No such connection, or no longer, is an answer with zeros, not an error. `unconfirmed` is 1 if the node that holds the
/// connection has not said in time (1 s) what became of the event: it may have reached it.
#[utoipa::path(
    post,
    path = "/connections/{id}/events",
    tag = "send",
    params(("id" = String, Path, description = "The connection's id")),
    request_body = EventRequest,
    responses(
        (status = 200, description = "Handed over", body = Delivery,
            example = json!({"connections": 1, "nodes": 1, "unconfirmed": 0})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn send_to_connection(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    call: CallId,
    ConnectionPath(id): ConnectionPath,
    Body(request): Body<EventRequest>,
) -> Result<axum::Json<Delivery>, ApiError> {
    state.send(Target::Connection(id), call, request).await
}

/// Send an event to everybody in a namespace
///
/// `nodes` are all that have handed it to the namespace's connections, those with no connection there among them.
#[utoipa::path(
    post,
    path = "/broadcast",
    tag = "send",
    request_body = EventRequest,
    responses(
        (status = 200, description = "Handed over", body = Delivery,
            example = json!({"connections": 7, "nodes": 3, "unconfirmed": 0})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn broadcast(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    call: CallId,
    Body(request): Body<EventRequest>,
) -> Result<axum::Json<Delivery>, ApiError> {
    state.send(Target::All, call, request).await
}

impl ApiState {
    async fn send(
        &self,
        target: Target,
        call: CallId,
        request: EventRequest,
    ) -> Result<axum::Json<Delivery>, ApiError> {
        let message = call.message(self.message(request.into())?);
        Ok(axum::Json(self.gateway.send(target, message).await?))
    }

    /// A message, if the rules let it pass.
    pub(super) fn message(&self, content: Content) -> Result<Message, ApiError> {
        let known = |path: &str| self.gateway.has_namespace(path);
        let max_payload = self.limits().max_payload;
        Ok(send::message(content, max_payload, known)?)
    }
}
