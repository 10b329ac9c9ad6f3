//! What a key can hold: how each type is read, shown, compared and checked.
//!
//! `serialize` and `deserialize` are for `#[serde(with = …)]`, which `section!` puts on every key.

use std::{
    fmt,
    marker::PhantomData,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Error as _, IntoDeserializer, SeqAccess, Visitor},
};

use super::{
    AuthRule, Fact, IngressVerb, KeySecret, LogFormat, PerUserPolicy, RedisMode, RedisUrl, Scope,
    WatchRule,
    key::{Key, Kind},
    print::{self, MASK},
    reload::Changes,
    validate::{Findings, readable},
};
use crate::shard::Shards;

/// Far beyond any use, and far below what overflows a clock.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// A value of a key, or a section with all of its keys.
pub(super) trait Value: Clone {
    /// How a variable of the environment becomes one.
    const KIND: Kind;
    /// Whether none is ever shown.
    const SECRET: bool = false;

    /// Reads one as an operator writes it.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;

    /// Reads a list, or one alone.
    fn read_list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Self>, D::Error> {
        from.deserialize_any(Texts(PhantomData))
    }

    /// Writes it so that it can be read back, but for what is secret.
    fn show<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error>;

    /// Whether the other is equal, secrets too.
    fn same(&self, other: &Self) -> bool;

    /// Becomes `new` if it differs and `key` may change while a node runs. Adds the key to `found` if it differs.
    fn reload(&mut self, new: &Self, key: &'static Key, found: &mut Changes) {
        if self.same(new) {
            return;
        }
        if key.reload {
            *self = new.clone();
            found.taken.push(key.path);
        } else {
            found.waiting.push(key.path);
        }
    }

    /// Adds what is wrong with it in itself. `at` is its path, with the index where it is in a list.
    fn check(&self, at: &str, key: &Key, findings: &mut Findings) {
        let _ = (at, key, findings);
    }
}

/// Writes the value of a key.
pub(super) fn serialize<T: Value, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    value.show(to)
}

/// Reads the value of a key.
pub(super) fn deserialize<'de, T: Value, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    T::read(from)
}

/// A value inside a list or an option.
#[derive(Deserialize, Serialize)]
#[serde(bound = "")]
struct Inner<T: Value>(#[serde(with = "self")] T);

impl<T: Value> Value for Option<T> {
    const KIND: Kind = T::KIND;
    const SECRET: bool = T::SECRET;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Option::deserialize(from).map(|value: Option<Inner<T>>| value.map(|Inner(value)| value))
    }

    fn show<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.clone().map(Inner).serialize(to)
    }

    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(one), Some(other)) => one.same(other),
            (None, None) => true,
            _ => false,
        }
    }

    fn check(&self, at: &str, key: &Key, findings: &mut Findings) {
        if let Some(value) = self {
            value.check(at, key, findings);
        }
    }
}

impl<T: Value> Value for Vec<T> {
    const KIND: Kind = match T::KIND {
        Kind::Section(table) => Kind::Tables(table),
        _ => Kind::List,
    };
    const SECRET: bool = T::SECRET;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read_list(from)
    }

    fn show<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter().cloned().map(Inner))
    }

    fn same(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other).all(|(one, other)| one.same(other))
    }

    fn check(&self, at: &str, key: &Key, findings: &mut Findings) {
        for (index, value) in self.iter().enumerate() {
            value.check(&format!("{at}.{index}"), key, findings);
        }
    }
}

/// Reads a list of values that are each written as a text, or one of them alone.
struct Texts<T>(PhantomData<T>);

impl<'de, T: Value> Visitor<'de> for Texts<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        T::read(text.into_deserializer()).map(|one| vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Inner(one)) = list.next_element()? {
            all.push(one);
        }
        Ok(all)
    }
}

/// Types that read and show themselves.
macro_rules! plain {
    ($($type:ty: $kind:ident $(, $check:ident)?;)*) => {$(
        impl Value for $type {
            const KIND: Kind = Kind::$kind;

            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::deserialize(from)
            }

            fn show<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                self.serialize(to)
            }

            fn same(&self, other: &Self) -> bool {
                self == other
            }

            $(fn check(&self, at: &str, key: &Key, findings: &mut Findings) {
                $check(self, at, key, findings);
            })?
        }
    )*};
}

plain! {
    bool: Bool;
    u32: Number, check_number;
    f64: Number, check_ratio;
    String: Text, check_text;
    PathBuf: Text, check_path;
    AuthRule: Text;
    IngressVerb: Text;
    LogFormat: Text;
    PerUserPolicy: Text;
    WatchRule: Text;
    RedisMode: Text;
    Scope: Text;
    Fact: Text;
    Shards: Number;
}

fn check_number(value: &u32, at: &str, key: &Key, findings: &mut Findings) {
    findings.expect(!key.positive || *value > 0, at, "must be at least 1");
}

fn check_ratio(value: &f64, at: &str, _: &Key, findings: &mut Findings) {
    findings.expect((0.0..=1.0).contains(value), at, "must be from 0 to 1");
}

fn check_text(value: &str, at: &str, key: &Key, findings: &mut Findings) {
    if let Some(Err(what)) = key.fits.map(|fits| fits(value)) {
        findings.add(at, what);
    }
}

fn check_path(path: &Path, at: &str, key: &Key, findings: &mut Findings) {
    if key.readable
        && let Err(what) = readable(path)
    {
        findings.add(at, what);
    }
}

/// A secret is never empty, and is not what a printout has in its place.
fn check_secret(value: &str, at: &str, key: &Key, findings: &mut Findings) {
    match value {
        "" => findings.add(at, "must not be empty"),
        MASK => findings.add(at, MASKED),
        _ => check_text(value, at, key, findings),
    }
}

pub(super) const MASKED: &str = "is masked: a printout of print-config holds no secrets";

/// Types that are read from a text, with what to say of another one.
macro_rules! parsed {
    ($($type:ty: $expected:literal;)*) => {$(
        impl Value for $type {
            const KIND: Kind = Kind::Text;

            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(|_| D::Error::custom(concat!("not ", $expected)))
            }

            fn show<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                self.serialize(to)
            }

            fn same(&self, other: &Self) -> bool {
                self == other
            }
        }
    )*};
}

parsed! {
    SocketAddr: "an IP address and a port such as 127.0.0.1:3000";
    IpNet: "a network such as 10.0.0.0/8 or 127.0.0.1/32";
}

impl Value for Duration {
    const KIND: Kind = Kind::Text;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        humantime_serde::deserialize(from)
    }

    fn show<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&print::duration(*self))
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn check(&self, at: &str, key: &Key, findings: &mut Findings) {
        // Redis and Engine.IO count in milliseconds.
        let is_short = key.positive && *self < Self::from_millis(1);
        findings.expect(!is_short, at, "must be at least 1ms");
        findings.expect(*self <= LONGEST, at, "must be at most 10 years");
    }
}

impl Value for ByteSize {
    const KIND: Kind = Kind::Text;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Size)
    }

    fn show<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&print::size(*self))
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn check(&self, at: &str, key: &Key, findings: &mut Findings) {
        if let Some((least, largest)) = key.within
            && !(least..=largest).contains(self)
        {
            let [size, least, largest] = [*self, least, largest].map(print::size);
            findings.add(at, format!("{size} is not from {least} to {largest}"));
        }
    }
}

/// Reads a size from a text, or from a number of bytes.
struct Size;

impl Visitor<'_> for Size {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as 64KB or 1MB")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
        u64::try_from(bytes)
            .map(ByteSize)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        text.trim()
            .parse()
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// Types that hold a secret text: how each is shown, and checked.
macro_rules! secret {
    ($($type:ty: $text:expr, $shown:expr, $check:expr;)*) => {$(
        impl Value for $type {
            const KIND: Kind = Kind::Text;
            const SECRET: bool = true;

            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                SecretString::deserialize(from).map(Into::into)
            }

            fn show<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&$shown($text(self)))
            }

            fn same(&self, other: &Self) -> bool {
                $text(self) == $text(other)
            }

            fn check(&self, at: &str, key: &Key, findings: &mut Findings) {
                $check($text(self), at, key, findings);
            }
        }
    )*};
}

secret! {
    SecretString: SecretString::expose_secret, |_| MASK, check_secret;
    KeySecret: KeySecret::text, |_| MASK, check_secret;
    RedisUrl: RedisUrl::expose_secret, print::masked_url, check_text;
}
