//! Reads. None asks another node, and none looks at more than its answer and the leases.

use std::collections::{BTreeSet, HashMap};

use futures_util::future::try_join_all;
use jiff::Timestamp;
use redis::{Cmd, FromRedisValue, Value};

use super::{
    RedisRegistry,
    families::time,
    leases::Leases,
    member::{self, Member},
    unreadable::text,
};
use crate::{
    connection::{Connection, ConnectionId, Instance, Tally, UserId},
    link::{LinkError, Slot},
    registry::{
        Entry, Lease, Presence, RegistryError, Totals, UserEntry, UsersPage, Whom, cursor,
        keys::{Place, Shard, escape},
    },
};

/// A user's entries, and what its `seen` holds.
type Found = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// A user that is being counted: as it is written down, who it is, and the devices so far.
type Open = (Vec<u8>, UserId, Vec<Option<String>>);

/// A shard's entries, its users, and the leases that have run out in it.
type Counted = (u64, u64, Vec<Vec<u8>>);

/// The entries whose first fields are `fields`, joined by zeros.
fn starting_with(key: String, fields: &[u8]) -> Cmd {
    let mut cmd = redis::cmd("ZRANGEBYLEX");
    cmd.arg(key)
        .arg([b"[", fields, b"\0"].concat())
        .arg([b"(", fields, b"\x01"].concat());
    cmd
}

fn read<T: FromRedisValue>(value: Option<Value>) -> Result<T, RegistryError> {
    let value = value.ok_or_else(|| RegistryError::Corrupt("an answer is missing".into()))?;
    T::from_redis_value(value)
        .map_err(|error| LinkError::from(redis::RedisError::from(error)).into())
}

impl RedisRegistry {
    pub(super) async fn read_user(&self, user: &UserId) -> Result<UserEntry, RegistryError> {
        let (leases, mut found, ban) = tokio::try_join!(
            self.believed(Place::Shard(Shard::of_user(user))),
            self.entries_of("user", std::slice::from_ref(user)),
            self.read_ban(user),
        )?;
        let (members, seen) = found.pop().unwrap_or_default();
        let mut connections = Vec::new();
        for member in self.readable(&members) {
            if let Some(node) = leases.live(member.lease) {
                let connection = member.connection(node);
                connections.extend(self.unreadable.skip("entry", connection));
            }
        }
        let last_seen = if connections.is_empty() {
            self.last_seen(&leases, &members, seen)
        } else {
            None
        };
        Ok(UserEntry {
            connections,
            last_seen,
            banned: ban.is_some(),
        })
    }

    pub(super) async fn read_presence(
        &self,
        users: &[UserId],
    ) -> Result<Vec<Presence>, RegistryError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let shards: BTreeSet<_> = users.iter().map(Shard::of_user).collect();
        let leases = shards.into_iter().map(async |shard| {
            Ok::<_, RegistryError>((shard, self.believed(Place::Shard(shard)).await?))
        });
        let (leases, found) =
            tokio::try_join!(try_join_all(leases), self.entries_of("presence", users))?;
        let leases: HashMap<_, _> = leases.into_iter().collect();
        let presence = found.into_iter().zip(users).map(|((members, seen), user)| {
            let leases = &leases[&Shard::of_user(user)];
            let live = self
                .readable(&members)
                .filter(|member| leases.live(member.lease).is_some());
            let tally = Tally::of(live.map(|member| member.device()));
            let last_seen = match tally.connections {
                0 => self.last_seen(leases, &members, seen),
                _ => None,
            };
            Presence { tally, last_seen }
        });
        Ok(presence.collect())
    }

    pub(super) async fn read_holders(&self, whom: &Whom) -> Result<Vec<Instance>, RegistryError> {
        let (shard, fields) = match whom {
            Whom::User(user) => (Shard::of_user(user), escape(user.as_str())),
            Whom::Connection(entry) => {
                let Some(shard) = Shard::of_entry(entry) else {
                    return Ok(Vec::new());
                };
                let user = member::user_field(entry.user.as_ref());
                let fields = [user.as_slice(), b"\0", entry.id.as_str().as_bytes()].concat();
                (shard, fields)
            }
        };
        let own = self.asker();
        let slot = self.keys.slot_of(shard);
        let mut commands = vec![(slot, starting_with(self.keys.conns(shard), &fields))];
        if !own.is_empty() {
            commands.push(self.look_after(shard, &own));
        }
        let (leases, answers) = tokio::try_join!(self.believed(Place::Shard(shard)), async {
            Ok::<Vec<Value>, RegistryError>(self.link.read_all("holders", &commands).await?)
        })?;
        let mut answers = answers.into_iter();
        let members: Vec<Vec<u8>> = read(answers.next())?;
        if let Some(lease) = answers.next() {
            read::<Option<f64>>(Some(lease))?.ok_or_else(|| self.not_believed())?;
        }
        let leases: BTreeSet<_> = self
            .readable(&members)
            .map(|member| member.lease)
            .filter(|lease| leases.live(lease).is_some())
            .collect();
        let leases = leases.into_iter().map(str::to_owned);
        let holders = self.parsed(leases).into_iter().map(|lease| lease.instance);
        Ok(holders.collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// The members that can be read, taken apart.
    fn readable<'a>(&self, members: &'a [Vec<u8>]) -> impl Iterator<Item = Member<'a>> {
        members
            .iter()
            .filter_map(|member| self.unreadable.skip("entry", Member::parse(member)))
    }

    /// The entries and the `seen` of each user, in one pipeline.
    async fn entries_of(
        &self,
        operation: &'static str,
        users: &[UserId],
    ) -> Result<Vec<Found>, RegistryError> {
        let own = self.asker();
        let mut commands = Vec::with_capacity(2 * users.len());
        let mut shards = BTreeSet::new();
        for user in users {
            let (shard, user) = (Shard::of_user(user), escape(user.as_str()));
            let slot = self.keys.slot_of(shard);
            commands.push((slot, starting_with(self.keys.conns(shard), &user)));
            commands.push((slot, Cmd::get(self.keys.seen(shard, &user))));
            shards.insert(shard);
        }
        if !own.is_empty() {
            commands.extend(shards.iter().map(|shard| self.look_after(*shard, &own)));
        }
        let answers: Vec<Value> = self.link.read_all(operation, &commands).await?;
        let mut answers = answers.into_iter();
        let found = users
            .iter()
            .map(|_| Ok((read(answers.next())?, read(answers.next())?)))
            .collect::<Result<Vec<Found>, RegistryError>>()?;
        for lease in answers {
            read::<Option<f64>>(Some(lease))?.ok_or_else(|| self.not_believed())?;
        }
        Ok(found)
    }

    /// Whether a shard still has the asker's lease, for after a read of several commands: had the shard lost its data between two
    /// of them, the lease would be gone too, and what was read could lack what was there.
    fn look_after(&self, shard: Shard, own: &str) -> (Slot, Cmd) {
        let mut score = redis::cmd("ZSCORE");
        score.arg(self.keys.leases(Place::Shard(shard))).arg(own);
        (self.keys.slot_of(shard), score)
    }

    /// The same by itself. Unavailable if the lease is gone.
    async fn still_believed(
        &self,
        operation: &'static str,
        shard: Shard,
        own: &str,
    ) -> Result<(), RegistryError> {
        if own.is_empty() {
            return Ok(());
        }
        let (slot, score) = self.look_after(shard, own);
        let ends: Option<f64> = self.link.query(operation, slot, &score).await?;
        ends.map(drop).ok_or_else(|| self.not_believed())
    }

    /// When a user without a live connection was last seen. Entries of a node that has died count as seen by its last
    /// heartbeat, as they will once they are reaped.
    fn last_seen(
        &self,
        leases: &Leases,
        members: &[Vec<u8>],
        seen: Option<Vec<u8>>,
    ) -> Option<Timestamp> {
        if self.last_seen.is_zero() {
            return None;
        }
        let seen = seen.and_then(|ms| self.unreadable.skip("seen", time(&text(ms))));
        let lapsed = self
            .readable(members)
            .filter_map(|member| leases.lapsed(member.lease));
        lapsed.chain(seen).max()
    }

    pub(super) async fn read_users(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<UsersPage, RegistryError> {
        let after = cursor.map(cursor::read).transpose()?;
        let mut page = UsersPage::default();
        let first = after.as_ref().map_or(Shard::FIRST, Shard::of_user);
        let own = self.asker();
        for shard in first.and_later() {
            let leases = self.believed(Place::Shard(shard)).await?;
            // Beyond all that begins with the last user and a zero; guests begin with a zero, and are before all users.
            let last = after.as_ref().filter(|_| shard == first);
            let start = last.map(|user| escape(user.as_str())).unwrap_or_default();
            let start = [b"[", start.as_slice(), b"\x01"].concat();
            let full = self
                .users_of_shard(&leases, shard, start, limit, &mut page)
                .await?;
            self.still_believed("users", shard, &own).await?;
            if full {
                let last = page.users.last().map(|(user, _)| user);
                page.next = last.map(cursor::after);
                break;
            }
        }
        Ok(page)
    }

    /// Fills a page from one shard; says whether there is a user that does not fit.
    async fn users_of_shard(
        &self,
        leases: &Leases,
        shard: Shard,
        mut start: Vec<u8>,
        limit: usize,
        page: &mut UsersPage,
    ) -> Result<bool, RegistryError> {
        let batch = limit.clamp(100, 1000);
        // A user is counted when the next one begins, whatever batches its entries come in.
        let mut open: Option<Open> = None;
        loop {
            let mut range = redis::cmd("ZRANGEBYLEX");
            range.arg(self.keys.conns(shard)).arg(&start).arg("+");
            range.arg("LIMIT").arg(0).arg(batch);
            let members: Vec<Vec<u8>> = self
                .pool
                .query("users", self.keys.slot_of(shard), &range)
                .await?;
            for member in self.readable(&members) {
                if leases.live(member.lease).is_none() {
                    continue;
                }
                let device = member.device().map(str::to_owned);
                match &mut open {
                    Some((written, _, devices)) if *written == member.user => devices.push(device),
                    open => {
                        let user = user_in(shard, member.user);
                        let Some(user) = self.unreadable.skip("entry", user) else {
                            continue;
                        };
                        close(open, page);
                        if page.users.len() == limit {
                            return Ok(true);
                        }
                        *open = Some((member.user.to_vec(), user, vec![device]));
                    }
                }
            }
            match members.last() {
                Some(last) if members.len() == batch => start = [b"(", last.as_slice()].concat(),
                _ => break,
            }
        }
        close(&mut open, page);
        Ok(false)
    }

    pub(super) async fn read_connection(
        &self,
        id: &ConnectionId,
    ) -> Result<Option<Connection>, RegistryError> {
        let Some(shard) = Shard::of_id(id) else {
            return Ok(None);
        };
        let own = self.asker();
        let found = self.find(id, shard).await?;
        if found.is_none() {
            self.still_believed("connection", shard, &own).await?;
        }
        Ok(found)
    }

    async fn find(
        &self,
        id: &ConnectionId,
        shard: Shard,
    ) -> Result<Option<Connection>, RegistryError> {
        let slot = self.keys.slot_of(shard);
        let leases = self.believed(Place::Shard(shard)).await?;
        let live = self.holding(&leases);
        if live.is_empty() {
            return Ok(None);
        }
        let owners = live
            .iter()
            .map(|lease| (slot, Cmd::hget(self.keys.held(shard, lease), id.as_str())));
        let owners: Vec<_> = owners.collect();
        let owners: Vec<Option<Vec<u8>>> = self.link.read_all("connection", &owners).await?;
        let Some(user) = owners.into_iter().flatten().next() else {
            return Ok(None);
        };
        let fields = [user.as_slice(), b"\0", id.as_str().as_bytes()].concat();
        let members: Vec<Vec<u8>> = self
            .link
            .query(
                "connection",
                slot,
                &starting_with(self.keys.conns(shard), &fields),
            )
            .await?;
        Ok(self.readable(&members).find_map(|member| {
            let node = leases.live(member.lease)?;
            self.unreadable.skip("entry", member.connection(node))
        }))
    }

    pub(super) async fn held_by(&self, lease: &Lease) -> Result<Vec<Entry>, RegistryError> {
        let mut held = Vec::new();
        // One shard at a time: a node may hold very many.
        for shard in Shard::all() {
            let mut all = redis::cmd("HGETALL");
            all.arg(self.keys.held(shard, lease));
            let entries: Vec<(Vec<u8>, Vec<u8>)> = self
                .pool
                .query("held", self.keys.slot_of(shard), &all)
                .await?;
            for (id, user) in entries {
                if let Some(user) = self.unreadable.skip("entry", member::user_of(&user)) {
                    let id = text(id).into();
                    held.push(Entry { user, id });
                }
            }
        }
        Ok(held)
    }

    /// Exact: what is kept under leases of nodes that are gone is reaped first.
    pub(super) async fn count(&self) -> Result<Totals, RegistryError> {
        let (mut counts, mut nodes) =
            tokio::try_join!(self.count_shards(), self.believed(Place::Nodes))?;
        let lapsed = counts
            .iter()
            .map(|(shard, (_, _, lapsed))| (Place::Shard(*shard), lapsed.clone()));
        let gone = self.gone(lapsed.collect()).await?;
        if !gone.is_empty() {
            for lease in &gone {
                let connections = self.reap_lease(lease).await?;
                if connections > 0 {
                    self.metrics.connections_reaped().increment(connections);
                    tracing::warn!(%lease, connections, "reaped a node that is gone");
                }
            }
            (counts, nodes) = tokio::try_join!(self.count_shards(), self.believed(Place::Nodes))?;
        }
        Ok(Totals {
            nodes: self.holding(&nodes).len() as u64,
            connections: counts.iter().map(|(_, (entries, ..))| entries).sum(),
            users: counts.iter().map(|(_, (_, users, _))| users).sum(),
        })
    }

    /// Of each shard: its entries, its users, and the leases that have run out in it.
    async fn count_shards(&self) -> Result<Vec<(Shard, Counted)>, RegistryError> {
        let counting = Shard::all().map(async |shard| {
            let mut script = self.scripts.count.prepare_invoke();
            script
                .key(self.keys.conns(shard))
                .key(self.keys.users(shard))
                .key(self.keys.leases(Place::Shard(shard)))
                .arg(self.asker());
            let slot = self.keys.slot_of(shard);
            let counted: Option<Counted> = self.link.query("totals", slot, &script).await?;
            Ok((shard, counted.ok_or_else(|| self.not_believed())?))
        });
        try_join_all(counting).await
    }
}

/// The user of an entry that is in this shard, as it is written down. Of another shard's the cursor would lead there, and
/// pages would have no end.
fn user_in(shard: Shard, written: &[u8]) -> Result<UserId, RegistryError> {
    member::user_of(written)?
        .filter(|user| Shard::of_user(user) == shard)
        .ok_or_else(|| RegistryError::Corrupt("entry in a shard that is not its user's".into()))
}

/// Puts the user that was being counted on the page.
fn close(open: &mut Option<Open>, page: &mut UsersPage) {
    if let Some((_, user, devices)) = open.take() {
        let tally = Tally::of(devices.iter().map(Option::as_deref));
        page.users.push((user, tally));
    }
}
