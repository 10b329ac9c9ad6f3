//! The cursors of [`super::Registry`]: the last item of a page, in a wrapping that callers leave alone.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use super::{Entry, RegistryError, Room};
use crate::connection::UserId;

/// What the wrapped text begins with: tells a cursor from any other base64, one list's from another's, and one version's from
/// another's.
const USER: &str = "u1:";
const ROOM: &str = "r1:";
const MEMBER: &str = "m1:";

/// Where the page of users after `last` starts.
pub(super) fn after(last: &UserId) -> String {
    wrap(USER, last.as_str())
}

/// The user that a cursor starts after, or [`RegistryError::BadCursor`].
pub(super) fn read(cursor: &str) -> Result<UserId, RegistryError> {
    unwrap(USER, cursor).map(UserId::from)
}

/// Where the page of rooms after `last` starts.
pub(super) fn after_room(last: &Room) -> String {
    wrap_json(ROOM, last)
}

/// The room that a cursor starts after, or [`RegistryError::BadCursor`].
pub(super) fn room(cursor: &str) -> Result<Room, RegistryError> {
    unwrap_json(ROOM, cursor)
}

/// Where the page of members after `last` starts.
pub(super) fn after_member(last: &Entry) -> String {
    wrap_json(MEMBER, last)
}

/// The member that a cursor starts after, or [`RegistryError::BadCursor`].
pub(super) fn member(cursor: &str) -> Result<Entry, RegistryError> {
    unwrap_json(MEMBER, cursor)
}

fn wrap(mark: &str, text: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{mark}{text}"))
}

fn unwrap(mark: &str, cursor: &str) -> Result<String, RegistryError> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix(mark).map(str::to_owned))
        .ok_or(RegistryError::BadCursor)
}

fn wrap_json(mark: &str, last: &impl Serialize) -> String {
    // Texts alone: nothing in them can fail to be written.
    wrap(mark, &serde_json::to_string(last).unwrap_or_default())
}

fn unwrap_json<T: DeserializeOwned>(mark: &str, cursor: &str) -> Result<T, RegistryError> {
    let text = unwrap(mark, cursor)?;
    serde_json::from_str(&text).map_err(|_| RegistryError::BadCursor)
}
