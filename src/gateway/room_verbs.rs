//! The verbs that a backend has on rooms.

use jiff::Timestamp;

use crate::gateway::{
    Gateway, GatewayError,
    message::{Disconnected, RoomChanged},
    peers::wire::RoomChange,
};
use crate::{
    connection::{ConnectionId, UserId},
    ending::Ending,
    registry::{EndTarget, Lasting, MembersPage, Room, RoomFilter, RoomTally, RoomsPage},
};

/// How many of a room's members are read at once.
const PAGE: usize = 1000;

impl Gateway {
    /// Puts a user into a room of a namespace: all connections there, those that are there and those that will be, on whatever node,
    /// until then or until [`Gateway::let_go`]. A connection that gets `ready` after this has answered is in it.
    pub async fn keep_in_room(
        &self,
        user: &UserId,
        room: Room,
        until: Option<Timestamp>,
    ) -> Result<RoomChanged, GatewayError> {
        let inner = &self.inner;
        inner.delivery.check_namespace(&room.namespace)?;
        let lasting = Lasting {
            room: room.clone(),
            until,
        };
        let most = inner.connections.most_rooms();
        if !inner.registry.keep_in_room(user, &lasting, most).await? {
            return Err(GatewayError::TooManyRooms);
        }
        let user = user.clone();
        let change = RoomChange::Keep { user, room, until };
        Ok(inner.rooms.order(&change).await?.unwrap_or_default())
    }

    /// Undoes [`Gateway::keep_in_room`]. Connections that are in the room by themselves stay.
    pub async fn let_go(&self, user: &UserId, room: Room) -> Result<RoomChanged, GatewayError> {
        let inner = &self.inner;
        inner.delivery.check_namespace(&room.namespace)?;
        inner.registry.let_go(user, &room).await?;
        let user = user.clone();
        let change = RoomChange::LetGo { user, room };
        Ok(inner.rooms.order(&change).await?.unwrap_or_default())
    }

    /// The rooms that a user is to be in, in their order.
    pub async fn lasting(&self, user: &UserId) -> Result<Vec<Lasting>, GatewayError> {
        Ok(self.inner.registry.lasting(user).await?)
    }

    /// Takes a connection into a room of its namespace. None if there is no such connection.
    pub async fn join(
        &self,
        id: &ConnectionId,
        room: &str,
    ) -> Result<Option<RoomChanged>, GatewayError> {
        let (id, name) = (id.clone(), room.into());
        self.inner.rooms.order(&RoomChange::Join { id, name }).await
    }

    /// Takes a connection out of a room of its namespace. None if there is no such connection.
    pub async fn leave(
        &self,
        id: &ConnectionId,
        room: &str,
    ) -> Result<Option<RoomChanged>, GatewayError> {
        let (id, name) = (id.clone(), room.into());
        self.inner
            .rooms
            .order(&RoomChange::Leave { id, name })
            .await
    }

    /// How many are in a room.
    pub async fn room(&self, room: &Room) -> Result<RoomTally, GatewayError> {
        let inner = &self.inner;
        inner.delivery.check_namespace(&room.namespace)?;
        let shard = inner.registry.shards().of_room(room);
        let read = inner.registry.room(room);
        Ok(inner.lease.vouched(Some(shard), read).await?)
    }

    /// The rooms that somebody is in, a page at a time.
    pub async fn rooms(
        &self,
        filter: &RoomFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<RoomsPage, GatewayError> {
        if let Some(namespace) = &filter.namespace {
            self.inner.delivery.check_namespace(namespace)?;
        }
        let read = self.inner.registry.rooms(filter, cursor, limit);
        Ok(self.inner.lease.vouched(None, read).await?)
    }

    /// A room's members, a page at a time.
    pub async fn members(
        &self,
        room: &Room,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, GatewayError> {
        let inner = &self.inner;
        inner.delivery.check_namespace(&room.namespace)?;
        let shard = inner.registry.shards().of_room(room);
        let read = inner.registry.members(room, cursor, limit);
        Ok(inner.lease.vouched(Some(shard), read).await?)
    }

    /// Ends the connections in a room, with the promise of [`Gateway::disconnect_user`]. With `revoke_tokens` that is done to their
    /// users: all their connections end, and nobody of them comes back with a token that was issued before.
    pub async fn disconnect_room(
        &self,
        room: Room,
        except: Vec<ConnectionId>,
        ending: &Ending,
        revoke_tokens: bool,
    ) -> Result<Disconnected, GatewayError> {
        let inner = &self.inner;
        inner.delivery.check_namespace(&room.namespace)?;
        if revoke_tokens {
            return inner.orders.disconnect_users_in(room, except, ending).await;
        }
        let target = EndTarget::Room { room, except };
        inner.orders.disconnect(target, None, ending).await
    }

    /// Takes everybody out of a room, and undoes what was to last. Also returns who may still be in it: the members of nodes that
    /// have not confirmed it.
    pub async fn close_room(
        &self,
        room: Room,
    ) -> Result<(RoomChanged, Vec<ConnectionId>), GatewayError> {
        let inner = &self.inner;
        inner.delivery.check_namespace(&room.namespace)?;
        inner.registry.let_all_go(&room).await?;
        let change = RoomChange::Empty { room: room.clone() };
        let changed = inner.rooms.order(&change).await?.unwrap_or_default();
        let remaining = match changed.unconfirmed {
            0 => Vec::new(),
            _ => self.ids_in(&room).await?,
        };
        Ok((changed, remaining))
    }

    /// All connections in a room.
    async fn ids_in(&self, room: &Room) -> Result<Vec<ConnectionId>, GatewayError> {
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.members(room, cursor.as_deref(), PAGE).await?;
            ids.extend(page.members.into_iter().map(|entry| entry.id));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(ids);
            }
        }
    }
}
