//! Entries of leases that no table has: of a dead node whose row was lost with the table, or written by a call that came after the
//! last of its node's entries was reaped. Nobody lists them, and nobody would reap them.
//!
//! A node finds them when it reads them, and by a walk through all entries, a few with each heartbeat.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use redis::Cmd;
use tokio::time::Instant;

use super::RedisRegistry;
use crate::registry::{
    Lease, RegistryError,
    keys::{Shard, Shards},
};

/// In how many heartbeats of a node the walk takes a step in each shard.
const TURNS: usize = 4;

/// How many entries a step is: a node comes by all of a fleet of 100,000 connections within a quarter of an hour.
const STEP: usize = 80;

/// How many leases are remembered.
const MOST: usize = 1024;

/// For how many leases one is remembered that no entry was met of since.
const REMEMBERED: u32 = 6;

/// The leases that entries name and no table has.
#[derive(Debug, Default)]
pub(super) struct Strangers(HashMap<String, Met>);

/// When an entry of a lease was first met, and last.
#[derive(Clone, Copy, Debug)]
struct Met {
    first: Instant,
    last: Instant,
}

/// Up to where each shard was walked through, and which shards are next.
#[derive(Debug)]
pub(super) struct Walk(Mutex<(usize, Vec<Vec<u8>>)>);

impl Strangers {
    /// An entry names a lease that no table has.
    pub(super) fn meet(&mut self, lease: &str) {
        let now = Instant::now();
        if let Some(met) = self.0.get_mut(lease) {
            met.last = now;
        } else if self.0.len() < MOST {
            let (first, last) = (now, now);
            self.0.insert(lease.to_owned(), Met { first, last });
        }
    }

    /// Forgets those that a new table has, and those that were not met for long.
    pub(super) fn retain(&mut self, is_strange: impl Fn(&str) -> bool, lease: Duration) {
        self.0
            .retain(|name, met| is_strange(name) && met.last.elapsed() < REMEMBERED * lease);
    }

    /// Those that no table has had for as long as a lease, each with how long that is over.
    pub(super) fn over(&self, lease: Duration) -> impl Iterator<Item = (Lease, Duration)> {
        self.0.iter().filter_map(move |(name, met)| {
            // Of one of which nothing was met since, another node may have reaped what there was.
            (met.last - met.first).checked_sub(lease)?;
            Some((name.parse().ok()?, met.first.elapsed() - lease))
        })
    }

    pub(super) fn has(&self, lease: &str) -> bool {
        self.0.contains_key(lease)
    }

    /// Nothing is left of a lease.
    pub(super) fn remove(&mut self, lease: &str) {
        self.0.remove(lease);
    }
}

impl Walk {
    pub(super) fn new(shards: Shards) -> Self {
        Self(Mutex::new((0, vec![Vec::new(); shards.count()])))
    }
}

impl RedisRegistry {
    /// Reads the next few entries of some shards, from where the walk is.
    pub(super) async fn read_on(&self) -> Result<Vec<(Shard, Vec<Vec<u8>>)>, RegistryError> {
        let steps: Vec<_> = {
            let mut walk = self.walk.0.lock();
            walk.0 = (walk.0 + 1) % TURNS;
            let shards = self.shards.all().filter(|it| it.index() % TURNS == walk.0);
            shards.map(|it| (it, walk.1[it.index()].clone())).collect()
        };
        let mut commands = Vec::new();
        for (shard, end) in &steps {
            let start = match end.is_empty() {
                true => b"-".to_vec(),
                false => [b"(", end.as_slice()].concat(),
            };
            let mut range: Cmd = redis::cmd("ZRANGEBYLEX");
            range.arg(self.keys.conns(*shard)).arg(start).arg("+");
            range.arg("LIMIT").arg(0).arg(STEP);
            commands.push((self.keys.slot_of(*shard), range));
        }
        let found: Vec<Vec<Vec<u8>>> = self.link.read_all("walk", &commands).await?;
        let shards = steps.into_iter().map(|(shard, _)| shard);
        Ok(shards.zip(found).collect())
    }

    /// Takes in what [`RedisRegistry::read_on`] has found: an entry whose lease no table has is remembered.
    pub(super) async fn come_by(
        &self,
        walked: &[(Shard, Vec<Vec<u8>>)],
    ) -> Result<(), RegistryError> {
        {
            let ends = &mut self.walk.0.lock().1;
            for (shard, entries) in walked {
                // At the end it begins anew.
                ends[shard.index()] = entries.get(STEP - 1).cloned().unwrap_or_default();
            }
        }
        let members = walked
            .iter()
            .flat_map(|(_, entries)| self.readable(entries));
        let leases: HashSet<_> = members.map(|member| member.lease).collect();
        self.table_of_leases(leases.into_iter()).await.map(drop)
    }
}
