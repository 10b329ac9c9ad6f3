//! How far a connection has got, and the steps from one phase to the next: each under the lock under which it is sent to.

use std::sync::{Arc, atomic::Ordering};

use serde_json::{Value, json};
use socketioxide::extract::SocketRef;

use super::LocalConnection;
use crate::{
    auth::Identity,
    ending::Ending,
    gateway::{
        arg::{Arguments, Greeting},
        connections::departing,
    },
    transport::engine::Adapter,
};

/// How far a connection has got. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Its credentials are good; the registry has not confirmed it yet, or its client has not been told.
    Arriving,
    /// Its client has `ready`: it is listed, sent to and disconnected from any node.
    Ready,
    /// Nothing is sent to it or taken from it any more.
    Gone,
}

/// How far a connection has got, with what it has in that phase.
pub(super) enum State {
    Arriving,
    /// The socket is held from `ready` on, and not before: no event tells a socket that never gets into its namespace of its
    /// session's end, so that it has to go by itself for [`crate::transport::SessionGuard`] to notice.
    Ready(SocketRef<Adapter>),
    Gone,
    /// Gone, and its departure is under way or over.
    Departed,
}

impl State {
    /// How far a connection in this state has got.
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Arriving => Phase::Arriving,
            Self::Ready(_) => Phase::Ready,
            Self::Gone | Self::Departed => Phase::Gone,
        }
    }
}

impl LocalConnection {
    /// Takes the place of a guest: from here on what is sent to this connection goes to the guest's client, and nothing to
    /// the guest. `known` makes the socket known as this connection's. Returns whether it did: not if one of the two is
    /// gone, or another has taken the guest's place.
    pub(crate) fn take_over(&self, guest: &Self, known: impl FnOnce()) -> bool {
        let mut before = guest.state.lock();
        let State::Ready(socket) = &*before else {
            return false;
        };
        let mut state = self.state.lock();
        let State::Arriving = *state else {
            return false;
        };
        let socket = socket.clone();
        self.session.name(&self.namespace, &self.id);
        self.session.set_identified();
        // Under the lock: who ends the guest from here on finds this connection instead.
        known();
        self.observer.passed_on(&self.id);
        guest.be_in_no_room();
        self.take_rooms_of(guest);
        self.take_watches_of(guest);
        self.be_in_its_rooms();
        self.has_spoken.store(true, Ordering::Relaxed);
        *state = State::Ready(socket);
        *before = State::Departed;
        true
    }

    /// How far it has got.
    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase()
    }

    /// Whether it is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.phase() == Phase::Gone
    }

    /// Another token of its user's, in place of the one before. It leaves the rooms of the roles that are gone and joins those
    /// of the new ones.
    pub(crate) fn renew(&self, identity: Identity) {
        // Under the lock: what begins meanwhile joins by the one identity or by the other.
        let state = self.state.lock();
        let identity = Arc::new(identity);
        let rooms = rooms_of(Some(&self.with_granted(identity.clone())));
        let before = self.identity.lock().replace(identity);
        let before = before.map(|before| self.with_granted(before));
        self.warned.store(false, Ordering::Release);
        if let (State::Ready(_), Some(me)) = (&*state, self.me.upgrade()) {
            let mut left = rooms_of(before.as_deref());
            left.retain(|room| !rooms.contains(room));
            self.members.leave(&me, left);
            self.members.join(&me, rooms);
        }
    }

    /// Takes it into the rooms of its identity, tells the client that it is connected, if there is something to say, and
    /// greets it; unless it has been given an ending meanwhile or is gone. Returns whether it was told.
    pub(crate) fn set_ready(
        &self,
        socket: &SocketRef<Adapter>,
        ready: Option<&Value>,
        greetings: &[Greeting],
    ) -> bool {
        let mut state = self.state.lock();
        let State::Arriving = *state else {
            return false;
        };
        *state = State::Ready(socket.clone());
        // Under the lock: rooms that it joins after it is gone are never left.
        self.be_in_its_rooms();
        let told = self.ending().is_none()
            && ready.is_none_or(|ready| self.by_engine(|| socket.emit("ready", ready)).is_ok());
        if told {
            for Greeting { event, args } in greetings {
                self.by_engine(|| socket.emit(event, &Arguments(args))).ok();
            }
        }
        told
    }

    /// Tells its client why it is being ended, and that it is not to come back, unless it is to: a closed transport is what makes
    /// the stock client come back, where no other namespace needs it. `alone`: its session ends with it. Nothing is sent to it
    /// after that.
    pub(crate) fn say_goodbye(&self, ending: &Ending, alone: bool) {
        let Some(socket) = self.go() else {
            return;
        };
        let goodbye = json!({
            "code": ending.code,
            "reason": ending.reason,
            "reconnect": ending.reconnect,
        });
        self.by_engine(|| socket.emit("forceDisconnect", &goodbye))
            .ok();
        if ending.reconnect && alone {
            return;
        }
        let disconnect = || {
            let ended = socket.clone().disconnect();
            // Fails when the client's queue is full. Then only the end of the transport is left.
            if ended.is_err() {
                self.session.end();
            }
            departing::removal(&socket)
        };
        match alone {
            true => drop(disconnect()),
            false => self.session.part(&self.namespace, disconnect),
        }
    }

    /// Lets go of the socket: nothing is sent to it or taken from it any more.
    pub(crate) fn set_gone(&self) {
        self.go();
    }

    /// The rooms in which it is found while it is ready.
    fn all_rooms(&self) -> Vec<String> {
        let mut rooms = rooms_of(self.identity().as_deref());
        rooms.extend(self.rooms());
        rooms
    }

    /// Has it found in its rooms. Under the lock of its state.
    fn be_in_its_rooms(&self) {
        if let Some(me) = self.me.upgrade() {
            self.members.join(&me, self.all_rooms());
        }
    }

    /// Has it found in none. Under the lock of its state.
    fn be_in_no_room(&self) {
        if let Some(me) = self.me.upgrade() {
            self.members.leave(&me, self.all_rooms());
        }
    }

    /// Ends the last phase but one. Its client may ask for the namespace again. Returns the socket, once.
    fn go(&self) -> Option<SocketRef<Adapter>> {
        self.session.leave(&self.namespace, &self.id);
        let mut state = self.state.lock();
        if let State::Departed = *state {
            return None;
        }
        match std::mem::replace(&mut *state, State::Gone) {
            State::Ready(socket) => {
                self.be_in_no_room();
                Some(socket)
            }
            _ => None,
        }
    }

    /// Lets go of it, and returns true once: its departure is this caller's to carry out.
    pub(crate) fn depart_once(&self) -> bool {
        self.set_gone();
        let mut state = self.state.lock();
        !matches!(
            std::mem::replace(&mut *state, State::Departed),
            State::Departed
        )
    }
}

/// The rooms that an identity puts its connections into: its user's and its roles'. A guest is in none. Devices have no rooms: a
/// room's name would be anybody's to claim.
fn rooms_of(identity: Option<&Identity>) -> Vec<String> {
    let Some(identity) = identity else {
        return Vec::new();
    };
    let roles = identity.roles.iter().map(|role| format!("role:{role}"));
    std::iter::once(format!("user:{}", identity.user_id))
        .chain(roles)
        .collect()
}
