//! A connection comes, changes and goes.

use futures_util::future::try_join_all;
use jiff::Timestamp;
use redis::{FromRedisValue, ScriptInvocation, Value};

use super::{
    CHUNK, RedisRegistry,
    fences::bar_of,
    member, milliseconds,
    orders::{ending_text, read_ending},
    shards::read,
};
use crate::{
    connection::{Connection, Tally},
    ending::Ending,
    registry::{
        Admission, Ahead, Assertion, Closed, Closing, Entry, Lease, LimitPolicy, RATE_WINDOW,
        RegistryError,
        fence::ORDER_KEPT,
        keys::Shard,
        shard::{is_marked, mark},
    },
};

/// How many of a user's entries are looked at to count its devices: as many as a user may have by default. More would cost every
/// newcomer of a user with thousands of connections as much as all of them.
const COUNTED: usize = 256;

/// Fields of a hash with their values.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

impl RedisRegistry {
    /// The shard of a connection that is to be written.
    fn shard_of(&self, connection: &Connection) -> Result<Shard, RegistryError> {
        let entry = Entry {
            user: connection.user_id.clone(),
            id: connection.id.clone(),
        };
        self.shards.of_entry(&entry).ok_or_else(|| {
            RegistryError::Corrupt(format!("id {} is not one for its user", connection.id))
        })
    }

    pub(super) async fn put(
        &self,
        lease: &Lease,
        assertion: &Assertion<'_>,
    ) -> Result<Admission, RegistryError> {
        let Assertion {
            connection, grant, ..
        } = *assertion;
        let shard = self.shard_of(connection)?;
        let changed = || {
            self.amiss.notify_one();
            RegistryError::Unavailable(format!("shard {:x} has lost its data", shard.index()))
        };
        let (generation, table) = {
            let known = self.known.lock();
            (known.generation(shard).ok_or_else(changed)?, known.table())
        };
        let user = connection.user_id.as_ref();
        let limit = assertion.limit.filter(|_| user.is_some());
        let eviction = match limit.map(|limit| limit.policy) {
            Some(LimitPolicy::EvictOldest) => ending_text(&Ending::of(Ending::LIMIT))?,
            Some(LimitPolicy::Reject) | None => Vec::new(),
        };
        let (head, tail) = member::encode(lease, assertion)?;
        let ahead = grant.ahead.as_ref().filter(|_| user.is_some());
        let mut script = self.scripts.assert.prepare_invoke();
        script
            .key(self.keys.conns(shard))
            .key(self.keys.held(shard, lease))
            .key(self.keys.users(shard))
            .key(self.keys.generation(shard));
        self.fences(&mut script, shard, user, grant);
        let user = member::user_field(user);
        let text = |time: Option<Timestamp>| {
            time.map(|time| time.as_millisecond().max(0).to_string())
                .unwrap_or_default()
        };
        let is_moved = !is_marked(&connection.id, &mark(&lease.instance));
        let flag = |is: bool| if is { "1" } else { "" };
        script
            .key(self.keys.rate(shard, &user))
            .key(self.keys.kicks(shard, &user))
            .key(self.keys.end(shard, connection.id.as_str().as_bytes()))
            .key(self.keys.moved(shard))
            .key(
                self.keys
                    .ahead(shard, ahead.map_or("", |ahead| &ahead.digest)),
            )
            .key(self.keys.lasting(shard, &user))
            .key(self.keys.leaving(shard))
            .key(self.keys.seen(shard, &user))
            .arg(&generation)
            .arg(lease.to_string())
            .arg(user)
            .arg(connection.id.as_str())
            .arg(head)
            .arg(tail)
            .arg(assertion.version)
            .arg(text(assertion.start))
            .arg(text(grant.issued_at))
            .arg(text(ahead.map(Ahead::kept_until)))
            .arg(flag(is_moved))
            .arg(flag(assertion.again))
            .arg(limit.map_or(0, |limit| limit.max))
            .arg(eviction)
            .arg(self.keys.end_prefix(shard))
            .arg(milliseconds(ORDER_KEPT))
            .arg(limit.map_or(0, |limit| limit.newcomers))
            .arg(milliseconds(RATE_WINDOW))
            .arg(COUNTED)
            .arg(self.told_of_newcomer(shard, connection)?);
        for gone in table.gone() {
            script.arg(gone.lease.to_string());
        }
        let answer: Vec<Value> = self
            .link
            .query("assert", self.keys.slot_of(shard), &script)
            .await?;
        let mut answer = answer.into_iter();
        match read::<String>(answer.next())?.as_str() {
            "generation" => Err(changed()),
            "bar" => match bar_of(&read::<String>(answer.next())?)? {
                Some(bar) => Ok(Admission::Refused(bar)),
                None => Err(RegistryError::Corrupt("a bar without a name".into())),
            },
            "end" => Ok(Admission::Ended(self.order_as_read(answer.next())?)),
            _ => {
                let start: i64 = read::<String>(answer.next())?.parse().unwrap_or_default();
                let (connections, devices) = (read(answer.next())?, read(answer.next())?);
                let evicted: Vec<Vec<u8>> = read(answer.next())?;
                let evicted = evicted.into_iter().map(|id| Entry {
                    user: connection.user_id.clone(),
                    id: super::unreadable::text(id).into(),
                });
                Ok(Admission::Admitted {
                    start: Timestamp::from_millisecond(start).unwrap_or_default(),
                    tally: match connection.user_id {
                        Some(_) => Tally {
                            connections,
                            devices,
                        },
                        None => Tally::of([None]),
                    },
                    evicted: evicted.collect(),
                    lasting: self.lasting_as_read(read(answer.next())?),
                })
            }
        }
    }

    /// How a connection is to end. However that was written, it was to end.
    fn order_as_read(&self, order: Option<Value>) -> Result<Ending, RegistryError> {
        let order: Vec<u8> = read(order)?;
        Ok(read_ending(&order).unwrap_or_else(|error| {
            self.unreadable.found("order", &error);
            Ending::of(Ending::DISCONNECTED)
        }))
    }

    /// One script for each shard and [`CHUNK`], all sent at once. Those that can be removed are, also where one server is away.
    pub(super) async fn remove_entries(
        &self,
        lease: &Lease,
        closed: &[Closed],
    ) -> Result<(), RegistryError> {
        let mut shards = vec![Vec::new(); self.shards.count()];
        for one in closed {
            if let Some(shard) = self.shards.of_entry(&one.entry) {
                let user = member::user_field(one.entry.user.as_ref());
                shards[shard.index()].push((one, user));
            }
        }
        let removals = self.shards.all().zip(&shards).flat_map(|(shard, closed)| {
            let chunks = closed.chunks(CHUNK);
            chunks.map(move |chunk| async move {
                let entries = chunk
                    .iter()
                    .map(|(one, user)| (one.entry.id.as_str().as_bytes(), user.as_slice()));
                let entries: Vec<_> = entries.collect();
                let closing = |index: usize| chunk[index].0.closing.clone();
                let told = self.told_of_gone(lease, shard, &entries, closing).await?;
                let removal = self.removal(lease, shard, &entries, "gone", "", told);
                let slot = self.keys.slot_of(shard);
                self.link
                    .query::<(u64,)>("unregister", slot, &removal)
                    .await
                    .map_err(RegistryError::from)
            })
        });
        try_join_all(removals).await?;
        Ok(())
    }

    /// Returns how it is to end if it stays for that.
    pub(super) async fn remove_unless_ordered(
        &self,
        lease: &Lease,
        entry: &Entry,
    ) -> Result<Option<Ending>, RegistryError> {
        let Some(shard) = self.shards.of_entry(entry) else {
            return Ok(None);
        };
        let user = member::user_field(entry.user.as_ref());
        let one = [(entry.id.as_str().as_bytes(), user.as_slice())];
        let closing = |_| Closing::because("authenticated");
        let told = self.told_of_gone(lease, shard, &one, closing).await?;
        let removal = self.removal(lease, shard, &one, "passed", "", told);
        let answer: Vec<Value> = self
            .link
            .query("release", self.keys.slot_of(shard), &removal)
            .await?;
        match answer.into_iter().nth(1) {
            Some(order) => self.order_as_read(Some(order)).map(Some),
            None => Ok(None),
        }
    }

    /// `remove.lua` for some entries (id and user field) of a shard: those that are `gone`, one that is `passed` on, or those of a
    /// node to `reap`. `ended`: when, in ms; empty for now. `told`: backends to tell.
    pub(super) fn removal(
        &self,
        lease: &Lease,
        shard: Shard,
        entries: &[(&[u8], &[u8])],
        why: &str,
        ended: &str,
        told: String,
    ) -> ScriptInvocation<'_> {
        let mut script = self.scripts.remove.prepare_invoke();
        script
            .key(self.keys.conns(shard))
            .key(self.keys.held(shard, lease))
            .key(self.keys.users(shard))
            .key(self.keys.moved(shard))
            .key(self.keys.leaving(shard))
            .arg(lease.to_string())
            .arg(why)
            .arg(ended)
            .arg(milliseconds(self.last_seen))
            .arg(told);
        for (id, user) in entries {
            script
                .key(self.keys.seen(shard, user))
                .key(self.keys.end(shard, id))
                .arg(*user)
                .arg(*id);
        }
        script
    }

    /// Every entry of a lease in a shard.
    pub(super) async fn held_by(
        &self,
        lease: &Lease,
        shard: Shard,
    ) -> Result<Vec<Entry>, RegistryError> {
        let mut held = Vec::new();
        for (id, user) in self.scan(self.keys.held(shard, lease), shard).await? {
            if let Some(user) = self.unreadable.skip("entry", member::user_of(&user)) {
                let id = super::unreadable::text(id).into();
                held.push(Entry { user, id });
            }
        }
        Ok(held)
    }

    /// The fields and values of a hash in a shard, a few hundred at a time.
    pub(super) async fn scan(&self, key: String, shard: Shard) -> Result<Pairs, RegistryError> {
        let mut found = Vec::new();
        let mut cursor = 0;
        loop {
            let (next, pairs) = self.scan_on(key.as_bytes(), cursor, shard).await?;
            found.extend(pairs);
            cursor = next;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }

    /// Some hundred fields and values of a hash in a shard, and where it goes on; 0: it does not.
    pub(super) async fn scan_on(
        &self,
        key: &[u8],
        cursor: u64,
        shard: Shard,
    ) -> Result<(u64, Pairs), RegistryError> {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(key).arg(cursor).arg("COUNT").arg(500);
        let slot = self.keys.slot_of(shard);
        let answer: Vec<Value> = self.pool.query("held", slot, &scan).await?;
        let mut answer = answer.into_iter();
        let next: String = read(answer.next())?;
        let pairs = answer.next().unwrap_or(Value::Array(Vec::new()));
        let pairs = Pairs::from_redis_value(pairs).unwrap_or_default();
        Ok((next.parse().unwrap_or(0), pairs))
    }
}
