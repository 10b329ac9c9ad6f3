//! The users that a connection watches, and what its client was last told of each.

use serde_json::Value;

use super::LocalConnection;
use crate::{
    connection::UserId,
    registry::{Member, Room},
};

impl LocalConnection {
    /// The room that those are in who watch a user: of no namespace, so that no client's room has its name and no list shows it.
    pub(crate) fn watched_room(user: &UserId) -> Room {
        Room::new("", user.as_str())
    }

    fn watching(&self, user: &UserId) -> Member {
        Member {
            room: Self::watched_room(user),
            entry: self.entry(),
        }
    }

    /// Watches users too, `most` in all. Returns what has changed; none, and nothing does, if they are too many.
    pub(crate) fn watch(&self, users: &[UserId], most: usize) -> Option<Vec<Member>> {
        let mut watches = self.watches.lock();
        let mut new: Vec<_> = users
            .iter()
            .filter(|user| !watches.contains_key(*user))
            .collect();
        new.sort_unstable();
        new.dedup();
        if watches.len() + new.len() > most {
            return None;
        }
        for user in &new {
            watches.insert((*user).clone(), None);
        }
        Some(new.into_iter().map(|user| self.watching(user)).collect())
    }

    /// Watches users no more. Returns what has changed.
    pub(crate) fn unwatch(&self, users: &[UserId]) -> Vec<Member> {
        let mut watches = self.watches.lock();
        let gone = users.iter().filter(|user| watches.remove(*user).is_some());
        gone.map(|user| self.watching(user)).collect()
    }

    /// Takes over what a guest watches, whose client goes on as this connection.
    pub(super) fn take_watches_of(&self, guest: &Self) {
        *self.watches.lock() = guest.watches.lock().clone();
    }

    /// The users that it watches.
    pub(crate) fn watched(&self) -> Vec<UserId> {
        self.watches.lock().keys().cloned().collect()
    }

    /// Itself among those who watch each of these.
    pub(super) fn watches(&self) -> Vec<Member> {
        let watches = self.watches.lock();
        watches.keys().map(|user| self.watching(user)).collect()
    }

    /// Whether it watches a user.
    pub(super) fn is_watching(&self, user: &str) -> bool {
        self.watches.lock().contains_key(&UserId::from(user))
    }

    /// Whether its client was last told that a user is online; none if it has not been told, or does not watch.
    pub(crate) fn was_told(&self, user: &UserId) -> Option<bool> {
        self.watches.lock().get(user).copied().flatten()
    }

    /// Its client is told that a user is online, or is not.
    pub(crate) fn has_told(&self, user: &UserId, is_online: bool) {
        if let Some(told) = self.watches.lock().get_mut(user) {
            *told = Some(is_online);
        }
    }

    /// Tells its client of a user. `presence` is an object with what else is told.
    pub(crate) fn tell_presence(&self, user: &str, mut presence: Value) {
        presence["userId"] = user.into();
        self.tell("presence", &presence);
    }
}
