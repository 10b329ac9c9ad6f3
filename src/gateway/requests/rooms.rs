//! Rooms: who is to be in them, and which are listed.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Fault, Invalid, end::DisconnectRequest, fields::or_default, time};
use crate::{
    connection::{ConnectionId, MAX_ROOM_CHARS, NoRoom, check_room},
    ending::Ending,
    gateway::Target,
    registry::Lasting,
};

/// What names of rooms begin with that nobody can be in.
const DEVICE_ROOM: &str = "device:";

/// A user's lasting membership in a room. Everything is optional, the body as well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"namespace": "/", "until": "2030-01-08T00:00:00Z"}))]
pub struct KeepRequest {
    /// The namespace of the room. A missing leading slash is added.
    #[schema(default = "/")]
    pub namespace: Option<String>,
    /// Until when. Absent: until it is undone.
    #[serde(default, deserialize_with = "time::optional")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

impl KeepRequest {
    /// Until when, as of `now`.
    ///
    /// # Errors
    ///
    /// An end that is not in the future.
    pub fn until(&self, now: Timestamp) -> Result<Option<Timestamp>, Invalid> {
        match self.until {
            Some(until) if until <= now => Err(Invalid::new(
                Fault::InvalidTime,
                "until: must be in the future",
            )),
            until => Ok(until),
        }
    }
}

/// How the connections in a room end. Everything is optional, the body as well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"namespace": "/", "reason": "The meeting is over"}))]
pub struct EndRoomRequest {
    /// The namespace of the room. A missing leading slash is added.
    #[schema(default = "/")]
    pub namespace: Option<String>,
    /// What people are told, in place of the code's own text.
    #[schema(max_length = 512)]
    pub reason: Option<String>,
    /// As for the end of a user's connections.
    #[schema(minimum = 4000, maximum = 4999, default = 4500)]
    pub code: Option<i64>,
    /// Whether clients are to come back.
    #[schema(default = false)]
    pub reconnect: Option<bool>,
    /// Connections that stay; at most 1,000.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(max_items = 1000)]
    pub except: Vec<ConnectionId>,
    /// Whether the tokens of the users whose connections end are refused from here on, if they were issued before. That ends all
    /// that these users have, in other rooms and namespaces too.
    #[schema(default = false)]
    pub revoke_tokens: Option<bool>,
}

impl EndRoomRequest {
    /// The namespace; how the connections end; and those that stay.
    ///
    /// # Errors
    ///
    /// As for the end of a user's connections.
    pub fn parts(self) -> Result<(Option<String>, Ending, Vec<ConnectionId>), Invalid> {
        let of_user = DisconnectRequest {
            reason: self.reason,
            code: self.code,
            reconnect: self.reconnect,
            except: Some(self.except),
            revoke_tokens: None,
        };
        let ending = of_user.ending()?;
        Ok((self.namespace, ending, of_user.excepted()?))
    }
}

/// A user's lasting membership in a room.
#[derive(Debug, Serialize, ToSchema)]
pub struct LastingAnswer {
    /// The room.
    pub room: String,
    /// Its namespace.
    pub namespace: String,
    /// Until when; `null`: until it is undone.
    #[serde(serialize_with = "time::show_optional")]
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

impl From<Lasting> for LastingAnswer {
    fn from(lasting: Lasting) -> Self {
        Self {
            room: lasting.room.name.to_string(),
            namespace: lasting.room.namespace.to_string(),
            until: lasting.until,
        }
    }
}

/// Text as the name of a room that can be joined.
///
/// # Errors
///
/// A text that is empty or longer than 200 characters, or one of Switchboard's own names.
pub fn room_name(text: String) -> Result<Arc<str>, Invalid> {
    check_room(&text).map_err(|problem| {
        let fault = match problem {
            NoRoom::Length => Fault::InvalidRoom,
            NoRoom::Reserved => Fault::ReservedRoom,
        };
        Invalid::new(fault, format!("room: {problem}"))
    })?;
    Ok(text.into())
}

/// The members of a room that an event is for.
///
/// # Errors
///
/// A text that is empty or longer than 200 characters, but for a user's room; a device's: that is no room.
pub fn room_target(text: String) -> Result<Target, Invalid> {
    if text.starts_with(DEVICE_ROOM) {
        return Err(Invalid::new(
            Fault::InvalidTarget,
            "room: a device is a user's, and no room: send to the user with `device`",
        ));
    }
    match Target::room(text) {
        Target::Room(room) if room.is_empty() => {
            Err(Invalid::new(Fault::InvalidTarget, "room: empty"))
        }
        Target::Room(room) if room.chars().nth(MAX_ROOM_CHARS).is_some() => Err(Invalid::new(
            Fault::InvalidRoom,
            format!("room: {}", NoRoom::Length),
        )),
        Target::User(user) => Ok(Target::User(super::user_id(user.as_str().to_owned())?)),
        target => Ok(target),
    }
}

/// The namespace that a request names, `/` if it names none; `known` tells which there are.
///
/// # Errors
///
/// One that the configuration does not have.
pub fn namespace(given: Option<String>, known: impl Fn(&str) -> bool) -> Result<String, Invalid> {
    let namespace = match given {
        None => "/".to_owned(),
        Some(path) if path.starts_with('/') => path,
        Some(path) => format!("/{path}"),
    };
    match known(&namespace) {
        true => Ok(namespace),
        false => Err(Invalid::new(
            Fault::UnknownNamespace,
            format!("namespace: there is no {namespace:?}"),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_room_has_a_name_of_its_own() {
        let fault = |text: &str| room_name(text.to_owned()).map_err(|it| it.fault);
        assert_eq!(fault("chat:1"), Ok("chat:1".into()));
        assert_eq!(fault(&"é".repeat(200)).unwrap().chars().count(), 200);
        assert_eq!(fault(""), Err(Fault::InvalidRoom));
        assert_eq!(fault(&"é".repeat(201)), Err(Fault::InvalidRoom));
        for own in ["user:42", "role:admin", "device:phone", "user:"] {
            assert_eq!(fault(own), Err(Fault::ReservedRoom), "{own}");
        }
        assert!(fault("users:1").is_ok());
    }

    #[test]
    fn an_event_for_a_user_s_room_is_the_user_s() {
        let target = |text: &str| room_target(text.to_owned()).map_err(|it| it.fault);
        assert_eq!(target("user:42"), Ok(Target::User("42".into())));
        assert_eq!(target("role:admin"), Ok(Target::Room("role:admin".into())));
        assert_eq!(target("chat"), Ok(Target::Room("chat".into())));
        assert_eq!(target("user:"), Err(Fault::InvalidUser));
        assert_eq!(target("device:phone"), Err(Fault::InvalidTarget));
        assert_eq!(target(""), Err(Fault::InvalidTarget));
        assert_eq!(target(&"x".repeat(201)), Err(Fault::InvalidRoom));
    }

    #[test]
    fn a_membership_ends_in_the_future_or_never() {
        let until = |seconds| {
            let until = Timestamp::from_second(seconds).ok();
            let request = KeepRequest {
                until,
                ..KeepRequest::default()
            };
            request.until(Timestamp::UNIX_EPOCH).is_ok()
        };
        assert!(until(1) && !until(0) && !until(-1));
        let never = KeepRequest::default();
        assert_eq!(never.until(Timestamp::UNIX_EPOCH), Ok(None));
    }
}
