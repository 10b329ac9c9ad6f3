//! What a backend has given a connection as it came.

use std::sync::Arc;

use serde_json::Value;

use crate::auth::Identity;

/// What a backend has given a connection as it came. It stays when the connection's token is refreshed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Granted {
    /// The user's name, in place of that in the credentials.
    pub(crate) username: Option<String>,
    /// The user's one role, in place of those in the credentials.
    pub(crate) role: Option<String>,
    /// The rooms that it is put into, beside those that its credentials claim; they may be none that there can be.
    pub(crate) rooms: Vec<String>,
    /// What it has noted, for the API and for backends.
    pub(crate) meta: Option<Arc<Value>>,
}

impl Granted {
    /// It, unless it is nothing.
    pub(crate) fn unless_empty(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }

    /// Who a user is, by what credentials say and what a backend has said instead.
    pub(crate) fn applied_to(&self, identity: &Identity) -> Identity {
        let mut identity = identity.clone();
        if let Some(username) = &self.username {
            identity.username = Some(username.clone());
        }
        if let Some(role) = &self.role {
            identity.roles = vec![role.clone()];
        }
        for room in &self.rooms {
            if !identity.rooms.contains(room) {
                identity.rooms.push(room.clone());
            }
        }
        identity
    }
}
