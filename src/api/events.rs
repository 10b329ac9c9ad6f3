//! Sending: to a user, to a connection, and to everybody in a namespace.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    ApiState, Limits,
    auth::{Allowed, scope},
    body::{Body, ConnectionPath, Payload, UserPath, device_id},
    error::{ApiError, ErrorCode},
    fields::{object, present},
    openapi::{BodyProblems, Guarded},
};
use crate::gateway::{Acked, Delivery, Json, Message, RESERVED_EVENTS, Target};

/// The longest event name, in bytes.
const MAX_EVENT_BYTES: usize = 256;

/// How long a client may be waited for, in milliseconds.
const MAX_ACK_TIMEOUT_MS: i64 = 30_000;

/// An event for a user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"event": "order:shipped", "data": {"order": 7}}))]
pub struct SendRequest {
    /// Its name. Not one of Socket.IO's own (`connect`, `connect_error`, `disconnect`, `disconnecting`, `newListener`,
    /// `removeListener`) or of Switchboard's (`ready`, `tokenExpiring`, `forceDisconnect`, `presence`).
    #[schema(min_length = 1, max_length = 256)]
    event: String,
    /// Its one argument, any JSON. Absent: the event comes without arguments. `null` is an argument.
    #[serde(default, deserialize_with = "present")]
    data: Option<Value>,
    /// The namespace whose connections get it. A missing leading slash is added.
    #[schema(default = "/")]
    namespace: Option<String>,
    /// A `deviceId` that the user's client named: only the connections of that device get it. Absent: all of the user's.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 128)]
    device: Option<String>,
    /// Asks the clients for an acknowledgement, and waits for it.
    #[serde(default, deserialize_with = "object")]
    ack: Option<AckRequest>,
}

/// How to wait for acknowledgements.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AckRequest {
    /// How long, in milliseconds.
    #[schema(minimum = 1, maximum = 30_000)]
    timeout_ms: i64,
}

impl AckRequest {
    fn timeout(&self) -> Result<Duration, ApiError> {
        u64::try_from(self.timeout_ms)
            .ok()
            .filter(|_| (1..=MAX_ACK_TIMEOUT_MS).contains(&self.timeout_ms))
            .map(Duration::from_millis)
            .ok_or_else(|| {
                ApiError::new(
                    ErrorCode::OutOfRange,
                    format!("ack.timeoutMs: 1 to {MAX_ACK_TIMEOUT_MS}"),
                )
            })
    }
}

impl Payload for SendRequest {}

/// An event for one connection, or for everybody in a namespace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"event": "maintenance", "data": {"at": "2030-01-01T00:00:00Z"}}))]
pub struct EventRequest {
    /// Its name, which is not one of Socket.IO's own.
    #[schema(min_length = 1, max_length = 256)]
    event: String,
    /// Its one argument, any JSON. Absent: the event comes without arguments. `null` is an argument.
    #[serde(default, deserialize_with = "present")]
    data: Option<Value>,
    /// A namespace of the configuration; of no matter for a connection, which is in one. A missing leading slash is added.
    #[schema(default = "/")]
    namespace: Option<String>,
}

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
    UserPath(user): UserPath,
    Body(request): Body<SendRequest>,
) -> Result<axum::Json<SendAnswer>, ApiError> {
    let timeout = request.ack.as_ref().map(AckRequest::timeout).transpose()?;
    let device = request.device.map(device_id).transpose()?;
    let message = state.message(request.event, request.data, request.namespace)?;
    let answer = match timeout {
        Some(timeout) => {
            let acked = state
                .gateway
                .send_with_ack(&user, device, &message, timeout);
            SendAnswer::Acked(acked.await?)
        }
        None => {
            let target = Target::user(user, device);
            SendAnswer::Delivery(state.gateway.send(&target, &message).await?)
        }
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
    ConnectionPath(id): ConnectionPath,
    Body(request): Body<EventRequest>,
) -> Result<axum::Json<Delivery>, ApiError> {
    state.send(&Target::Connection(id), request).await
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
    Body(request): Body<EventRequest>,
) -> Result<axum::Json<Delivery>, ApiError> {
    state.send(&Target::All, request).await
}

impl ApiState {
    async fn send(
        &self,
        target: &Target,
        request: EventRequest,
    ) -> Result<axum::Json<Delivery>, ApiError> {
        let message = self.message(request.event, request.data, request.namespace)?;
        Ok(axum::Json(self.gateway.send(target, &message).await?))
    }

    /// A message, if the rules let it pass.
    pub(super) fn message(
        &self,
        event: String,
        data: Option<Value>,
        namespace: Option<String>,
    ) -> Result<Message, ApiError> {
        let known = |path: &str| self.gateway.has_namespace(path);
        message(event, data, namespace, &self.limits(), known)
    }
}

fn message(
    event: String,
    data: Option<Value>,
    namespace: Option<String>,
    limits: &Limits,
    known: impl Fn(&str) -> bool,
) -> Result<Message, ApiError> {
    if !(1..=MAX_EVENT_BYTES).contains(&event.len()) {
        return Err(ApiError::new(
            ErrorCode::InvalidEvent,
            format!("event: a name has 1 to {MAX_EVENT_BYTES} bytes"),
        ));
    }
    if RESERVED_EVENTS.contains(&event.as_str()) {
        return Err(ApiError::new(
            ErrorCode::ReservedEvent,
            format!("event: {event:?} is Socket.IO's or Switchboard's own"),
        ));
    }
    let namespace = match namespace {
        None => "/".to_owned(),
        Some(path) if path.starts_with('/') => path,
        Some(path) => format!("/{path}"),
    };
    if !known(&namespace) {
        return Err(ApiError::unknown_namespace(&namespace));
    }
    let data = data.as_ref().map(Json::of).transpose();
    let data =
        data.map_err(|error| ApiError::new(ErrorCode::Malformed, format!("data: {error}")))?;
    if data
        .as_ref()
        .is_some_and(|data| data.text().len() > limits.max_payload)
    {
        return Err(ApiError::new(
            ErrorCode::PayloadTooLarge,
            format!("data: may have {} bytes as JSON", limits.max_payload),
        ));
    }
    Ok(Message {
        event,
        data,
        namespace,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits {
        max_payload: 10,
        single: 1000,
        bulk: 1000,
    };

    fn check(
        event: &str,
        data: Option<Value>,
        namespace: Option<&str>,
    ) -> Result<Message, ApiError> {
        let known = |path: &str| path == "/" || path == "/news";
        message(
            event.into(),
            data,
            namespace.map(Into::into),
            &LIMITS,
            known,
        )
    }

    fn code(event: &str, data: Option<Value>, namespace: Option<&str>) -> Option<ErrorCode> {
        check(event, data, namespace).err().map(|error| error.code)
    }

    #[test]
    fn a_namespace_gets_its_slash() {
        let namespace = |given| check("e", None, given).map(|message| message.namespace);
        assert_eq!(namespace(None).unwrap(), "/");
        assert_eq!(namespace(Some("")).unwrap(), "/");
        assert_eq!(namespace(Some("news")).unwrap(), "/news");
        assert_eq!(namespace(Some("/news")).unwrap(), "/news");
        assert_eq!(
            code("e", None, Some("//news")),
            Some(ErrorCode::UnknownNamespace)
        );
    }

    #[test]
    fn names_of_events_are_checked() {
        for name in RESERVED_EVENTS {
            assert_eq!(
                code(name, None, None),
                Some(ErrorCode::ReservedEvent),
                "{name}"
            );
        }
        assert_eq!(code("", None, None), Some(ErrorCode::InvalidEvent));
        assert_eq!(
            code(&"x".repeat(257), None, None),
            Some(ErrorCode::InvalidEvent)
        );
        assert_eq!(code(&"x".repeat(256), None, None), None);
        assert_eq!(code("Connect", None, None), None);
    }

    #[test]
    fn data_may_be_as_large_as_a_payload() {
        assert_eq!(code("e", Some(json!("12345678")), None), None);
        assert_eq!(
            code("e", Some(json!("123456789")), None),
            Some(ErrorCode::PayloadTooLarge)
        );
    }

    #[test]
    fn clients_are_waited_for_within_bounds() {
        let timeout = |timeout_ms| AckRequest { timeout_ms }.timeout();
        assert_eq!(timeout(1).unwrap(), Duration::from_millis(1));
        assert_eq!(timeout(30_000).unwrap(), Duration::from_secs(30));
        for bad in [i64::MIN, -1, 0, 30_001, i64::MAX] {
            assert_eq!(timeout(bad).unwrap_err().code, ErrorCode::OutOfRange);
        }
    }
}
