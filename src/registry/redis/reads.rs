//! Reads. None asks another node, and none looks at more than its answer.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::try_join_all;
use jiff::Timestamp;
use redis::Cmd;

use super::{
    RedisRegistry,
    families::time,
    member::{self, Member},
    shards::read,
    table::Table,
    unreadable::text,
};
use crate::{
    connection::{Connection, ConnectionId, Instance, NodeId, Tally, UserId},
    registry::{
        Lasting, Lease, Presence, RegistryError, Totals, UserEntry, UsersPage, cursor,
        keys::{Shard, escape},
        rooms::add_lasting,
    },
};

/// Of how many users or connections the answers go over the connection that all share.
pub(super) const FEW: usize = 16;

/// A user's entries, and what its `seen` holds.
type Found = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// A user that is being counted: as it is written down, who it is, and the devices so far.
type Open = (Vec<u8>, UserId, Vec<Option<String>>);

/// The entries whose first fields are `fields`, joined by zeros.
pub(super) fn starting_with(key: String, fields: &[u8]) -> Cmd {
    by_fields("ZRANGEBYLEX", key, fields)
}

/// How many entries [`starting_with`] would find.
pub(super) fn counting(key: String, fields: &[u8]) -> Cmd {
    by_fields("ZLEXCOUNT", key, fields)
}

fn by_fields(command: &str, key: String, fields: &[u8]) -> Cmd {
    let mut cmd = redis::cmd(command);
    cmd.arg(key)
        .arg([b"[", fields, b"\0"].concat())
        .arg([b"(", fields, b"\x01"].concat());
    cmd
}

impl RedisRegistry {
    pub(super) async fn read_user(&self, user: &UserId) -> Result<UserEntry, RegistryError> {
        let shard = self.shards.of_user(user);
        let (slot, escaped) = (self.keys.slot_of(shard), escape(user.as_str()));
        let commands = [
            (slot, starting_with(self.keys.conns(shard), &escaped)),
            (slot, Cmd::get(self.keys.seen(shard, &escaped))),
            (slot, Cmd::exists(self.keys.ban(shard, &escaped))),
            (slot, Cmd::hgetall(self.keys.lasting(shard, &escaped))),
        ];
        let answers = self.read_whole("user", &[shard], &commands, false).await?;
        let mut answers = answers.into_iter();
        let members: Vec<Vec<u8>> = read(answers.next())?;
        let (seen, banned) = (read(answers.next())?, read(answers.next())?);
        let lasting = self.lasting_as_read(read(answers.next())?);
        let members: Vec<_> = self.readable(&members).collect();
        let table = self.table_with(&members).await?;
        let mut connections = Vec::new();
        for member in &members {
            if let Some(row) = table.live(member.lease) {
                let connection = self.shown(member, row.node(), &lasting);
                connections.extend(connection);
            }
        }
        let last_seen = match connections.is_empty() {
            true => self.last_seen(&table, &members, seen),
            false => None,
        };
        Ok(UserEntry {
            connections,
            last_seen,
            banned,
        })
    }

    pub(super) async fn read_presence(
        &self,
        users: &[UserId],
    ) -> Result<Vec<Presence>, RegistryError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = Vec::with_capacity(2 * users.len());
        for user in users {
            let (shard, escaped) = (self.shards.of_user(user), escape(user.as_str()));
            let slot = self.keys.slot_of(shard);
            commands.push((slot, starting_with(self.keys.conns(shard), &escaped)));
            commands.push((slot, Cmd::get(self.keys.seen(shard, &escaped))));
        }
        let shards: BTreeSet<_> = users.iter().map(|user| self.shards.of_user(user)).collect();
        let shards: Vec<_> = shards.into_iter().collect();
        // On connections of their own: the answers of a thousand users are long, and whatever came after them would wait.
        let long = users.len() > FEW;
        let answers = self
            .read_whole("presence", &shards, &commands, long)
            .await?;
        let mut answers = answers.into_iter();
        let found = users
            .iter()
            .map(|_| Ok((read(answers.next())?, read(answers.next())?)))
            .collect::<Result<Vec<Found>, RegistryError>>()?;
        let found: Vec<(Vec<Member<'_>>, _)> = found
            .iter()
            .map(|(members, seen)| (self.readable(members).collect(), seen.clone()))
            .collect();
        let leases = found.iter().flat_map(|(members, _)| members);
        let table = self
            .table_of_leases(leases.map(|member| member.lease))
            .await?;
        let presence = found.into_iter().map(|(members, seen)| {
            let live = members
                .iter()
                .filter(|member| table.live(member.lease).is_some());
            let tally = Tally::of(live.map(Member::device));
            let last_seen = match tally.connections {
                0 => self.last_seen(&table, &members, seen),
                _ => None,
            };
            Presence { tally, last_seen }
        });
        Ok(presence.collect())
    }

    async fn table_with(&self, members: &[Member<'_>]) -> Result<Arc<Table>, RegistryError> {
        self.table_of_leases(members.iter().map(|member| member.lease))
            .await
    }

    /// When a user without a live connection was last seen. Entries of a node that has died count as seen by its last
    /// heartbeat, as they will once they are reaped.
    fn last_seen(
        &self,
        table: &Table,
        members: &[Member<'_>],
        seen: Option<Vec<u8>>,
    ) -> Option<Timestamp> {
        if self.last_seen.is_zero() {
            return None;
        }
        let seen = seen.and_then(|ms| self.unreadable.skip("seen", time(&text(ms))));
        let gone = members
            .iter()
            .filter_map(|member| Some(table.row(member.lease)?.renewed));
        gone.chain(seen).max()
    }

    pub(super) async fn read_users(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<UsersPage, RegistryError> {
        let after = cursor.map(cursor::read).transpose()?;
        let mut page = UsersPage::default();
        let first = after.as_ref();
        let first = first.map_or(Shard::FIRST, |user| self.shards.of_user(user));
        for shard in self.shards.starting_at(first) {
            // Beyond all that begins with the last user and a zero; guests begin with a zero, and are before all users.
            let last = after.as_ref().filter(|_| shard == first);
            let start = last.map(|user| escape(user.as_str())).unwrap_or_default();
            let start = [b"[", start.as_slice(), b"\x01"].concat();
            if self.users_of_shard(shard, start, limit, &mut page).await? {
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
            let command = [(self.keys.slot_of(shard), range)];
            let mut answers = self.read_whole("users", &[shard], &command, true).await?;
            let members: Vec<Vec<u8>> = read(answers.pop())?;
            let readable: Vec<_> = self.readable(&members).collect();
            let table = self.table_with(&readable).await?;
            for member in readable {
                if table.live(member.lease).is_none() {
                    continue;
                }
                let device = member.device().map(str::to_owned);
                match &mut open {
                    Some((written, _, devices)) if *written == member.user => devices.push(device),
                    open => {
                        let user = self.user_in(shard, member.user);
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

    /// Whose it is, by the entries of the nodes that may have given its id out; then the entry.
    pub(super) async fn read_connection(
        &self,
        id: &ConnectionId,
    ) -> Result<Option<Connection>, RegistryError> {
        let Some(shard) = self.shards.of_id(id) else {
            return Ok(None);
        };
        let owners = self.owners(shard, id).await?;
        let Some((_, user)) = owners.first() else {
            return Ok(None);
        };
        let (members, lasting) = self.entry_of(shard, user, id).await?;
        let members: Vec<_> = self.readable(&members).collect();
        let table = self.table_with(&members).await?;
        Ok(members.iter().find_map(|member| {
            let row = table.live(member.lease)?;
            self.shown(member, row.node(), &lasting)
        }))
    }

    /// A connection with all the rooms that it is in; none, and counted, if it can't be read.
    fn shown(&self, member: &Member<'_>, node: &NodeId, lasting: &[Lasting]) -> Option<Connection> {
        let mut connection = self.unreadable.skip("entry", member.connection(node))?;
        add_lasting(&mut connection, lasting);
        Some(connection)
    }

    /// The node that has a connection: the one that its id names, or where it has moved on, the one of its entry.
    pub(super) async fn holder_of(
        &self,
        id: &ConnectionId,
    ) -> Result<Option<Instance>, RegistryError> {
        let Some(shard) = self.shards.of_id(id) else {
            return Ok(None);
        };
        let owners = self.owners(shard, id).await?;
        let user = match owners.last() {
            None => return Ok(None),
            Some((Some(lease), _)) => return Ok(Some(lease.instance.clone())),
            Some((None, user)) => user,
        };
        let (members, _) = self.entry_of(shard, user, id).await?;
        let members: Vec<_> = self.readable(&members).collect();
        let table = self.table_with(&members).await?;
        let live = members.iter().find_map(|member| table.live(member.lease));
        Ok(live.map(|row| row.lease.instance.clone()))
    }

    /// The users that a connection is kept under, each with the lease that its id may name; last, without a lease, the one of a
    /// connection that is elsewhere.
    async fn owners(
        &self,
        shard: Shard,
        id: &ConnectionId,
    ) -> Result<Vec<(Option<Lease>, Vec<u8>)>, RegistryError> {
        let slot = self.keys.slot_of(shard);
        let table = self.table_of_id(id).await?;
        let leases: Vec<_> = table.marked(id).map(Some).chain([None]).collect();
        let commands: Vec<_> = leases
            .iter()
            .map(|lease| match lease {
                Some(lease) => self.keys.held(shard, lease),
                None => self.keys.moved(shard),
            })
            .map(|key| (slot, Cmd::hget(key, id.as_str())))
            .collect();
        let answers = self
            .read_whole("connection", &[shard], &commands, false)
            .await?;
        let mut owners = Vec::new();
        for (lease, answer) in leases.into_iter().zip(answers) {
            if let Some(user) = read(Some(answer))? {
                owners.push((lease.cloned(), user));
            }
        }
        Ok(owners)
    }

    async fn entry_of(
        &self,
        shard: Shard,
        user: &[u8],
        id: &ConnectionId,
    ) -> Result<(Vec<Vec<u8>>, Vec<Lasting>), RegistryError> {
        let fields = [user, b"\0", id.as_str().as_bytes()].concat();
        let range = starting_with(self.keys.conns(shard), &fields);
        let slot = self.keys.slot_of(shard);
        let commands = [
            (slot, range),
            (slot, Cmd::hgetall(self.keys.lasting(shard, user))),
        ];
        let answers = self
            .read_whole("connection", &[shard], &commands, false)
            .await?;
        let mut answers = answers.into_iter();
        let entries = read(answers.next())?;
        Ok((entries, self.lasting_as_read(read(answers.next())?)))
    }

    /// Exact as soon as the leases of nodes that are gone for good are reaped: first by this node, those that are for it to reap.
    pub(super) async fn count(&self) -> Result<Totals, RegistryError> {
        self.table().await?;
        let lapsed = self.lapsed(&mut self.known.lock());
        for lease in lapsed {
            let connections = self.reap_lease(&lease).await?;
            if connections > 0 {
                self.metrics.connections_reaped().increment(connections);
                tracing::warn!(%lease, connections, "reaped a node that is gone");
            }
        }
        let mut commands = Vec::new();
        let shards: Vec<_> = self.shards.all().collect();
        for shard in self.shards.all() {
            let slot = self.keys.slot_of(shard);
            let mut count = redis::cmd("ZCARD");
            count.arg(self.keys.conns(shard));
            commands.push((slot, count));
            commands.push((slot, Cmd::get(self.keys.users(shard))));
        }
        let answers = self.read_whole("totals", &shards, &commands, false).await?;
        let mut answers = answers.into_iter();
        let mut totals = Totals {
            nodes: self.table().await?.holding().count() as u64,
            ..Totals::default()
        };
        let mut lost = Vec::new();
        for shard in shards {
            let connections: u64 = read(answers.next())?;
            let users: Option<i64> = read(answers.next())?;
            totals.connections += connections;
            match users {
                Some(users) => totals.users += users.max(0) as u64,
                None if connections > 0 => lost.push(shard),
                None => {}
            }
        }
        let recounts = lost.into_iter().map(|shard| self.recount(shard));
        totals.users += try_join_all(recounts).await?.into_iter().sum::<u64>();
        Ok(totals)
    }

    /// Counts the users of a shard whose count was lost.
    pub(super) async fn recount(&self, shard: Shard) -> Result<u64, RegistryError> {
        let mut script = self.scripts.recount.prepare_invoke();
        script
            .key(self.keys.conns(shard))
            .key(self.keys.users(shard));
        let slot = self.keys.slot_of(shard);
        Ok(self.pool.query("totals", slot, &script).await?)
    }

    /// The user of an entry that is in this shard, as it is written down. Of another shard's the cursor would lead there, and
    /// pages would have no end.
    fn user_in(&self, shard: Shard, written: &[u8]) -> Result<UserId, RegistryError> {
        member::user_of(written)?
            .filter(|user| self.shards.of_user(user) == shard)
            .ok_or_else(|| RegistryError::Corrupt("entry in a shard that is not its user's".into()))
    }
}

/// Puts the user that was being counted on the page.
fn close(open: &mut Option<Open>, page: &mut UsersPage) {
    if let Some((_, user, devices)) = open.take() {
        let tally = Tally::of(devices.iter().map(Option::as_deref));
        page.users.push((user, tally));
    }
}
