//! What a backend sends, and what it is told became of it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use crate::connection::{ConnectionId, UserId};

/// Event names that mean something to Socket.IO's clients and servers themselves; `socket.io-client` throws on them.
pub const RESERVED_EVENTS: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// An event for clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The event's name.
    pub event: String,
    /// Its one argument; none: the event comes without arguments.
    #[serde(with = "argument")]
    pub data: Option<Value>,
    /// The namespace whose connections get it.
    pub namespace: String,
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// All connections of a user in the message's namespace.
    User(UserId),
    /// Those of a user's connections in the message's namespace whose client named this device.
    Device(UserId, String),
    /// One connection, whatever the message's namespace.
    Connection(ConnectionId),
    /// The connections in a room of the message's namespace.
    Room(String),
}

impl Target {
    /// A user's connections: all of them, or those of one device.
    pub fn user(user: UserId, device: Option<String>) -> Self {
        match device {
            Some(device) => Self::Device(user, device),
            None => Self::User(user),
        }
    }

    /// The value of the metric label `kind`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::User(_) | Self::Device(..) => "user",
            Self::Connection(_) => "connection",
            Self::Room(_) => "room",
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
    /// How many further nodes hold connections that it is for and have not said in time what became of it. It may have
    /// reached them.
    pub unconfirmed: u64,
}

/// What one client answered, between nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The first argument of its acknowledgement, as JSON; null if it came without one.
    Given(Box<str>),
    /// More than is passed on.
    TooLarge,
}

/// What one client answered.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum AckReply {
    /// Its answer.
    Given {
        /// Whose it is.
        connection_id: ConnectionId,
        /// The first argument of its acknowledgement; null if it came without one, or with one that is no JSON, is nested
        /// deeper than 128 levels, holds a number that no double does, or has attachments.
        data: Json,
    },
    /// It has answered, and the answer is not passed on.
    Cut {
        /// Whose it was.
        connection_id: ConnectionId,
        /// Why.
        error: AckError,
    },
}

/// JSON as text, which is serialized as what it says.
#[derive(Clone, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = Value)]
pub struct Json(Box<str>);

impl Json {
    /// The JSON that a text says; null if it is none, or is nested deeper than serde_json reads.
    fn of(text: Box<str>) -> Self {
        match serde_json::from_str::<Value>(&text) {
            Ok(_) => Self(text),
            Err(_) => Self("null".into()),
        }
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(to)
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
                data: Json::of(data),
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
    /// How many further nodes hold connections that it is for and have not said in time what became of it. It may have
    /// reached them.
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

impl Message {
    /// Whether its event is one that clients can tell from what the protocol itself says.
    pub(crate) fn is_sendable(&self) -> bool {
        !self.event.is_empty() && !RESERVED_EVENTS.contains(&self.event.as_str())
    }

    /// How many bytes it takes on the wire at the least. Never more than it takes: what is counted here is taken off by the
    /// bytes that a polling client has fetched, and an excess would pile up against a client that fetches everything.
    pub(crate) fn weight(&self) -> usize {
        self.event.len() + self.data.as_ref().map_or(0, json_len)
    }
}

/// How many bytes a value has as JSON without spaces.
pub(crate) fn json_len(value: &Value) -> usize {
    let mut bytes = Count(0);
    serde_json::to_writer(&mut bytes, value).ok();
    bytes.0
}

/// Counts what is written.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An argument as a list of at most one: between nodes, no argument and the argument null are not the same.
mod argument {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(
        data: &Option<Value>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        data.as_slice().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Value>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.pop())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reaches_the_other_node_as_it_was() {
        let data = [
            None,
            Some(Value::Null),
            Some(serde_json::json!([])),
            Some(serde_json::json!({"a": [1, -2, 0.5, u64::MAX, "\u{0}ü", null]})),
        ];
        for data in data {
            let message = Message {
                event: "e".into(),
                data,
                namespace: "/".into(),
            };
            let bytes = rmp_serde::to_vec(&message).unwrap();
            assert_eq!(rmp_serde::from_slice::<Message>(&bytes).unwrap(), message);
        }
    }
}
