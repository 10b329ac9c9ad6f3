//! A connection comes, changes and goes.

use futures_util::future::try_join_all;
use redis::ScriptInvocation;

use super::{CHUNK, RedisRegistry, fences::bar_of, member, milliseconds, orders::order_text};
use crate::{
    connection::{Connection, Tally},
    ending::Ending,
    registry::{
        Admission, Entry, Grant, Lease, LimitPolicy, RATE_WINDOW, RegistryError, Updated,
        UserLimit, fence::ORDER_KEPT, keys::Place, keys::Shard,
    },
};

/// The shard of a connection that is to be written.
fn shard_of(connection: &Connection) -> Result<Shard, RegistryError> {
    let entry = Entry {
        user: connection.user_id.clone(),
        id: connection.id.clone(),
    };
    Shard::of_entry(&entry).ok_or_else(|| {
        RegistryError::Corrupt(format!("id {} is not one for its user", connection.id))
    })
}

impl RedisRegistry {
    pub(super) async fn add(
        &self,
        lease: &Lease,
        connection: &Connection,
        grant: &Grant,
        limit: Option<UserLimit>,
    ) -> Result<Admission, RegistryError> {
        let shard = shard_of(connection)?;
        let user = connection.user_id.as_ref();
        let limit = limit.filter(|_| user.is_some());
        let eviction = match limit.map(|limit| limit.policy) {
            Some(LimitPolicy::EvictOldest) => order_text(&Ending::of(Ending::LIMIT))?,
            Some(LimitPolicy::Reject) | None => Vec::new(),
        };
        let mut script = self.scripts.register.prepare_invoke();
        script
            .key(self.keys.conns(shard))
            .key(self.keys.held(shard, lease))
            .key(self.keys.users(shard))
            .key(self.keys.leases(Place::Shard(shard)))
            .key(self.keys.ending(shard));
        self.fences(&mut script, shard, user, grant);
        let user = member::user_field(user);
        script
            .key(self.keys.rate(shard, &user))
            .arg(lease.to_string())
            .arg(user)
            .arg(connection.id.as_str())
            .arg(member::encode(lease, connection, grant)?)
            .arg(limit.map_or(0, |limit| limit.max))
            .arg(eviction)
            .arg(milliseconds(ORDER_KEPT))
            .arg(limit.map_or(0, |limit| limit.newcomers))
            .arg(milliseconds(RATE_WINDOW));
        let answer: Option<(String, u64, u64, Vec<String>)> = self
            .link
            .query("register", self.keys.slot_of(shard), &script)
            .await?;
        let Some((bar, connections, devices, evicted)) = answer else {
            return Err(RegistryError::Unavailable(format!(
                "the lease {lease} has run out"
            )));
        };
        if let Some(bar) = bar_of(&bar)? {
            return Ok(Admission::Refused(bar));
        }
        let evicted = evicted.into_iter().map(|id| Entry {
            user: connection.user_id.clone(),
            id: id.into(),
        });
        Ok(Admission::Admitted {
            tally: Tally {
                connections,
                devices,
            },
            evicted: evicted.collect(),
        })
    }

    pub(super) async fn replace(
        &self,
        lease: &Lease,
        connection: &Connection,
        grant: &Grant,
    ) -> Result<Updated, RegistryError> {
        let shard = shard_of(connection)?;
        let user = connection.user_id.as_ref();
        let mut script = self.scripts.update.prepare_invoke();
        script.key(self.keys.conns(shard));
        self.fences(&mut script, shard, user, grant);
        script
            .arg(lease.to_string())
            .arg(member::user_field(user))
            .arg(connection.id.as_str())
            .arg(member::encode(lease, connection, grant)?);
        let bar: Option<String> = self
            .link
            .query("update", self.keys.slot_of(shard), &script)
            .await?;
        Ok(match bar {
            None => Updated::Gone,
            Some(bar) => bar_of(&bar)?.map_or(Updated::Done, Updated::Refused),
        })
    }

    /// One script for each shard and [`CHUNK`], all sent at once.
    pub(super) async fn remove_entries(
        &self,
        lease: &Lease,
        entries: &[Entry],
    ) -> Result<(), RegistryError> {
        let mut shards = vec![Vec::new(); usize::from(Shard::COUNT)];
        for entry in entries {
            if let Some(shard) = Shard::of_entry(entry) {
                shards[shard.index()]
                    .push((entry.id.as_str(), member::user_field(entry.user.as_ref())));
            }
        }
        let mut removals = Vec::new();
        for (shard, entries) in Shard::all().zip(&shards) {
            for chunk in entries.chunks(CHUNK) {
                let entries = chunk
                    .iter()
                    .map(|(id, user)| (id.as_bytes(), user.as_slice()));
                let removal = self.removal(lease, shard, entries, "gone");
                removals.push((self.keys.slot_of(shard), removal));
            }
        }
        let removals = removals
            .iter()
            .map(|(slot, removal)| self.link.query::<u64>("unregister", *slot, removal));
        try_join_all(removals).await?;
        Ok(())
    }

    /// Returns whether it is out.
    pub(super) async fn remove_unless_ordered(
        &self,
        lease: &Lease,
        entry: &Entry,
    ) -> Result<bool, RegistryError> {
        let Some(shard) = Shard::of_entry(entry) else {
            return Ok(true);
        };
        let user = member::user_field(entry.user.as_ref());
        let one = std::iter::once((entry.id.as_str().as_bytes(), user.as_slice()));
        let removal = self.removal(lease, shard, one, "passed");
        let removed: Option<u64> = self
            .link
            .query("release", self.keys.slot_of(shard), &removal)
            .await?;
        Ok(removed.is_some())
    }

    /// `remove.lua` for some entries (id and user field) of a shard: those that are `gone`, one that is `passed` on, or those of a
    /// node to `reap`.
    pub(super) fn removal<'a>(
        &self,
        lease: &Lease,
        shard: Shard,
        entries: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        why: &str,
    ) -> ScriptInvocation<'_> {
        let mut script = self.scripts.remove.prepare_invoke();
        script
            .key(self.keys.conns(shard))
            .key(self.keys.held(shard, lease))
            .key(self.keys.users(shard))
            .key(self.keys.ending(shard))
            .key(self.keys.leases(Place::Shard(shard)))
            .key(self.keys.notes(Place::Shard(shard)))
            .arg(lease.to_string())
            .arg(why)
            .arg(milliseconds(self.last_seen));
        for (id, user) in entries {
            script.key(self.keys.seen(shard, user)).arg(user).arg(id);
        }
        script
    }
}
