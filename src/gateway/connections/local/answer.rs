//! What a client answers to an event, as it came.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The first argument of an acknowledgement, as JSON text; null if there is none, or if it has attachments. A tree of values may take up to 93 times as
/// much, and nobody here reads it.
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
                let first = all.next_element::<Box<RawValue>>()?;
                while all.next_element::<IgnoredAny>()?.is_some() {}
                let text: Box<str> = first.map_or_else(|| "null".into(), Into::into);
                // What stands for an attachment says nothing without it.
                Ok(if text_has_attachment(&text) {
                    "null".into()
                } else {
                    text
                })
            }
        }

        from.deserialize_tuple(1, Arguments).map(Self)
    }
}

/// Whether a JSON text holds the placeholder of an attachment, as Socket.IO's clients write it.
fn text_has_attachment(text: &str) -> bool {
    text.contains(r#""_placeholder":true"#)
}
