//! Who is put into a room, and taken out: a user with all connections, or one connection.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, State},
};
use http::{StatusCode, request::Parts};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    super::{
        ApiState,
        auth::{Allowed, scope},
        body::{Body, Params, Payload, UserPath, path_parts},
        connections::unknown,
        error::ApiError,
        openapi::{BodyProblems, ConnectionProblems, Guarded, HeadProblems},
    },
    NamespaceQuery,
};
use crate::{
    connection::{ConnectionId, UserId},
    gateway::{
        RoomChanged,
        requests::{
            rooms::{KeepRequest, LastingAnswer, room_name},
            user_id,
        },
    },
    registry::Room,
};

impl Payload for KeepRequest {
    fn when_empty() -> Option<Self> {
        Some(Self::default())
    }
}

/// The `{user}` and the `{room}` of a path, each decoded exactly once.
pub struct UserRoomPath(UserId, Arc<str>);

impl FromRequestParts<ApiState> for UserRoomPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let (user, room) = path_parts(parts, state).await?;
        Ok(Self(user_id(user)?, room_name(room)?))
    }
}

/// The `{id}` of a connection and the `{room}` of a path.
pub struct ConnectionRoomPath(ConnectionId, Arc<str>);

impl FromRequestParts<ApiState> for ConnectionRoomPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let (id, room): (String, String) = path_parts(parts, state).await?;
        Ok(Self(id.into(), room_name(room)?))
    }
}

/// How many connections have joined or left a room.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedAnswer {
    /// How many have joined or left now: those that were in the room, or were not, don't count.
    connections: u64,
    /// How many nodes hold connections that it is for and have not said in time (5 s) that it is done; left out if all have.
    #[serde(skip_serializing_if = "is_zero")]
    unconfirmed: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ChangedAnswer {
    /// Done, or on its way where a node has not confirmed it.
    fn of(changed: RoomChanged) -> (StatusCode, Json<Self>) {
        let status = match changed.unconfirmed {
            0 => StatusCode::OK,
            _ => StatusCode::ACCEPTED,
        };
        let answer = Self {
            connections: changed.connections,
            unconfirmed: changed.unconfirmed,
        };
        (status, Json(answer))
    }
}

/// Put a user into a room
///
/// All connections of the user in the namespace, those that are there and those that will be: a connection that gets `ready` after
/// the answer is in the room. It lasts until it is undone, or until `until`; a second call replaces the first one's `until`.
#[utoipa::path(
    put,
    path = "/users/{user}/rooms/{room}",
    tag = "send",
    params(
        ("user" = String, Path, description = "The user's id, percent-encoded"),
        ("room" = String, Path, description = "The room's name, percent-encoded"),
    ),
    request_body(content = Option<KeepRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "All are in it", body = ChangedAnswer, example = json!({"connections": 2})),
        (status = 202, description = "Some nodes have not confirmed it yet", body = ChangedAnswer,
            example = json!({"connections": 1, "unconfirmed": 1})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn put_user_into_room(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    UserRoomPath(user, room): UserRoomPath,
    Body(request): Body<KeepRequest>,
) -> Result<(StatusCode, Json<ChangedAnswer>), ApiError> {
    let until = request.until(Timestamp::now())?;
    let room = Room::new(state.namespace(request.namespace)?, room);
    let changed = state.gateway.keep_in_room(&user, room, until).await?;
    Ok(ChangedAnswer::of(changed))
}

/// Take a user out of a room
///
/// Undoes what put the user into it. Connections that are in the room by themselves (by their token, or as they have joined it) stay.
#[utoipa::path(
    delete,
    path = "/users/{user}/rooms/{room}",
    tag = "send",
    params(
        ("user" = String, Path, description = "The user's id, percent-encoded"),
        ("room" = String, Path, description = "The room's name, percent-encoded"),
        NamespaceQuery,
    ),
    responses(
        (status = 200, description = "They have left", body = ChangedAnswer, example = json!({"connections": 2})),
        (status = 202, description = "Some nodes have not confirmed it yet", body = ChangedAnswer,
            example = json!({"connections": 1, "unconfirmed": 1})),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn take_user_out_of_room(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    UserRoomPath(user, room): UserRoomPath,
    Params(query): Params<NamespaceQuery>,
) -> Result<(StatusCode, Json<ChangedAnswer>), ApiError> {
    let room = Room::new(state.namespace(query.namespace)?, room);
    let changed = state.gateway.let_go(&user, room).await?;
    Ok(ChangedAnswer::of(changed))
}

/// The rooms that a user is to be in.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserRoomsAnswer {
    rooms: Vec<LastingAnswer>,
}

/// List the rooms that a user has been put into
///
/// Those of all namespaces, also while the user is offline. What single connections are in besides is in each connection's `rooms`.
#[utoipa::path(
    get,
    path = "/users/{user}/rooms",
    tag = "presence",
    params(("user" = String, Path, description = "The user's id, percent-encoded")),
    responses(
        (status = 200, description = "The rooms", body = UserRoomsAnswer, example = json!({
            "rooms": [{"room": "chat:1", "namespace": "/", "until": null}],
        })),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["read"])),
)]
pub async fn list_user_rooms(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
    UserPath(user): UserPath,
) -> Result<Json<UserRoomsAnswer>, ApiError> {
    let lasting = state.gateway.lasting(&user).await?;
    let rooms = lasting.into_iter().map(Into::into).collect();
    Ok(Json(UserRoomsAnswer { rooms }))
}

/// Take a connection into a room
///
/// Of its namespace, for as long as it lives.
#[utoipa::path(
    put,
    path = "/connections/{id}/rooms/{room}",
    tag = "send",
    params(
        ("id" = String, Path, description = "The connection's id"),
        ("room" = String, Path, description = "The room's name, percent-encoded"),
    ),
    responses(
        (status = 200, description = "It is in it", body = ChangedAnswer, example = json!({"connections": 1})),
        (status = 202, description = "Its node has not confirmed it yet", body = ChangedAnswer,
            example = json!({"connections": 0, "unconfirmed": 1})),
        Guarded,
        ConnectionProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn put_connection_into_room(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    ConnectionRoomPath(id, room): ConnectionRoomPath,
) -> Result<(StatusCode, Json<ChangedAnswer>), ApiError> {
    let changed = state.gateway.join(&id, &room).await?;
    changed.map(ChangedAnswer::of).ok_or_else(unknown)
}

/// Take a connection out of a room
///
/// Of its namespace. One that its user has been put into is the user's: 409.
#[utoipa::path(
    delete,
    path = "/connections/{id}/rooms/{room}",
    tag = "send",
    params(
        ("id" = String, Path, description = "The connection's id"),
        ("room" = String, Path, description = "The room's name, percent-encoded"),
    ),
    responses(
        (status = 200, description = "It is not in it", body = ChangedAnswer, example = json!({"connections": 1})),
        (status = 202, description = "Its node has not confirmed it yet", body = ChangedAnswer,
            example = json!({"connections": 0, "unconfirmed": 1})),
        Guarded,
        ConnectionProblems,
    ),
    security(("key" = ["send"])),
)]
pub async fn take_connection_out_of_room(
    _: Allowed<scope::Send>,
    State(state): State<ApiState>,
    ConnectionRoomPath(id, room): ConnectionRoomPath,
) -> Result<(StatusCode, Json<ChangedAnswer>), ApiError> {
    let changed = state.gateway.leave(&id, &room).await?;
    changed.map(ChangedAnswer::of).ok_or_else(unknown)
}
