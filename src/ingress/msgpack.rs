//! MessagePack as emitters write it, read as JSON in which binary is `{"$base64": "…"}`.

use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::Refused;
use crate::gateway::handlers::Arg;

/// How deep a message may be nested. Its own lists and maps are three deep; binary in an argument is one more level of JSON, which is
/// read to 128.
const MAX_DEPTH: usize = 100;

/// Reads one value, which must be all that there is.
///
/// # Errors
///
/// [`Refused::Unreadable`] if it is none, is nested deeper than 100 levels, or has an extension that no emitter writes.
pub(crate) fn read(payload: &[u8]) -> Result<Value, Refused> {
    let mut rest = payload;
    let mut reader = rmp_serde::Deserializer::new(&mut rest);
    reader.set_max_depth(MAX_DEPTH);
    let read = Read::deserialize(&mut reader);
    match (read, rest) {
        (Ok(Read(value)), []) => Ok(value.unwrap_or_default()),
        _ => Err(Refused::Unreadable),
    }
}

/// A value; none for JavaScript's `undefined`.
struct Read(Option<Value>);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue)
    }
}

struct AnyValue;

macro_rules! visit {
    ($($visit:ident: $type:ty;)*) => {
        $(fn $visit<E>(self, value: $type) -> Result<Read, E> {
            Ok(Read(Some(value.into())))
        })*
    };
}

impl<'de> Visitor<'de> for AnyValue {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of MessagePack")
    }

    visit! {
        visit_bool: bool;
        visit_i64: i64;
        visit_u64: u64;
        visit_f64: f64;
        visit_str: &str;
    }

    fn visit_unit<E>(self) -> Result<Read, E> {
        Ok(Read(Some(Value::Null)))
    }

    /// Binary; also a text that is no UTF-8, as PHP writes binary.
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Read, E> {
        Ok(Read(Some(binary(bytes))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Read, A::Error> {
        let mut list = Vec::new();
        while let Some(Read(value)) = all.next_element()? {
            list.push(value.unwrap_or_default());
        }
        Ok(Read(Some(list.into())))
    }

    /// What is undefined is left out, as JSON.stringify does.
    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Read, A::Error> {
        let mut map = Map::new();
        while let Some((Name(name), Read(value))) = all.next_entry()? {
            if let Some(value) = value {
                map.insert(name, value);
            }
        }
        Ok(Read(Some(map.into())))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Read, D::Error> {
        let (kind, data) = <(i8, Bytes)>::deserialize(from)?;
        extension(kind, &data)
            .map(Read)
            .ok_or_else(|| D::Error::custom("an extension that no emitter writes"))
    }
}

/// The key of a map: a text, or a number, which PHP has as keys.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Read::deserialize(from)?.0 {
            Some(Value::String(name)) => Ok(Self(name)),
            Some(Value::Number(name)) => Ok(Self(name.to_string())),
            _ => Err(D::Error::custom("a key that is no text")),
        }
    }
}

/// What notepack.io 3 writes, the encoder of `@socket.io/redis-emitter`: `undefined`, an ArrayBuffer, a Date. Some of `None` is
/// `undefined`.
fn extension(kind: i8, data: &[u8]) -> Option<Option<Value>> {
    match (kind, data) {
        (0, [0]) => Some(None),
        (0, bytes) => Some(Some(binary(bytes))),
        (-1, data) => Some(Some(format!("{:.3}", time(data)?).into())),
        _ => None,
    }
}

/// A time as MessagePack has it, in 4, 8 or 12 bytes.
fn time(data: &[u8]) -> Option<Timestamp> {
    let (seconds, nanoseconds) = match data.len() {
        4 => (i64::from(u32::from_be_bytes(data.try_into().ok()?)), 0),
        8 => {
            let both = u64::from_be_bytes(data.try_into().ok()?);
            let seconds = i64::try_from(both & 0x3_ffff_ffff).ok()?;
            (seconds, u32::try_from(both >> 34).ok()?)
        }
        12 => {
            let (nanoseconds, seconds) = data.split_at(4);
            let nanoseconds = u32::from_be_bytes(nanoseconds.try_into().ok()?);
            (i64::from_be_bytes(seconds.try_into().ok()?), nanoseconds)
        }
        _ => return None,
    };
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

fn binary(bytes: &[u8]) -> Value {
    Arg::Binary(Bytes::copy_from_slice(bytes)).to_json()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_javascript_has_and_json_has_not() {
        for (bytes, value) in [
            // new Date(0), in 4 bytes; with milliseconds, in 8; of 1601, in 12.
            (
                &[0xd6, 0xff, 0, 0, 0, 0][..],
                json!("1970-01-01T00:00:00.000Z"),
            ),
            (
                &[0xd7, 0xff, 0x77, 0x35, 0x94, 0x00, 0, 0, 0, 1],
                json!("1970-01-01T00:00:01.500Z"),
            ),
            (
                &[
                    0xc7, 12, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                ],
                json!("1969-12-31T23:59:59.000Z"),
            ),
            (&[0xc7, 2, 0, 1, 2], json!({"$base64": "AQI="})),
            (&[0xc4, 1, 7], json!({"$base64": "Bw=="})),
            (&[0xa1, 0xff], json!({"$base64": "/w=="})),
            // [undefined], {a: undefined}, {1: 2}, and NaN.
            (&[0x91, 0xd4, 0, 0], json!([null])),
            (&[0x81, 0xa1, b'a', 0xd4, 0, 0], json!({})),
            (&[0x81, 1, 2], json!({"1": 2})),
            (&[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], json!(null)),
        ] {
            assert_eq!(read(bytes), Ok(value), "{bytes:x?}");
        }
        for bytes in [
            &[0xd4, 5, 0][..],
            &[0xd5, 0xff, 0, 0],
            &[0xd7, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1],
            &[0x81, 0x90, 1],
            &[0xc1],
            &[],
        ] {
            assert_eq!(read(bytes), Err(Refused::Unreadable), "{bytes:x?}");
        }
    }
}
