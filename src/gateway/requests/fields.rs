//! How the fields of bodies are read, where that is not what serde derives.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

/// From here on a float no longer tells one integer from the next.
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// For optional fields whose `null` is a value: absent is none, `null` is some null.
pub fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// For fields that may be left out: `null` leaves them out, too.
pub fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What is written as an object. The types that serde derives also take a list of their fields, in the order of the source.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// For optional fields that are written as an object.
pub fn object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let object: Option<Object<T>> = Option::deserialize(deserializer)?;
    Ok(object.map(|Object(value)| value))
}

/// A user's id in a body: text, or an integer, which stands for its digits as it does in the `sub` of a token.
#[derive(Clone, Debug)]
pub struct GivenUser(pub String);

impl<'de> Deserialize<'de> for GivenUser {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Id;

        impl Visitor<'_> for Id {
            type Value = GivenUser;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a user's id: a string or an integer")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GivenUser, E> {
                Ok(GivenUser(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<GivenUser, E> {
                Ok(GivenUser(text))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<GivenUser, E> {
                Ok(GivenUser(number.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<GivenUser, E> {
                Ok(GivenUser(number.to_string()))
            }

            /// `42.0` is how some write 42.
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<GivenUser, E> {
                if number.fract() == 0.0 && number.abs() <= MAX_EXACT_FLOAT {
                    Ok(GivenUser((number as i64).to_string()))
                } else {
                    Err(E::invalid_type(Unexpected::Float(number), &self))
                }
            }
        }

        deserializer.deserialize_any(Id)
    }
}
