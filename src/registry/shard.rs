//! Which shard what the registry keeps is in, and the ids that lead there.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::{Entry, Family, LoginId, RegistryError, Room};
use crate::{
    connection::{ConnectionId, Instance, UserId},
    shard::{Shard, Shards},
};

impl Shards {
    /// The shard of a room: the same on every node and in every version, as of a user with its namespace, a zero byte and its name.
    pub fn of_room(self, room: &Room) -> Shard {
        let namespace = room.namespace.bytes().chain([0]);
        self.of_bytes(namespace.chain(room.name.bytes()))
    }

    /// The shard that the id of a refresh family says it is of; none if it is not of the shape that the registry gives out.
    pub fn of_family(self, id: &LoginId) -> Option<Shard> {
        self.of_text(id.as_str())
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
        let shard = user.map_or_else(|| self.random(), |user| self.of_user(user));
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

    /// Length of an id: the shard's character and 128 bits as URL-safe base64.
    const ID_LENGTH: usize = 23;

    #[test]
    fn an_id_leads_to_its_users_shard_and_made_up_ones_lead_nowhere() {
        for count in [1, 2, 4, 8, 16, 32, 64] {
            let shards = Shards::try_from(count).unwrap();
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
    fn an_id_says_which_node_gave_it_out() {
        let (one, two) = (Instance::from("one"), Instance::from("two"));
        let id = Shards::default().new_id(None, Some(&one));
        assert!(Shards::default().of_id(&id).is_some());
        assert!(is_marked(&id, &mark(&one)) && !is_marked(&id, &mark(&two)));
    }
}
