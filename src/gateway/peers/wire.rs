//! What nodes say to each other, as it is on the bus: one byte of version, then a map of MessagePack with short names.
//!
//! A field that is not known is skipped, and one that is missing has its default; so a later version adds fields, and kinds of
//! commands, under this version's byte, and nodes of both understand each other as far as they can. A command of a kind that is
//! not known is skipped and counted. The byte is for what can't be said in that way.
//!
//! | in the map | is |
//! |---|---|
//! | `n` | the number that the asker gave its request |
//! | `d` | hand out: to `u` (a user), of these to `v` (a device), or `c` (a connection), or `r` (a room), or `a` (all of the namespace), in the namespace `s` the event `e` with the argument `j` (JSON text; none: no argument) and behind it those in `l`, but not to the connections `x`, with `o` only where nothing waits, with the id `i` (none: it is sent once) only if this node has not handed that out before; and collect answers for `k` ms; it is part of the trace `w` (a `traceparent`; none: of none that is sampled) |
//! | `e` | end the connections `i`: code `c`, reason `w`, come back `b` |
//! | `m` | change who is in the room `r`: with `u` (a user) the user's connections in the namespace `s`, with `c` (a connection) that one, with neither all that are in the room of the namespace `s`; `j` true: they join it, and of a user's until `t` (ms since 1970; none: until that is undone); else they leave it |
//! | `p` | something of this user may have changed: look, for those who watch |
//! | `o` | of operators' pages: `w`, the sender has some, in a fleet of so many connections: tell it what happens, for a while; `s` true, show your connections; `e`, tell your pages the event `n` with the arguments `l` (JSON texts), about the connection `c` or none; `v`, do what an operator asks for (JSON text) |
//! | `t` | end what came in by the token of this id |
//! | `b` | true: the registry has lost something, send a heartbeat now |
//! | `f` | true: the sender has left |
//! | `r` | receipts, each a [`Receipt`] as a map |

mod operators;

use std::{borrow::Cow, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::operators::OfOperators;
use crate::gateway::message::{Answer, Json, Message, PageEvent, Target};
use crate::{
    connection::{ConnectionId, UserId},
    ending::Ending,
    registry::Room,
};

/// The first byte of every message. A node does not read what begins otherwise.
const VERSION: u8 = 3;

/// How deep a message may be nested: its own maps and lists are four deep, and what is not known is skipped to this depth.
/// MessagePack of 1,024 levels, which is as far as its reader goes by itself, overflows a stack of 2 MB in a debug build, and that
/// ends the process.
const MAX_DEPTH: usize = 64;

/// What a node can be asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command<'a> {
    /// Hand a message to those of its recipients that are on this node; with a time, collect what the clients answer within it.
    Deliver {
        to: Cow<'a, Target>,
        message: Cow<'a, Message>,
        ack: Option<Duration>,
        /// The `traceparent` of the send, if it is sampled.
        trace: Option<Cow<'a, str>>,
    },
    /// End these connections.
    End {
        ids: Vec<ConnectionId>,
        ending: Cow<'a, Ending>,
    },
    /// Change who is in a room.
    Room(RoomChange),
    /// Something of a user may have changed: look, for those who watch. Nobody waits for a receipt.
    Look { user: Cow<'a, str> },
    /// End the connections that came in by a token.
    EndToken { token_id: Cow<'a, str> },
    /// The sender has pages of operators, in a fleet of so many connections: it is to be told what happens, for some seconds. Nobody
    /// waits for a receipt.
    Watch { connections: u32 },
    /// Show the connections, or a sample of them, in receipts.
    Show,
    /// Tell the pages of operators. Nobody waits for a receipt.
    TellPages { event: Cow<'a, PageEvent> },
    /// Do what an operator asks for, as its page has said it in JSON. Nobody waits for a receipt.
    Operate { asked: Cow<'a, str> },
    /// Send a heartbeat at once: a node has found that the registry has lost data, and the others have lost the same. Nobody waits
    /// for a receipt.
    Beat,
    /// The node that says so has left the cluster: nobody is to wait for it.
    Farewell,
}

/// What is to become of connections and a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoomChange {
    /// A user's connections in the room's namespace are to be in it, until then or until that is undone.
    Keep {
        user: UserId,
        room: Room,
        until: Option<Timestamp>,
    },
    /// They are not any more.
    LetGo { user: UserId, room: Room },
    /// One connection joins the room of that name in its namespace.
    Join { id: ConnectionId, name: Arc<str> },
    /// One connection leaves it.
    Leave { id: ConnectionId, name: Arc<str> },
    /// All leave it.
    Empty { room: Room },
}

impl<'a> Command<'a> {
    /// Hands a message to a target. `trace` is the `traceparent` of the send, if it is sampled.
    pub(crate) fn deliver(
        target: &'a Target,
        message: &'a Message,
        ack: Option<Duration>,
        trace: Option<String>,
    ) -> Self {
        Self::Deliver {
            to: Cow::Borrowed(target),
            message: Cow::Borrowed(message),
            ack,
            trace: trace.map(Cow::Owned),
        }
    }
}

/// What came of a command, on one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Receipt {
    /// The number of the request.
    #[serde(rename = "n")]
    pub(crate) request: u64,
    /// To how many connections a message was handed.
    #[serde(rename = "c", skip_serializing_if = "is_default")]
    pub(crate) connections: u64,
    /// What clients answered.
    #[serde(rename = "a", with = "acks", skip_serializing_if = "Vec::is_empty")]
    pub(crate) acks: Vec<(ConnectionId, Answer)>,
    /// Which connections are being ended, and not closed yet.
    #[serde(rename = "o", skip_serializing_if = "Vec::is_empty")]
    pub(crate) open: Vec<ConnectionId>,
    /// Which connections are closed and out of the registry.
    #[serde(rename = "x", skip_serializing_if = "Vec::is_empty")]
    pub(crate) closed: Vec<ConnectionId>,
    /// The node has refused it: by its own rules, or because it would have to undo what another has ordered.
    #[serde(rename = "q", skip_serializing_if = "is_default")]
    pub(crate) refused: bool,
    /// Connections, as operators' pages show them.
    #[serde(rename = "s", with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub(crate) sockets: Vec<Json>,
    /// Another receipt of this node's for the request follows.
    #[serde(rename = "m", skip_serializing_if = "is_default")]
    pub(crate) more: bool,
    /// Nobody got it, and a recipient is there or may be: the node may not deliver for now, or the connection is not ready yet, or
    /// takes no more.
    #[serde(rename = "w", skip_serializing_if = "is_default")]
    pub(crate) withheld: bool,
}

/// What a message says.
#[derive(Debug, PartialEq)]
pub(crate) enum PeerMessage {
    /// A command, and the number of its request.
    Command(u64, Command<'static>),
    /// What became of commands of this node's.
    Receipts(Vec<Receipt>),
    /// Something that this version does not know.
    Unknown,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Envelope<'a> {
    #[serde(rename = "n", skip_serializing_if = "is_default")]
    request: u64,
    #[serde(rename = "d", borrow, skip_serializing_if = "Option::is_none")]
    deliver: Option<Deliver<'a>>,
    #[serde(rename = "e", borrow, skip_serializing_if = "Option::is_none")]
    end: Option<End<'a>>,
    #[serde(rename = "m", borrow, skip_serializing_if = "Option::is_none")]
    room: Option<Membership<'a>>,
    #[serde(rename = "p", borrow, skip_serializing_if = "Option::is_none")]
    look: Option<&'a str>,
    #[serde(rename = "o", borrow, skip_serializing_if = "Option::is_none")]
    operators: Option<OfOperators<'a>>,
    #[serde(rename = "t", borrow, skip_serializing_if = "Option::is_none")]
    end_token: Option<&'a str>,
    #[serde(rename = "b", skip_serializing_if = "Option::is_none")]
    beat: Option<bool>,
    #[serde(rename = "f", skip_serializing_if = "is_default")]
    farewell: bool,
    #[serde(rename = "r", skip_serializing_if = "<[_]>::is_empty")]
    receipts: Cow<'a, [Receipt]>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Deliver<'a> {
    #[serde(rename = "u", borrow, skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(rename = "v", borrow, skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(rename = "c", borrow, skip_serializing_if = "Option::is_none")]
    connection: Option<&'a str>,
    #[serde(rename = "r", borrow, skip_serializing_if = "Option::is_none")]
    room: Option<&'a str>,
    #[serde(rename = "a", skip_serializing_if = "is_default")]
    all: bool,
    #[serde(rename = "s")]
    namespace: &'a str,
    #[serde(rename = "e")]
    event: &'a str,
    #[serde(rename = "j", borrow, skip_serializing_if = "Option::is_none")]
    first: Option<&'a str>,
    #[serde(rename = "l", borrow, skip_serializing_if = "Vec::is_empty")]
    more: Vec<&'a str>,
    #[serde(rename = "x", skip_serializing_if = "<[_]>::is_empty")]
    except: Cow<'a, [ConnectionId]>,
    #[serde(rename = "o", skip_serializing_if = "is_default")]
    volatile: bool,
    #[serde(rename = "i", borrow, skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "k", skip_serializing_if = "Option::is_none")]
    ack_ms: Option<u64>,
    #[serde(rename = "w", borrow, skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct End<'a> {
    #[serde(rename = "i")]
    ids: Vec<ConnectionId>,
    #[serde(rename = "c")]
    code: u16,
    #[serde(rename = "w")]
    reason: &'a str,
    #[serde(rename = "b", skip_serializing_if = "is_default")]
    reconnect: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Membership<'a> {
    #[serde(rename = "u", borrow, skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(rename = "c", borrow, skip_serializing_if = "Option::is_none")]
    connection: Option<&'a str>,
    #[serde(rename = "s", skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(rename = "r")]
    name: &'a str,
    #[serde(rename = "j", skip_serializing_if = "is_default")]
    joins: bool,
    #[serde(rename = "t", skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
}

impl<'a> Membership<'a> {
    fn new(change: &'a RoomChange) -> Self {
        let (user, connection) = match change {
            RoomChange::Keep { user, .. } | RoomChange::LetGo { user, .. } => (Some(user), None),
            RoomChange::Join { id, .. } | RoomChange::Leave { id, .. } => (None, Some(id)),
            RoomChange::Empty { .. } => (None, None),
        };
        let (namespace, name) = match change {
            RoomChange::Keep { room, .. }
            | RoomChange::LetGo { room, .. }
            | RoomChange::Empty { room } => (&*room.namespace, &*room.name),
            RoomChange::Join { name, .. } | RoomChange::Leave { name, .. } => ("", &**name),
        };
        let until = match change {
            RoomChange::Keep { until, .. } => *until,
            _ => None,
        };
        Self {
            user: user.map(UserId::as_str),
            connection: connection.map(ConnectionId::as_str),
            namespace,
            name,
            joins: matches!(change, RoomChange::Keep { .. } | RoomChange::Join { .. }),
            until: until.map(Timestamp::as_millisecond),
        }
    }

    /// None for what nobody but a later version writes.
    fn change(self) -> Option<RoomChange> {
        let room = || Room::new(self.namespace, self.name);
        Some(match (self.user, self.connection, self.joins) {
            (Some(user), None, true) => RoomChange::Keep {
                user: user.into(),
                room: room(),
                until: self
                    .until
                    .map(Timestamp::from_millisecond)
                    .transpose()
                    .ok()?,
            },
            (Some(user), None, false) => RoomChange::LetGo {
                user: user.into(),
                room: room(),
            },
            (None, Some(id), true) => RoomChange::Join {
                id: id.into(),
                name: self.name.into(),
            },
            (None, Some(id), false) => RoomChange::Leave {
                id: id.into(),
                name: self.name.into(),
            },
            (None, None, false) => RoomChange::Empty { room: room() },
            _ => return None,
        })
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl<'a> Deliver<'a> {
    fn new(
        to: &'a Target,
        message: &'a Message,
        ack: Option<Duration>,
        trace: Option<&'a str>,
    ) -> Self {
        let mut args = message.args.iter().map(Json::text);
        let mut deliver = Self {
            namespace: &message.namespace,
            event: &message.event,
            first: args.next(),
            more: args.collect(),
            except: Cow::Borrowed(&message.except),
            volatile: message.volatile,
            id: message.id.as_deref(),
            ack_ms: ack.map(|ack| u64::try_from(ack.as_millis()).unwrap_or(u64::MAX)),
            trace,
            ..Self::default()
        };
        match to {
            Target::User(user) => deliver.user = Some(user.as_str()),
            Target::Device(user, device) => {
                (deliver.user, deliver.device) = (Some(user.as_str()), Some(device.as_str()));
            }
            Target::Connection(id) => deliver.connection = Some(id.as_str()),
            Target::Room(room) => deliver.room = Some(room),
            Target::All => deliver.all = true,
        }
        deliver
    }

    /// None if an argument is no JSON; nobody but a later version writes recipients that are none of these.
    fn command(self) -> Option<Command<'static>> {
        let to = match self {
            Self { all: true, .. } => Target::All,
            Self {
                user: Some(id),
                device,
                ..
            } => Target::user(UserId::from(id), device.map(str::to_owned)),
            Self {
                connection: Some(id),
                ..
            } => Target::Connection(id.into()),
            Self {
                room: Some(room), ..
            } => Target::Room(room.into()),
            _ => return None,
        };
        let args = self.first.into_iter().chain(self.more).map(Json::read);
        let message = Message {
            namespace: self.namespace.to_owned(),
            event: self.event.to_owned(),
            args: args.collect::<Option<_>>()?,
            except: self.except.into_owned(),
            volatile: self.volatile,
            id: self.id.map(str::to_owned),
        };
        Some(Command::Deliver {
            to: Cow::Owned(to),
            message: Cow::Owned(message),
            ack: self.ack_ms.map(Duration::from_millis),
            trace: self.trace.map(|trace| Cow::Owned(trace.to_owned())),
        })
    }
}

/// A command as it goes to other nodes. `request` is 0 if nobody waits for receipts.
pub(crate) fn command(request: u64, command: &Command<'_>) -> Vec<u8> {
    let mut envelope = Envelope {
        request,
        ..Envelope::default()
    };
    match command {
        Command::Deliver {
            to,
            message,
            ack,
            trace,
        } => {
            envelope.deliver = Some(Deliver::new(to, message, *ack, trace.as_deref()));
        }
        Command::End { ids, ending } => {
            envelope.end = Some(End {
                ids: ids.clone(),
                code: ending.code,
                reason: &ending.reason,
                reconnect: ending.reconnect,
            });
        }
        Command::Room(change) => envelope.room = Some(Membership::new(change)),
        Command::Look { user } => envelope.look = Some(user),
        Command::EndToken { token_id } => envelope.end_token = Some(token_id),
        Command::Watch { .. }
        | Command::Show
        | Command::TellPages { .. }
        | Command::Operate { .. } => envelope.operators = Some(OfOperators::of(command)),
        Command::Beat => envelope.beat = Some(true),
        Command::Farewell => envelope.farewell = true,
    }
    written(&envelope)
}

/// Receipts as they go to the node that asked.
pub(crate) fn receipts(receipts: &[Receipt]) -> Vec<u8> {
    written(&Envelope {
        receipts: Cow::Borrowed(receipts),
        ..Envelope::default()
    })
}

fn written(envelope: &Envelope<'_>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    if let Err(error) = envelope.serialize(&mut serializer) {
        // Nothing in an envelope can fail to be written; if it does, the receiver counts it as garbage.
        tracing::error!(%error, "can't encode a message to another node");
    }
    bytes
}

/// Reads a message; none if it is none of this version's.
pub(crate) fn read(payload: &[u8]) -> Option<PeerMessage> {
    let (&VERSION, body) = payload.split_first()? else {
        return None;
    };
    let mut reader = rmp_serde::Deserializer::from_read_ref(body);
    reader.set_max_depth(MAX_DEPTH);
    let envelope = Envelope::deserialize(&mut reader).ok()?;
    let command = match envelope {
        Envelope {
            deliver: Some(deliver),
            ..
        } => match deliver.command() {
            Some(command) => command,
            None => return Some(PeerMessage::Unknown),
        },
        Envelope { end: Some(end), .. } => Command::End {
            ids: end.ids,
            ending: Cow::Owned(Ending {
                code: end.code,
                reason: end.reason.to_owned(),
                reconnect: end.reconnect,
            }),
        },
        Envelope {
            room: Some(membership),
            ..
        } => match membership.change() {
            Some(change) => Command::Room(change),
            None => return Some(PeerMessage::Unknown),
        },
        Envelope {
            look: Some(user), ..
        } => Command::Look {
            user: Cow::Owned(user.to_owned()),
        },
        Envelope {
            end_token: Some(id),
            ..
        } => Command::EndToken {
            token_id: Cow::Owned(id.to_owned()),
        },
        Envelope {
            operators: Some(operators),
            ..
        } => match operators.command() {
            Some(command) => command,
            None => return Some(PeerMessage::Unknown),
        },
        Envelope { beat: Some(_), .. } => Command::Beat,
        Envelope { farewell: true, .. } => Command::Farewell,
        Envelope { receipts, .. } if !receipts.is_empty() => {
            return Some(PeerMessage::Receipts(receipts.into_owned()));
        }
        _ => return Some(PeerMessage::Unknown),
    };
    Some(PeerMessage::Command(envelope.request, command))
}

/// JSON, each as its text. What is none, as nobody but a later version writes it, is left out.
mod texts {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Json;

    pub(crate) fn serialize<S: Serializer>(all: &[Json], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(all.iter().map(Json::text))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Json>, D::Error> {
        let texts: Vec<Box<str>> = Vec::deserialize(from)?;
        Ok(texts.iter().filter_map(|text| Json::read(text)).collect())
    }
}

/// Answers, each a map: `i` whose, `d` the JSON; without `d` it was too large.
mod acks {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Answer, ConnectionId};

    #[derive(Serialize, Deserialize)]
    struct Ack<D> {
        #[serde(rename = "i")]
        id: ConnectionId,
        #[serde(
            rename = "d",
            default = "Option::default",
            skip_serializing_if = "Option::is_none"
        )]
        data: Option<D>,
    }

    pub(crate) fn serialize<S: Serializer>(
        acks: &[(ConnectionId, Answer)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(acks.iter().map(|(id, answer)| Ack {
            id: id.clone(),
            data: match answer {
                Answer::Given(data) => Some(&**data),
                Answer::TooLarge => None,
            },
        }))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(ConnectionId, Answer)>, D::Error> {
        let acks: Vec<Ack<Box<str>>> = Vec::deserialize(from)?;
        let acks = acks
            .into_iter()
            .map(|Ack { id, data }| (id, data.map_or(Answer::TooLarge, Answer::Given)));
        Ok(acks.collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "wire/tests.rs"]
mod tests;
