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
use crate::{
    link::Slot,
    registry::{Lease, RegistryError, keys::Shards},
};

/// How many entries of each shard are come by with each heartbeat of a node: all of a fleet of 100,000 connections within some
/// minutes.
const STEP: usize = 20;

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

/// Up to where each shard was walked through.
#[derive(Debug)]
pub(super) struct Walk(Mutex<(Option<Instant>, Vec<Vec<u8>>)>);

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
        Self(Mutex::new((None, vec![Vec::new(); shards.count()])))
    }

    /// Where to go on, unless that was done less than a `pause` ago.
    pub(super) fn due(&self, pause: Duration) -> Option<Vec<Vec<u8>>> {
        let mut walk = self.0.lock();
        if walk.0.is_some_and(|last| last.elapsed() < pause) {
            return None;
        }
        walk.0 = Some(Instant::now());
        Some(walk.1.clone())
    }
}

impl RedisRegistry {
    /// Reads the next few entries of each shard, from where the walk is.
    pub(super) fn steps(&self, ends: &[Vec<u8>]) -> impl Iterator<Item = (Slot, Cmd)> {
        self.shards.all().zip(ends).map(|(shard, end)| {
            let start = match end.is_empty() {
                true => b"-".to_vec(),
                false => [b"(", end.as_slice()].concat(),
            };
            let mut range: Cmd = redis::cmd("ZRANGEBYLEX");
            range.arg(self.keys.conns(shard)).arg(start).arg("+");
            range.arg("LIMIT").arg(0).arg(STEP);
            (self.keys.slot_of(shard), range)
        })
    }

    /// Takes in what [`RedisRegistry::steps`] has found: an entry whose lease no table has is remembered.
    pub(super) async fn come_by(&self, found: &[Vec<Vec<u8>>]) -> Result<(), RegistryError> {
        // At the end it begins anew.
        let ends = found.iter().map(|members| members.get(STEP - 1));
        self.walk.0.lock().1 = ends.map(|end| end.cloned().unwrap_or_default()).collect();
        let members = found.iter().flat_map(|members| self.readable(members));
        let leases: HashSet<_> = members.map(|member| member.lease).collect();
        self.table_of_leases(leases.into_iter()).await.map(drop)
    }
}
