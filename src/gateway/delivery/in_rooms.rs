//! Messages for connections of this node alone, by the rooms that they are in.

use std::{collections::HashSet, sync::Arc};

use crate::{
    connection::UserId,
    ending::Ending,
    gateway::{
        connections::local::LocalConnection,
        delivery::Deliverer,
        message::{Message, Selection, Target},
    },
};

impl Deliverer {
    /// Hands a message to the connections of this node that `selection` means, once each. Never waits. Hands it to nobody while this
    /// node does not vouch for its connections.
    pub(crate) fn deliver_here(&self, selection: &Selection, message: &Message) {
        // One target has its own way, which encodes a message once for all where that can be done.
        if let Some(target) = self.target(selection) {
            self.deliver(&target, message);
        } else if self.may_deliver(&Target::All, &message.namespace) {
            let mut connections = self.in_rooms(&message.namespace, selection);
            self.drop_for_lagging(&mut connections, message);
            let handed = self.hand_to_each(&connections, message);
            let delivered = self.metrics.messages_delivered("room");
            delivered.increment(handed.connections);
        }
    }

    /// The connections of this node that `selection` means, in a namespace; each once.
    pub(crate) fn in_rooms(
        &self,
        namespace: &str,
        selection: &Selection,
    ) -> Vec<Arc<LocalConnection>> {
        let members = |rooms: &[String]| -> Vec<_> {
            let members = rooms.iter().map(|room| self.members(namespace, room));
            members.flatten().collect()
        };
        let mut seen: HashSet<_> = members(&selection.except)
            .iter()
            .map(|connection| connection.id.clone())
            .collect();
        let mut meant = match selection.rooms.is_empty() {
            true => self.connections.table.in_namespace(namespace),
            false => members(&selection.rooms),
        };
        meant.retain(|connection| seen.insert(connection.id.clone()));
        meant
    }

    /// Ends the connections of this node in a namespace that `selection` means, as an administrator does; with `transports`, all
    /// others of their transports too. Never waits.
    pub(crate) fn end_here(&self, namespace: &str, selection: &Selection, transports: bool) {
        let mut meant = self.in_rooms(namespace, selection);
        if transports {
            let sessions = meant.iter().map(|connection| connection.session.id);
            meant = HashSet::<_>::from_iter(sessions)
                .into_iter()
                .flat_map(|session| self.connections.table.of_session(session))
                .collect();
        }
        self.connections
            .end_all(&meant, &Ending::of(Ending::DISCONNECTED));
    }

    /// The one target that `selection` stands for; none if there are several, or exceptions.
    fn target(&self, selection: &Selection) -> Option<Target> {
        match (&*selection.rooms, &*selection.except) {
            ([], []) => Some(Target::All),
            ([room], []) => match user_of(room) {
                Some(user) => Some(Target::User(user)),
                None => {
                    let is_connection = self.connections.table.get(&room.as_str().into());
                    is_connection.is_none().then(|| Target::Room(room.clone()))
                }
            },
            _ => None,
        }
    }

    /// The connections of this node in a room of a namespace. As in Socket.IO, a connection's id is the room in which it is alone.
    pub(crate) fn members(&self, namespace: &str, room: &str) -> Vec<Arc<LocalConnection>> {
        let table = &self.connections.table;
        let mut members = match user_of(room) {
            Some(user) => table.of_user(&user),
            None => {
                let mut members = self.connections.members.of(namespace, room);
                members.extend(table.get(&room.into()));
                members
            }
        };
        members.retain(|connection| *connection.namespace == *namespace);
        members
    }
}

/// The user whose room it is.
fn user_of(room: &str) -> Option<UserId> {
    UserId::checked(room.strip_prefix("user:")?.to_owned()).ok()
}
