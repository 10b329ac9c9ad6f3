//! The arguments of the administrators' events.

use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::Denied;
use crate::{
    connection::{ConnectionId, MAX_USER_ID_BYTES, UserId},
    gateway::access::Ban,
};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListUsers {
    pub(super) limit: Option<usize>,
    pub(super) cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfUser {
    pub(super) user: UserId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SendToUser {
    pub(super) user: UserId,
    pub(super) event: String,
    #[serde(default, deserialize_with = "present")]
    pub(super) data: Option<Value>,
    #[serde(default = "root")]
    pub(super) namespace: String,
    pub(super) ack: Option<AckAsked>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AckAsked {
    pub(super) timeout_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DisconnectUser {
    pub(super) user: UserId,
    pub(super) reason: Option<String>,
    pub(super) code: Option<u16>,
    pub(super) reconnect: Option<bool>,
    #[serde(default)]
    pub(super) except: Vec<ConnectionId>,
    #[serde(default)]
    pub(super) revoke_tokens: bool,
}

#[derive(Deserialize)]
pub(super) struct BanUser {
    pub(super) user: UserId,
    #[serde(flatten)]
    pub(super) ban: Ban,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RevokeTokens {
    pub(super) user: UserId,
    pub(super) issued_before: Option<Timestamp>,
}

/// An argument that is there, also when it is null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn root() -> String {
    "/".into()
}

/// An object or nothing; and who is named in it is somebody.
pub(super) fn checked(argument: Value) -> Result<Value, Denied> {
    if !argument.is_object() && !argument.is_null() {
        return Err(Denied::Unacceptable("the argument: an object".into()));
    }
    match argument.get("user").and_then(Value::as_str) {
        Some(user) if user.is_empty() || user.len() > MAX_USER_ID_BYTES => Err(
            Denied::Unacceptable(format!("user: from 1 to {MAX_USER_ID_BYTES} bytes")),
        ),
        _ => Ok(argument),
    }
}

pub(super) fn arguments<T: DeserializeOwned>(argument: Value) -> Result<T, Denied> {
    Ok(serde_json::from_value(argument)?)
}
