//! The presence of many users at once.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState, Limits,
    auth::{Allowed, scope},
    body::{Body, Payload},
    error::{ApiError, ErrorCode},
    openapi::{BodyProblems, Guarded},
};
use crate::{
    connection::UserId,
    gateway::requests::{fields::GivenUser, user_id},
    registry,
};

/// The most users of one call.
const MAX_USERS: usize = 1000;

/// Whose presence.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"users": ["42", "43"]}))]
pub struct PresenceRequest {
    /// Users' ids, at most 1,000. An integer stands for its digits.
    #[schema(value_type = Vec<String>, max_items = 1000)]
    users: Vec<GivenUser>,
}

impl Payload for PresenceRequest {
    fn limit(limits: &Limits) -> usize {
        limits.bulk
    }
}

impl PresenceRequest {
    fn users(self) -> Result<Vec<UserId>, ApiError> {
        if self.users.len() > MAX_USERS {
            return Err(ApiError::new(
                ErrorCode::TooMany,
                format!("users: at most {MAX_USERS}"),
            ));
        }
        self.users
            .into_iter()
            .map(|GivenUser(id)| Ok(user_id(id)?))
            .collect()
    }
}

/// The presence of every user that was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct PresenceAnswer {
    /// By the user's id.
    #[schema(value_type = std::collections::HashMap<String, UserPresence>)]
    users: BTreeMap<UserId, UserPresence>,
}

/// A user's presence.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserPresence {
    /// Whether the user has a connection.
    online: bool,
    /// How many.
    connections: u64,
    /// How many devices they stand for.
    devices: u64,
    /// When the user's last connection ended. `null` while the user is online, and when that is not known (any more).
    #[schema(required, value_type = Option<String>, format = DateTime)]
    last_seen: Option<Timestamp>,
}

impl From<registry::Presence> for UserPresence {
    fn from(presence: registry::Presence) -> Self {
        Self {
            online: presence.tally.connections > 0,
            connections: presence.tally.connections,
            devices: presence.tally.devices,
            last_seen: presence.last_seen,
        }
    }
}

/// Look up to 1,000 users up
///
/// A user that nobody has heard of is offline, not an error.
#[utoipa::path(
    post,
    path = "/presence",
    tag = "presence",
    request_body = PresenceRequest,
    responses(
        (status = 200, description = "Everybody's presence", body = PresenceAnswer, example = json!({"users": {
            "42": {"online": true, "connections": 2, "devices": 1, "lastSeen": null},
            "43": {"online": false, "connections": 0, "devices": 0, "lastSeen": "2030-01-01T00:00:00Z"},
        }})),
        Guarded,
        BodyProblems,
    ),
    security(("key" = ["read"])),
)]
pub async fn get_presence(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
    Body(request): Body<PresenceRequest>,
) -> Result<Json<PresenceAnswer>, ApiError> {
    let users = request.users()?;
    let room = state.load.items(users.len()).await?;
    let presence = state.gateway.presence(&users).await?;
    drop(room);
    let presence = presence.into_iter().map(UserPresence::from);
    let users = users.into_iter().zip(presence).collect();
    Ok(Json(PresenceAnswer { users }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::connection::Tally;

    #[test]
    fn at_most_1000_users_each_with_an_id() {
        let users = |count| PresenceRequest {
            users: vec![GivenUser("7".into()); count],
        };
        assert_eq!(users(1000).users().unwrap().len(), 1000);
        assert_eq!(users(1001).users().unwrap_err().code, ErrorCode::TooMany);
        let nameless = PresenceRequest {
            users: vec![GivenUser(String::new())],
        };
        assert_eq!(nameless.users().unwrap_err().code, ErrorCode::InvalidUser);
    }

    #[test]
    fn online_is_who_has_a_connection() {
        let shown = |connections, devices, last_seen| {
            let tally = Tally {
                connections,
                devices,
            };
            let presence = registry::Presence { tally, last_seen };
            serde_json::to_value(UserPresence::from(presence)).unwrap()
        };
        assert_eq!(
            shown(2, 1, None),
            json!({"online": true, "connections": 2, "devices": 1, "lastSeen": null})
        );
        assert_eq!(
            shown(0, 0, Some(Timestamp::UNIX_EPOCH)),
            json!({"online": false, "connections": 0, "devices": 0, "lastSeen": "1970-01-01T00:00:00Z"})
        );
    }
}
