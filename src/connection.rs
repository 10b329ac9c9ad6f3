//! The nouns that everybody passes on: users, connections, nodes.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The longest user id that is let in, in bytes: 256 characters of four bytes each.
pub const MAX_USER_ID_BYTES: usize = 1024;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

text_id! {
    /// A user: the id in the token. Text of 1 to [`MAX_USER_ID_BYTES`] bytes, but not `.` or `..`, see [`UserId::checked`];
    /// nothing in it has a meaning here.
    UserId
}

/// A text that is no user's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to {MAX_USER_ID_BYTES} bytes, and is not . or .., which no URL can name")]
pub struct NoUserId;

impl UserId {
    /// A text from outside as a user's id. `.` and `..` are refused: HTTP clients drop them from a path, also when they are
    /// written `%2e` (WHATWG URL, double-dot path segment), so nobody could ban or disconnect such a user.
    ///
    /// # Errors
    ///
    /// [`NoUserId`].
    pub fn checked(text: String) -> Result<Self, NoUserId> {
        let fits = (1..=MAX_USER_ID_BYTES).contains(&text.len());
        match fits && text != "." && text != ".." {
            true => Ok(text.into()),
            false => Err(NoUserId),
        }
    }
}

/// The longest name of a room, in characters.
pub const MAX_ROOM_CHARS: usize = 200;

/// What the names of rooms begin with that nobody can join: a user's connections, those of a role, and those of a device, which is
/// its user's.
const RESERVED_ROOMS: [&str; 3] = ["user:", "role:", "device:"];

/// Why a text is no room that can be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Its length.
    #[error("a name has 1 to {MAX_ROOM_CHARS} characters")]
    Length,
    /// It is one of Switchboard's own.
    #[error("names that begin with user:, role: or device: can't be joined")]
    Reserved,
}

/// Holds a text against what the names of rooms that can be joined are like.
///
/// # Errors
///
/// [`NoRoom`].
pub fn check_room(name: &str) -> Result<(), NoRoom> {
    if name.is_empty() || name.chars().nth(MAX_ROOM_CHARS).is_some() {
        return Err(NoRoom::Length);
    }
    match RESERVED_ROOMS.iter().any(|begin| name.starts_with(begin)) {
        true => Err(NoRoom::Reserved),
        false => Ok(()),
    }
}

text_id! {
    /// A connection: one socket in one namespace. The id is Switchboard's own and safe to share. It is never the Engine.IO session
    /// id: that is a credential, with which anybody can write into a polling session.
    ConnectionId
}

text_id! {
    /// A node's name, as operators see it. Two nodes may be given the same one by mistake; nothing but display rests on it.
    NodeId
}

text_id! {
    /// One run of one process: random, new at every start. Addresses a node on the bus.
    Instance
}

/// `N` random bytes as URL-safe text.
fn random_text<const N: usize>() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; N]>())
}

impl ConnectionId {
    /// A new id: 128 random bits, 22 characters. `prefix` lets the registry put its own routing hint in front.
    pub fn random(prefix: char) -> Self {
        format!("{prefix}{}", random_text::<16>()).into()
    }
}

impl Instance {
    /// A new name: 60 random bits and more, 11 characters. Holds no `.`, which divides it from an epoch.
    pub fn random() -> Self {
        random_text::<8>().into()
    }
}

/// What carries a connection's packets at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// HTTP long-polling.
    Polling,
    /// WebSocket, from the start or after an upgrade.
    Websocket,
}

impl TransportKind {
    /// The name in answers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::Websocket => "websocket",
        }
    }
}

/// One socket in one namespace, as the registry keeps it and the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// Its user; none for a guest of a namespace that asks for no token.
    pub user_id: Option<UserId>,
    /// The namespace, with its leading slash.
    pub namespace: String,
    /// The node that holds it.
    pub node_id: NodeId,
    /// What carries it.
    pub transport: TransportKind,
    /// When its CONNECT packet was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub connected_at: Timestamp,
    /// When its token runs out; none for a guest.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// The device that the client named in its handshake. A connection without one counts as a device of its own.
    pub device_id: Option<String>,
    /// The client's IP address, as the nearest trusted proxy saw it.
    pub remote_addr: Option<String>,
    /// The client's `User-Agent`, cut to 128 bytes.
    pub user_agent: Option<String>,
    /// The rooms that it is in, in their order; its user's and its roles' are left out.
    #[serde(default)]
    pub rooms: Vec<String>,
    /// What a backend has noted about it as it was let in; absent if nothing. Its client never gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub meta: Option<Arc<Value>>,
}

impl Connection {
    /// What clients may see of it.
    pub fn for_clients(self) -> Self {
        Self { meta: None, ..self }
    }
}

/// How many connections there are and how many devices they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tally {
    /// Connections.
    pub connections: u64,
    /// Distinct device ids, plus the connections that name none.
    pub devices: u64,
}

impl Tally {
    /// Counts connections by what each says of its device.
    pub fn of<'a>(devices: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut named = std::collections::HashSet::new();
        let mut tally = Self::default();
        for device in devices {
            tally.connections += 1;
            if device.is_none_or(|name| named.insert(name)) {
                tally.devices += 1;
            }
        }
        tally
    }
}
