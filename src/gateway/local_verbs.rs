//! The verbs of those who tell every node themselves: each concerns the connections of this node alone.

use futures_util::future::BoxFuture;

use crate::gateway::{
    Gateway,
    message::{Message, Selection},
    tail::Follower,
};

impl Gateway {
    /// Follows what happens on this node. None while the node has as many followers as it may.
    pub fn follow_tail(&self) -> Option<Follower> {
        self.inner.connections.tail.follow()
    }

    /// Returns true if a connection of this node is in a room of a namespace.
    pub(crate) fn has_members_here(&self, namespace: &str, room: &str) -> bool {
        !self.inner.delivery.members(namespace, room).is_empty()
    }

    /// Hands a message to the connections of this node in its namespace that `selection` means, once each. Never waits.
    pub(crate) fn emit_here(&self, selection: &Selection, message: &Message) {
        self.inner.delivery.deliver_here(selection, message);
    }

    /// Makes the connections of this node in a namespace that `selection` means join rooms, or leave them, at once. Returns how
    /// often one was refused: it is in as many rooms as it may be, or its user has been put into the room. What is returned beside
    /// it tells the registry.
    pub(crate) fn change_rooms_here(
        &self,
        namespace: &str,
        selection: &Selection,
        names: &[String],
        joins: bool,
    ) -> (u64, BoxFuture<'static, ()>) {
        let meant = self.inner.delivery.in_rooms(namespace, selection);
        self.inner.rooms.change_here(meant, names, joins)
    }

    /// Ends the connections of this node in a namespace that `selection` means, as an administrator does; with `transports`, all
    /// others of their transports too. Never waits.
    pub(crate) fn end_here(&self, namespace: &str, selection: &Selection, transports: bool) {
        let delivery = &self.inner.delivery;
        delivery.end_here(namespace, selection, transports);
    }

    /// How many bytes a message for clients may have, as JSON.
    pub(crate) fn max_payload(&self) -> usize {
        self.inner.delivery.max_payload()
    }
}
