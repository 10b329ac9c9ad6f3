//! Sending many events in one call.

mod order;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    ApiState, Limits,
    auth::{Allowed, scope},
    body::{Body, Payload, part},
    error::{ApiError, ErrorCode},
    idempotency::CallId,
    openapi::{BodyProblems, Guarded},
};
use crate::{
    connection::ConnectionId,
    gateway::{
        Delivery, Message, Target,
        requests::{
            device_id,
            fields::{GivenUser, or_default, present},
            rooms::room_target,
            send::Content,
            user_id,
        },
    },
};
use order::{CONCURRENCY, hand_over, is_unavailable, is_unknown};

/// The most messages of one call.
const MAX_MESSAGES: usize = 1000;

/// Many events.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"messages": [
    {"user": "42", "event": "order:shipped", "data": {"order": 7}},
    {"room": "orders", "event": "refresh"},
]}))]
pub struct BulkRequest {
    /// At most 1,000. One that is malformed is an error of its own, and not one of the request.
    #[schema(value_type = Vec<BulkMessage>, max_items = 1000)]
    messages: Vec<Value>,
}

impl Payload for BulkRequest {
    fn limit(limits: &Limits) -> usize {
        limits.bulk
    }
}

/// One event of many: exactly one of `user`, `connection` and `room` names its recipients.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkMessage {
    /// A user: all connections in the namespace. An integer stands for its digits.
    #[schema(value_type = Option<String>)]
    user: Option<GivenUser>,
    /// With `user`: a `deviceId` that the user's client named. Only the connections of that device get it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 128)]
    device: Option<String>,
    /// One connection.
    connection: Option<String>,
    /// The connections in a room of the namespace. Not one whose name begins with `device:`: a device is a user's.
    room: Option<String>,
    /// Its name, which is not one of Socket.IO's own.
    #[schema(min_length = 1, max_length = 256)]
    event: String,
    /// Its one argument, any JSON. Absent: the event comes without arguments, or with `args`. `null` is an argument. An object
    /// anywhere in it whose only field is `$base64`, with a text in base64, reaches clients as binary.
    #[serde(default, deserialize_with = "present")]
    data: Option<Value>,
    /// Its arguments, instead of `data`.
    #[serde(default, deserialize_with = "present")]
    args: Option<Vec<Value>>,
    /// The namespace whose connections get it; of no matter for a connection, which is in one. A missing leading slash is
    /// added.
    #[schema(default = "/")]
    namespace: Option<String>,
    /// Connections that don't get it; at most 1,000.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(max_items = 1000)]
    except: Vec<ConnectionId>,
    /// Whether it is dropped for clients that have not taken yet what they were sent before.
    #[serde(default, deserialize_with = "or_default")]
    volatile: bool,
}

/// What became of the events, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkAnswer {
    results: Vec<BulkResult>,
}

/// What became of one event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum BulkResult {
    /// It was handed over.
    Delivered(Delivery),
    /// It was not.
    Refused {
        /// Why.
        error: ApiError,
    },
}

impl From<Result<Delivery, ApiError>> for BulkResult {
    fn from(result: Result<Delivery, ApiError>) -> Self {
        match result {
            Ok(delivery) => Self::Delivered(delivery),
            Err(error) => Self::Refused { error },
        }
    }
}

/// Send up to 1,000 events
///
/// Each has a result of its own, in the order of the request; a bad one does not keep the others from being sent. A client
/// gets its events in the order given, whatever says that they are for it: those for different users, or for different
/// connections, are sent at once; where `user`, `connection` and `room` take turns, and from one `room` to the next, each
/// waits for the one before. When Redis is the reason why surely none of them was handed over, the answer as a whole is 503. A
/// result whose error is `unavailable` has reached nobody, and one whose error is `outcome_unknown` may have been sent.
#[utoipa::path(
    post,
    path = "/events",
    tag = "send",
    request_body = BulkRequest,
    responses(
        (status = 200, description = "A result for each event", body = BulkAnswer, example = json!({"results": [
            {"connections": 2, "nodes": 1, "unconfirmed": 0},
            {"error": {"code": "reserved_event", "detail": "event: \"connect\" is Socket.IO's or Switchboard's own"}},
        ]})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn send_bulk(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    call: CallId,
    Body(request): Body<BulkRequest>,
) -> Result<Json<BulkAnswer>, ApiError> {
    if request.messages.len() > MAX_MESSAGES {
        return Err(ApiError::new(
            ErrorCode::TooMany,
            format!("messages: at most {MAX_MESSAGES}"),
        ));
    }
    let request_size = request.messages.len();
    let messages = request
        .messages
        .into_iter()
        .enumerate()
        .map(|(index, value)| {
            let message: BulkMessage = part(value)?;
            let user = message.user.map(|GivenUser(id)| id);
            let target = target(user, message.device, message.connection, message.room)?;
            let message = state.message(Content {
                event: message.event,
                data: message.data,
                args: message.args,
                namespace: message.namespace,
                except: message.except,
                volatile: message.volatile,
            })?;
            Ok((target, call.item(index, message)))
        })
        .collect();
    let at_once = request_size.min(CONCURRENCY);
    let _room = state.load.items(at_once).await?;
    let dispatch = |target: Target, message: Message| {
        let gateway = &state.gateway;
        async move { Ok(gateway.dispatch(&target, &message).await?) }
    };
    let results = hand_over(messages, dispatch).await;
    if let Some(error) = redis_stopped_all(&results) {
        return Err(error.clone());
    }
    let results = results.into_iter().map(BulkResult::from).collect();
    Ok(Json(BulkAnswer { results }))
}

fn target(
    user: Option<String>,
    device: Option<String>,
    connection: Option<String>,
    room: Option<String>,
) -> Result<Target, ApiError> {
    let wrong = |detail| Err(ApiError::new(ErrorCode::InvalidTarget, detail));
    if device.is_some() && user.is_none() {
        return wrong("device: goes with user, whose it is");
    }
    match (user, connection, room) {
        (Some(user), None, None) => {
            let device = device.map(device_id).transpose()?;
            Ok(Target::user(user_id(user)?, device))
        }
        (None, Some(id), None) if id.is_empty() => wrong("connection: empty"),
        (None, Some(id), None) => Ok(Target::Connection(id.into())),
        (None, None, Some(room)) => Ok(room_target(room)?),
        _ => wrong("exactly one of user, connection and room names the recipients"),
    }
}

/// The error of Redis, if there is one and surely nothing was handed over.
fn redis_stopped_all(results: &[Result<Delivery, ApiError>]) -> Option<&ApiError> {
    let may_be_sent = |result: &_| Result::is_ok(result) || is_unknown(result);
    if results.iter().any(may_be_sent) {
        return None;
    }
    results
        .iter()
        .find(|result| is_unavailable(result))
        .and_then(|result| result.as_ref().err())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    const ONE: Delivery = Delivery {
        connections: 1,
        nodes: 1,
        unconfirmed: 0,
    };

    #[test]
    fn exactly_one_target() {
        let some = |text: &str| Some(text.to_owned());
        let of = |user, connection, room| target(user, None, connection, room);
        assert_eq!(of(some("42"), None, None), Ok(Target::User("42".into())));
        assert_eq!(
            of(None, some("c1"), None),
            Ok(Target::Connection("c1".into()))
        );
        assert_eq!(of(None, None, some("r")), Ok(Target::Room("r".into())));
        for (user, connection, room) in [
            (None, None, None),
            (some("1"), some("2"), None),
            (some("1"), None, some("3")),
            (some("1"), some("2"), some("3")),
            (some(""), None, None),
            (None, some(""), None),
            (None, None, some("")),
        ] {
            assert!(of(user, connection, room).is_err());
        }
    }

    #[test]
    fn a_device_is_its_user_s_and_no_room() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            target(some("42"), some("phone"), None, None),
            Ok(Target::Device("42".into(), "phone".into()))
        );
        let long = Some("é".repeat(129));
        for (user, device, connection, room) in [
            (some("42"), some(""), None, None),
            (some("42"), long, None, None),
            (None, some("phone"), None, None),
            (None, some("phone"), some("c1"), None),
            (None, some("phone"), None, some("r")),
            (None, None, None, some("device:")),
            (None, None, None, some("device:phone")),
            (None, None, None, some("device:42:phone")),
        ] {
            let shown = format!("{user:?} {device:?} {connection:?} {room:?}");
            let refused = target(user, device, connection, room).unwrap_err();
            assert_eq!(refused.code, ErrorCode::InvalidTarget, "{shown}");
        }
        assert!(target(None, None, None, some("devices")).is_ok());
    }

    #[test]
    fn the_whole_is_503_only_if_nothing_went_out_for_want_of_redis() {
        let bad = || Err(ApiError::new(ErrorCode::ReservedEvent, "bad"));
        let away = || Err(ApiError::unavailable());
        assert_eq!(redis_stopped_all(&[]), None);
        assert_eq!(redis_stopped_all(&[bad(), bad()]), None);
        assert_eq!(redis_stopped_all(&[Ok(ONE), away()]), None);
        let unknown = || Err(ApiError::outcome_unknown());
        assert_eq!(redis_stopped_all(&[unknown(), away()]), None);
        assert!(redis_stopped_all(&[bad(), away()]).is_some());
    }

    #[test]
    fn a_result_is_a_delivery_or_an_error() {
        let text = |result: Result<Delivery, ApiError>| {
            serde_json::to_value(BulkResult::from(result)).unwrap()
        };
        assert_eq!(
            text(Ok(ONE)),
            json!({"connections": 1, "nodes": 1, "unconfirmed": 0})
        );
        assert_eq!(
            text(Err(ApiError::new(ErrorCode::TooLong, "x"))),
            json!({"error": {"code": "too_long", "detail": "x"}})
        );
    }
}
