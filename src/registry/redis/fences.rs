//! What is held against users: bans, revocations, ended sessions.

use futures_util::future::try_join_all;
use jiff::Timestamp;
use redis::ScriptInvocation;

use super::{RedisRegistry, families::time, member, milliseconds, unreadable::text};
use crate::{
    connection::UserId,
    registry::{
        Ban, Bar, Entry, Grant, RegistryError, TOKEN_KEPT, TOKEN_MARGIN, admission::digest,
        fence::to_millisecond, keys::Shard,
    },
};

/// How many connections one MGET asks about, at five keys each: takes Redis well below a millisecond.
const ASKED_AT_ONCE: usize = 250;

/// Whether a fence stands: the user's ban, the user's revocation, the token's, the session's end; and when the token was first
/// seen, if it is of the future.
type Fences = (
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
);

/// Reads what `barred` in `prelude.lua` says, or the limit of `assert.lua`; none is an empty text.
pub(super) fn bar_of(text: &str) -> Result<Option<Bar>, RegistryError> {
    Ok(Some(match text {
        "" => return Ok(None),
        "banned" => Bar::Banned,
        "revoked" => Bar::Revoked,
        "ended" => Bar::SessionEnded,
        "too many" => Bar::TooMany,
        "too often" => Bar::TooOften,
        other => return Err(RegistryError::Corrupt(format!("bar {other:?}"))),
    }))
}

/// A ban as Redis keeps it: JSON, so that operators can read it.
pub(super) fn ban_text(ban: &Ban) -> Result<String, RegistryError> {
    let ban = Ban {
        until: ban.until.map(to_millisecond),
        ..ban.clone()
    };
    serde_json::to_string(&ban).map_err(|error| RegistryError::Corrupt(format!("ban: {error}")))
}

impl RedisRegistry {
    /// The keys of the fences that a grant is held against, in the order of `barred` in `prelude.lua`.
    fn fence_keys(&self, shard: Shard, user: Option<&UserId>, grant: &Grant) -> [Vec<u8>; 4] {
        // A guest has nothing held against it: these are keys that nobody writes.
        let (user, grant) = match user {
            Some(user) => (member::user_field(Some(user)), grant),
            None => (Vec::new(), &Grant::default()),
        };
        let token = grant.token_id.as_deref().map(digest).unwrap_or_default();
        [
            self.keys.ban(shard, &user),
            self.keys.revoked(shard, &user),
            self.keys.token(shard, &token).into(),
            self.keys.over(shard, &user, &member::session_field(grant)),
        ]
    }

    /// Gives a script those keys.
    pub(super) fn fences(
        &self,
        script: &mut ScriptInvocation<'_>,
        shard: Shard,
        user: Option<&UserId>,
        grant: &Grant,
    ) {
        for key in self.fence_keys(shard, user, grant) {
            script.key(key);
        }
    }

    /// What is held against a grant. The same rule as `barred` in `prelude.lua`.
    fn barred(&self, (ban, revoked, token, session, seen): &Fences, grant: &Grant) -> Option<Bar> {
        let seen = seen.clone().and_then(|ms| time(&text(ms)).ok());
        let issued = grant.issued_at.map(|issued| seen.unwrap_or(issued));
        let issued = issued.map(|time| time.as_millisecond().max(0));
        let revoked = || {
            let before = time(&text(revoked.clone()?));
            // One that can't be read is held against all.
            let before = self.unreadable.skip("revocation", before);
            Some(before.map_or(i64::MAX, Timestamp::as_millisecond))
        };
        if ban.is_some() {
            Some(Bar::Banned)
        } else if token.is_some()
            || revoked().is_some_and(|before| issued.is_none_or(|issued| issued < before))
        {
            Some(Bar::Revoked)
        } else {
            session.as_ref().map(|_| Bar::SessionEnded)
        }
    }

    pub(super) async fn read_ban(&self, user: &UserId) -> Result<Option<Ban>, RegistryError> {
        let (shard, user) = (self.shards.of_user(user), member::user_field(Some(user)));
        self.carried(shard).await?;
        let mut get = redis::cmd("GET");
        get.arg(self.keys.ban(shard, &user));
        let ban: Option<Vec<u8>> = self
            .link
            .query("ban", self.keys.slot_of(shard), &get)
            .await?;
        Ok(ban.map(|ban| {
            let ban = serde_json::from_slice(&ban)
                .map_err(|error| RegistryError::Corrupt(format!("ban: {error}")));
            // Whatever it says, nobody gets past it.
            self.unreadable.skip("ban", ban).unwrap_or_default()
        }))
    }

    pub(super) async fn lift_ban(&self, user: &UserId) -> Result<bool, RegistryError> {
        let (shard, user) = (self.shards.of_user(user), member::user_field(Some(user)));
        self.carried(shard).await?;
        let mut del = redis::cmd("DEL");
        del.arg(self.keys.ban(shard, &user));
        Ok(self
            .link
            .query("unban", self.keys.slot_of(shard), &del)
            .await?)
    }

    /// In every shard, as the token's user is not known; all sent at once.
    pub(super) async fn revoke_everywhere(
        &self,
        token_id: &str,
        until: Option<Timestamp>,
    ) -> Result<(), RegistryError> {
        let token = digest(token_id);
        let margin = i64::try_from(TOKEN_MARGIN.as_millis()).unwrap_or(i64::MAX);
        let ends = until
            .map(|until| until.as_millisecond().saturating_add(margin).to_string())
            .unwrap_or_default();
        let revocations: Vec<_> = self
            .shards
            .all()
            .map(|shard| {
                let mut script = self.scripts.revoke_token.prepare_invoke();
                script
                    .key(self.keys.token(shard, &token))
                    .arg(&ends)
                    .arg(milliseconds(TOKEN_KEPT));
                (self.keys.slot_of(shard), script)
            })
            .collect();
        let revocations = revocations
            .iter()
            .map(|(slot, script)| self.link.query::<i64>("revoke_token", *slot, script));
        try_join_all(revocations).await?;
        Ok(())
    }

    /// Commands of [`ASKED_AT_ONCE`] connections of one shard each, all sent together.
    pub(super) async fn read_standing(
        &self,
        connections: &[(Entry, Grant)],
    ) -> Result<Vec<(Entry, Bar)>, RegistryError> {
        let mut shards = vec![Vec::new(); self.shards.count()];
        for (entry, grant) in connections {
            if let Some(user) = &entry.user {
                shards[self.shards.of_user(user).index()].push((entry, grant));
            }
        }
        let mut commands = Vec::new();
        let mut asked = Vec::new();
        for (shard, of_shard) in self.shards.all().zip(&shards) {
            for chunk in of_shard.chunks(ASKED_AT_ONCE) {
                let mut mget = redis::cmd("MGET");
                for (entry, grant) in chunk {
                    let ahead = grant.ahead.as_ref().map_or("", |ahead| &ahead.digest);
                    mget.arg(&self.fence_keys(shard, entry.user.as_ref(), grant))
                        .arg(self.keys.ahead(shard, ahead));
                }
                commands.push((self.keys.slot_of(shard), mget));
                asked.extend(chunk);
            }
        }
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        // One is asked for by somebody who waits for an answer, many by a node that looks after all it has.
        let found: Vec<Vec<Fences>> = match asked.len() {
            1 => self.link.read_all("standing", &commands).await?,
            _ => self.pool.read_all("standing", &commands).await?,
        };
        let standing = asked
            .into_iter()
            .zip(found.into_iter().flatten())
            .filter_map(|((entry, grant), fences)| {
                Some((entry.clone(), self.barred(&fences, grant)?))
            });
        Ok(standing.collect())
    }
}
