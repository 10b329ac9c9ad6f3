//! The parts that the registry is divided into, and the ids that lead to them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Entry, Family, LoginId, RegistryError, Room};
use crate::connection::{ConnectionId, Instance, UserId};

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
    pub(super) fn of_hex(digit: u8) -> Option<Self> {
        let number = char::from(digit).to_digit(16)?;
        (!digit.is_ascii_uppercase()).then_some(Self(number as u8))
    }

    fn digit(self) -> char {
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

    /// The shard of a room: the same on every node and in every version, as of a user with its namespace, a zero byte and its name.
    pub fn of_room(self, room: &Room) -> Shard {
        let namespace = room.namespace.bytes().chain([0]);
        self.of_bytes(namespace.chain(room.name.bytes()))
    }

    fn of_bytes(self, bytes: impl Iterator<Item = u8>) -> Shard {
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

    /// The shard that the id of a refresh family says it is of; none if it is not of the shape that the registry gives out.
    pub fn of_family(self, id: &LoginId) -> Option<Shard> {
        self.of_text(id.as_str())
    }

    fn of_text(self, text: &str) -> Option<Shard> {
        let is_shaped = text.len() == ID_LENGTH && text.bytes().all(|byte| DIGITS.contains(&byte));
        let first = text.bytes().next().filter(|_| is_shaped)?;
        let digits = &DIGITS[..self.count()];
        let number = digits.iter().position(|digit| *digit == first)?;
        Some(Shard(number as u8))
    }

    /// The shard of an entry; none if there can't be such an entry, as its id is made up or another user's.
    pub fn of_entry(self, entry: &Entry) -> Option<Shard> {
        let shard = self.of_id(&entry.id)?;
        match &entry.user {
            Some(user) => (self.of_user(user) == shard).then_some(shard),
            None => Some(shard),
        }
    }

    /// A new id: in its user's shard, or for a guest in any. It says which node has it, if that is known.
    pub fn new_id(self, user: Option<&UserId>, node: Option<&Instance>) -> ConnectionId {
        let shard = user.map_or_else(
            || Shard(rand::random::<u8>() % self.0),
            |user| self.of_user(user),
        );
        let id = ConnectionId::random(shard.digit());
        match node {
            Some(node) => format!(
                "{}{}{}",
                shard.digit(),
                mark(node),
                &id.as_str()[1 + MARK..]
            )
            .into(),
            None => id,
        }
    }

    /// A new id for a family of `user`, of the same shape.
    pub fn new_family_id(self, user: &UserId) -> LoginId {
        ConnectionId::random(self.of_user(user).digit())
            .as_str()
            .into()
    }

    /// The shard of a family that is to be opened.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Corrupt`] if its id is made up or another user's.
    pub fn of_opened(self, family: &Family) -> Result<Shard, RegistryError> {
        self.of_family(&family.id)
            .filter(|shard| *shard == self.of_user(&family.user))
            .ok_or_else(|| {
                RegistryError::Corrupt(format!("id {:?} is not one for its user", family.id))
            })
    }
}

/// Characters of an id that stand for the node that gave it out: which of a hundred nodes has it is then one look.
const MARK: usize = 3;

/// What ids of a node have behind their shard's digit.
pub(super) fn mark(node: &Instance) -> String {
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(node.as_str()));
    digest[..MARK].to_owned()
}

/// The mark that an id has.
pub(super) fn mark_of(id: &ConnectionId) -> Option<&str> {
    id.as_str().get(1..=MARK)
}

/// Whether an id has this mark: its node may be the one that gave it out.
pub(super) fn is_marked(id: &ConnectionId, mark: &str) -> bool {
    mark_of(id) == Some(mark)
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
    fn an_id_leads_to_its_users_shard_and_made_up_ones_lead_nowhere() {
        for count in EVERY_NUMBER {
            let shards = shards(count);
            for user in (0..200).map(|n| UserId::from(n.to_string())) {
                let id = shards.new_id(Some(&user), None);
                assert_eq!(id.as_str().len(), ID_LENGTH);
                assert_eq!(shards.of_id(&id), Some(shards.of_user(&user)));
                let family = shards.new_family_id(&user);
                assert_eq!(shards.of_family(&family), Some(shards.of_user(&user)));
                let entry = |user: &UserId| Entry {
                    user: Some(user.clone()),
                    id: id.clone(),
                };
                let shard = shards.of_entry(&entry(&user));
                assert_eq!(shard, Some(shards.of_user(&user)));
                let other = UserId::from(format!("{user} and somebody"));
                let elsewhere = shards.of_user(&other) != shards.of_user(&user);
                assert_eq!(shards.of_entry(&entry(&other)).is_none(), elsewhere);
            }
            let guest = shards.new_id(None, Some(&"one".into()));
            assert!(shards.of_id(&guest).is_some());
        }
        for wrong in [
            "",
            "a",
            "é",
            "A123456789012345678901_",
            "g1234567890123456789012",
            "a12345678901234567890:2",
        ] {
            assert_eq!(Shards::default().of_id(&wrong.into()), None, "{wrong}");
        }
    }

    #[test]
    fn other_numbers_of_shards_are_refused() {
        for wrong in [0, 3, 15, 17, 48, 65, 128, 255] {
            let refused = Shards::try_from(wrong).unwrap_err();
            assert!(refused.starts_with(&format!("{wrong} is not")), "{refused}");
        }
    }

    #[test]
    fn an_id_says_which_node_gave_it_out() {
        let (one, two) = (Instance::from("one"), Instance::from("two"));
        let id = Shards::default().new_id(None, Some(&one));
        assert!(Shards::default().of_id(&id).is_some());
        assert!(is_marked(&id, &mark(&one)) && !is_marked(&id, &mark(&two)));
    }
}
