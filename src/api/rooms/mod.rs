//! Rooms: sending to one, ending its connections, looking at it, and emptying it.
//!
//! `members` is who is put into a room, and taken out.

pub mod members;

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, State},
};
use http::{StatusCode, request::Parts};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState, audit,
    auth::{Allowed, scope},
    body::{Body, Params, Payload, blank_is_absent, path_parts},
    connections::status,
    error::ApiError,
    events::SendAnswer,
    idempotency::CallId,
    openapi::{BodyProblems, Guarded, HeadProblems},
};
use crate::{
    connection::{ConnectionId, UserId},
    gateway::{
        Disconnected,
        requests::{
            self, Fault, Invalid,
            rooms::{EndRoomRequest, namespace, room_name, room_target},
            send::{AckRequest, SendRequest},
        },
    },
    registry::{Room, RoomFilter},
};

impl Payload for EndRoomRequest {
    fn when_empty() -> Option<Self> {
        Some(Self::default())
    }
}

/// The `{room}` of a path, decoded exactly once, as it came.
pub struct RoomPath(String);

impl RoomPath {
    /// A room that can be joined.
    fn name(self) -> Result<Arc<str>, Invalid> {
        room_name(self.0)
    }
}

impl FromRequestParts<ApiState> for RoomPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        Ok(Self(path_parts(parts, state).await?))
    }
}

/// Which namespace a room is in.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NamespaceQuery {
    /// The room's namespace. A missing leading slash is added.
    #[serde(default, deserialize_with = "blank_is_absent")]
    #[param(default = "/")]
    namespace: Option<String>,
}

impl ApiState {
    /// A namespace of the configuration.
    fn namespace(&self, given: Option<String>) -> Result<String, Invalid> {
        namespace(given, |path| self.gateway.has_namespace(path))
    }
}

/// Send an event to a room
///
/// It is handed to the connections in the room, on whatever nodes they are: those nodes are told, and no others. Nobody there is
/// an answer with zeros, not an error. The rest is as for a user. The room `user:42` is the user 42; `role:editor` is everybody with
/// that role, which asks all nodes.
#[utoipa::path(
    post,
    path = "/rooms/{room}/events",
    tag = "send",
    params(("room" = String, Path, description = "The room's name, percent-encoded")),
    request_body = SendRequest,
    responses(
        (status = 200, description = "Handed over", body = SendAnswer,
            example = json!({"connections": 40, "nodes": 2, "unconfirmed": 0})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn send_to_room(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    call: CallId,
    RoomPath(room): RoomPath,
    Body(request): Body<SendRequest>,
) -> Result<Json<SendAnswer>, ApiError> {
    let (content, device, ack) = request.parts();
    let timeout = ack.as_ref().map(AckRequest::timeout).transpose()?;
    if device.is_some() {
        let detail = "device: goes with a user, whose it is";
        return Err(Invalid::new(Fault::InvalidTarget, detail).into());
    }
    let target = room_target(room)?;
    let message = call.message(state.message(content)?);
    let gateway = &state.gateway;
    Ok(Json(match timeout {
        Some(timeout) => {
            SendAnswer::Acked(gateway.send_with_ack(&target, &message, timeout).await?)
        }
        None => SendAnswer::Delivery(gateway.send(target, message).await?),
    }))
}

/// End the connections in a room
///
/// With the promise of the end of a user's: when the answer is 200, every connection that was in the room before the call is closed
/// and out of the registry, and what could not be confirmed in 5 s is in `remaining`, with 202. Lasting memberships stay: who comes
/// back is in the room again. With `revokeTokens`, their users are out: everything that they have ends, by one script a user, and none of
/// them comes back with a token that was issued before.
#[utoipa::path(
    post,
    path = "/rooms/{room}/disconnect",
    tag = "disconnect",
    params(("room" = String, Path, description = "The room's name, percent-encoded"), NamespaceQuery),
    request_body(content = Option<EndRoomRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "All are closed", body = Disconnected,
            example = json!({"disconnected": 3, "nodes": 2, "remaining": []})),
        (status = 202, description = "Some could not be confirmed yet", body = Disconnected,
            example = json!({"disconnected": 2, "nodes": 1, "remaining": ["c5Zk0pXv9Rr2mWqT1nYbLdA"]})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["disconnect"])),
)]
pub async fn disconnect_room(
    allowed: Allowed<scope::Disconnect>,
    State(state): State<ApiState>,
    room: RoomPath,
    Params(query): Params<NamespaceQuery>,
    Body(request): Body<EndRoomRequest>,
) -> Result<(StatusCode, Json<Disconnected>), ApiError> {
    let revoke = request.revoke_tokens.unwrap_or_default();
    let (namespace, ending, except) = request.parts()?;
    let namespace = namespace.or(query.namespace);
    let room = Room::new(state.namespace(namespace)?, room.name()?);
    let (who, name) = (allowed.caller().name(), room.name.clone());
    let what = if revoke {
        "disconnect_room_and_revoke_tokens"
    } else {
        "disconnect_room"
    };
    let ended = audit::leave(who, what, &name, async {
        let gateway = &state.gateway;
        Ok(gateway
            .disconnect_room(room, except, &ending, revoke)
            .await?)
    })
    .await?;
    Ok((status(&ended), Json(ended)))
}

/// Which page of the rooms.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RoomsQuery {
    /// The rooms of this namespace; absent: of all. A missing leading slash is added.
    #[serde(default, deserialize_with = "blank_is_absent")]
    namespace: Option<String>,
    /// Those whose names begin with this.
    #[serde(default, deserialize_with = "blank_is_absent")]
    prefix: Option<String>,
    /// How many rooms at most.
    #[serde(default, deserialize_with = "blank_is_absent")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "blank_is_absent")]
    cursor: Option<String>,
}

/// A page of rooms.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoomsAnswer {
    rooms: Vec<ListedRoom>,
    /// Where the next page starts; `null` on the last one.
    #[schema(required)]
    next: Option<String>,
}

/// A room that somebody is in.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListedRoom {
    /// Its name.
    room: String,
    /// Its namespace.
    namespace: String,
    /// The connections in it.
    connections: u64,
}

/// List the rooms
///
/// Those that somebody is in, a page at a time, in no order; those of users and roles are left out. A room that somebody stays in
/// while the pages are read is on one of them, once. A page may be short, or empty: the last one is the one without `next`.
#[utoipa::path(
    get,
    path = "/rooms",
    tag = "presence",
    params(RoomsQuery),
    responses(
        (status = 200, description = "A page", body = RoomsAnswer, example = json!({
            "rooms": [{"room": "chat:1", "namespace": "/", "connections": 40}],
            "next": null,
        })),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["read"])),
)]
pub async fn list_rooms(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
    Params(query): Params<RoomsQuery>,
) -> Result<Json<RoomsAnswer>, ApiError> {
    let limit = requests::page(query.limit)?;
    let given = query.namespace.map(|given| state.namespace(Some(given)));
    let filter = RoomFilter {
        namespace: given.transpose()?,
        prefix: query.prefix.unwrap_or_default(),
    };
    let _room = state.load.items(limit).await?;
    let cursor = query.cursor.as_deref();
    let page = state.gateway.rooms(&filter, cursor, limit).await?;
    let rooms = page
        .rooms
        .into_iter()
        .map(|(room, connections)| ListedRoom {
            room: room.name.to_string(),
            namespace: room.namespace.to_string(),
            connections,
        });
    Ok(Json(RoomsAnswer {
        rooms: rooms.collect(),
        next: page.next,
    }))
}

/// A room.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoomAnswer {
    /// Its name.
    room: String,
    /// Its namespace.
    namespace: String,
    /// The connections in it.
    connections: u64,
    /// The users whose connections these are; guests are none.
    users: u64,
}

/// Look a room up
///
/// A room that nobody is in is an answer with zeros, not an error.
#[utoipa::path(
    get,
    path = "/rooms/{room}",
    tag = "presence",
    params(("room" = String, Path, description = "The room's name, percent-encoded"), NamespaceQuery),
    responses(
        (status = 200, description = "The room", body = RoomAnswer,
            example = json!({"room": "chat:1", "namespace": "/", "connections": 40, "users": 31})),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["read"])),
)]
pub async fn get_room(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
    room: RoomPath,
    Params(query): Params<NamespaceQuery>,
) -> Result<Json<RoomAnswer>, ApiError> {
    let room = Room::new(state.namespace(query.namespace)?, room.name()?);
    let tally = state.gateway.room(&room).await?;
    Ok(Json(RoomAnswer {
        room: room.name.to_string(),
        namespace: room.namespace.to_string(),
        connections: tally.connections,
        users: tally.users,
    }))
}

/// Which page of a room's members.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MembersQuery {
    /// The room's namespace. A missing leading slash is added.
    #[serde(default, deserialize_with = "blank_is_absent")]
    #[param(default = "/")]
    namespace: Option<String>,
    /// How many members at most.
    #[serde(default, deserialize_with = "blank_is_absent")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "blank_is_absent")]
    cursor: Option<String>,
}

/// A page of a room's members.
#[derive(Debug, Serialize, ToSchema)]
pub struct MembersAnswer {
    members: Vec<ListedMember>,
    /// Where the next page starts; `null` on the last one.
    #[schema(required)]
    next: Option<String>,
}

/// A connection in a room.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedMember {
    /// Its user; `null` for a guest.
    #[schema(required)]
    user_id: Option<UserId>,
    /// The connection.
    connection_id: ConnectionId,
}

/// List a room's members
///
/// A page at a time, in the order of their users. A connection that stays in the room while the pages are read is on one of them,
/// once.
#[utoipa::path(
    get,
    path = "/rooms/{room}/members",
    tag = "presence",
    params(("room" = String, Path, description = "The room's name, percent-encoded"), MembersQuery),
    responses(
        (status = 200, description = "A page", body = MembersAnswer, example = json!({
            "members": [{"userId": "42", "connectionId": "c5Zk0pXv9Rr2mWqT1nYbLdA"}],
            "next": null,
        })),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["read"])),
)]
pub async fn list_members(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
    room: RoomPath,
    Params(query): Params<MembersQuery>,
) -> Result<Json<MembersAnswer>, ApiError> {
    let limit = requests::page(query.limit)?;
    let room = Room::new(state.namespace(query.namespace)?, room.name()?);
    let _room = state.load.items(limit).await?;
    let cursor = query.cursor.as_deref();
    let page = state.gateway.members(&room, cursor, limit).await?;
    let members = page.members.into_iter().map(|entry| ListedMember {
        user_id: entry.user,
        connection_id: entry.id,
    });
    Ok(Json(MembersAnswer {
        members: members.collect(),
        next: page.next,
    }))
}

/// What became of the members of a room.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmptiedAnswer {
    /// How many connections have left.
    connections: u64,
    /// On how many nodes.
    nodes: u64,
    /// Those of which that could not be confirmed in time.
    remaining: Vec<ConnectionId>,
}

/// Empty a room
///
/// Everybody leaves, and lasting memberships are undone. What could not be confirmed in 5 s is in `remaining`, and the answer is
/// 202.
#[utoipa::path(
    delete,
    path = "/rooms/{room}",
    tag = "send",
    params(("room" = String, Path, description = "The room's name, percent-encoded"), NamespaceQuery),
    responses(
        (status = 200, description = "Nobody is in it", body = EmptiedAnswer,
            example = json!({"connections": 40, "nodes": 2, "remaining": []})),
        (status = 202, description = "Some could not be confirmed yet", body = EmptiedAnswer,
            example = json!({"connections": 39, "nodes": 1, "remaining": ["c5Zk0pXv9Rr2mWqT1nYbLdA"]})),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn empty_room(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    room: RoomPath,
    Params(query): Params<NamespaceQuery>,
) -> Result<(StatusCode, Json<EmptiedAnswer>), ApiError> {
    let room = Room::new(state.namespace(query.namespace)?, room.name()?);
    let (changed, remaining) = state.gateway.close_room(room).await?;
    let status = match remaining.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::ACCEPTED,
    };
    let answer = EmptiedAnswer {
        connections: changed.connections,
        nodes: changed.nodes,
        remaining,
    };
    Ok((status, Json(answer)))
}
