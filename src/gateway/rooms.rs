//! Who is in a room: changes on this node, and on the nodes that hold those concerned.
//!
//! A change counts as done when this node's part of it is: the socket has joined or left, the registry has been told of the
//! member, and the connection's entry shows it.

use std::{sync::Arc, time::Duration};

use derive_more::Constructor;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::time::Instant;

use super::{
    GatewayError,
    connections::{
        LocalConnections,
        local::{LocalConnection, RoomError},
    },
    endings::expiry::ExpiryWatch,
    membership::registrar::Registrar,
    message::RoomChanged,
    peers::{
        Peers,
        wire::{Command, Receipt, RoomChange},
    },
};
use crate::registry::{Member, Recipient, RegistryError, Room};

/// How long a change waits for the nodes that are to carry it out. Who has not confirmed by then is unconfirmed.
const RECEIPTS: Duration = Duration::from_secs(5);

/// How many connections of a node are asserted at once that have left a room together.
const AT_ONCE: usize = 32;

/// Why a change was not carried out on this node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotChanged {
    /// By the rules.
    #[error("{0}")]
    Refused(#[from] RoomError),
    /// The registry can't be told.
    #[error("Service unavailable")]
    Registry(#[from] RegistryError),
}

/// Changes who is in which room.
#[derive(Constructor)]
pub(crate) struct RoomChanges {
    peers: Arc<Peers>,
    connections: Arc<LocalConnections>,
    registrar: Arc<Registrar>,
    expiry: Arc<ExpiryWatch>,
}

impl RoomChanges {
    /// Takes a connection of this node into a room. If the registry can't be told, it is not in it. Returns whether it was not
    /// before.
    pub(crate) async fn join(
        &self,
        connection: &Arc<LocalConnection>,
        name: &str,
    ) -> Result<bool, NotChanged> {
        let changed = connection.join(name, self.connections.most_rooms())?;
        let is_new = !changed.is_empty();
        let told = self.tell(std::slice::from_ref(connection), changed).await;
        if told.is_err() && is_new {
            let undone = connection.leave(name).unwrap_or_default();
            self.connections.memberships.doubt(undone);
            connection.changed();
        }
        told.map(|()| is_new).map_err(Into::into)
    }

    /// Takes a connection of this node out of a room. Returns whether it was in it.
    pub(crate) async fn leave(
        &self,
        connection: &Arc<LocalConnection>,
        name: &str,
    ) -> Result<bool, NotChanged> {
        let changed = connection.leave(name)?;
        let was_in = !changed.is_empty();
        self.tell(std::slice::from_ref(connection), changed).await?;
        Ok(was_in)
    }

    /// Makes connections of this node join rooms, or leave them, at once. Returns how often one was refused, and what then tells
    /// the registry, which is told later where that fails.
    pub(crate) fn change_here(
        self: &Arc<Self>,
        connections: Vec<Arc<LocalConnection>>,
        names: &[String],
        joins: bool,
    ) -> (u64, BoxFuture<'static, ()>) {
        let most = self.connections.most_rooms();
        let (mut members, mut changed, mut refused) = (Vec::new(), Vec::new(), 0);
        for connection in connections {
            let before = members.len();
            for name in names {
                let come = match joins {
                    true => connection.join(name, most),
                    false => connection.leave(name),
                };
                match come {
                    Ok(come) => members.extend(come),
                    Err(RoomError::Gone) => {}
                    Err(RoomError::TooMany | RoomError::Lasting) => refused += 1,
                }
            }
            if members.len() > before {
                changed.push(connection);
            }
        }
        let rooms = self.clone();
        let telling = async move {
            if let Err(error) = rooms.tell(&changed, members).await {
                tracing::debug!(%error, "rooms are changed, and the registry can't be told yet");
            }
        };
        (refused, telling.boxed())
    }

    /// Tells the registry of members, and of the connections that they are.
    async fn tell(
        &self,
        connections: &[Arc<LocalConnection>],
        changed: Vec<Member>,
    ) -> Result<(), RegistryError> {
        self.connections.memberships.settle(changed).await?;
        let asserted = stream::iter(connections.to_vec()).map(|connection| async move {
            connection.changed();
            self.registrar.assert_again(&connection).await
        });
        let mut asserted = asserted.buffer_unordered(AT_ONCE);
        while let Some(asserted) = asserted.next().await {
            asserted?;
        }
        Ok(())
    }

    /// Carries a change out on this node. Returns how many connections have joined or left.
    pub(crate) async fn carry_out(&self, change: &RoomChange) -> Result<u64, NotChanged> {
        match change {
            RoomChange::Keep { user, room, until } => {
                let keep = |connection: &LocalConnection| {
                    let changed = connection.keep_in(&room.name, *until);
                    if until.is_some() {
                        self.expiry.look_at(connection);
                    }
                    changed
                };
                let of_user = self.connections.table.of_user(user);
                let (count, changed, _) = change_all(of_user, room, keep);
                // Their entries need not say what their user's does.
                self.connections.memberships.settle(changed).await?;
                Ok(count)
            }
            RoomChange::LetGo { user, room } => {
                let of_user = self.connections.table.of_user(user);
                let let_go = |connection: &LocalConnection| connection.let_go_of(&room.name);
                let (count, changed, _) = change_all(of_user, room, let_go);
                self.connections.memberships.settle(changed).await?;
                Ok(count)
            }
            RoomChange::Join { id, name } => match self.connections.table.get(id) {
                Some(connection) => self.join(&connection, name).await.map(u64::from),
                None => Ok(0),
            },
            RoomChange::Leave { id, name } => match self.connections.table.get(id) {
                Some(connection) => self.leave(&connection, name).await.map(u64::from),
                None => Ok(0),
            },
            RoomChange::Empty { room } => {
                let evict = |connection: &LocalConnection| connection.evict(&room.name);
                let (count, changed, left) = change_all(self.connections.table.all(), room, evict);
                self.tell(&left, changed).await?;
                Ok(count)
            }
        }
    }

    /// Carries out what another node asks for, and says what became of it.
    pub(crate) async fn obey(&self, change: &RoomChange, receipt: Receipt) -> Receipt {
        match self.carry_out(change).await {
            Ok(connections) => Receipt {
                connections,
                ..receipt
            },
            Err(NotChanged::Refused(RoomError::Gone)) => receipt,
            Err(NotChanged::Refused(_)) => Receipt {
                refused: true,
                ..receipt
            },
            Err(NotChanged::Registry(error)) => {
                tracing::debug!(%error, ?change, "a room is changed, and the registry can't be told yet");
                Receipt {
                    withheld: true,
                    ..receipt
                }
            }
        }
    }

    /// Carries a change out on every node that holds a connection concerned. None if nobody does, of a change to one connection.
    pub(crate) async fn order(
        &self,
        change: &RoomChange,
    ) -> Result<Option<RoomChanged>, GatewayError> {
        let recipient = match change {
            RoomChange::Keep { user, .. } | RoomChange::LetGo { user, .. } => {
                Recipient::User(user.clone())
            }
            RoomChange::Join { id, .. } | RoomChange::Leave { id, .. } => {
                Recipient::Connection(id.clone())
            }
            RoomChange::Empty { room } => Recipient::Room(room.clone()),
        };
        let command = Command::Room(change.clone());
        let (asked, mine) = self.peers.ask_holders(&recipient, &command).await?;
        if asked.is_none() && !mine && matches!(recipient, Recipient::Connection(_)) {
            return Ok(None);
        }
        let deadline = Instant::now() + RECEIPTS;
        let others = async {
            match asked {
                Some((request, asked)) => Some(request.collect(asked, deadline).await),
                None => None,
            }
        };
        let here = self.obey(change, Receipt::default());
        let (here, others) = tokio::join!(here, others);
        let others = others.unwrap_or_default();
        let receipts = std::iter::once(&here).chain(&others.receipts);
        if receipts.clone().any(|receipt| receipt.refused) {
            return Err(match change {
                RoomChange::Join { .. } => GatewayError::TooManyRooms,
                _ => GatewayError::LastingMembership,
            });
        }
        let counts = receipts.map(|receipt| receipt.connections);
        let counts = counts.filter(|count| *count > 0);
        let (connections, nodes) = counts.fold((0, 0), |(sum, nodes), it| (sum + it, nodes + 1));
        Ok(Some(RoomChanged {
            connections,
            nodes,
            unconfirmed: others.unconfirmed + u64::from(here.withheld),
        }))
    }
}

/// Changes those connections that are in a room's namespace. Returns how many have joined or left, the members that the registry
/// is to be told of, and these connections.
fn change_all(
    connections: Vec<Arc<LocalConnection>>,
    room: &Room,
    change: impl Fn(&LocalConnection) -> Vec<Member>,
) -> (u64, Vec<Member>, Vec<Arc<LocalConnection>>) {
    let (mut members, mut changed) = (Vec::new(), Vec::new());
    for connection in connections {
        if *connection.namespace == *room.namespace {
            let come = change(&connection);
            if !come.is_empty() {
                members.extend(come);
                changed.push(connection);
            }
        }
    }
    (changed.len() as u64, members, changed)
}
