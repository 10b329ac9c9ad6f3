//! The parts that the registry is divided into, and the ids that lead to them.

use serde::{Deserialize, Serialize};

use crate::connection::{ConnectionId, UserId};

/// One of the parts that the registry is divided into. A user is in one of them, with all its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(u8);

impl Shard {
    /// The first one.
    pub const FIRST: Self = Self(0);

    /// Its number, below [`Shards::count`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The one that a hexadecimal digit names, as the first layout's keys did.
    pub(crate) fn of_hex(digit: u8) -> Option<Self> {
        let number = char::from(digit).to_digit(16)?;
        (!digit.is_ascii_uppercase()).then_some(Self(number as u8))
    }

    /// The character that ids of the shard begin with.
    pub(crate) fn digit(self) -> char {
        char::from(DIGITS[self.index()])
    }
}

/// How many shards a registry has: a power of two up to 64, 16 by default. All nodes of a fleet have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Shards(u8);

/// The shard as an id says it, in one character.
const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";

/// Length of a [`ConnectionId`]: the shard's digit and 128 bits as URL-safe base64.
const ID_LENGTH: usize = 23;

impl Default for Shards {
    fn default() -> Self {
        Self(16)
    }
}

impl TryFrom<u8> for Shards {
    type Error = String;

    fn try_from(count: u8) -> Result<Self, String> {
        match count.is_power_of_two() && usize::from(count) <= DIGITS.len() {
            true => Ok(Self(count)),
            false => Err(format!("{count} is not one of 1, 2, 4, 8, 16, 32 and 64")),
        }
    }
}

impl From<Shards> for u8 {
    fn from(shards: Shards) -> Self {
        shards.0
    }
}

impl Shards {
    /// How many there are.
    pub fn count(self) -> usize {
        usize::from(self.0)
    }

    /// All of them, in order.
    pub fn all(self) -> impl Iterator<Item = Shard> {
        self.starting_at(Shard::FIRST)
    }

    /// One of them and those that follow it.
    pub fn starting_at(self, first: Shard) -> impl Iterator<Item = Shard> {
        (first.0..self.0).map(Shard)
    }

    /// The shard of a user: the same on every node and in every version, by 32-bit FNV-1a, folded.
    pub fn of_user(self, user: &UserId) -> Shard {
        self.of_bytes(user.as_str().bytes())
    }

    /// The shard of what a name leads to, by 32-bit FNV-1a, folded.
    pub(crate) fn of_bytes(self, bytes: impl Iterator<Item = u8>) -> Shard {
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let folded = hash ^ (hash >> 16);
        let folded = folded ^ (folded >> 8) ^ (folded >> 4);
        Shard(folded as u8 & (self.0 - 1))
    }

    /// The shard of what is found by a digest.
    pub fn of_digest(self, digest: &[u8; 32]) -> Shard {
        Shard(digest[0] & (self.0 - 1))
    }

    /// The shard that an id says it is of; none if it is not of the shape that the registry gives out.
    pub fn of_id(self, id: &ConnectionId) -> Option<Shard> {
        self.of_text(id.as_str())
    }

    /// Any of them.
    pub(crate) fn random(self) -> Shard {
        Shard(rand::random::<u8>() % self.0)
    }

    /// The shard that an id of whatever kind says it is of.
    pub(crate) fn of_text(self, text: &str) -> Option<Shard> {
        let is_shaped = text.len() == ID_LENGTH && text.bytes().all(|byte| DIGITS.contains(&byte));
        let first = text.bytes().next().filter(|_| is_shaped)?;
        let digits = &DIGITS[..self.count()];
        let number = digits.iter().position(|digit| *digit == first)?;
        Some(Shard(number as u8))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const EVERY_NUMBER: [u8; 7] = [1, 2, 4, 8, 16, 32, 64];

    fn shards(count: u8) -> Shards {
        count.try_into().unwrap()
    }

    #[test]
    fn the_shard_of_a_user_never_changes() {
        // Nodes of several versions share a registry while a fleet is upgraded.
        let users = ["1", "42", "user:7", "é", "a\0b"].map(UserId::from);
        let of = |count: u8| users.clone().map(|user| shards(count).of_user(&user).0);
        assert_eq!(of(16), [2, 4, 2, 15, 8]);
        assert_eq!(of(64), [50, 4, 50, 15, 40]);
        assert_eq!(of(4), [2, 0, 2, 3, 0]);
    }

    #[test]
    fn ids_of_released_versions_keep_their_shards() {
        for (id, shard) in [
            ("0aBcZ_x-9012345678901ab", Some(0)),
            ("90123456789012345678901", Some(9)),
            ("abcdefghijklmnopqrstuvw", Some(10)),
            ("f----------------------", Some(15)),
            ("g1234567890123456789012", None),
            ("A1234567890123456789012", None),
        ] {
            let found = Shards::default().of_id(&id.into());
            assert_eq!(found.map(|shard| shard.0), shard, "{id}");
        }
    }

    #[test]
    fn users_spread_over_the_shards() {
        for count in EVERY_NUMBER {
            let mut counts = vec![0_u32; count.into()];
            for user in 0..1000 * u32::from(count) {
                counts[shards(count).of_user(&user.to_string().into()).index()] += 1;
            }
            assert!(
                counts.iter().all(|count| (800..1200).contains(count)),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn other_numbers_of_shards_are_refused() {
        for wrong in [0, 3, 15, 17, 48, 65, 128, 255] {
            let refused = Shards::try_from(wrong).unwrap_err();
            assert!(refused.starts_with(&format!("{wrong} is not")), "{refused}");
        }
    }
}
