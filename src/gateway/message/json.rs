//! The arguments of a message: JSON as text, in which binary has a place.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use crate::gateway::arg::{Arg, BASE64};

/// JSON as text, which is serialized as what it says. A value becomes text once, where it comes in; from there on it is copied as
/// it is to every node and connection.
#[derive(Clone, Debug, ToSchema)]
#[schema(value_type = Value)]
pub struct Json(Box<RawValue>);

impl Json {
    /// The text of something that is serialized without fail, such as a [`serde_json::Value`].
    ///
    /// # Errors
    ///
    /// What [`serde_json`] says of a value that is no JSON, as a map is whose keys are not texts.
    pub fn of(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// A text that is JSON; none if it is not.
    pub(crate) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// The JSON that a client's text says; null if it is none, or is nested deeper than serde_json reads.
    pub(super) fn of_client(text: &str) -> Self {
        let is_json = serde_json::from_str::<serde_json::Value>(text).is_ok();
        let read = is_json.then(|| Self::read(text)).flatten();
        read.unwrap_or_else(|| Self(RawValue::NULL.to_owned()))
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Whether there may be binary in it. serde_json escapes no dollar sign.
    pub(super) fn may_hold_binary(&self) -> bool {
        self.text().contains(BASE64)
    }

    /// The value, with binary in its place.
    pub(super) fn to_arg(&self) -> Arg {
        let value: Value = serde_json::from_str(self.text()).unwrap_or_default();
        Arg::from(value)
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// Why the arguments of a message can't be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadArguments {
    /// Two ways to say them at once.
    #[error("data and args: one of them, not both")]
    Both,
    /// A text that stands for binary.
    #[error("{place}.{BASE64}: {error}")]
    Binary {
        /// Where it is, such as `args[1].file`.
        place: String,
        /// What is wrong with it.
        error: base64::DecodeError,
    },
    /// What can't be written.
    #[error("data: {0}")]
    Json(#[from] serde_json::Error),
}

/// The arguments of a message, of which a request says one as `data`, or all as `args`; neither: there are none.
pub(crate) fn arguments(
    data: Option<Value>,
    args: Option<Vec<Value>>,
) -> Result<Vec<Json>, BadArguments> {
    let args = match (data, args) {
        (Some(_), Some(_)) => return Err(BadArguments::Both),
        (Some(data), None) => {
            check_binary(&data, &mut "data".to_owned())?;
            vec![data]
        }
        (None, args) => {
            let args = args.unwrap_or_default();
            for (index, arg) in args.iter().enumerate() {
                check_binary(arg, &mut format!("args[{index}]"))?;
            }
            args
        }
    };
    Ok(args.iter().map(Json::of).collect::<Result<_, _>>()?)
}

/// Refuses what stands for binary and is no base64: clients would get the object as it is. `place` names the value.
pub(in crate::gateway) fn check_binary(
    value: &Value,
    place: &mut String,
) -> Result<(), BadArguments> {
    let length = place.len();
    let mut check = |value: &Value, step: &dyn fmt::Display| {
        write!(place, "{step}").ok();
        let checked = check_binary(value, place);
        place.truncate(length);
        checked
    };
    match value {
        Value::Object(fields) => match Arg::binary(fields) {
            Some(Err(error)) => Err(BadArguments::Binary {
                place: place.clone(),
                error,
            }),
            Some(Ok(_)) => Ok(()),
            None => fields
                .iter()
                .try_for_each(|(name, value)| check(value, &format_args!(".{name}"))),
        },
        Value::Array(all) => all
            .iter()
            .enumerate()
            .try_for_each(|(index, value)| check(value, &format_args!("[{index}]"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_serialized_as_what_it_says() {
        let value = json!({"a": [1, -2, 0.5, u64::MAX, "\u{0}ü\u{2028}", null]});
        let data = Json::of(&value).unwrap();
        assert_eq!(data.text(), value.to_string());
        assert_eq!(
            serde_json::to_string(&[&data]).unwrap(),
            format!("[{value}]")
        );
        assert_eq!(Json::read(data.text()), Some(data));
        for no_json in ["", "{", "1 2", "nul"] {
            assert_eq!(Json::read(no_json), None);
            assert_eq!(Json::of_client(no_json).text(), "null");
        }
    }
}
