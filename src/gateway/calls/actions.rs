//! What a backend's answer asks for, besides the acknowledgement: to emit, to change rooms, to disconnect.

use std::sync::Arc;

use derive_more::Constructor;
use serde::Deserialize;
use serde_json::Value;

use super::Calls;
use crate::{
    connection::ConnectionId,
    ending::Ending,
    gateway::{
        application::ReceivedEvent,
        error::GatewayError,
        message::{Message, Target},
        requests::{
            end::DisconnectRequest,
            fields::{GivenUser, Object, or_default, present},
            rooms::{room_name, room_target},
            send::{self, Content},
            user_id,
        },
        rooms::NotChanged,
    },
};

/// What a backend asks for, as it is written.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Given {
    Emit {
        user: Option<GivenUser>,
        room: Option<String>,
        connection: Option<ConnectionId>,
        event: String,
        #[serde(default, deserialize_with = "present")]
        data: Option<Value>,
        #[serde(default, deserialize_with = "present")]
        args: Option<Vec<Value>>,
        #[serde(default, deserialize_with = "or_default")]
        except: Vec<ConnectionId>,
        #[serde(default, deserialize_with = "or_default")]
        volatile: bool,
    },
    Join {
        room: String,
    },
    Leave {
        room: String,
    },
    Disconnect {
        code: Option<i64>,
        reason: Option<String>,
        reconnect: Option<bool>,
    },
}

/// What a backend asks for, checked.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Sends an event.
    Emit(Target, Message),
    /// Takes the calling connection into a room, or out of it.
    Room(RoomChange),
    /// Ends the calling connection.
    Disconnect(Ending),
}

/// A change of the rooms of a connection.
#[derive(Debug, PartialEq)]
pub(super) enum RoomChange {
    /// Into this room.
    Join(Arc<str>),
    /// Out of this room.
    Leave(Arc<str>),
}

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActionError {
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(transparent)]
    Room(#[from] NotChanged),
}

impl Action {
    /// Reads an action. What it sends goes to connections of `namespace`, and may have `max_payload` bytes as JSON.
    pub(super) fn read(given: Value, namespace: &str, max_payload: usize) -> Result<Self, String> {
        let joinable = |room| room_name(room).map_err(|invalid| invalid.detail);
        let Object(given) = Object::deserialize(given).map_err(|error| error.to_string())?;
        Ok(match given {
            Given::Join { room } => Self::Room(RoomChange::Join(joinable(room)?)),
            Given::Leave { room } => Self::Room(RoomChange::Leave(joinable(room)?)),
            Given::Disconnect {
                code,
                reason,
                reconnect,
            } => {
                let request = DisconnectRequest {
                    code,
                    reason,
                    reconnect,
                    ..DisconnectRequest::default()
                };
                Self::Disconnect(request.ending().map_err(|invalid| invalid.detail)?)
            }
            Given::Emit {
                user,
                room,
                connection,
                event,
                data,
                args,
                except,
                volatile,
            } => {
                let target = match (user, room, connection) {
                    (Some(GivenUser(user)), None, None) => {
                        Target::User(user_id(user).map_err(|invalid| invalid.detail)?)
                    }
                    (None, Some(room), None) => {
                        room_target(room).map_err(|invalid| invalid.detail)?
                    }
                    (None, None, Some(connection)) => Target::Connection(connection),
                    _ => return Err("exactly one of user, room, connection".to_owned()),
                };
                let content = Content {
                    event,
                    data,
                    args,
                    namespace: Some(namespace.to_owned()),
                    except,
                    volatile,
                };
                let message = send::message(content, max_payload, |_| true);
                Self::Emit(target, message.map_err(|invalid| invalid.detail)?)
            }
        })
    }

    /// What it does, in the words of answers and metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::Emit(..) => "emit",
            Self::Room(RoomChange::Join(_)) => "join",
            Self::Room(RoomChange::Leave(_)) => "leave",
            Self::Disconnect(_) => "disconnect",
        }
    }
}

/// Does what a backend asks for in answer to an event.
#[derive(Constructor)]
pub(super) struct Actions<'a> {
    backend: &'a str,
    calls: &'a Calls,
    event: &'a ReceivedEvent,
}

impl Actions<'_> {
    /// Does one action after the other. One that fails is counted and logged, and the next one follows. Returns how the calling
    /// connection is to end, if it is: the acknowledgement has to go out first, as nothing reaches a client that has been ended.
    pub(super) async fn carry_out(&self, actions: Vec<Action>) -> Option<Ending> {
        let mut ending = None;
        for action in actions {
            let name = action.name();
            let done = match action {
                Action::Emit(target, message) => self.emit(&target, &message).await,
                Action::Room(change) => self.change_room(change).await,
                Action::Disconnect(wanted) => {
                    ending.get_or_insert(wanted);
                    Ok(())
                }
            };
            if let Err(error) = done {
                let backend = self.backend;
                let failed = self.calls.metrics.backend_actions_failed(backend, name);
                failed.increment(1);
                tracing::warn!(backend, action = name, %error, "an action of a backend's answer failed");
            }
        }
        ending
    }

    /// Sends an event. When this returns, this node's clients have it before the acknowledgement; others have it soon.
    async fn emit(&self, target: &Target, message: &Message) -> Result<(), ActionError> {
        let confirmed = self.calls.delivery.dispatch(target, message).await?;
        if target.recipient(&message.namespace).is_none() {
            // It reaches this node's clients as it reaches those of others.
            confirmed.await;
        }
        Ok(())
    }

    /// Takes the calling connection into a room, or out of it.
    async fn change_room(&self, change: RoomChange) -> Result<(), ActionError> {
        let (rooms, connection) = (&self.calls.rooms, &self.event.local);
        match change {
            RoomChange::Join(room) => rooms.join(connection, &room).await?,
            RoomChange::Leave(room) => rooms.leave(connection, &room).await?,
        };
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(given: Value) -> Result<Action, String> {
        Action::read(given, "/shop", 20)
    }

    #[test]
    fn an_emit_has_one_kind_of_recipient() {
        let to = |who: Value| {
            let mut given = json!({"do": "emit", "event": "e", "data": 1});
            given
                .as_object_mut()
                .unwrap()
                .extend(who.as_object().unwrap().clone());
            read(given).map(|action| match action {
                Action::Emit(target, message) => {
                    assert_eq!(
                        (message.namespace.as_str(), message.args.len()),
                        ("/shop", 1)
                    );
                    target
                }
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(to(json!({"user": "42"})), Ok(Target::User("42".into())));
        assert_eq!(to(json!({"user": 42})), Ok(Target::User("42".into())));
        assert_eq!(to(json!({"room": "r"})), Ok(Target::Room("r".into())));
        assert_eq!(
            to(json!({"connection": "c"})),
            Ok(Target::Connection("c".into()))
        );
        for wrong in [
            json!({}),
            json!({"user": "1", "room": "r"}),
            json!({"user": ".."}),
        ] {
            assert!(to(wrong).is_err());
        }
    }

    #[test]
    fn what_can_not_be_done_is_refused_before_anything_is() {
        for (wrong, why) in [
            (json!(["join", "r"]), "invalid type: sequence"),
            (json!({}), "missing field `do`"),
            (json!({"do": "dance"}), "unknown variant"),
            (json!({"do": "join"}), "missing field `room`"),
            (
                json!({"do": "join", "room": "r", "user": "1"}),
                "unknown field",
            ),
            (json!({"do": "join", "room": "user:1"}), "room:"),
            (json!({"do": "leave", "room": ""}), "room:"),
            (
                json!({"do": "emit", "room": "device:1", "event": "e"}),
                "room:",
            ),
            (json!({"do": "emit", "user": "1"}), "missing field `event`"),
            (
                json!({"do": "emit", "user": "1", "event": "ready"}),
                "event:",
            ),
            (
                json!({"do": "emit", "user": "1", "event": "e", "data": "x".repeat(20)}),
                "data:",
            ),
            (
                json!({"do": "emit", "user": "1", "event": "e", "data": 1, "args": []}),
                "data and args",
            ),
            (json!({"do": "disconnect", "code": 3999}), "code:"),
            (
                json!({"do": "disconnect", "code": 4000, "reconnect": false}),
                "code:",
            ),
        ] {
            let error = read(wrong.clone()).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_disconnect_is_final_unless_it_says_otherwise() {
        let ending = |given| read(given).unwrap();
        let default = Ending::of(Ending::DISCONNECTED);
        assert_eq!(
            ending(json!({"do": "disconnect"})),
            Action::Disconnect(default)
        );
        let back = Ending::of(Ending::RECONNECT_REQUESTED).because("Moved");
        let given = json!({"do": "disconnect", "reconnect": true, "reason": "Moved"});
        assert_eq!(ending(given), Action::Disconnect(back));
    }
}
