//! Sending many events in one call.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use axum::{Json, extract::State};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    ApiState, Limits,
    auth::{Allowed, scope},
    body::{Body, GivenUser, Payload, part, present, user_id},
    error::{ApiError, ErrorCode},
    openapi::{BodyProblems, Guarded},
};
use crate::gateway::{Delivery, Message, Target};

/// The most messages of one call.
const MAX_MESSAGES: usize = 1000;

/// How many lanes are sent at a time: enough to fill the link to Redis, and not so many that one call holds it.
const CONCURRENCY: usize = 32;

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

/// One event of many: exactly one of `user`, `connection` and `room` says whom it is for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkMessage {
    /// A user: all connections in the namespace. An integer stands for its digits.
    #[schema(value_type = Option<String>)]
    user: Option<GivenUser>,
    /// One connection.
    connection: Option<String>,
    /// The connections in a room of the namespace.
    room: Option<String>,
    /// Its name, which is not one of Socket.IO's own.
    #[schema(min_length = 1, max_length = 256)]
    event: String,
    /// Its one argument, any JSON. Absent: the event comes without arguments. `null` is an argument.
    #[serde(default, deserialize_with = "present")]
    data: Option<Value>,
    /// The namespace whose connections get it; of no matter for a connection, which is in one. A missing leading slash is
    /// added.
    #[schema(default = "/")]
    namespace: Option<String>,
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
/// waits for the one before. When Redis is the reason why none of them was handed over, the answer as a whole is 503.
#[utoipa::path(
    post,
    path = "/events",
    tag = "send",
    request_body = BulkRequest,
    responses(
        (status = 200, description = "A result for each event", body = BulkAnswer, example = json!({"results": [
            {"connections": 2, "nodes": 1},
            {"error": {"code": "reserved_event", "detail": "event: \"connect\" is Socket.IO's own"}},
        ]})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn send_bulk(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    Body(request): Body<BulkRequest>,
) -> Result<Json<BulkAnswer>, ApiError> {
    if request.messages.len() > MAX_MESSAGES {
        return Err(ApiError::new(
            ErrorCode::TooMany,
            format!("messages: at most {MAX_MESSAGES}"),
        ));
    }
    let messages = request
        .messages
        .into_iter()
        .map(|value| {
            let message: BulkMessage = part(value)?;
            let user = message.user.map(|GivenUser(id)| id);
            let target = target(user, message.connection, message.room)?;
            let message = state.message(message.event, message.data, message.namespace)?;
            Ok((target, message))
        })
        .collect();
    let send = |target: Target, message: Message| {
        let gateway = &state.gateway;
        async move { Ok(gateway.send(&target, &message).await?) }
    };
    let results = hand_over(messages, send).await;
    if let Some(error) = redis_stopped_all(&results) {
        return Err(error.clone());
    }
    let results = results.into_iter().map(BulkResult::from).collect();
    Ok(Json(BulkAnswer { results }))
}

fn target(
    user: Option<String>,
    connection: Option<String>,
    room: Option<String>,
) -> Result<Target, ApiError> {
    let wrong = |detail| Err(ApiError::new(ErrorCode::InvalidTarget, detail));
    match (user, connection, room) {
        (Some(user), None, None) => user_id(user).map(Target::User),
        (None, Some(id), None) if id.is_empty() => wrong("connection: empty"),
        (None, Some(id), None) => Ok(Target::Connection(id.into())),
        (None, None, Some(room)) if room.is_empty() => wrong("room: empty"),
        (None, None, Some(room)) => Ok(Target::Room(room)),
        _ => wrong("exactly one of user, connection and room says whom it is for"),
    }
}

/// One message of the request: its place, whom it is for, and what it says.
type Placed = (usize, Target, Message);

/// Messages that no other one of another lane shares a client with; in a lane they go one after the other.
type Lanes = BTreeMap<String, Vec<Placed>>;

/// Sends what is sendable, so that each client gets its messages in order, and puts the results back in order. After the
/// first that Redis refuses, the rest is refused untried: a thousand timeouts in a row help nobody.
async fn hand_over<F, Fut>(
    messages: Vec<Result<(Target, Message), ApiError>>,
    send: F,
) -> Vec<Result<Delivery, ApiError>>
where
    F: Fn(Target, Message) -> Fut,
    Fut: Future<Output = Result<Delivery, ApiError>>,
{
    let mut results: BTreeMap<usize, Result<Delivery, ApiError>> = BTreeMap::new();
    let mut sendable = Vec::with_capacity(messages.len());
    for (place, message) in messages.into_iter().enumerate() {
        match message {
            Ok((target, message)) => sendable.push((place, target, message)),
            Err(error) => {
                results.insert(place, Err(error));
            }
        }
    }
    let (send, away) = (&send, &AtomicBool::new(false));
    for lanes in stages(sendable) {
        let sent = stream::iter(lanes.into_values())
            .map(|lane| async move {
                let mut results = Vec::with_capacity(lane.len());
                for (place, target, message) in lane {
                    let result = if away.load(Ordering::Relaxed) {
                        Err(ApiError::unavailable())
                    } else {
                        send(target, message).await
                    };
                    if is_unavailable(&result) {
                        away.store(true, Ordering::Relaxed);
                    }
                    results.push((place, result));
                }
                results
            })
            .buffer_unordered(CONCURRENCY)
            .collect::<Vec<_>>()
            .await;
        results.extend(sent.into_iter().flatten());
    }
    results.into_values().collect()
}

/// What can be sent at once, stage by stage. A connection is of one user, so two users share none, nor do two connections.
/// Whose a connection is, and who is in a room, is for the registry and for the other nodes to know: where the kind of target
/// changes, what comes after waits for what was before.
fn stages(messages: Vec<Placed>) -> Vec<Lanes> {
    let mut stages: Vec<(&str, Lanes)> = Vec::new();
    for (place, target, message) in messages {
        let kind = target.kind();
        if stages.last().is_none_or(|(of, _)| *of != kind) {
            stages.push((kind, Lanes::new()));
        }
        let lane = lane(&target, &message);
        if let Some((_, lanes)) = stages.last_mut() {
            lanes
                .entry(lane)
                .or_default()
                .push((place, target, message));
        }
    }
    stages.into_iter().map(|(_, lanes)| lanes).collect()
}

/// What tells a message from those of its kind that it shares no client with. A client may be in any number of a namespace's
/// rooms, and is in one namespace.
fn lane(target: &Target, message: &Message) -> String {
    match target {
        Target::User(user) => user.to_string(),
        Target::Connection(id) => id.to_string(),
        Target::Room(_) => message.namespace.clone(),
    }
}

fn is_unavailable(result: &Result<Delivery, ApiError>) -> bool {
    matches!(result, Err(error) if error.code == ErrorCode::Unavailable)
}

/// The error of Redis, if there is one and nothing was handed over.
fn redis_stopped_all(results: &[Result<Delivery, ApiError>]) -> Option<&ApiError> {
    if results.iter().any(Result::is_ok) {
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
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    fn message(event: &str) -> Message {
        Message {
            event: event.into(),
            data: None,
            namespace: "/".into(),
        }
    }

    fn to(user: &str, event: &str) -> Result<(Target, Message), ApiError> {
        Ok((Target::User(user.into()), message(event)))
    }

    const ONE: Delivery = Delivery {
        connections: 1,
        nodes: 1,
    };

    #[test]
    fn exactly_one_target() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            target(some("42"), None, None),
            Ok(Target::User("42".into()))
        );
        assert_eq!(
            target(None, some("c1"), None),
            Ok(Target::Connection("c1".into()))
        );
        assert_eq!(target(None, None, some("r")), Ok(Target::Room("r".into())));
        for (user, connection, room) in [
            (None, None, None),
            (some("1"), some("2"), None),
            (some("1"), None, some("3")),
            (some("1"), some("2"), some("3")),
            (some(""), None, None),
            (None, some(""), None),
            (None, None, some("")),
        ] {
            assert!(target(user, connection, room).is_err());
        }
    }

    #[tokio::test]
    async fn results_come_in_the_order_of_the_request_and_messages_in_the_order_of_their_target() {
        let log = Mutex::new(Vec::new());
        let bad = ApiError::new(ErrorCode::ReservedEvent, "bad");
        let messages = vec![
            to("b", "1"),
            Err(bad.clone()),
            to("a", "2"),
            to("b", "3"),
            to("b", "4"),
        ];
        let results = hand_over(messages, |target, message| {
            let log = &log;
            async move {
                // Later messages would overtake, were they not held back.
                for _ in 0..(10 - message.event.parse::<usize>().unwrap()) {
                    tokio::task::yield_now().await;
                }
                log.lock().push((target.clone(), message.event.clone()));
                Ok(Delivery {
                    connections: message.event.parse().unwrap(),
                    nodes: 1,
                })
            }
        })
        .await;
        let connections: Vec<_> = results
            .into_iter()
            .map(|result| result.map(|delivery| delivery.connections))
            .collect();
        assert_eq!(connections, [Ok(1), Err(bad), Ok(2), Ok(3), Ok(4)]);
        let to_b: Vec<_> = log
            .into_inner()
            .into_iter()
            .filter(|(target, _)| *target == Target::User("b".into()))
            .map(|(_, event)| event)
            .collect();
        assert_eq!(to_b, ["1", "3", "4"]);
    }

    /// A client may be meant by its user, by its connection and by any of its rooms.
    #[tokio::test]
    async fn messages_that_may_be_for_the_same_client_do_not_overtake_each_other() {
        let user = || Target::User("a".into());
        let connection = || Target::Connection("c".into());
        let room = |name: &str| Target::Room(name.into());
        let targets = [
            user(),
            connection(),
            room("r"),
            room("s"),
            connection(),
            user(),
            room("s"),
            user(),
        ];
        let messages = targets.into_iter().enumerate();
        let messages = messages.map(|(place, target)| Ok((target, message(&place.to_string()))));
        let log = Mutex::new(Vec::new());
        hand_over(messages.collect(), |_, message| {
            let log = &log;
            async move {
                let place: usize = message.event.parse().unwrap();
                for _ in 0..(10 - place) {
                    tokio::task::yield_now().await;
                }
                log.lock().push(place);
                Ok(ONE)
            }
        })
        .await;
        assert_eq!(log.into_inner(), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[tokio::test]
    async fn users_and_rooms_of_other_namespaces_do_not_wait_for_each_other() {
        let rooms = |namespace: &str| {
            let message = Message {
                namespace: namespace.into(),
                ..message("e")
            };
            Ok((Target::Room("r".into()), message))
        };
        for messages in [
            vec![to("a", "e"), to("b", "e")],
            vec![rooms("/"), rooms("/public")],
        ] {
            // Nobody comes out before both are in.
            let both = tokio::sync::Barrier::new(2);
            let sent = hand_over(messages, |_, _| async {
                both.wait().await;
                Ok(ONE)
            });
            let sent = tokio::time::timeout(std::time::Duration::from_secs(60), sent);
            assert_eq!(sent.await.unwrap().len(), 2);
        }
    }

    #[tokio::test]
    async fn after_redis_is_found_away_nothing_more_is_tried() {
        let tried = AtomicBool::new(false);
        let messages = (0..100).map(|_| to("a", "e")).collect();
        let results = hand_over(messages, |_, _| {
            assert!(!tried.swap(true, Ordering::Relaxed), "tried again");
            async { Err(ApiError::unavailable()) }
        })
        .await;
        assert_eq!(results.len(), 100);
        assert!(results.iter().all(is_unavailable));
        assert!(redis_stopped_all(&results).is_some());
    }

    #[test]
    fn the_whole_is_503_only_if_nothing_went_out_for_want_of_redis() {
        let bad = || Err(ApiError::new(ErrorCode::ReservedEvent, "bad"));
        let away = || Err(ApiError::unavailable());
        assert_eq!(redis_stopped_all(&[]), None);
        assert_eq!(redis_stopped_all(&[bad(), bad()]), None);
        assert_eq!(redis_stopped_all(&[Ok(ONE), away()]), None);
        assert!(redis_stopped_all(&[bad(), away()]).is_some());
    }

    #[test]
    fn a_result_is_a_delivery_or_an_error() {
        let text = |result: Result<Delivery, ApiError>| {
            serde_json::to_value(BulkResult::from(result)).unwrap()
        };
        assert_eq!(text(Ok(ONE)), json!({"connections": 1, "nodes": 1}));
        assert_eq!(
            text(Err(ApiError::new(ErrorCode::TooLong, "x"))),
            json!({"error": {"code": "too_long", "detail": "x"}})
        );
    }
}
