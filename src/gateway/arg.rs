//! An argument of an event: JSON in which binary has a place.

use std::{collections::VecDeque, fmt};

use base64::{DecodeError, Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        DeserializeOwned, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
    ser::{SerializeMap, SerializeTuple},
};
use serde_json::{Map, Number, Value};

/// The field that stands for binary in JSON.
pub(in crate::gateway) const BASE64: &str = "$base64";

/// An argument of an event, or a part of one: what JSON can say, and binary.
///
/// In JSON, binary is written `{"$base64": "…"}`, as the HTTP API does it. [`From<Value>`](serde_json::Value) reads that form
/// and [`Arg::to_json`] writes it. A type of one's own is read with [`Arg::read`].
///
/// ```
/// use serde_json::json;
/// use switchboard::Arg;
///
/// let arg = Arg::from(json!({"name": "a.png", "content": {"$base64": "AQID"}}));
/// assert_eq!(arg.get("name").and_then(Arg::as_str), Some("a.png"));
/// assert_eq!(arg.get("content").and_then(Arg::as_bytes), Some(&[1, 2, 3][..]));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Arg {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// Binary: an attachment of the packet.
    Binary(Bytes),
    /// A list.
    List(Vec<Arg>),
    /// An object; its fields in the order in which they came.
    Object(Vec<(String, Arg)>),
}

/// An argument that is not of the type asked for.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Mismatch(#[from] serde::de::value::Error);

impl Arg {
    /// Reads a type that serde knows. Binary becomes bytes, such as those of `serde_bytes` or [`Bytes`].
    ///
    /// # Errors
    ///
    /// [`Mismatch`], which says what was expected.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, Mismatch> {
        Ok(T::deserialize(self)?)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes, if it is binary.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A field, if it is an object that has it. Of a name that is there twice the last one counts, as in JavaScript.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(fields) => fields
                .iter()
                .rfind(|(field, _)| field == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// Returns the value as JSON; binary becomes `{"$base64": "…"}`.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.clone()),
            Self::Binary(bytes) => {
                let text = STANDARD.encode(bytes);
                Value::Object(Map::from_iter([(BASE64.to_owned(), text.into())]))
            }
            Self::List(all) => all.iter().map(Self::to_json).collect(),
            Self::Object(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone(), value.to_json()))
                .collect(),
        }
    }

    /// The bytes that an object of JSON stands for: `{"$base64": "…"}`; none if it stands for none.
    pub(in crate::gateway) fn binary(
        fields: &Map<String, Value>,
    ) -> Option<Result<Vec<u8>, DecodeError>> {
        match (fields.len(), fields.get(BASE64)) {
            (1, Some(Value::String(text))) => Some(STANDARD.decode(text)),
            _ => None,
        }
    }

    /// How many bytes it takes on the wire at the least.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 4,
            Self::Number(_) => 1,
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::List(all) => all.iter().map(Self::weight).sum(),
            Self::Object(fields) => fields
                .iter()
                .map(|(name, value)| name.len() + value.weight())
                .sum(),
        }
    }

    /// Puts attachments in place of what stands for them. Returns false if one is missing.
    pub(crate) fn attach(&mut self, attachments: &VecDeque<Bytes>) -> bool {
        match self {
            Self::Object(fields) => match attachment_number(fields) {
                Some(number) => match attachments.get(number) {
                    Some(bytes) => {
                        *self = Self::Binary(bytes.clone());
                        true
                    }
                    None => false,
                },
                None => fields
                    .iter_mut()
                    .all(|(_, value)| value.attach(attachments)),
            },
            Self::List(all) => all.iter_mut().all(|value| value.attach(attachments)),
            _ => true,
        }
    }
}

/// The number of the attachment that an object stands for: `{"_placeholder": true, "num": 0}`.
fn attachment_number(fields: &[(String, Arg)]) -> Option<usize> {
    let field = |name: &str| fields.iter().find(|(field, _)| field == name);
    let (Some((_, Arg::Bool(true))), Some((_, Arg::Number(number)))) =
        (field("_placeholder"), field("num"))
    else {
        return None;
    };
    number.as_u64()?.try_into().ok()
}

/// The arguments of an event, from the text of its packet, which is a list that begins with the event's name, and its
/// attachments. None if the text is not JSON, is nested deeper than 128 levels, or stands for an attachment that is not there.
///
/// socketioxide-parser-common 0.17.3 could read them too, but not an object whose first name has an escape in it.
pub(in crate::gateway) fn arguments(
    text: &str,
    attachments: Option<&VecDeque<Bytes>>,
) -> Option<Vec<Arg>> {
    let mut all: Vec<Arg> = serde_json::from_str(text).ok()?;
    if let Some(attachments) = attachments
        && !all.iter_mut().all(|arg| arg.attach(attachments))
    {
        return None;
    }
    all.drain(..all.len().min(1));
    Some(all)
}

/// Arguments that are sent. A tuple to serde, which is what socketioxide tells several arguments from a list by.
pub(in crate::gateway) struct Arguments<'a>(pub(in crate::gateway) &'a [Arg]);

impl Arguments<'_> {
    /// How many bytes they take on the wire at the least.
    pub(in crate::gateway) fn weight(&self) -> usize {
        self.0.iter().map(Arg::weight).sum()
    }
}

impl Serialize for Arguments<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut tuple = to.serialize_tuple(self.0.len())?;
        for arg in self.0 {
            tuple.serialize_element(arg)?;
        }
        tuple.end()
    }
}

impl From<Value> for Arg {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::Text(text),
            Value::Array(all) => Self::List(all.into_iter().map(Self::from).collect()),
            Value::Object(fields) => match Self::binary(&fields) {
                Some(Ok(bytes)) => Self::Binary(bytes.into()),
                _ => Self::Object(
                    fields
                        .into_iter()
                        .map(|(name, it)| (name, it.into()))
                        .collect(),
                ),
            },
        }
    }
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Bytes> for Arg {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

impl Serialize for Arg {
    /// Binary becomes bytes, which serde_json writes as a list of numbers: for JSON see [`Arg::to_json`].
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_unit(),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Number(number) => number.serialize(to),
            Self::Text(text) => to.serialize_str(text),
            Self::Binary(bytes) => to.serialize_bytes(bytes),
            Self::List(all) => all.serialize(to),
            Self::Object(fields) => {
                let mut map = to.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Arg {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyArg)
    }
}

struct AnyArg;

macro_rules! visit {
    ($($visit:ident: $type:ty => $variant:expr;)*) => {
        $(fn $visit<E>(self, value: $type) -> Result<Arg, E> {
            Ok($variant(value))
        })*
    };
}

impl<'de> Visitor<'de> for AnyArg {
    type Value = Arg;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an argument of an event")
    }

    visit! {
        visit_bool: bool => Arg::Bool;
        visit_i64: i64 => |number: i64| Arg::Number(number.into());
        visit_u64: u64 => |number: u64| Arg::Number(number.into());
        visit_f64: f64 => |number| Number::from_f64(number).map_or(Arg::Null, Arg::Number);
        visit_str: &str => Arg::from;
        visit_string: String => Arg::Text;
        visit_bytes: &[u8] => |bytes| Arg::Binary(Bytes::copy_from_slice(bytes));
        visit_byte_buf: Vec<u8> => |bytes: Vec<u8>| Arg::Binary(bytes.into());
    }

    fn visit_unit<E>(self) -> Result<Arg, E> {
        Ok(Arg::Null)
    }

    fn visit_none<E>(self) -> Result<Arg, E> {
        Ok(Arg::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Arg, D::Error> {
        Arg::deserialize(from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Arg, A::Error> {
        let mut list = Vec::new();
        while let Some(arg) = all.next_element()? {
            list.push(arg);
        }
        Ok(Arg::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Arg, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = all.next_entry()? {
            fields.push(field);
        }
        Ok(Arg::Object(fields))
    }
}

impl<'de> serde::de::IntoDeserializer<'de> for Arg {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Arg {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Bool(value) => visitor.visit_bool(value),
            Self::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (.., number) => visitor.visit_f64(number.unwrap_or(f64::NAN)),
            },
            Self::Text(text) => visitor.visit_string(text),
            Self::Binary(bytes) => visitor.visit_byte_buf(bytes.into()),
            Self::List(all) => {
                let mut list = SeqDeserializer::new(all.into_iter());
                let value = visitor.visit_seq(&mut list)?;
                list.end()?;
                Ok(value)
            }
            Self::Object(fields) => {
                let mut map = MapDeserializer::new(fields.into_iter());
                let value = visitor.visit_map(&mut map)?;
                map.end()?;
                Ok(value)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Self::Null => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self {
            Self::Text(variant) => {
                visitor.visit_enum(serde::de::IntoDeserializer::into_deserializer(variant))
            }
            Self::Object(fields) => visitor.visit_enum(MapAccessDeserializer::new(
                MapDeserializer::new(fields.into_iter()),
            )),
            other => other.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// An event that a newcomer gets right behind `ready`.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::gateway) struct Greeting {
    pub(in crate::gateway) event: String,
    pub(in crate::gateway) args: Vec<Arg>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(number: u32) -> Arg {
        Arg::Number(number.into())
    }

    #[test]
    fn attachments_stand_where_the_packet_says_by_their_number() {
        let attachments = VecDeque::from([Bytes::from("first"), Bytes::from("second")]);
        let text = r#"["e",{"_placeholder":true,"num":1},{"x":[{"num":0,"_placeholder":true}]},{"_placeholder":1}]"#;
        let args = arguments(text, Some(&attachments)).unwrap();
        let binary = |text: &'static str| Arg::Binary(text.into());
        let list = Arg::List(vec![binary("first")]);
        assert_eq!(args[0], binary("second"));
        assert_eq!(args[1], Arg::Object(vec![("x".into(), list)]));
        assert_eq!(args[2].to_json(), json!({"_placeholder": 1}));
        let missing = r#"["e",{"_placeholder":true,"num":2}]"#;
        assert_eq!(arguments(missing, Some(&attachments)), None);
        assert!(arguments(missing, None).is_some(), "no attachment is meant");
    }

    #[test]
    fn arguments_are_read_in_order_and_to_a_depth() {
        assert_eq!(arguments(r#"["e"]"#, None), Some(Vec::new()));
        let fields = [("b\"", 1), ("a", 2)].map(|(name, value)| (name.to_owned(), number(value)));
        let object = Arg::Object(fields.into());
        assert_eq!(
            arguments(r#"["e",{"b\"":1,"a":2},null]"#, None),
            Some(vec![object, Arg::Null])
        );
        let deep = format!("[\"e\",{}{}]", "[".repeat(200), "]".repeat(200));
        for unreadable in [deep.as_str(), "", "[", "{}", r#"["e",1e999]"#] {
            assert_eq!(arguments(unreadable, None), None, "{unreadable}");
        }
    }

    #[test]
    fn json_and_back_is_the_same() {
        let json = json!({"a": [1, -2, 0.5, "x", null, true], "b": {"$base64": "AQID"}});
        let arg = Arg::from(json.clone());
        assert_eq!(arg.get("b"), Some(&Arg::Binary(vec![1, 2, 3].into())));
        assert_eq!(arg.to_json(), json);
        for no_binary in [
            json!({"$base64": "?"}),
            json!({"$base64": 1}),
            json!({"$base64": "AQID", "x": 1}),
        ] {
            assert_eq!(Arg::from(no_binary.clone()).to_json(), no_binary);
        }
    }

    #[test]
    fn types_are_read_and_a_wrong_one_is_named() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Said {
            text: String,
            to: Option<u8>,
            #[serde(default)]
            kind: Kind,
        }
        #[derive(Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Kind {
            #[default]
            Plain,
            Coloured(String),
        }
        let arg = Arg::from(json!([{"text": "hi", "to": 7, "kind": "plain"}, null, [1, 2.5]]));
        let read: (Said, Option<bool>, Vec<f64>) = arg.read().unwrap();
        let (text, to) = ("hi".to_owned(), Some(7));
        let kind = Kind::Plain;
        assert_eq!(read, (Said { text, to, kind }, None, vec![1.0, 2.5]));
        let coloured: Kind = Arg::from(json!({"coloured": "red"})).read().unwrap();
        assert_eq!(coloured, Kind::Coloured("red".into()));
        let wrong = Arg::from("hi").read::<u8>().unwrap_err();
        assert!(wrong.to_string().contains("expected u8"), "{wrong}");
        let too_many = Arg::from(json!([1, 2])).read::<(u8,)>();
        assert!(too_many.is_err());
    }
}
