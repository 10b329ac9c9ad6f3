//! Entries, and members of rooms, of leases that no table has: of a dead node whose row was lost with the table, or that a version
//! without rooms has reaped; or written by a call that came after the last of its node's entries was reaped. Nobody lists them, and
//! nobody would reap them.
//!
//! A node finds them when it reads them, and by a walk through all of them, a few with each heartbeat.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use redis::Cmd;
use tokio::time::Instant;

use super::{RedisRegistry, rooms::lease_of};
use crate::registry::{
    Lease, RegistryError,
    keys::{Shard, Shards},
};

/// In how many heartbeats of a node the walk takes a step in each shard.
const TURNS: usize = 4;

/// How many entries and how many members a step is: a node comes by all of a fleet of 100,000 connections within a quarter of an hour.
const STEP: usize = 80;

/// How many leases are remembered.
const MOST: usize = 1024;

/// For how many leases one is remembered that no entry was met of since.
const REMEMBERED: u32 = 6;

/// The leases that entries or members name and no table has.
#[derive(Debug, Default)]
pub(super) struct Strangers(HashMap<String, Met>);

/// When an entry or a member of a lease was first met, and last.
#[derive(Clone, Copy, Debug)]
struct Met {
    first: Instant,
    last: Instant,
}

/// Up to where each shard was walked through, and which shards are next.
#[derive(Debug)]
pub(super) struct Walk(Mutex<(usize, Vec<Walked>)>);

/// Up to where the entries and the members of a shard were walked through; empty: it begins anew.
#[derive(Clone, Debug, Default)]
struct Walked {
    entries: Vec<u8>,
    members: Vec<u8>,
}

/// The next entries and members of a shard.
pub(super) struct Step {
    pub(super) shard: Shard,
    pub(super) entries: Vec<Vec<u8>>,
    members: Vec<Vec<u8>>,
}

impl Strangers {
    /// An entry or a member names a lease that no table has.
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
        Self(Mutex::new((0, vec![Walked::default(); shards.count()])))
    }
}

impl RedisRegistry {
    /// Reads the next few entries and members of some shards, from where the walk is.
    pub(super) async fn read_on(&self) -> Result<Vec<Step>, RegistryError> {
        let begun: Vec<_> = {
            let mut walk = self.walk.0.lock();
            walk.0 = (walk.0 + 1) % TURNS;
            let shards = self.shards.all().filter(|it| it.index() % TURNS == walk.0);
            shards.map(|it| (it, walk.1[it.index()].clone())).collect()
        };
        let commands = begun
            .iter()
            .flat_map(|(shard, Walked { entries, members })| {
                let behind = [
                    (self.keys.conns(*shard), entries),
                    (self.keys.members(*shard), members),
                ];
                behind.map(|(key, last)| {
                    let start = match last.is_empty() {
                        true => b"-".to_vec(),
                        false => [b"(", last.as_slice()].concat(),
                    };
                    let mut range: Cmd = redis::cmd("ZRANGEBYLEX");
                    range.arg(key).arg(start).arg("+");
                    range.arg("LIMIT").arg(0).arg(STEP);
                    (self.keys.slot_of(*shard), range)
                })
            });
        let commands: Vec<_> = commands.collect();
        let found: Vec<Vec<Vec<u8>>> = self.link.read_all("walk", &commands).await?;
        let mut found = found.into_iter();
        let steps = begun.into_iter().map(|(shard, _)| Step {
            shard,
            entries: found.next().unwrap_or_default(),
            members: found.next().unwrap_or_default(),
        });
        Ok(steps.collect())
    }

    /// Takes in what [`RedisRegistry::read_on`] has found: a lease that no table has is remembered.
    pub(super) async fn come_by(&self, steps: &[Step]) -> Result<(), RegistryError> {
        {
            let walked = &mut self.walk.0.lock().1;
            for step in steps {
                // At the end it begins anew.
                let last = |found: &[Vec<u8>]| found.get(STEP - 1).cloned().unwrap_or_default();
                walked[step.shard.index()] = Walked {
                    entries: last(&step.entries),
                    members: last(&step.members),
                };
            }
        }
        let entries = steps.iter().flat_map(|step| self.readable(&step.entries));
        let members = steps.iter().flat_map(|step| &step.members);
        let members = members.filter_map(|it| self.unreadable.skip("member", lease_of(it)));
        let leases: HashSet<_> = entries.map(|it| it.lease).chain(members).collect();
        self.table_of_leases(leases.into_iter()).await.map(drop)
    }
}
