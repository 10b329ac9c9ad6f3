//! Who is online: one user, and everybody.

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    auth::{Allowed, scope},
    body::{Params, UserPath, blank_is_absent},
    error::ApiError,
    openapi::{Guarded, HeadProblems},
};
use crate::{
    connection::{Connection, Tally, UserId},
    gateway::requests,
    registry::{UserEntry, UsersPage},
};

/// A user.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserAnswer {
    user_id: UserId,
    /// Whether the user has a connection.
    online: bool,
    /// The user's connections, in every namespace and on every node.
    connections: Vec<Connection>,
    /// How many devices they stand for.
    devices: u64,
    /// When the user's last connection ended. `null` while the user is online, and when that is not known (any more).
    #[schema(required, value_type = Option<String>, format = DateTime)]
    last_seen: Option<Timestamp>,
    /// Whether the user is kept out.
    banned: bool,
}

impl UserAnswer {
    fn new(user_id: UserId, entry: UserEntry) -> Self {
        let devices = entry.connections.iter().map(|c| c.device_id.as_deref());
        Self {
            user_id,
            online: !entry.connections.is_empty(),
            devices: Tally::of(devices).devices,
            connections: entry.connections,
            last_seen: entry.last_seen,
            banned: entry.banned,
        }
    }
}

/// Look a user up
///
/// A user that nobody has heard of is offline, not an error.
#[utoipa::path(
    get,
    path = "/users/{user}",
    tag = "presence",
    params(("user" = String, Path, description = "The user's id, percent-encoded")),
    responses(
        (status = 200, description = "The user", body = UserAnswer, example = json!({
            "userId": "42",
            "online": true,
            "connections": [{
                "id": "c5Zk0pXv9Rr2mWqT1nYbLdA", "userId": "42", "namespace": "/", "nodeId": "gateway-1-x7",
                "transport": "websocket", "connectedAt": "2030-01-01T00:00:00Z", "expiresAt": "2030-01-01T00:15:00Z",
                "deviceId": "phone", "remoteAddr": "192.0.2.7", "userAgent": "Mozilla/5.0",
                "rooms": ["chat:1"],
            }],
            "devices": 1,
            "lastSeen": null,
            "banned": false,
        })),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["read"])),
)]
pub async fn get_user(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
    UserPath(user): UserPath,
) -> Result<Json<UserAnswer>, ApiError> {
    let entry = state.gateway.user(&user).await?;
    Ok(Json(UserAnswer::new(user, entry)))
}

/// Which page of the users.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsersQuery {
    /// How many users at most.
    #[serde(default, deserialize_with = "blank_is_absent")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "blank_is_absent")]
    cursor: Option<String>,
}

/// A page of the users that are online.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsersAnswer {
    users: Vec<OnlineUser>,
    /// Where the next page starts; `null` on the last one.
    #[schema(required)]
    next: Option<String>,
}

/// A user that is online.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnlineUser {
    user_id: UserId,
    /// The user's connections.
    connections: u64,
    /// How many devices they stand for.
    devices: u64,
}

impl From<UsersPage> for UsersAnswer {
    fn from(page: UsersPage) -> Self {
        let users = page.users.into_iter().map(|(user_id, tally)| OnlineUser {
            user_id,
            connections: tally.connections,
            devices: tally.devices,
        });
        Self {
            users: users.collect(),
            next: page.next,
        }
    }
}

/// List everybody online
///
/// A page at a time. A user that stays online while the pages are read is on one of them, once. A page may be short, or
/// empty: the last one is the one without `next`.
#[utoipa::path(
    get,
    path = "/users",
    tag = "presence",
    params(UsersQuery),
    responses(
        (status = 200, description = "A page", body = UsersAnswer, example = json!({
            "users": [{"userId": "42", "connections": 2, "devices": 1}],
            "next": null,
        })),
        Guarded,
        HeadProblems,
    ),
    security(("key" = ["read"])),
)]
pub async fn list_users(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
    Params(query): Params<UsersQuery>,
) -> Result<Json<UsersAnswer>, ApiError> {
    let limit = requests::page(query.limit)?;
    let _room = state.load.items(limit).await?;
    let page = state.gateway.users(query.cursor.as_deref(), limit).await?;
    Ok(Json(page.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::connection::TransportKind;

    fn connection(id: &str, device: Option<&str>) -> Connection {
        Connection {
            id: id.into(),
            user_id: Some("42".into()),
            namespace: "/".into(),
            node_id: "n".into(),
            transport: TransportKind::Websocket,
            connected_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            device_id: device.map(Into::into),
            remote_addr: None,
            user_agent: None,
            rooms: vec!["chat:1".into()],
            meta: None,
        }
    }

    #[test]
    fn a_user_is_shown_with_connections_and_devices() {
        let entry = UserEntry {
            connections: vec![
                connection("a", Some("phone")),
                connection("b", Some("phone")),
                connection("c", None),
            ],
            last_seen: None,
            banned: false,
        };
        let shown = serde_json::to_value(UserAnswer::new("42".into(), entry)).unwrap();
        assert_eq!(shown["online"], true);
        assert_eq!(shown["devices"], 2);
        assert_eq!(
            shown["connections"][0],
            json!({
                "id": "a", "userId": "42", "namespace": "/", "nodeId": "n", "transport": "websocket",
                "connectedAt": "1970-01-01T00:00:00Z", "expiresAt": null, "deviceId": "phone",
                "remoteAddr": null, "userAgent": null, "rooms": ["chat:1"],
            })
        );
    }

    #[test]
    fn a_user_who_is_gone_was_last_seen() {
        let entry = UserEntry {
            connections: Vec::new(),
            last_seen: Some(Timestamp::UNIX_EPOCH),
            banned: false,
        };
        assert_eq!(
            serde_json::to_value(UserAnswer::new("{x}:\n".into(), entry)).unwrap(),
            json!({
                "userId": "{x}:\n", "online": false, "connections": [], "devices": 0,
                "lastSeen": "1970-01-01T00:00:00Z", "banned": false,
            })
        );
    }

    #[test]
    fn a_page_says_where_the_next_one_starts() {
        let tally = Tally {
            connections: 3,
            devices: 2,
        };
        let page = UsersPage {
            users: vec![("42".into(), tally)],
            next: Some("n".into()),
        };
        assert_eq!(
            serde_json::to_value(UsersAnswer::from(page)).unwrap(),
            json!({"users": [{"userId": "42", "connections": 3, "devices": 2}], "next": "n"})
        );
    }
}
