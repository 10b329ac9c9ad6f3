//! What a backend sends, and what it is told became of it.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeTuple};
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use super::arg::{Arg, Arguments, BASE64};
use crate::{
    connection::{ConnectionId, UserId},
    registry::{
        Recipient, Room,
        keys::{Shard, Shards},
    },
};

/// Event names that no backend can send. The first six are Socket.IO's own: `socket.io-client` throws on them. The others are
/// Switchboard's: clients act on what they say.
pub const RESERVED_EVENTS: [&str; 10] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
    "ready",
    "tokenExpiring",
    "forceDisconnect",
    "presence",
];

/// What the names of the rooms begin with that a user's connections are in.
const USER_ROOM: &str = "user:";

/// What the names of the rooms begin with that the connections of a role are in. Nobody keeps who they are.
const ROLE_ROOM: &str = "role:";

/// An event for clients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The namespace whose connections get it.
    pub namespace: String,
    /// The event's name.
    pub event: String,
    /// Its arguments, in order. An object in them whose only field is `$base64`, with a text in base64, reaches clients as binary.
    pub args: Vec<Json>,
    /// Connections that don't get it.
    pub except: Vec<ConnectionId>,
    /// Whether it is dropped for clients that have not taken yet what they were sent before.
    pub volatile: bool,
    /// What tells it from all other messages, where it may be sent more than once: a node that has handed it over does not do so
    /// again within five minutes.
    pub id: Option<String>,
}

/// The connections that a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All connections of a user in the message's namespace.
    User(UserId),
    /// Those of a user's connections in the message's namespace whose client named this device.
    Device(UserId, String),
    /// One connection, whatever the message's namespace.
    Connection(ConnectionId),
    /// The connections in a room of the message's namespace.
    Room(String),
    /// Every connection of the message's namespace.
    All,
}

impl Target {
    /// A user's connections: all of them, or those of one device.
    pub fn user(user: UserId, device: Option<String>) -> Self {
        match device {
            Some(device) => Self::Device(user, device),
            None => Self::User(user),
        }
    }

    /// The connections in a room. That of a user (`user:42`) is the user.
    pub fn room(name: impl Into<String>) -> Self {
        let name = name.into();
        match name.strip_prefix(USER_ROOM) {
            Some(user) => Self::User(user.into()),
            None => Self::Room(name),
        }
    }

    /// Which of the registry's shards its recipients in a namespace are in; none if they may be in any.
    pub(crate) fn shard(&self, namespace: &str, shards: Shards) -> Option<Shard> {
        self.recipient(namespace)?.shard(shards)
    }

    /// What the registry is asked for the holders of its recipients in a namespace; none if nobody keeps who those are.
    pub(crate) fn recipient(&self, namespace: &str) -> Option<Recipient> {
        match self {
            Self::User(user) | Self::Device(user, _) => Some(Recipient::User(user.clone())),
            Self::Connection(id) => Some(Recipient::Connection(id.clone())),
            Self::Room(name) if name.starts_with(ROLE_ROOM) => None,
            Self::Room(name) => Some(Recipient::Room(Room::new(namespace, name.as_str()))),
            Self::All => None,
        }
    }

    /// The user, the connection or the room that it is; none of everybody.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::User(user) | Self::Device(user, _) => Some(user.as_str()),
            Self::Connection(id) => Some(id.as_str()),
            Self::Room(room) => Some(room),
            Self::All => None,
        }
    }

    /// The value of the metric label `kind`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::User(_) | Self::Device(..) => "user",
            Self::Connection(_) => "connection",
            Self::Room(_) => "room",
            Self::All => "broadcast",
        }
    }
}

/// Connections of a namespace, by the rooms that they are in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The rooms of which they must be in one; none: all connections.
    pub(crate) rooms: Vec<String>,
    /// The rooms of which they must be in none.
    pub(crate) except: Vec<String>,
}

/// Something that the pages of operators are told, in the protocol of `@socket.io/admin-ui`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PageEvent {
    /// The connection that it is about, for pages that show it; none: for all.
    pub(crate) about: Option<ConnectionId>,
    /// The event's name.
    pub(crate) event: Cow<'static, str>,
    /// Its arguments, in order.
    pub(crate) args: Vec<Json>,
}

impl PageEvent {
    /// An event with arguments that are serialized without fail.
    pub(crate) fn new(
        about: Option<ConnectionId>,
        event: &'static str,
        args: &[impl Serialize],
    ) -> Self {
        Self {
            about,
            event: event.into(),
            args: args.iter().flat_map(Json::of).collect(),
        }
    }
}

/// Where a message went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// How many connections it was handed to.
    pub connections: u64,
    /// On how many nodes.
    pub nodes: u64,
    /// How many further nodes hold connections that it is for and have not said in time what became of it, or can't say yet that
    /// it reached any: it may have.
    pub unconfirmed: u64,
}

/// What one client answered, between nodes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// The first argument of its acknowledgement, as JSON; null if it came without one.
    Given(Box<str>),
    /// More than is passed on.
    TooLarge,
}

/// What one client answered.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AckReply {
    /// Its answer.
    Given {
        /// Whose it is.
        #[serde(rename = "connectionId")]
        connection_id: ConnectionId,
        /// The first argument of its acknowledgement, in which binary is `{"$base64": "…"}`; null if it came without one, or with one
        /// that is no JSON, is nested deeper than 128 levels, holds a number that no double does, or an object whose first name
        /// has an escape in it, which socketioxide-parser-common 0.17.3 can't read.
        data: Json,
    },
    /// It has answered, and the answer is not passed on.
    Cut {
        /// Whose it was.
        #[serde(rename = "connectionId")]
        connection_id: ConnectionId,
        /// Why.
        error: AckError,
    },
}

/// JSON as text, which is serialized as what it says. A value becomes text once, where it comes in; from there on it is copied as
/// it is to every node and connection.
#[derive(Clone, Debug, ToSchema)]
#[schema(value_type = Value)]
pub struct Json(Box<RawValue>);

impl Json {
    /// The text of something that is serialized without fail, such as a [`serde_json::Value`].
    ///
    /// # Errors
    ///
    /// What [`serde_json`] says of a value that is no JSON, as a map is whose keys are not texts.
    pub fn of(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// A text that is JSON; none if it is not.
    pub(crate) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// The JSON that a client's text says; null if it is none, or is nested deeper than serde_json reads.
    fn of_client(text: &str) -> Self {
        let is_json = serde_json::from_str::<serde_json::Value>(text).is_ok();
        let read = is_json.then(|| Self::read(text)).flatten();
        read.unwrap_or_else(|| Self(RawValue::NULL.to_owned()))
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Whether there may be binary in it. serde_json escapes no dollar sign.
    fn may_hold_binary(&self) -> bool {
        self.text().contains(BASE64)
    }

    fn to_arg(&self) -> Arg {
        let value: Value = serde_json::from_str(self.text()).unwrap_or_default();
        Arg::from(value)
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// Why the arguments of a message can't be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadArguments {
    /// Two ways to say them at once.
    #[error("data and args: one of them, not both")]
    Both,
    /// A text that stands for binary.
    #[error("{place}.{BASE64}: {error}")]
    Binary {
        /// Where it is, such as `args[1].file`.
        place: String,
        /// What is wrong with it.
        error: base64::DecodeError,
    },
    /// What can't be written.
    #[error("data: {0}")]
    Json(#[from] serde_json::Error),
}

/// The arguments of a message, of which a request says one as `data`, or all as `args`; neither: there are none.
pub(crate) fn arguments(
    data: Option<Value>,
    args: Option<Vec<Value>>,
) -> Result<Vec<Json>, BadArguments> {
    let args = match (data, args) {
        (Some(_), Some(_)) => return Err(BadArguments::Both),
        (Some(data), None) => {
            check_binary(&data, &mut "data".to_owned())?;
            vec![data]
        }
        (None, args) => {
            let args = args.unwrap_or_default();
            for (index, arg) in args.iter().enumerate() {
                check_binary(arg, &mut format!("args[{index}]"))?;
            }
            args
        }
    };
    Ok(args.iter().map(Json::of).collect::<Result<_, _>>()?)
}

/// Refuses what stands for binary and is no base64: clients would get the object as it is. `place` names the value.
pub(super) fn check_binary(value: &Value, place: &mut String) -> Result<(), BadArguments> {
    let length = place.len();
    let mut check = |value: &Value, step: &dyn fmt::Display| {
        write!(place, "{step}").ok();
        let checked = check_binary(value, place);
        place.truncate(length);
        checked
    };
    match value {
        Value::Object(fields) => match Arg::binary(fields) {
            Some(Err(error)) => Err(BadArguments::Binary {
                place: place.clone(),
                error,
            }),
            Some(Ok(_)) => Ok(()),
            None => fields
                .iter()
                .try_for_each(|(name, value)| check(value, &format_args!(".{name}"))),
        },
        Value::Array(all) => all
            .iter()
            .enumerate()
            .try_for_each(|(index, value)| check(value, &format_args!("[{index}]"))),
        _ => Ok(()),
    }
}

/// Why an answer is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AckError {
    /// It has more than `limits.ack_bytes`, or all answers together more than 16 MB.
    TooLarge,
}

impl AckReply {
    /// The answer of a connection, as the API shows it.
    pub(crate) fn of(connection_id: ConnectionId, answer: Answer) -> Self {
        match answer {
            Answer::Given(data) => Self::Given {
                connection_id,
                data: Json::of_client(&data),
            },
            Answer::TooLarge => Self::Cut {
                connection_id,
                error: AckError::TooLarge,
            },
        }
    }
}

/// Where a message went, and what came back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Acked {
    /// How many connections it was handed to.
    pub connections: u64,
    /// On how many nodes.
    pub nodes: u64,
    /// How many further nodes hold connections that it is for and have not said in time what became of it, or can't say yet that
    /// it reached any: it may have.
    pub unconfirmed: u64,
    /// The answers, in the order they came.
    pub acks: Vec<AckReply>,
    /// How many connections did not answer in time.
    pub missing: u64,
}

/// What became of an order to end connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disconnected {
    /// How many are closed and out of the registry.
    pub disconnected: u64,
    /// On how many nodes.
    pub nodes: u64,
    /// Those of which that could not be confirmed in time. Their nodes carry the order out when they can.
    pub remaining: Vec<ConnectionId>,
}

/// What became of a change to who is in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomChanged {
    /// How many connections have joined or left.
    pub connections: u64,
    /// On how many nodes.
    pub nodes: u64,
    /// How many further nodes hold connections that it is for and have not said in time that it is done.
    pub unconfirmed: u64,
}

/// What became of the revocation of one token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRevoked {
    /// The connections that came in by it, as far as nodes have told.
    pub disconnected: Disconnected,
    /// How many nodes have not said in time that all of theirs are closed. Of those that have said nothing, `remaining` can name
    /// none.
    pub unconfirmed: u64,
}

/// What became of the revocation of a user's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Tokens issued before are refused; by the registry's clock.
    pub revoked_before: Timestamp,
    /// The connections that had come in with one.
    pub disconnected: Disconnected,
}

/// Whether an event has a name that can be sent: not empty, and not reserved.
pub(crate) fn is_sendable(event: &str) -> bool {
    !event.is_empty() && !RESERVED_EVENTS.contains(&event)
}

impl Message {
    /// An event without arguments, for a namespace.
    pub fn new(namespace: impl Into<String>, event: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            event: event.into(),
            ..Self::default()
        }
    }

    /// Adds an argument.
    ///
    /// # Errors
    ///
    /// What [`serde_json`] says of a value that is no JSON, as a map is whose keys are not texts.
    pub fn with(mut self, argument: &impl Serialize) -> Result<Self, serde_json::Error> {
        self.args.push(Json::of(argument)?);
        Ok(self)
    }

    /// Its arguments as they go to a socket.
    pub(super) fn arguments(&self) -> Outgoing<'_> {
        if self.args.iter().any(Json::may_hold_binary) {
            Outgoing::Binary(self.args.iter().map(Json::to_arg).collect())
        } else {
            Outgoing::Text(&self.args)
        }
    }

    /// How many bytes it takes on the wire at the least. Never more than it takes: what is counted here is taken off by the
    /// bytes that a polling client has fetched, and an excess would pile up against a client that fetches everything.
    pub(crate) fn weight(&self) -> usize {
        let args = self.args.iter().map(|arg| arg.text().len());
        self.event.len() + args.sum::<usize>()
    }
}

/// The arguments of a message, as socketioxide writes them: a tuple to serde, which is what it tells several arguments from a
/// list by.
pub(super) enum Outgoing<'a> {
    /// JSON alone, which is copied as it is.
    Text(&'a [Json]),
    /// With binary, whose attachments socketioxide sends.
    Binary(Vec<Arg>),
}

impl Serialize for Outgoing<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(args) => {
                let mut tuple = to.serialize_tuple(args.len())?;
                for arg in *args {
                    tuple.serialize_element(arg)?;
                }
                tuple.end()
            }
            Self::Binary(args) => Arguments(args).serialize(to),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_serialized_as_what_it_says() {
        let value = json!({"a": [1, -2, 0.5, u64::MAX, "\u{0}ü\u{2028}", null]});
        let data = Json::of(&value).unwrap();
        assert_eq!(data.text(), value.to_string());
        assert_eq!(
            serde_json::to_string(&[&data]).unwrap(),
            format!("[{value}]")
        );
        assert_eq!(Json::read(data.text()), Some(data));
        for no_json in ["", "{", "1 2", "nul"] {
            assert_eq!(Json::read(no_json), None);
            assert_eq!(Json::of_client(no_json).text(), "null");
        }
    }
}
