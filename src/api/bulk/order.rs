//! In which order the messages of one call go out: those of one client one after the other, the rest at once.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::{StreamExt, future::join_all, stream};

use crate::{
    api::error::{ApiError, ErrorCode},
    gateway::{Delivery, Message, Target},
};

/// How many lanes are sent at a time: enough to fill the link to Redis, and not so many that one call holds it.
pub(super) const CONCURRENCY: usize = 32;

/// One message of the request: its place, its recipients, and what it says.
type Placed = (usize, Target, Message);

/// Messages that no other one of another lane shares a client with; in a lane they go one after the other.
type Lanes = BTreeMap<String, Vec<Placed>>;

/// Dispatches what can be, so that each client gets its messages in order, and puts the results back in order. What is on its
/// way keeps its place: the next message does not wait for where it went. After the first that Redis refuses or leaves unanswered,
/// the rest is refused untried: a thousand timeouts in a row help nobody.
pub(super) async fn hand_over<F, Fut, Sent>(
    messages: Vec<Result<(Target, Message), ApiError>>,
    dispatch: F,
) -> Vec<Result<Delivery, ApiError>>
where
    F: Fn(Target, Message) -> Fut,
    Fut: Future<Output = Result<Sent, ApiError>>,
    Sent: Future<Output = Delivery>,
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
    let (dispatch, away) = (&dispatch, &AtomicBool::new(false));
    for lanes in stages(sendable) {
        let dispatched = stream::iter(lanes.into_values())
            .map(|lane| async move {
                let mut results = Vec::with_capacity(lane.len());
                for (place, target, message) in lane {
                    let sent = if away.load(Ordering::Relaxed) {
                        Err(ApiError::unavailable())
                    } else {
                        dispatch(target, message).await
                    };
                    if is_unavailable(&sent) || is_unknown(&sent) {
                        away.store(true, Ordering::Relaxed);
                    }
                    results.push((place, sent));
                }
                results
            })
            .buffer_unordered(CONCURRENCY)
            .collect::<Vec<_>>()
            .await;
        let confirmed = dispatched
            .into_iter()
            .flatten()
            .map(|(place, sent)| async move {
                match sent {
                    Ok(sent) => (place, Ok(sent.await)),
                    Err(error) => (place, Err(error)),
                }
            });
        results.extend(join_all(confirmed).await);
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
        Target::User(user) | Target::Device(user, _) => user.to_string(),
        Target::Connection(id) => id.to_string(),
        Target::Room(_) | Target::All => message.namespace.clone(),
    }
}

/// Whether a message may have been handed over, and nobody can say.
pub(super) fn is_unknown<T>(result: &Result<T, ApiError>) -> bool {
    matches!(result, Err(error) if error.code == ErrorCode::OutcomeUnknown)
}

/// Whether Redis is the reason why a message was not handed over.
pub(super) fn is_unavailable<T>(result: &Result<T, ApiError>) -> bool {
    matches!(result, Err(error) if error.code == ErrorCode::Unavailable)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::future::{Ready, ready};

    use parking_lot::Mutex;

    use super::*;

    fn message(event: &str) -> Message {
        Message::new("/", event)
    }

    fn to(user: &str, event: &str) -> Result<(Target, Message), ApiError> {
        Ok((Target::User(user.into()), message(event)))
    }

    const ONE: Delivery = Delivery {
        connections: 1,
        nodes: 1,
        unconfirmed: 0,
    };

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
                Ok(ready(Delivery {
                    connections: message.event.parse().unwrap(),
                    nodes: 1,
                    unconfirmed: 0,
                }))
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
                Ok(ready(ONE))
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
                Ok(ready(ONE))
            });
            let sent = tokio::time::timeout(std::time::Duration::from_secs(60), sent);
            assert_eq!(sent.await.unwrap().len(), 2);
        }
    }

    #[tokio::test]
    async fn the_next_message_does_not_wait_for_where_the_one_before_went() {
        let last = tokio::sync::Notify::new();
        let messages = ["1", "2", "3"].map(|event| to("a", event));
        let sent = hand_over(messages.into(), |_, message| {
            let last = &last;
            async move {
                if message.event == "3" {
                    last.notify_one();
                }
                Ok(async move {
                    if message.event == "1" {
                        last.notified().await;
                    }
                    ONE
                })
            }
        });
        let sent = tokio::time::timeout(std::time::Duration::from_secs(60), sent);
        assert_eq!(sent.await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn after_redis_is_found_away_nothing_more_is_tried() {
        let tried = AtomicBool::new(false);
        let messages = (0..100).map(|_| to("a", "e")).collect();
        let results = hand_over(messages, |_, _| {
            assert!(!tried.swap(true, Ordering::Relaxed), "tried again");
            async { Err::<Ready<Delivery>, _>(ApiError::unavailable()) }
        })
        .await;
        assert_eq!(results.len(), 100);
        assert!(results.iter().all(is_unavailable));
    }

    #[tokio::test]
    async fn after_redis_has_left_one_unanswered_the_rest_is_surely_not_sent() {
        let messages = (0..10).map(|_| to("a", "e")).collect();
        let results = hand_over(messages, |_, _| async {
            Err::<Ready<Delivery>, _>(ApiError::outcome_unknown())
        })
        .await;
        assert!(is_unknown(&results[0]));
        assert!(results[1..].iter().all(is_unavailable));
    }
}
