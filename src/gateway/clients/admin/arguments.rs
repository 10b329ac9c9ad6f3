//! The arguments of the administrators' events.

use std::fmt;

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::AdminError;
use crate::connection::{ConnectionId, UserId};

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
    #[serde(default, deserialize_with = "present")]
    pub(super) device: Option<String>,
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
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct BanUser {
    pub(super) user: UserId,
    pub(super) reason: Option<String>,
    pub(super) until: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RevokeTokens {
    pub(super) user: UserId,
    pub(super) issued_before: Option<Timestamp>,
}

/// An argument that is there, also when it is null.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn root() -> String {
    "/".into()
}

/// What an event came with, as far as any verb reads it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Given {
    /// Null if there is none.
    pub(crate) first: Value,
    second: Value,
    /// How many come after these.
    more: usize,
}

impl<'de> Deserialize<'de> for Given {
    /// As a tuple, which is how socketioxide tells all of an event's arguments from the first alone.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the arguments of an event")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Given, A::Error> {
                let first = all.next_element()?.unwrap_or_default();
                let second = all.next_element()?.unwrap_or_default();
                let mut more = 0;
                while all.next_element::<IgnoredAny>()?.is_some() {
                    more += 1;
                }
                Ok(Given {
                    first,
                    second,
                    more,
                })
            }
        }

        from.deserialize_tuple(2, All)
    }
}

impl Given {
    /// Who is meant, as it was written; null if nobody is.
    pub(super) fn whom(&self) -> Value {
        let named = ["user", "userId"].map(|name| self.first.get(name));
        let found = named.into_iter().flatten().next();
        match (&self.first, found) {
            (_, Some(user)) => user.clone(),
            (Value::String(_) | Value::Number(_), _) => self.first.clone(),
            _ => Value::Null,
        }
    }

    /// One object with all fields, or null for no argument: an object that names the `user` (or `userId`) is taken as it is;
    /// a user alone, or with an object of the rest behind it, is put into one. A user is a text or a whole number, which is
    /// kept as a text, and somebody.
    pub(super) fn object(self) -> Result<Value, AdminError> {
        let unacceptable = |what: &str| Err(AdminError::Unacceptable(what.into()));
        if self.more > 0 {
            return unacceptable("the arguments: too many");
        }
        let (mut fields, lead) = match (self.first, self.second) {
            (Value::Null, Value::Null) => return Ok(Value::Null),
            (Value::Object(fields), Value::Null) => (fields, None),
            (user @ (Value::String(_) | Value::Number(_)), Value::Null) => (Map::new(), Some(user)),
            (user @ (Value::String(_) | Value::Number(_)), Value::Object(fields)) => {
                (fields, Some(user))
            }
            _ => {
                return unacceptable(
                    "the arguments: an object, or a user and an object with the rest",
                );
            }
        };
        let named = [lead, fields.remove("user"), fields.remove("userId")];
        let mut named = named.into_iter().flatten();
        let user = match (named.next(), named.next()) {
            (None, _) => return Ok(Value::Object(fields)),
            (Some(_), Some(_)) => return unacceptable("user: given twice"),
            (Some(Value::String(user)), None) => user,
            (Some(Value::Number(user)), None) if !user.is_f64() => user.to_string(),
            (Some(_), None) => return unacceptable("user: a text or a whole number"),
        };
        let user = UserId::checked(user)
            .map_err(|problem| AdminError::Unacceptable(format!("user: {problem}")))?;
        fields.insert("user".into(), user.as_str().into());
        Ok(Value::Object(fields))
    }
}

/// Reads the fields of a verb. No argument is an object without any: what is missing is named.
pub(super) fn arguments<T: DeserializeOwned>(argument: Value) -> Result<T, AdminError> {
    let fields = match argument {
        Value::Null => Value::Object(Map::new()),
        argument => argument,
    };
    Ok(serde_json::from_value(fields)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What becomes of the arguments of an event: the object, or what is wrong.
    fn object(all: Value) -> Result<Value, String> {
        let given: Given = serde_json::from_value(all).unwrap();
        given.object().map_err(|denied| denied.to_string())
    }

    #[test]
    fn a_user_is_named_in_an_object_or_goes_before_it() {
        for (all, object_) in [
            (json!([]), json!(null)),
            (json!([null]), json!(null)),
            (json!([{}]), json!({})),
            (json!([{"limit": 2}]), json!({"limit": 2})),
            (json!([{"user": "42"}]), json!({"user": "42"})),
            (json!([{"user": "42"}, null]), json!({"user": "42"})),
            (json!([{"userId": "42"}]), json!({"user": "42"})),
            (json!([{"user": 42}]), json!({"user": "42"})),
            (
                json!([{"userId": -1, "code": 4003}]),
                json!({"user": "-1", "code": 4003}),
            ),
            (json!(["42"]), json!({"user": "42"})),
            (json!([42]), json!({"user": "42"})),
            (json!([u64::MAX]), json!({"user": "18446744073709551615"})),
            (json!(["42", null]), json!({"user": "42"})),
            (
                json!(["42", {"code": 4003}]),
                json!({"user": "42", "code": 4003}),
            ),
        ] {
            assert_eq!(object(all.clone()), Ok(object_), "{all}");
        }
    }

    #[test]
    fn what_else_is_given_is_said_to_be_wrong() {
        for (all, wrong) in [
            (json!([true]), "an object, or a user"),
            (json!([["42"]]), "an object, or a user"),
            (json!(["42", "43"]), "an object, or a user"),
            (
                json!([{"user": "42"}, {"code": 4003}]),
                "an object, or a user",
            ),
            (json!([null, {"user": "42"}]), "an object, or a user"),
            (json!(["42", {}, null]), "too many"),
            (json!(["42", {"user": "42"}]), "user: given twice"),
            (json!([{"user": "42", "userId": "42"}]), "user: given twice"),
            (json!([{"user": null}]), "user: a text or a whole number"),
            (json!([{"user": 4.5}]), "user: a text or a whole number"),
            (
                json!([{"userId": ["42"]}]),
                "user: a text or a whole number",
            ),
            (json!([4.5]), "user: a text or a whole number"),
            (json!([""]), "user: an id has 1 to 1024 bytes"),
            (json!(["x".repeat(1025)]), "user: an id has 1 to 1024 bytes"),
            (json!([{"user": ".."}]), "is not . or .."),
        ] {
            let outcome = object(all.clone());
            assert!(
                outcome.as_ref().is_err_and(|it| it.contains(wrong)),
                "{all}: {outcome:?}"
            );
        }
    }
}
