//! The `auth` of a CONNECT packet, read without building what nobody looks at.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// The fields that are read.
const FIELDS: [&str; 2] = ["token", "deviceId"];

/// The `auth` of a CONNECT packet: an object of the fields `token` and `deviceId`, each a scalar or an empty list, or null
/// where the client sent no object.
///
/// A stranger sends this. As a tree of values it would take up to 93 times its text (measured: 874 KB of `[{"":0},…]`
/// take 81 MB), for as long as its handshake takes; so whatever is nested is read over.
#[derive(Clone, Debug, Default)]
pub struct ConnectPayload(Value);

impl ConnectPayload {
    /// The object, or null.
    pub fn value(&self) -> &Value {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ConnectPayload {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Fields).map(Self)
    }
}

/// A value with nothing nested in it: a list or an object counts as an empty list.
struct Flat(Value);

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Scalar).map(Self)
    }
}

macro_rules! visit_scalars {
    ($($visit:ident: $type:ty => $value:expr;)*) => {
        $(fn $visit<E>(self, value: $type) -> Result<Value, E> {
            Ok($value(value))
        })*

        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
            while all.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Value::Array(Vec::new()))
        }
    };
}

struct Scalar;

impl<'de> Visitor<'de> for Scalar {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    visit_scalars! {
        visit_bool: bool => Value::from;
        visit_i64: i64 => Value::from;
        visit_u64: u64 => Value::from;
        visit_f64: f64 => Value::from;
        visit_str: &str => Value::from;
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        while all.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the auth of a CONNECT packet")
    }

    visit_scalars! {
        visit_bool: bool => |_| Value::Null;
        visit_i64: i64 => |_| Value::Null;
        visit_u64: u64 => |_| Value::Null;
        visit_f64: f64 => |_| Value::Null;
        visit_str: &str => |_| Value::Null;
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = all.next_key::<String>()? {
            if FIELDS.contains(&&*name) {
                fields.insert(name, all.next_value::<Flat>()?.0);
            } else {
                all.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Option<Value> {
        let payload: Option<ConnectPayload> = serde_json::from_str(text).ok();
        payload.map(|payload| payload.0)
    }

    #[test]
    fn of_what_a_client_sends_two_flat_fields_are_kept() {
        for (text, kept) in [
            (
                r#"{"token":"t","deviceId":"d"}"#,
                json!({"token": "t", "deviceId": "d"}),
            ),
            (
                r#"{"token":null,"more":[[{"x":1}]]}"#,
                json!({"token": null}),
            ),
            (
                r#"{"token":1.5,"deviceId":{"a":{}}}"#,
                json!({"token": 1.5, "deviceId": []}),
            ),
            (r#"{"token":"a","token":"b"}"#, json!({"token": "b"})),
            (r#"{"token":[["a"]]}"#, json!({"token": []})),
            ("{}", json!({})),
            ("[]", json!([])),
            (r#"[{"":0},{"":0}]"#, json!([])),
            (r#""token""#, json!(null)),
            ("7", json!(null)),
            ("null", json!(null)),
        ] {
            assert_eq!(read(text), Some(kept), "{text}");
        }
        assert_eq!(read("{"), None);
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = 100_000;
        let text = format!(
            r#"{{"x":{}{},"token":"t"}}"#,
            "[".repeat(deep),
            "]".repeat(deep)
        );
        assert_eq!(read(&text), Some(json!({"token": "t"})));
        assert_eq!(read(&"[".repeat(deep)), None);
    }
}
