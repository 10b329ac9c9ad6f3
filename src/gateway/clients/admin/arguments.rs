//! The arguments of the administrators' events.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::AdminError;
use crate::{connection::UserId, gateway::requests::user_id};

/// Which page of the users.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListUsers {
    pub(super) limit: Option<i64>,
    pub(super) cursor: Option<String>,
}

/// For a verb that takes a user and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

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

    /// The user, if one is named, and the other fields: an object that names the `user` (or `userId`) among its fields, or a
    /// user alone, or with an object of the rest behind it. A user is a text or a whole number, which is kept as a text, and
    /// somebody.
    pub(super) fn parts(self) -> Result<Arguments, AdminError> {
        let unacceptable = |what: &str| Err(AdminError::Unacceptable(what.into()));
        if self.more > 0 {
            return unacceptable("the arguments: too many");
        }
        let (mut fields, lead) = match (self.first, self.second) {
            (Value::Null, Value::Null) => (Map::new(), None),
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
            (None, _) => return Ok(Arguments { user: None, fields }),
            (Some(_), Some(_)) => return unacceptable("user: given twice"),
            (Some(Value::String(user)), None) => user,
            (Some(Value::Number(user)), None) if !user.is_f64() => user.to_string(),
            (Some(_), None) => return unacceptable("user: a text or a whole number"),
        };
        let user = Some(user_id(user)?);
        Ok(Arguments { user, fields })
    }
}

/// The user that a verb is about, if it names one, and its other fields.
#[derive(Debug, PartialEq)]
pub(super) struct Arguments {
    user: Option<UserId>,
    fields: Map<String, Value>,
}

impl Arguments {
    /// Reads what a verb takes that is about nobody.
    pub(super) fn of_nobody<T: DeserializeOwned>(self) -> Result<T, AdminError> {
        match self.user {
            None => Ok(serde_json::from_value(self.fields.into())?),
            Some(_) => Err(AdminError::Unacceptable("user: none is asked for".into())),
        }
    }

    /// The user, and what a verb takes besides.
    pub(super) fn of_user<T: DeserializeOwned>(self) -> Result<(UserId, T), AdminError> {
        let missing = || AdminError::Unacceptable("user: missing".into());
        let user = self.user.ok_or_else(missing)?;
        Ok((user, serde_json::from_value(self.fields.into())?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What becomes of the arguments of an event: an object with the user, or what is wrong.
    fn object(all: Value) -> Result<Value, String> {
        let given: Given = serde_json::from_value(all).unwrap();
        let Arguments { user, mut fields } = given.parts().map_err(|denied| denied.to_string())?;
        fields.extend(user.map(|user| ("user".into(), user.as_str().into())));
        Ok(fields.into())
    }

    #[test]
    fn a_user_is_named_in_an_object_or_goes_before_it() {
        for (all, object_) in [
            (json!([]), json!({})),
            (json!([null]), json!({})),
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
