//! Refresh families, each one hash in its user's shard.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{RedisRegistry, fences::bar_of, member, milliseconds};
use crate::{
    connection::UserId,
    registry::{
        Families, Family, FamilyToken, LoginId, RegistryError, Rotation, SESSION_KEPT, Turn,
    },
};

/// Reads a family that a script answers.
fn family(
    id: &LoginId,
    user: &[u8],
    claims: &[u8],
    expires: &[u8],
) -> Result<Family, RegistryError> {
    let corrupt = || RegistryError::Corrupt(format!("family {id:?}"));
    Ok(Family {
        id: id.clone(),
        user: member::user_of(user)?.ok_or_else(corrupt)?,
        claims: serde_json::from_slice(claims).map_err(|_| corrupt())?,
        expires_at: std::str::from_utf8(expires)
            .map_err(|_| corrupt())
            .and_then(time)?,
    })
}

/// Reads a time that a script answers.
pub(super) fn time(ms: &str) -> Result<Timestamp, RegistryError> {
    ms.parse()
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .ok_or_else(|| RegistryError::Corrupt(format!("time {ms:?}")))
}

#[async_trait]
impl Families for RedisRegistry {
    fn new_family_id(&self, user: &UserId) -> LoginId {
        self.shards.new_family_id(user)
    }

    async fn open_family(
        &self,
        family: &Family,
        token: &FamilyToken,
    ) -> Result<Timestamp, RegistryError> {
        let shard = self.shards.of_opened(family)?;
        let at: String = self
            .link
            .query(
                "open_family",
                self.keys.slot_of(shard),
                self.scripts
                    .open_family
                    .key(self.keys.family(shard, &family.id))
                    .arg(member::user_field(Some(&family.user)))
                    .arg(family.claims.to_string())
                    .arg(family.expires_at.as_millisecond())
                    .arg(token.number)
                    .arg(token.hash.as_slice()),
            )
            .await?;
        time(&at)
    }

    async fn rotate(
        &self,
        id: &LoginId,
        turn: Turn<'_>,
    ) -> Result<(Rotation, Option<Timestamp>), RegistryError> {
        let Some(shard) = self.shards.of_family(id) else {
            return Ok((Rotation::Unknown, None));
        };
        self.carried(shard).await?;
        let (outcome, user, claims, expires, at): (String, Vec<u8>, Vec<u8>, Vec<u8>, String) =
            self.link
                .query(
                    "rotate",
                    self.keys.slot_of(shard),
                    self.scripts
                        .rotate
                        .key(self.keys.family(shard, id))
                        .key(self.keys.token(shard, ""))
                        .arg(self.keys.ban(shard, b""))
                        .arg(self.keys.revoked(shard, b""))
                        .arg(self.keys.over_prefix(shard))
                        .arg(id.digest())
                        .arg(turn.presented.number)
                        .arg(turn.presented.hash.as_slice())
                        .arg(turn.successor.number)
                        .arg(turn.successor.hash.as_slice())
                        .arg(milliseconds(turn.grace))
                        .arg(
                            turn.renew
                                .map(|renew| milliseconds(renew).to_string())
                                .unwrap_or_default(),
                        )
                        .arg(milliseconds(SESSION_KEPT)),
                )
                .await?;
        let found = |rotation: fn(Family) -> Rotation| {
            let family = family(id, &user, &claims, &expires);
            let family = self.unreadable.skip("family", family);
            family.map_or(Rotation::Unknown, rotation)
        };
        let rotation = match outcome.as_str() {
            "unknown" => Rotation::Unknown,
            "rotated" => found(Rotation::Rotated),
            "recovered" => found(Rotation::Recovered),
            "repeated" => found(Rotation::Repeated),
            "reused" => found(Rotation::Reused),
            bar => match bar_of(bar)? {
                Some(bar) => Rotation::Refused(bar),
                None => return Err(RegistryError::Corrupt("a rotation without outcome".into())),
            },
        };
        Ok((rotation, Some(time(&at)?)))
    }

    async fn close_family(
        &self,
        id: &LoginId,
        token: &FamilyToken,
    ) -> Result<Option<Family>, RegistryError> {
        let Some(shard) = self.shards.of_family(id) else {
            return Ok(None);
        };
        self.carried(shard).await?;
        let closed: Option<(Vec<u8>, Vec<u8>, Vec<u8>)> = self
            .link
            .query(
                "close_family",
                self.keys.slot_of(shard),
                self.scripts
                    .close_family
                    .key(self.keys.family(shard, id))
                    .arg(self.keys.over_prefix(shard))
                    .arg(id.digest())
                    .arg(token.number)
                    .arg(token.hash.as_slice())
                    .arg(milliseconds(SESSION_KEPT)),
            )
            .await?;
        Ok(closed.and_then(|(user, claims, expires)| {
            let family = family(id, &user, &claims, &expires);
            self.unreadable.skip("family", family)
        }))
    }

    async fn rewrite_claims(
        &self,
        family: &Family,
        claims: &serde_json::Value,
    ) -> Result<bool, RegistryError> {
        let shard = self.shards.of_opened(family)?;
        self.carried(shard).await?;
        Ok(self
            .link
            .query(
                "rewrite_claims",
                self.keys.slot_of(shard),
                self.scripts
                    .rewrite_claims
                    .key(self.keys.family(shard, &family.id))
                    .arg(family.claims.to_string())
                    .arg(claims.to_string()),
            )
            .await?)
    }
}
