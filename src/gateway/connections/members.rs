//! Which of this node's connections are in which room: those that are ready.
//!
//! socketioxide's adapter keeps that too, by its sockets' ids: from there to a connection are three look-ups more, of each member.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use super::local::LocalConnection;

/// The members of rooms, by namespace and name.
#[derive(Default)]
pub(crate) struct RoomMembers(RwLock<HashMap<Arc<str>, Rooms>>);

type Rooms = HashMap<Box<str>, Members>;

/// By where they are in memory, which is what is quickest to tell them apart by.
type Members = HashMap<usize, Arc<LocalConnection>>;

fn key(connection: &Arc<LocalConnection>) -> usize {
    Arc::as_ptr(connection).addr()
}

impl RoomMembers {
    /// Takes a connection into rooms of its namespace.
    pub(super) fn join(
        &self,
        connection: &Arc<LocalConnection>,
        rooms: impl IntoIterator<Item: AsRef<str>>,
    ) {
        let mut namespaces = self.0.write();
        let of_namespace = namespaces.entry(connection.namespace.clone()).or_default();
        for room in rooms {
            let room = room.as_ref();
            if !of_namespace.contains_key(room) {
                of_namespace.insert(room.into(), Members::new());
            }
            if let Some(members) = of_namespace.get_mut(room) {
                members.insert(key(connection), connection.clone());
            }
        }
    }

    /// Takes a connection out of rooms of its namespace.
    pub(super) fn leave(
        &self,
        connection: &Arc<LocalConnection>,
        rooms: impl IntoIterator<Item: AsRef<str>>,
    ) {
        let mut namespaces = self.0.write();
        let Some(of_namespace) = namespaces.get_mut(&connection.namespace) else {
            return;
        };
        for room in rooms {
            let room = room.as_ref();
            let Some(members) = of_namespace.get_mut(room) else {
                continue;
            };
            members.remove(&key(connection));
            if members.is_empty() {
                of_namespace.remove(room);
            } else if members.capacity() > 64 && members.len() * 8 < members.capacity() {
                // What a crowd took is given back when it has gone.
                members.shrink_to_fit();
            }
        }
    }

    /// The members of a room.
    pub(crate) fn of(&self, namespace: &str, room: &str) -> Vec<Arc<LocalConnection>> {
        let namespaces = self.0.read();
        let members = namespaces.get(namespace).and_then(|it| it.get(room));
        members.map_or_else(Vec::new, |members| members.values().cloned().collect())
    }
}
