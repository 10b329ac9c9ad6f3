//! What a client answers to an event, as it came.

use std::{fmt, io};

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Serializer, ser::Formatter};

use crate::gateway::arg::BASE64;

/// The first argument of an acknowledgement, as JSON text, in which binary is `{"$base64": "…"}`; null if there is none.
pub(super) struct FirstArgument(pub(super) Box<str>);

impl<'de> Deserialize<'de> for FirstArgument {
    /// As a tuple, which is how socketioxide tells all of an acknowledgement's arguments from the first alone: the first alone
    /// can't be read as text.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Arguments;

        impl<'de> Visitor<'de> for Arguments {
            type Value = Box<str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the arguments of an acknowledgement")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Box<str>, A::Error> {
                let first = all.next_element::<Text>()?;
                while all.next_element::<IgnoredAny>()?.is_some() {}
                Ok(first.map_or_else(|| "null".into(), |Text(text)| text))
            }
        }

        from.deserialize_tuple(1, Arguments).map(Self)
    }
}

/// A value as JSON text. It is written as it is read: a tree of values may take up to 93 times as much, and nobody here reads it.
struct Text(Box<str>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut to = Serializer::with_formatter(Vec::new(), BinaryAsBase64);
        serde_transcode::transcode(from, &mut to).map_err(D::Error::custom)?;
        let text = String::from_utf8(to.into_inner()).map_err(D::Error::custom)?;
        Ok(Self(text.into()))
    }
}

/// Writes compact JSON, and bytes as `{"$base64": "…"}`.
struct BinaryAsBase64;

impl Formatter for BinaryAsBase64 {
    fn write_byte_array<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        bytes: &[u8],
    ) -> io::Result<()> {
        let text = Base64Display::new(bytes, &STANDARD);
        write!(to, "{{\"{BASE64}\":\"{text}\"}}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::de::{IntoDeserializer, value::Error};
    use serde_json::json;

    use super::*;
    use crate::gateway::arg::Arg;

    #[test]
    fn text_is_what_came_and_binary_becomes_base64() {
        let json = json!({"a\"": [1, -2, 0.5, u64::MAX, "\u{0}ü", null], "b": {"$base64": "AQID"}});
        let arg = Arg::from(json.clone());
        let text = Text::deserialize(IntoDeserializer::<Error>::into_deserializer(arg)).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text.0).unwrap(),
            json
        );
    }
}
