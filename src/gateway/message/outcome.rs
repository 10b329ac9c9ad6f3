//! What became of what was asked: of a message, an order to end, a change of rooms, a revocation.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Json;
use crate::connection::ConnectionId;

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
