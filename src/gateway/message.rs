//! The messages that backends send, and their recipients. `json` has a message's arguments; `outcome` what a call answers.

mod json;
mod outcome;

use std::borrow::Cow;

use serde::{Serialize, Serializer, ser::SerializeTuple};

pub(super) use self::json::check_binary;
pub use self::{
    json::Json,
    outcome::{
        AckError, AckReply, Acked, Delivery, Disconnected, Revoked, RoomChanged, TokenRevoked,
    },
};
pub(crate) use self::{json::arguments, outcome::Answer};
use super::arg::{Arg, Arguments};
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
