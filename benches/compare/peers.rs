//! Who is compared: how each is asked for the same thing.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::token::{KEY, SECRET};

/// Connections of a room.
pub(crate) const ROOM: usize = 20;

/// A server of one kind.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    Switchboard,
    SocketIo,
    SocketIoSharded,
    Socketioxide,
    Centrifugo,
}

/// What a backend asks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A message to a user with two devices.
    Send,
    /// A message to a room of [`ROOM`].
    Room,
    /// A message to everybody.
    Broadcast,
    /// Who of a user's devices is connected.
    Online,
}

/// A user's claims; each server takes those that it knows.
#[derive(Serialize)]
struct Claims {
    sub: String,
    exp: i64,
    /// Switchboard's.
    rooms: [String; 1],
    /// Centrifugo's: where the connection is subscribed from its beginning.
    channels: [String; 3],
}

impl Peer {
    pub(crate) const ALL: [Self; 5] = [
        Self::Switchboard,
        Self::SocketIo,
        Self::SocketIoSharded,
        Self::Socketioxide,
        Self::Centrifugo,
    ];

    /// What the answer to a send promises.
    pub(crate) fn promise(self) -> &'static str {
        match self {
            Self::Switchboard => {
                "on how many connections and nodes it was handed over, by receipts of the nodes"
            }
            Self::SocketIo | Self::SocketIoSharded => "nothing: it has been handed to the adapter",
            Self::Socketioxide => "that Redis took the publication",
            Self::Centrifugo => {
                "that Redis took the publication; history, which is off here, would keep it"
            }
        }
    }

    /// Where clients open their WebSocket.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Centrifugo => "/connection/websocket",
            _ => "/socket.io/?EIO=4&transport=websocket",
        }
    }

    /// How the server's first packet begins, if it speaks first.
    pub(crate) fn opening(self) -> Option<&'static str> {
        (self != Self::Centrifugo).then_some("0")
    }

    /// What a device of a user says first. It gets into the user's room, and into a room with the other devices of some users.
    pub(crate) fn hello(self, user: usize, device: usize) -> String {
        let (own, shared) = (format!("user-{user}"), room_of(user));
        match self {
            Self::Switchboard => {
                let auth = json!({ "token": token(user), "deviceId": format!("device-{device}") });
                format!("40{auth}")
            }
            Self::Centrifugo => json!({ "id": 1, "connect": { "token": token(user) } }).to_string(),
            _ => format!("40{}", json!({ "rooms": [own, shared] })),
        }
    }

    /// How the packet begins that says that a client is let in.
    pub(crate) fn welcome(self) -> &'static str {
        match self {
            Self::Switchboard => "42[\"ready\"",
            Self::Centrifugo => "{\"id\":1,\"connect\":",
            _ => "40",
        }
    }

    /// The path and the body of a call; without a body, it is a GET.
    pub(crate) fn call(self, work: Work, number: usize, data: &str) -> (String, Option<Value>) {
        let user = format!("user-{number}");
        let room = format!("room-{number}");
        let event = json!({ "event": "bench", "data": data });
        match self {
            Self::Switchboard => match work {
                Work::Send => (format!("/v1/users/{user}/events"), Some(event)),
                Work::Room => (format!("/v1/rooms/{room}/events"), Some(event)),
                Work::Broadcast => ("/v1/broadcast".to_owned(), Some(event)),
                Work::Online => (format!("/v1/users/{user}"), None),
            },
            Self::Centrifugo => {
                let channel = match work {
                    Work::Send | Work::Online => format!("user:{user}"),
                    Work::Room => format!("room:{room}"),
                    Work::Broadcast => "all:all".to_owned(),
                };
                let (verb, body) = match work {
                    Work::Online => ("presence", json!({ "channel": channel })),
                    _ => ("publish", json!({ "channel": channel, "data": data })),
                };
                (format!("/api/{verb}?api_key={KEY}"), Some(body))
            }
            _ => {
                let (path, room) = match work {
                    Work::Online => ("/sockets", Some(user)),
                    Work::Send => ("/send", Some(user)),
                    Work::Room => ("/send", Some(room)),
                    Work::Broadcast => ("/send", None),
                };
                let body = json!({ "room": room, "event": "bench", "data": data });
                (path.to_owned(), Some(body))
            }
        }
    }

    /// How many devices an answer says are connected.
    pub(crate) fn online(self, answer: &Value) -> usize {
        let count = match self {
            Self::Switchboard => answer["connections"].as_array().map(Vec::len),
            Self::Centrifugo => answer["result"]["presence"]
                .as_object()
                .map(|all| all.len()),
            _ => answer.as_array().map(Vec::len),
        };
        count.unwrap_or(0)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switchboard => "Switchboard",
            Self::SocketIo => "Socket.IO",
            Self::SocketIoSharded => "Socket.IO, sharded",
            Self::Socketioxide => "socketioxide",
            Self::Centrifugo => "Centrifugo",
        })
    }
}

/// The room that a user's devices share with those of others.
fn room_of(user: usize) -> String {
    format!("room-{}", user / (ROOM / 2))
}

fn token(user: usize) -> String {
    let sub = format!("user-{user}");
    let claims = Claims {
        exp: jiff::Timestamp::now().as_second() + 7_200,
        rooms: [room_of(user)],
        channels: [
            format!("user:{sub}"),
            format!("room:{}", room_of(user)),
            "all:all".to_owned(),
        ],
        sub,
    };
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}
