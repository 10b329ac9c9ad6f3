//! A connection comes, changes and goes.

use futures_util::future::try_join_all;
use redis::ScriptInvocation;

use super::{CHUNK, RedisRegistry, member, milliseconds};
use crate::{
    connection::{Connection, Tally},
    registry::{Entry, Lease, RegistryError, keys::Shard},
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
    ) -> Result<Tally, RegistryError> {
        let shard = shard_of(connection)?;
        let counted: Option<(u64, u64)> = self
            .link
            .query(
                "register",
                self.scripts
                    .register
                    .key(self.keys.conns(shard))
                    .key(self.keys.held(shard, lease))
                    .key(self.keys.users(shard))
                    .key(self.keys.leases())
                    .arg(lease.to_string())
                    .arg(member::user_field(connection.user_id.as_ref()))
                    .arg(connection.id.as_str())
                    .arg(member::encode(lease, connection)?),
            )
            .await?;
        counted
            .map(|(connections, devices)| Tally {
                connections,
                devices,
            })
            .ok_or_else(|| RegistryError::Unavailable(format!("the lease {lease} has run out")))
    }

    pub(super) async fn replace(
        &self,
        lease: &Lease,
        connection: &Connection,
    ) -> Result<(), RegistryError> {
        let shard = shard_of(connection)?;
        let _: i64 = self
            .link
            .query(
                "update",
                self.scripts
                    .update
                    .key(self.keys.conns(shard))
                    .arg(lease.to_string())
                    .arg(member::user_field(connection.user_id.as_ref()))
                    .arg(connection.id.as_str())
                    .arg(member::encode(lease, connection)?),
            )
            .await?;
        Ok(())
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
                let entries = chunk.iter().map(|(id, user)| (*id, user.as_slice()));
                removals.push(self.removal(lease, shard, entries, None, true));
            }
        }
        let removals = removals
            .iter()
            .map(|removal| self.link.query::<u64>("unregister", removal));
        try_join_all(removals).await?;
        Ok(())
    }

    /// `remove.lua` for some entries (id and user field) of a shard. `ended`: when their connections did, in ms; none: now.
    pub(super) fn removal<'a>(
        &self,
        lease: &Lease,
        shard: Shard,
        entries: impl Iterator<Item = (&'a str, &'a [u8])>,
        ended: Option<i64>,
        forget_orders: bool,
    ) -> ScriptInvocation<'_> {
        let mut script = self.scripts.remove.prepare_invoke();
        script
            .key(self.keys.conns(shard))
            .key(self.keys.held(shard, lease))
            .key(self.keys.users(shard))
            .key(self.keys.ending(shard))
            .arg(lease.to_string())
            .arg(ended.map(|ms| ms.to_string()).unwrap_or_default())
            .arg(milliseconds(self.last_seen))
            .arg(u8::from(forget_orders));
        for (id, user) in entries {
            script.key(self.keys.seen(shard, user)).arg(user).arg(id);
        }
        script
    }
}
