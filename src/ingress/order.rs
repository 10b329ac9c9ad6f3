//! What a published message asks for, and why it is not carried out.

use crate::{
    config::IngressVerb,
    gateway::{Message, Selection},
};

/// How many rooms one message may name, its exceptions included.
const MAX_ROOMS: usize = 10_000;

/// How many rooms connections may join or leave by one message: each is looked at for each connection.
const MAX_CHANGED: usize = 256;

/// What is asked of every node, for the connections that it has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Order {
    /// The namespace of the connections.
    pub(crate) namespace: String,
    /// Which of them are meant.
    pub(crate) selection: Selection,
    /// What is to be done.
    pub(crate) action: Action,
}

/// What is to be done with connections.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Send them a message.
    Emit(Message),
    /// Put them into rooms.
    Join(Vec<String>),
    /// Take them out of rooms.
    Leave(Vec<String>),
    /// End them; with `transports`, all others of their transports too.
    End {
        /// Whether the transports are closed.
        transports: bool,
    },
}

impl Action {
    /// What the configuration must allow for it.
    pub(crate) fn verb(&self) -> IngressVerb {
        match self {
            Self::Emit(_) => IngressVerb::Emit,
            Self::Join(_) => IngressVerb::Join,
            Self::Leave(_) => IngressVerb::Leave,
            Self::End { .. } => IngressVerb::Disconnect,
        }
    }
}

/// Why a message is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// More bytes than `limits.max_payload`, or more rooms than 10,000.
    #[error("larger than limits.max_payload, or more than {MAX_ROOMS} rooms")]
    TooLarge,
    /// It is none of the format.
    #[error("not of the format, or nested too deep")]
    Unreadable,
    /// It names a namespace that is not configured for it.
    #[error("its namespace is none of the namespaces that are configured for it")]
    Namespace,
    /// It asks for what `allow` does not have.
    #[error("not allowed by the configuration")]
    NotAllowed,
    /// It sends an event that only the server sends.
    #[error("an event of Socket.IO's or Switchboard's own")]
    ReservedEvent,
    /// It asks for what no emitter asks for, or for an answer.
    #[error("not supported")]
    Unsupported,
    /// It changes a room that can't be joined or left: by its name, for a connection in too many rooms, or as the user has been
    /// put into it.
    #[error("a room that can't be joined, or not be left, or too many of them")]
    Room,
    /// More waits than may.
    #[error("too much waits to be carried out")]
    InboxFull,
}

impl From<serde_json::Error> for Refused {
    fn from(_: serde_json::Error) -> Self {
        Self::Unreadable
    }
}

impl Refused {
    /// The value of the metric label `reason`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::Namespace => "namespace",
            Self::NotAllowed => "not_allowed",
            Self::ReservedEvent => "reserved_event",
            Self::Unsupported => "unsupported",
            Self::Room => "room",
            Self::InboxFull => "inbox_full",
        }
    }
}

/// The rooms that connections are to join or leave.
///
/// # Errors
///
/// [`Refused::TooLarge`] if they are too many.
pub(crate) fn changed(rooms: Vec<String>) -> Result<Vec<String>, Refused> {
    match rooms.len() <= MAX_CHANGED {
        true => Ok(rooms),
        false => Err(Refused::TooLarge),
    }
}

/// The rooms that a message names.
///
/// # Errors
///
/// [`Refused::TooLarge`] if they are too many.
pub(crate) fn selection(rooms: Vec<String>, except: Vec<String>) -> Result<Selection, Refused> {
    match rooms.len() + except.len() <= MAX_ROOMS {
        true => Ok(Selection { rooms, except }),
        false => Err(Refused::TooLarge),
    }
}
