//! Rooms: the members of a shard's are one index, in the order of rooms, then of users; beside each room stands who holds it.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::{Cmd, ScriptInvocation};

use super::{
    RedisRegistry, member, milliseconds, orders::ending_text, shards::read, table::Table,
    unreadable::text,
};
use crate::{
    connection::{ConnectionId, Instance, UserId},
    ending::Ending,
    registry::{
        Entry, Lasting, Lease, Listed, Member, MembersPage, Ordered, RegistryError, Room,
        RoomFilter, RoomTally, Rooms, RoomsPage, cursor,
        fence::ORDER_KEPT,
        keys::{Shard, escape, room_field, room_of},
    },
};

/// How many rooms or members one command lists at the most.
const BATCH: usize = 1000;

/// How many members one script changes at the most. In a room of 100,000 each takes Redis 20 to 40 µs, and it serves nobody else meanwhile.
const CHANGED: usize = 50;

/// A member as it is written down: room, user and connection, and its lease.
struct Written {
    entry: Entry,
    lease: String,
}

/// The fields of what `change_members.lua` wrote, without those of its room: user, id and lease.
fn fields(member: &[u8]) -> Result<[&[u8]; 3], RegistryError> {
    let corrupt = || RegistryError::Corrupt("a member of a room".into());
    let mut fields = member.splitn(6, |byte| *byte == 0).skip(2);
    let mut next = || fields.next().ok_or_else(corrupt);
    let of_member = [next()?, next()?, next()?];
    match next() {
        Ok(_) => Err(corrupt()),
        Err(_) => Ok(of_member),
    }
}

/// The lease of a member, as it is written down.
pub(super) fn lease_of(member: &[u8]) -> Result<&str, RegistryError> {
    let [_user, _id, lease] = fields(member)?;
    let corrupt = |_| RegistryError::Corrupt("a member of a room".into());
    std::str::from_utf8(lease).map_err(corrupt)
}

impl Written {
    /// Reads what `change_members.lua` wrote.
    fn parse(member: &[u8]) -> Result<Self, RegistryError> {
        let [user, id, lease] = fields(member)?;
        Ok(Self {
            entry: Entry {
                user: member::user_of(user)?,
                id: text(id.to_vec()).into(),
            },
            lease: text(lease.to_vec()),
        })
    }
}

impl RedisRegistry {
    /// `change_members.lua` for members of one lease in one shard.
    fn change<'a>(
        &self,
        lease: &Lease,
        shard: Shard,
        changes: impl Iterator<Item = (&'a [u8], &'a [u8], &'a [u8], bool)> + Clone,
    ) -> Result<ScriptInvocation<'_>, RegistryError> {
        let told = self.told_of_rooms(shard, changes.clone().map(|(room, ..)| room))?;
        let mut script = self.scripts.change_members.prepare_invoke();
        script
            .key(self.keys.members(shard))
            .key(self.keys.rooms(shard))
            .key(self.keys.joined(shard, lease))
            .arg(lease.to_string())
            .arg(told);
        for (room, user, id, is_in) in changes {
            script
                .key(self.keys.room_holders(shard, room))
                .arg(if is_in { "1" } else { "0" })
                .arg(room)
                .arg(user)
                .arg(id);
        }
        Ok(script)
    }

    /// Takes some of the members of a lease, as `m:<lease>` has them, out of a shard's rooms.
    pub(super) async fn reap_members(
        &self,
        lease: &Lease,
        shard: Shard,
        joined: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), RegistryError> {
        let slot = self.keys.slot_of(shard);
        let mut unreadable = redis::cmd("HDEL");
        unreadable.arg(self.keys.joined(shard, lease));
        let mut members = Vec::with_capacity(joined.len());
        for (field, user) in joined {
            match split_joined(field) {
                Some((room, id)) => members.push((room, user.as_slice(), id, false)),
                None => {
                    unreadable.arg(field);
                }
            }
        }
        if members.len() < joined.len() {
            self.pool.query::<i64>("reap", slot, &unreadable).await?;
        }
        for some in members.chunks(CHANGED) {
            let script = self.change(lease, shard, some.iter().copied())?;
            self.pool.query::<i64>("reap", slot, &script).await?;
        }
        Ok(())
    }

    /// How many members of a room each live node has.
    async fn by_holder(
        &self,
        holders: &[(String, i64)],
    ) -> Result<BTreeMap<Instance, u64>, RegistryError> {
        let leases = holders.iter().map(|(lease, _)| lease.as_str());
        let leases = leases.filter(|lease| !lease.is_empty());
        let table = self.table_of_leases(leases.clone()).await?;
        let mut by_holder = BTreeMap::new();
        for (lease, count) in holders.iter().filter(|(_, count)| *count > 0) {
            if let Some(row) = table.live(lease) {
                *by_holder.entry(row.lease.instance.clone()).or_default() += *count as u64;
            }
        }
        Ok(by_holder)
    }

    async fn room_hash(&self, room: &Room) -> Result<Vec<(String, i64)>, RegistryError> {
        let shard = self.shards.of_room(room);
        let key = self.keys.room_holders(shard, &room_field(room));
        let command = [(self.keys.slot_of(shard), Cmd::hgetall(key))];
        let mut answers = self.read_whole("room", &[shard], &command, false).await?;
        read(answers.pop())
    }

    /// The live nodes that hold a member.
    pub(super) async fn holders_of(&self, room: &Room) -> Result<Vec<Instance>, RegistryError> {
        let holders = self.room_hash(room).await?;
        Ok(self.by_holder(&holders).await?.into_keys().collect())
    }

    /// Some members that are written behind `start`, with their leases and the last of them; fewer than [`BATCH`]: there are no more.
    async fn some_members(
        &self,
        room: &Room,
        start: &[u8],
    ) -> Result<(Vec<Written>, Vec<Vec<u8>>), RegistryError> {
        let (shard, field) = (self.shards.of_room(room), room_field(room));
        let mut range = redis::cmd("ZRANGEBYLEX");
        range
            .arg(self.keys.members(shard))
            .arg(start)
            .arg([b"(", field.as_slice(), b"\x01"].concat())
            .arg("LIMIT")
            .arg(0)
            .arg(BATCH);
        let command = [(self.keys.slot_of(shard), range)];
        let mut answers = self.read_whole("members", &[shard], &command, true).await?;
        let found: Vec<Vec<u8>> = read(answers.pop())?;
        let written = found
            .iter()
            .filter_map(|member| self.unreadable.skip("member", Written::parse(member)));
        Ok((written.collect(), found))
    }

    async fn table_of_members(&self, members: &[Written]) -> Result<Arc<Table>, RegistryError> {
        self.table_of_leases(members.iter().map(|it| it.lease.as_str()))
            .await
    }

    /// Orders the end of a room's members: each has an order of its own, in its user's shard.
    pub(super) async fn order_room(
        &self,
        room: &Room,
        except: &[ConnectionId],
        ending: &Ending,
    ) -> Result<Ordered, RegistryError> {
        let ending = ending_text(ending)?;
        let mut start = [b"[", room_field(room).as_slice(), b"\0"].concat();
        let mut ordered = Ordered::default();
        loop {
            let (members, found) = self.some_members(room, &start).await?;
            let table = self.table_of_members(&members).await?;
            let listed = members.into_iter().filter_map(|member| {
                let row = table.live(&member.lease)?;
                (!except.contains(&member.entry.id)).then(|| Listed {
                    entry: member.entry,
                    instance: row.lease.instance.clone(),
                })
            });
            let listed: Vec<_> = listed.collect();
            let orders = listed.iter().filter_map(|it| {
                let shard = self.shards.of_entry(&it.entry)?;
                let mut set = redis::cmd("SET");
                set.arg(self.keys.end(shard, it.entry.id.as_str().as_bytes()))
                    .arg(ending.as_slice())
                    .arg("PX")
                    .arg(milliseconds(ORDER_KEPT));
                Some((self.keys.slot_of(shard), set))
            });
            let orders: Vec<_> = orders.collect();
            if !orders.is_empty() {
                self.pool
                    .read_all::<redis::Value>("order_end", &orders)
                    .await?;
            }
            ordered.connections.extend(listed);
            match found.last() {
                Some(last) if found.len() == BATCH => start = [b"(", last.as_slice()].concat(),
                _ => return Ok(ordered),
            }
        }
    }

    /// Fills a page with rooms of one shard that are behind `start`; says whether there is one that does not fit.
    async fn rooms_of_shard(
        &self,
        shard: Shard,
        filter: &RoomFilter,
        mut start: Vec<u8>,
        limit: usize,
        page: &mut RoomsPage,
    ) -> Result<bool, RegistryError> {
        let slot = self.keys.slot_of(shard);
        loop {
            let mut range = redis::cmd("ZRANGEBYLEX");
            range.arg(self.keys.rooms(shard)).arg(&start).arg("+");
            range.arg("LIMIT").arg(0).arg(limit.clamp(100, BATCH));
            let command = [(slot, range)];
            let mut answers = self.read_whole("rooms", &[shard], &command, true).await?;
            let found: Vec<Vec<u8>> = read(answers.pop())?;
            let Some(last) = found.last() else {
                return Ok(false);
            };
            start = [b"(", last.as_slice()].concat();
            let mut rooms = Vec::with_capacity(found.len());
            let mut is_over = false;
            for field in &found {
                match self.seek(shard, filter, field) {
                    Seek::Listed(room) => rooms.push((field, room)),
                    Seek::Skipped => {}
                    Seek::Further(to) => {
                        start = to;
                        break;
                    }
                    Seek::Over => {
                        is_over = true;
                        break;
                    }
                }
            }
            let hashes: Vec<_> = rooms
                .iter()
                .map(|(field, _)| Cmd::hgetall(self.keys.room_holders(shard, field)))
                .map(|command| (slot, command))
                .collect();
            let hashes = self.read_whole("rooms", &[shard], &hashes, true).await?;
            for ((_, room), hash) in rooms.into_iter().zip(hashes) {
                let holders: Vec<(String, i64)> = read(Some(hash))?;
                let connections = self.by_holder(&holders).await?.into_values().sum();
                if connections == 0 {
                    continue;
                }
                if page.rooms.len() == limit {
                    return Ok(true);
                }
                page.rooms.push((room, connections));
            }
            if is_over {
                return Ok(false);
            }
        }
    }

    /// Whether a room is listed, or where the next one may be that is: what lies between is not read.
    fn seek(&self, shard: Shard, filter: &RoomFilter, field: &[u8]) -> Seek {
        let room = room_of(field).filter(|room| self.shards.of_room(room) == shard);
        let corrupt = || RegistryError::Corrupt("a room in a shard that is not its own".into());
        let Some(room) = self.unreadable.skip("room", room.ok_or_else(corrupt)) else {
            return Seek::Skipped;
        };
        let wanted = filter.namespace.as_deref().unwrap_or(&room.namespace);
        if *room.namespace != *wanted {
            return Seek::Over;
        }
        if room.name.starts_with(&filter.prefix) {
            return Seek::Listed(room);
        }
        let namespace = escape(&room.namespace);
        match escape(&room.name) < escape(&filter.prefix) {
            true => {
                let to = [namespace, escape(&filter.prefix)].join(&0);
                Seek::Further([b"[", to.as_slice()].concat())
            }
            false if filter.namespace.is_some() => Seek::Over,
            false => Seek::Further([b"(", namespace.as_slice(), b"\x01"].concat()),
        }
    }
}

/// What becomes of a room in a list.
enum Seek {
    Listed(Room),
    Skipped,
    /// Nothing is listed before this.
    Further(Vec<u8>),
    Over,
}

/// The room and the id of a field of `m:<lease>`.
fn split_joined(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = field.iter().rposition(|byte| *byte == 0)?;
    Some((&field[..end], &field[end + 1..]))
}

#[async_trait]
impl Rooms for RedisRegistry {
    async fn change_members(
        &self,
        lease: &Lease,
        shard: Shard,
        changes: &[(Member, bool)],
    ) -> Result<(), RegistryError> {
        let fields: Vec<_> = changes
            .iter()
            .map(|(member, _)| {
                let user = member::user_field(member.entry.user.as_ref());
                (room_field(&member.room), user)
            })
            .collect();
        let scripts = changes.chunks(CHANGED).zip(fields.chunks(CHANGED));
        let scripts = scripts.map(|(changes, fields)| {
            let changes = changes.iter().zip(fields);
            let changes = changes.map(|((member, is_in), (room, user))| {
                let id = member.entry.id.as_str().as_bytes();
                (room.as_slice(), user.as_slice(), id, *is_in)
            });
            self.change(lease, shard, changes)
        });
        let scripts: Vec<_> = scripts.collect::<Result<_, _>>()?;
        let slot = self.keys.slot_of(shard);
        let written = scripts
            .iter()
            .map(|script| self.link.query::<i64>("change_members", slot, script));
        try_join_all(written).await.map(drop).map_err(Into::into)
    }

    async fn joined(&self, lease: &Lease, shard: Shard) -> Result<Vec<Member>, RegistryError> {
        let mut joined = Vec::new();
        let key = self.keys.joined(shard, lease);
        for (field, user) in self.scan(key, shard).await? {
            let corrupt = || RegistryError::Corrupt("a member of a room".into());
            let member = split_joined(&field).and_then(|(room, id)| {
                Some(Member {
                    room: room_of(room)?,
                    entry: Entry {
                        user: member::user_of(&user).ok()?,
                        id: text(id.to_vec()).into(),
                    },
                })
            });
            joined.extend(self.unreadable.skip("member", member.ok_or_else(corrupt)));
        }
        Ok(joined)
    }

    async fn room(&self, room: &Room) -> Result<RoomTally, RegistryError> {
        let read = async || {
            let hash = self.room_hash(room).await?;
            let connections = self.by_holder(&hash).await?.into_values().sum();
            let users = hash.iter().find(|(lease, _)| lease.is_empty());
            let users = users.map_or(0, |(_, users)| *users).max(0) as u64;
            Ok(RoomTally {
                connections,
                users: users.min(connections),
            })
        };
        let shard = self.shards.of_room(room);
        let empty = |found: &RoomTally| (found.connections == 0).then_some(shard);
        self.surely(read, empty).await
    }

    async fn rooms(
        &self,
        filter: &RoomFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<RoomsPage, RegistryError> {
        let (after, limit) = (cursor.map(cursor::room).transpose()?, limit.max(1));
        let first = after.as_ref().map(|room| self.shards.of_room(room));
        let begin = match &filter.namespace {
            Some(namespace) => [escape(namespace), escape(&filter.prefix)].join(&0),
            // Before all namespaces, and behind what is none: those who watch users.
            None => b"/".to_vec(),
        };
        let mut page = RoomsPage::default();
        for shard in self.shards.starting_at(first.unwrap_or(Shard::FIRST)) {
            let start = match after.as_ref().filter(|_| first == Some(shard)) {
                Some(last) => [b"(", room_field(last).as_slice()].concat(),
                None => [b"[", begin.as_slice()].concat(),
            };
            if self
                .rooms_of_shard(shard, filter, start, limit, &mut page)
                .await?
            {
                page.next = page.rooms.last().map(|(room, _)| cursor::after_room(room));
                break;
            }
        }
        Ok(page)
    }

    async fn members(
        &self,
        room: &Room,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, RegistryError> {
        let (after, limit) = (cursor.map(cursor::member).transpose()?, limit.max(1));
        let field = room_field(room);
        let mut start = match after {
            Some(last) => {
                let user = member::user_field(last.user.as_ref());
                let id = last.id.as_str().as_bytes();
                // Beyond the same connection under any lease.
                [b"(", field.as_slice(), b"\0", &user, b"\0", id, b"\x01"].concat()
            }
            None => [b"[", field.as_slice(), b"\0"].concat(),
        };
        let mut page = MembersPage::default();
        loop {
            let (members, found) = self.some_members(room, &start).await?;
            let table = self.table_of_members(&members).await?;
            for member in members {
                if table.live(&member.lease).is_none() {
                    continue;
                }
                if page.members.len() == limit {
                    page.next = page.members.last().map(cursor::after_member);
                    return Ok(page);
                }
                page.members.push(member.entry);
            }
            match found.last() {
                Some(last) if found.len() == BATCH => start = [b"(", last.as_slice()].concat(),
                _ => return Ok(page),
            }
        }
    }

    async fn keep_in_room(
        &self,
        user: &UserId,
        lasting: &Lasting,
        most: usize,
    ) -> Result<bool, RegistryError> {
        self.keep(user, lasting, most).await
    }

    async fn let_go(&self, user: &UserId, room: &Room) -> Result<(), RegistryError> {
        self.let_one_go(user, room).await
    }

    async fn let_all_go(&self, room: &Room) -> Result<(), RegistryError> {
        self.let_everybody_go(room).await
    }

    async fn lasting(&self, user: &UserId) -> Result<Vec<Lasting>, RegistryError> {
        self.read_lasting(user).await
    }
}
