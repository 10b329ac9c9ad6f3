//! The shards: that this node is in them, what is read of them, and who is out of them.

use std::collections::{HashMap, HashSet};

use futures_util::{
    StreamExt,
    future::{OptionFuture, join_all, try_join_all},
    join, stream,
};
use redis::{Cmd, FromRedisValue, Value};

use super::{CHUNK, RedisRegistry, known::Known, strangers::Step};
use crate::{
    connection::Instance,
    link::{Address, LinkError, Slot},
    registry::{Closing, Heartbeat, Lease, NodeReport, RegistryError, Totals, keys::Shard},
};

/// How often a read is made again whose shards turned out to be whole in the meantime.
pub(super) const TRIES: usize = 3;

/// How many shards of a lease are reaped at a time: the pool has four connections to a server, and others want some, too.
const REAPED_AT_ONCE: usize = 3;

pub(super) fn read<T: FromRedisValue>(value: Option<Value>) -> Result<T, RegistryError> {
    let value = value.ok_or_else(|| RegistryError::Corrupt("an answer is missing".into()))?;
    T::from_redis_value(value)
        .map_err(|error| LinkError::from(redis::RedisError::from(error)).into())
}

/// What each heartbeat reads of a shard.
struct ShardRead {
    shard: Shard,
    generation: String,
    /// How many users it has; none if it never had one, or the count was lost.
    users: Option<u64>,
}

impl RedisRegistry {
    fn generation_of(&self, shard: Shard) -> (Slot, Cmd) {
        let get = Cmd::get(self.keys.generation(shard));
        (self.keys.slot_of(shard), get)
    }

    /// Reads of all shards which generation each has, of which those without get one, and how many users. A shard that can't be asked is
    /// left out.
    async fn read_shards(&self) -> Vec<ShardRead> {
        let mut at: HashMap<Option<Address>, Vec<Shard>> = HashMap::new();
        for shard in self.shards.all() {
            if self.carry.has(shard) {
                let server = self.link.server_of(self.keys.slot_of(shard));
                at.entry(server).or_default().push(shard);
            } else {
                // Nobody is taken in before that is done.
                self.start_carrying();
            }
        }
        let reading = at.into_values().map(|shards| self.read_some(shards));
        let mut all = Vec::new();
        for read in join_all(reading).await {
            match read {
                Ok(read) => all.extend(read),
                Err(error) => tracing::debug!(%error, "the generations of shards"),
            }
        }
        all
    }

    /// Takes in which generations shards have. Returns those that have lost what they had.
    fn adopt(&self, read: &[ShardRead]) -> Vec<Shard> {
        let mut known = self.known.lock();
        let lost = read
            .iter()
            .filter(|it| known.adopt(it.shard, &it.generation));
        let lost: Vec<_> = lost.map(|it| it.shard).collect();
        self.metrics.registry_losses().increment(lost.len() as u64);
        lost
    }

    /// [`RedisRegistry::read_shards`] for shards of one server.
    async fn read_some(&self, shards: Vec<Shard>) -> Result<Vec<ShardRead>, RegistryError> {
        let generations = shards.iter().map(|it| (*it, self.keys.generation(*it)));
        let users = shards.iter().map(|it| (*it, self.keys.users(*it)));
        let mut found = self.values(generations.chain(users)).await?;
        let users = found.split_off(shards.len());
        let reads = shards.into_iter().zip(found).zip(users);
        let reads = reads.map(async |((shard, found), users)| {
            let generation = match found {
                Some(found) => found,
                None => {
                    let (slot, get) = self.generation_of(shard);
                    let name = Instance::random();
                    let mut set = Cmd::set(self.keys.generation(shard), name.as_str());
                    set.arg("NX");
                    self.link.query::<Value>("generation", slot, &set).await?;
                    self.link.query("generation", slot, &get).await?
                }
            };
            Ok(ShardRead {
                shard,
                generation,
                users: users.and_then(|users| users.parse().ok()),
            })
        });
        try_join_all(reads).await
    }

    /// The values of keys of one server. Outside of a cluster they are asked for by one command, which costs Redis less than three.
    async fn values(
        &self,
        keys: impl Iterator<Item = (Shard, String)>,
    ) -> Result<Vec<Option<String>>, RegistryError> {
        if self.tables.len() > 1 {
            let gets = keys.map(|(shard, key)| (self.keys.slot_of(shard), Cmd::get(key)));
            let gets: Vec<_> = gets.collect();
            return Ok(self.link.read_all("generation", &gets).await?);
        }
        let (shards, keys): (Vec<_>, Vec<_>) = keys.unzip();
        let slot = shards.first().map(|shard| self.keys.slot_of(*shard));
        let mut all = redis::cmd("MGET");
        all.arg(keys);
        match slot {
            Some(slot) => Ok(self.link.query("generation", slot, &all).await?),
            None => Ok(Vec::new()),
        }
    }

    /// Counts the users of shards that have entries (`walked`) and no count of users, as it was lost.
    async fn recount_lost(&self, read: &[ShardRead], walked: &[Step]) -> Result<(), RegistryError> {
        let uncounted = read.iter().filter(|it| it.users.is_none());
        let uncounted: HashSet<_> = uncounted.map(|it| it.shard).collect();
        let with_entries = walked.iter().filter(|step| !step.entries.is_empty());
        for step in with_entries.filter(|step| uncounted.contains(&step.shard)) {
            self.recount(step.shard).await?;
        }
        Ok(())
    }

    pub(super) async fn join_lease(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<bool, RegistryError> {
        self.check_schema().await?;
        self.carry_over().await?;
        if lease.epoch == 1 {
            // It has no connections yet: a node that sees that it lives sees that it is in.
            self.known.lock().set_own(Some(lease.clone()));
            self.adopt(&self.read_shards().await);
            let lacking = self.known.lock().lacking();
            let marks = lacking.into_iter().map(async |shard| {
                let generation = self.known.lock().generation(shard);
                let marking = generation
                    .as_deref()
                    .map(|it| self.mark_entered(lease, shard, it));
                OptionFuture::from(marking).await
            });
            // One that can't be told now is told with a later heartbeat.
            join_all(marks).await;
        }
        let (beat, ()) = self.beat(lease, report, true, async {}).await?;
        if !beat.held {
            return Ok(false);
        }
        if beat.is_young && lease.epoch == 1 {
            self.expect_listeners().await;
        }
        self.known.lock().set_own(Some(lease.clone()));
        self.adopt(&self.read_shards().await);
        Ok(true)
    }

    /// Expects in the table all nodes that listen to their channels: a Redis that has lost its data has not lost those who listen. So
    /// the first node of a new fleet waits for nobody, and a newcomer right after a loss for those that have yet to come back.
    async fn expect_listeners(&self) {
        let channels = self.keys.node_channel(Shard::FIRST, &"".into());
        let mut asking = redis::cmd("PUBSUB");
        asking.arg("SHARDCHANNELS").arg(format!("{channels}*"));
        let slot = self.keys.slot_of(Shard::FIRST);
        match self
            .link
            .query::<Vec<String>>("listeners", slot, &asking)
            .await
        {
            Ok(listening) => {
                let nodes = listening.iter().filter_map(|it| it.strip_prefix(&channels));
                self.known.lock().expect(nodes.map(Instance::from));
            }
            Err(error) => {
                tracing::warn!(%error, "can't ask which nodes listen: if the registry was lost just now, their users may be taken for offline");
            }
        }
    }

    pub(super) async fn prolong(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<Heartbeat, RegistryError> {
        let beside = async { join!(self.read_shards(), self.read_on()) };
        let (beat, (read, walked)) = self.beat(lease, report, false, beside).await?;
        self.raise_level().await;
        let lost = self.adopt(&read);
        let come_by = async {
            let walked = walked?;
            self.recount_lost(&read, &walked).await?;
            self.come_by(&walked).await
        };
        if let Err(error) = come_by.await {
            tracing::debug!(%error, "can't look for entries of nobody");
        }
        let mut known = self.known.lock();
        let table = known.table();
        let totals = (read.len() == self.shards.count()).then(|| Totals {
            nodes: table.holding().count() as u64,
            connections: table.holding().map(|row| row.report.connections).sum(),
            users: read.iter().filter_map(|it| it.users).sum(),
        });
        Ok(Heartbeat {
            held: beat.held,
            lacking: known.lacking(),
            lost: beat.lost || !lost.is_empty(),
            emptied: lost,
            lapsed: self.lapsed(&mut known),
            totals,
            next: known.next(self.patience()),
        })
    }

    /// The leases that are for this node to reap: those that have run out for long enough, or that no table has; each first for one
    /// of the nodes that live, and after each further heartbeat for one more, in case that the earlier ones don't do it.
    pub(super) fn lapsed(&self, known: &mut Known) -> Vec<Lease> {
        let table = known.table();
        let mut live: Vec<_> = table.instances().into_iter().collect();
        live.sort();
        let own = known
            .own()
            .and_then(|own| live.binary_search(&own.instance).ok());
        let mut over = known.strangers(self.lease);
        over.extend(table.gone().map(|row| {
            let late = known.late_for(&row.lease.to_string());
            (row.lease.clone(), late)
        }));
        over.retain(|(lease, late)| {
            let turns = match own {
                Some(own) => {
                    let bytes = lease.instance.as_str().bytes();
                    let first = bytes.map(usize::from).sum::<usize>() % live.len();
                    (own + live.len() - first) % live.len()
                }
                // After all that live.
                None => live.len(),
            };
            let turns = u32::try_from(turns).unwrap_or(u32::MAX);
            *late >= self.patience() + self.heartbeat.saturating_mul(turns)
        });
        over.into_iter().map(|(lease, _)| lease).collect()
    }

    pub(super) async fn mark_entered(
        &self,
        lease: &Lease,
        shard: Shard,
        generation: &str,
    ) -> Result<bool, RegistryError> {
        let mut script = self.scripts.mark.prepare_invoke();
        script
            .key(self.keys.generation(shard))
            .key(self.keys.entered(shard, generation))
            .arg(generation)
            .arg(lease.to_string());
        let marked: bool = self
            .link
            .query("mark", self.keys.slot_of(shard), &script)
            .await?;
        if marked {
            self.known.lock().entered(lease, shard, generation);
        }
        Ok(marked)
    }

    /// Reads, and then the generations of the shards that were read: of what is whole, and the answers. The commands of one shard are
    /// answered by one server, in their order.
    pub(super) async fn read_whole(
        &self,
        operation: &'static str,
        shards: &[Shard],
        commands: &[(Slot, Cmd)],
        long: bool,
    ) -> Result<Vec<Value>, RegistryError> {
        let mut all = commands.to_vec();
        all.extend(shards.iter().map(|shard| self.generation_of(*shard)));
        for _ in 0..TRIES {
            let mut answers: Vec<Value> = match long {
                true => self.pool.read_all(operation, &all).await?,
                false => self.link.read_all(operation, &all).await?,
            };
            let generations = answers.split_off(commands.len());
            let mut whole = true;
            for (shard, generation) in shards.iter().zip(generations) {
                whole &= self.is_whole(*shard, read(Some(generation))?).await?;
            }
            if whole {
                return Ok(answers);
            }
        }
        Err(RegistryError::Unavailable(
            "a shard loses its data again and again".to_owned(),
        ))
    }

    /// Out of every answer first, then gone: a crash between the two leaves what any node reaps.
    pub(super) async fn leave_lease(&self, lease: &Lease) -> Result<(), RegistryError> {
        self.bury(lease, true).await?;
        self.reap_buried(lease, "").await.map(drop)
    }

    pub(super) async fn reap_lease(&self, lease: &Lease) -> Result<u64, RegistryError> {
        let name = lease.to_string();
        let (is_stranger, table) = {
            let known = self.known.lock();
            (known.strangers.has(&name), known.table())
        };
        let is_over = match is_stranger {
            true => self.bury_stranger(lease).await?,
            false => self.bury(lease, false).await?,
        };
        if !is_over {
            return Ok(0);
        }
        let row = table.row(&name);
        let renewed = row.map(|row| row.renewed.as_millisecond().to_string());
        self.reap_buried(lease, renewed.as_deref().unwrap_or_default())
            .await
    }

    /// `ended`: when its connections did, in ms; empty for now.
    async fn reap_buried(&self, lease: &Lease, ended: &str) -> Result<u64, RegistryError> {
        // What can be reaped is, also where one server is away.
        let shards = self
            .shards
            .all()
            .map(|shard| self.reap_shard(lease, shard, ended));
        let reaped: Vec<Result<u64, _>> = stream::iter(shards)
            .buffer_unordered(REAPED_AT_ONCE)
            .collect()
            .await;
        let reaped = reaped.into_iter().sum::<Result<u64, _>>()?;
        self.forget(lease).await?;
        self.known.lock().strangers.remove(&lease.to_string());
        Ok(reaped)
    }

    /// Ends, as each round takes what it has read out of the list that it reads.
    async fn reap_shard(
        &self,
        lease: &Lease,
        shard: Shard,
        ended: &str,
    ) -> Result<u64, RegistryError> {
        let slot = self.keys.slot_of(shard);
        let some = |key: String| {
            let mut some = redis::cmd("HRANDFIELD");
            some.arg(key).arg(CHUNK).arg("WITHVALUES");
            (slot, some)
        };
        // The generation is asked for, as who has never sent a heartbeat knows none, and may reap all the same.
        let look = [
            some(self.keys.held(shard, lease)),
            some(self.keys.joined(shard, lease)),
            self.generation_of(shard),
        ];
        let mut reaped = 0;
        let generation: Option<String> = loop {
            let answers: Vec<Value> = self.pool.read_all("reap", &look).await?;
            let mut answers = answers.into_iter();
            let entries: Vec<(Vec<u8>, Vec<u8>)> = read(answers.next())?;
            let joined: Vec<(Vec<u8>, Vec<u8>)> = read(answers.next())?;
            if entries.is_empty() && joined.is_empty() {
                break read(answers.next())?;
            }
            if !joined.is_empty() {
                self.reap_members(lease, shard, &joined).await?;
            }
            if !entries.is_empty() {
                let entries = entries
                    .iter()
                    .map(|(id, user)| (id.as_slice(), user.as_slice()));
                let entries: Vec<_> = entries.collect();
                let closing = |_| Closing::lost();
                let told = self.told_of_gone(lease, shard, &entries, closing).await?;
                let script = self.removal(lease, shard, &entries, "reap", ended, told);
                let (removed,): (u64,) = self.pool.query("reap", slot, &script).await?;
                reaped += removed;
            }
        };
        if let Some(generation) = generation {
            let mut out = redis::cmd("SREM");
            out.arg(self.keys.entered(shard, &generation))
                .arg(lease.to_string());
            self.pool.query::<i64>("reap", slot, &out).await?;
        }
        Ok(reaped)
    }
}
