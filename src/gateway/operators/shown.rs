//! The connections of a node as pages are shown them, and how they change.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{page::SHOWN, source::Source};
use crate::{
    connection::{ConnectionId, TransportKind},
    gateway::{
        connections::local::{LocalConnection, Phase},
        message::Json,
    },
};

/// A connection as pages have been told of it.
pub(super) struct Shown {
    namespace: Arc<str>,
    transport: TransportKind,
    rooms: BTreeSet<String>,
}

/// The connections of this node that pages have been told of.
#[derive(Default)]
pub(super) struct Sample {
    /// How many there may be.
    pub(super) most: usize,
    /// Whether a node has asked for all of them: before, what they are is no news to it.
    is_asked: bool,
    /// How often [`Sample::is_due`] was asked.
    age: u32,
    pub(super) shown: HashMap<ConnectionId, Shown>,
}

impl Sample {
    /// Whether pages are to be told what they have not been told. Not at once: a node with a page asks for all, if nothing is lost.
    pub(super) fn is_due(&mut self) -> bool {
        self.age += 1;
        self.is_asked || self.age > 2
    }

    fn has_place(&self) -> bool {
        self.shown.len() < self.most
    }

    fn admit(&mut self, connection: &LocalConnection) {
        let shown = Shown {
            namespace: connection.namespace.clone(),
            transport: connection.session.kind(),
            rooms: connection.rooms().into_iter().collect(),
        };
        self.shown.insert(connection.id.clone(), shown);
    }
}

/// Of how many of its own connections a node tells, where the fleet has so many.
pub(super) fn share(fleet: usize, own: usize) -> usize {
    match fleet <= SHOWN {
        true => SHOWN,
        false => (own.min(fleet) * SHOWN).div_ceil(fleet).max(1),
    }
}

impl Source {
    /// The connections of this node that pages are told of.
    pub(super) fn sockets(&self) -> Vec<Json> {
        let connections = self.ready();
        let was_asked = std::mem::replace(&mut self.sample.lock().is_asked, true);
        if was_asked {
            // The pages that are there already don't get this answer.
            self.reconcile(&connections);
        }
        let mut sample = self.sample.lock();
        let mut sockets = Vec::new();
        for connection in connections {
            // Pages that were open while the fleet grew have been told of more than the share that it has now.
            if sockets.len() == sample.most {
                break;
            }
            if !sample.shown.contains_key(&connection.id) {
                if was_asked || !sample.has_place() {
                    continue;
                }
                sample.admit(&connection);
            }
            sockets.extend(Json::of(&self.socket(&connection)));
        }
        sockets
    }

    /// The connections of this node that their clients know of.
    pub(super) fn ready(&self) -> Vec<Arc<LocalConnection>> {
        let mut connections = self.connections.table.all();
        connections.retain(|connection| connection.phase() == Phase::Ready);
        connections
    }

    /// Tells pages of all that they have not been told: of what was too much at once, and of a guest who has become a user, which the
    /// tail does not say.
    pub(super) fn reconcile(&self, connections: &[Arc<LocalConnection>]) {
        let now = Timestamp::now();
        let shown: Vec<_> = self.sample.lock().shown.keys().cloned().collect();
        for id in shown {
            if !self.connections.table.knows(&id) {
                self.tell_gone(&id, "gone", now);
            }
        }
        for connection in connections {
            self.tell_changes(connection, now);
        }
    }

    /// Tells pages how a connection differs from what they have been told of it.
    pub(super) fn tell_changes(&self, connection: &LocalConnection, at: Timestamp) {
        let mut sample = self.sample.lock();
        let has_place = sample.has_place();
        let (id, namespace) = (&connection.id, &*connection.namespace);
        let Some(shown) = sample.shown.get_mut(id) else {
            if has_place && connection.phase() == Phase::Ready && self.may_tell() {
                sample.admit(connection);
                self.tell_of(
                    id,
                    "socket_connected",
                    &[self.socket(connection), json!(at)],
                );
            }
            return;
        };
        let transport = connection.session.kind();
        if shown.transport != transport && self.may_tell() {
            shown.transport = transport;
            let change = json!({"id": id, "nsp": namespace, "transport": transport});
            self.tell_of(id, "socket_updated", &[change]);
        }
        let rooms: BTreeSet<_> = connection.rooms().into_iter().collect();
        let changed: Vec<_> = rooms.symmetric_difference(&shown.rooms).cloned().collect();
        for room in changed {
            if self.may_tell() {
                let args = [json!(namespace), json!(room), json!(id), json!(at)];
                if shown.rooms.remove(&room) {
                    self.tell_of(id, "room_left", &args);
                } else {
                    self.tell_of(id, "room_joined", &args);
                    shown.rooms.insert(room);
                }
            }
        }
    }

    /// Tells that a connection is gone, and out of its rooms: pages would show it there for ever.
    pub(super) fn tell_gone(&self, id: &ConnectionId, reason: &str, at: Timestamp) {
        let mut sample = self.sample.lock();
        if !sample.shown.contains_key(id) || !self.may_tell() {
            return;
        }
        let Some(Shown {
            namespace, rooms, ..
        }) = sample.shown.remove(id)
        else {
            return;
        };
        let own = id.as_str().to_owned();
        for room in rooms.into_iter().chain([own]) {
            let args = [json!(namespace), json!(room), json!(id), json!(at)];
            self.tell_of(id, "room_left", &args);
        }
        let args = [json!(namespace), json!(id), json!(reason), json!(at)];
        self.tell_of(id, "socket_disconnected", &args);
    }

    /// A connection as pages are shown it. Its headers are one that holds no credentials, and what its client said in its handshake
    /// is left out.
    fn socket(&self, connection: &LocalConnection) -> Value {
        let record = connection.record(&self.node_id);
        // The transport is named by the first connection on it: its Engine.IO id is a credential.
        let on_transport = self.connections.table.of_session(connection.session.id);
        let client = on_transport
            .first()
            .map_or(&connection.id, |first| &first.id);
        let identity = connection.identity();
        let username = identity.as_ref().and_then(|it| it.username.clone());
        let data = [
            ("userId", json!(record.user_id)),
            ("username", json!(username)),
            ("deviceId", json!(record.device_id)),
            ("nodeId", json!(record.node_id)),
            ("expiresAt", json!(record.expires_at)),
            ("meta", json!(record.meta)),
        ];
        let data = data.into_iter().filter(|(_, value)| !value.is_null());
        let data: Map<_, _> = data.map(|(name, value)| (name.to_owned(), value)).collect();
        let headers: Map<_, _> = record
            .user_agent
            .map(|agent| ("user-agent".to_owned(), agent.into()))
            .into_iter()
            .collect();
        let own = record.id.as_str().to_owned();
        let rooms: Vec<_> = std::iter::once(own).chain(record.rooms).collect();
        json!({
            "id": record.id,
            "clientId": client,
            "transport": record.transport,
            "nsp": record.namespace,
            "data": data,
            "handshake": {
                "address": record.remote_addr,
                "headers": headers,
                "query": {},
                "issued": record.connected_at.as_millisecond(),
                "secure": false,
                "time": record.connected_at,
                "url": format!("{}/", self.config.now().transport.path),
                "xdomain": false,
            },
            "rooms": rooms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_what_pages_show_a_node_tells_of_its_part() {
        for (fleet, own, expected) in [
            (0, 0, 1_000),
            (1_000, 10, 1_000),
            (1_001, 1_001, 1_000),
            (1_500, 500, 334),
            (1_500, 0, 1),
            (1_000_000, 200, 1),
            (1_001, 9_999, 1_000),
        ] {
            assert_eq!(share(fleet, own), expected, "{fleet} {own}");
        }
    }
}
