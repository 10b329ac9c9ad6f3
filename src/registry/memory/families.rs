//! Refresh families, in process memory. The readable definition of what `rotate.lua` does.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    MemoryRegistry,
    fences::{Expiring, later, now},
};
use crate::{
    connection::UserId,
    registry::{
        self, Family, FamilyToken, Grant, LoginId, RegistryError, Rotation, TokenHash, Turn,
        fence::to_millisecond, keys::Shards,
    },
};

#[derive(Debug, Default)]
pub(super) struct Families(Expiring<LoginId, Kept>);

#[derive(Debug)]
struct Kept {
    family: Family,
    opened: Timestamp,
    current: FamilyToken,
    /// The token that was replaced last, and when.
    previous: Option<(TokenHash, Timestamp)>,
    dead: Option<Death>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// By logging out; its connections have yet to be ordered to end.
    Closed,
    /// By a token that was used before; its connections have yet to be ordered to end.
    Reused,
    /// Its connections have been ordered to end.
    Over,
}

impl Families {
    /// Ends a family of this user, whose connections are being ordered to end.
    pub(super) fn end(&mut self, user: &UserId, id: &LoginId) {
        if let Some((kept, _)) = self.0.get_mut(id)
            && kept.family.user == *user
        {
            kept.dead = Some(Death::Over);
        }
    }

    /// Frees what is over.
    pub(super) fn forget(&mut self) {
        self.0.forget();
    }
}

#[async_trait]
impl registry::Families for MemoryRegistry {
    fn new_family_id(&self, user: &UserId) -> LoginId {
        Shards::default().new_family_id(user)
    }

    async fn open_family(
        &self,
        family: &Family,
        token: &FamilyToken,
    ) -> Result<Timestamp, RegistryError> {
        Shards::default().of_opened(family)?;
        let (opened, expires_at) = (now(), to_millisecond(family.expires_at));
        let kept = Kept {
            family: Family {
                expires_at,
                ..family.clone()
            },
            opened,
            current: *token,
            previous: None,
            dead: None,
        };
        let families = &mut self.store.lock().families.0;
        families.insert(family.id.clone(), kept, Some(expires_at));
        Ok(opened)
    }

    async fn rotate(
        &self,
        id: &LoginId,
        turn: Turn<'_>,
    ) -> Result<(Rotation, Option<Timestamp>), RegistryError> {
        let now = now();
        let answer = |rotation| Ok((rotation, Some(now)));
        let store = &mut *self.store.lock();
        let Some((kept, until)) = store.families.0.get_mut(id) else {
            return answer(Rotation::Unknown);
        };
        let presented = turn.presented;
        let current = presented.hash == kept.current.hash;
        let newer = !current && presented.number > kept.current.number;
        let repeated = kept.previous.is_some_and(|(previous, rotated)| {
            presented.hash == previous && later(rotated, turn.grace) >= now
        });
        match kept.dead {
            Some(Death::Closed | Death::Over) => return answer(Rotation::Unknown),
            None if current || repeated || newer => {}
            None | Some(Death::Reused) => {
                kept.dead = Some(Death::Reused);
                store.fences.end_session(&kept.family.user, id);
                return answer(Rotation::Reused(kept.family.clone()));
            }
        }
        let grant = Grant {
            issued_at: Some(kept.opened),
            session: Some(id.clone()),
            ..Grant::default()
        };
        if let Some(bar) = store.fences.barred(&kept.family.user, &grant, false) {
            return answer(Rotation::Refused(bar));
        }
        if repeated {
            return answer(Rotation::Repeated(kept.family.clone()));
        }
        kept.previous = Some((presented.hash, now));
        kept.current = *turn.successor;
        if let Some(renew) = turn.renew {
            kept.family.expires_at = later(now, renew);
            *until = Some(kept.family.expires_at);
        }
        let family = kept.family.clone();
        answer(if newer {
            Rotation::Recovered(family)
        } else {
            Rotation::Rotated(family)
        })
    }

    async fn close_family(
        &self,
        id: &LoginId,
        token: &FamilyToken,
    ) -> Result<Option<Family>, RegistryError> {
        let store = &mut *self.store.lock();
        let found = store.families.0.get_mut(id).filter(|(kept, _)| {
            let is_its = token.hash == kept.current.hash
                || token.number > kept.current.number
                || kept
                    .previous
                    .is_some_and(|(previous, _)| token.hash == previous);
            is_its && kept.dead != Some(Death::Over)
        });
        let Some((kept, _)) = found else {
            return Ok(None);
        };
        kept.dead.get_or_insert(Death::Closed);
        store.fences.end_session(&kept.family.user, id);
        Ok(Some(kept.family.clone()))
    }

    async fn rewrite_claims(
        &self,
        family: &Family,
        claims: &serde_json::Value,
    ) -> Result<bool, RegistryError> {
        Shards::default().of_opened(family)?;
        let families = &mut self.store.lock().families.0;
        let found = families.get_mut(&family.id);
        Ok(found.is_some_and(|(kept, _)| {
            let same = kept.family.claims == family.claims;
            if same {
                kept.family.claims = claims.clone();
            }
            same
        }))
    }
}
