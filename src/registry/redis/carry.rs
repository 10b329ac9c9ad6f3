//! What the first layout holds against users, carried over before anybody is taken in.
//!
//! A fleet that was of another layout has bans, revocations, ended sessions and refresh families under keys that nothing reads any
//! more ([`Keys::copy_of`]). The first node to start copies them inside Redis, and marks each shard that is done; what the new
//! layout has by then wins. A node that dies on the way leaves shards without a mark, which the next one does again.
//!
//! Until a shard is marked nobody is taken in whose user is in it: it gets no generation from this node, so that nothing is
//! asserted in it; and calls that a ban or a family decides are unavailable ([`RedisRegistry::carried`]).
//!
//! [`Keys::copy_of`]: crate::registry::keys::Keys::copy_of

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;
use redis::Cmd;
use tokio::{sync::watch, time::timeout};

use super::{CHUNK, RedisRegistry};
use crate::{
    link::{Alone, DEADLINE, LinkError},
    registry::{
        RegistryError,
        keys::{Shard, Shards},
    },
};

/// How many keys one SCAN looks at: takes Redis some 200 µs.
const SCANNED: usize = 1000;

/// The pause between two warnings: it is tried again with each heartbeat.
const PAUSE: Duration = Duration::from_secs(60);

/// How far carrying over is.
#[derive(Debug)]
pub(super) struct Carry {
    progress: watch::Sender<Progress>,
    warned: Mutex<Option<Instant>>,
}

/// Which shards are done.
#[derive(Debug)]
pub(super) struct Progress {
    /// By [`Shard::index`].
    done: Vec<bool>,
    runs: bool,
}

impl Carry {
    /// Of a registry with these shards, none of which is known to be done.
    pub(super) fn new(shards: Shards) -> Self {
        let done = vec![false; shards.count()];
        Self {
            progress: watch::Sender::new(Progress { done, runs: false }),
            warned: Mutex::default(),
        }
    }

    /// Whether a shard is marked, as far as this node has seen.
    pub(super) fn has(&self, shard: Shard) -> bool {
        self.progress.borrow().done[shard.index()]
    }

    fn set(&self, shard: Shard) {
        self.progress
            .send_modify(|progress| progress.done[shard.index()] = true);
    }
}

/// Says that it runs no more, however it ends.
struct Running<'a>(&'a Carry);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0
            .progress
            .send_modify(|progress| progress.runs = false);
    }
}

/// What was found of the first layout.
#[derive(Debug, Default)]
struct Found {
    keys: usize,
    copied: u64,
}

impl RedisRegistry {
    /// Carries over what is not yet, and waits for the end of it.
    ///
    /// # Errors
    ///
    /// Unavailable if no shard is marked. Those of a server that is away are done when it is back.
    pub(super) async fn carry_over(&self) -> Result<(), RegistryError> {
        let mut progress = self.start_carrying();
        let ended = progress.wait_for(|progress| !progress.runs).await;
        match ended.is_ok_and(|progress| progress.done.contains(&true)) {
            true => Ok(()),
            false => Err(RegistryError::Unavailable(
                "what the first layout holds could not be carried over".to_owned(),
            )),
        }
    }

    /// Returns once what the first layout holds of a shard is carried over.
    ///
    /// # Errors
    ///
    /// Unavailable if that takes longer than a call may.
    pub(super) async fn carried(&self, shard: Shard) -> Result<(), RegistryError> {
        if self.carry.has(shard) {
            return Ok(());
        }
        let mut progress = self.start_carrying();
        let done = progress.wait_for(|it| it.done[shard.index()] || !it.runs);
        let done = timeout(DEADLINE, done).await;
        match done.is_ok_and(|done| done.is_ok_and(|it| it.done[shard.index()])) {
            true => Ok(()),
            false => Err(not_carried(shard)),
        }
    }

    /// Has what is left carried over, by one task at a time.
    pub(super) fn start_carrying(&self) -> watch::Receiver<Progress> {
        let progress = self.carry.progress.subscribe();
        let starts = self.carry.progress.send_if_modified(|progress| {
            let starts = !progress.runs && progress.done.contains(&false);
            progress.runs |= starts;
            starts
        });
        if starts {
            let registry = self.clone();
            tokio::spawn(async move {
                let _running = Running(&registry.carry);
                registry.carry_all().await;
            });
        }
        progress
    }

    async fn carry_all(&self) {
        let mut found = Found::default();
        let mut left = Vec::new();
        let reading = self.shards.all().filter(|shard| !self.carry.has(*shard));
        let reading = reading.map(async |shard| (shard, self.is_marked(shard).await));
        for (shard, marked) in join_all(reading).await {
            match marked {
                Ok(true) => self.carry.set(shard),
                Ok(false) => left.push(shard),
                // Of a server that is away others tell.
                Err(error) => tracing::debug!(%error, "whether a shard is carried over"),
            }
        }
        // One server after the other, each with all its shards.
        while let Some(first) = left.first().copied() {
            let carrying = async {
                let server = self.link.alone(self.keys.slot_of(first)).await?;
                let here = |shard: &Shard| *shard == first || server.has(self.keys.slot_of(*shard));
                let (here, elsewhere) = left.iter().partition::<Vec<_>, _>(|shard| here(shard));
                left = elsewhere;
                self.carry_from(server, &here, &mut found).await
            };
            if let Err(error) = carrying.await {
                self.warn_of(&error);
                left.retain(|shard| *shard != first);
            }
        }
        if found.keys > 0 {
            tracing::info!(
                keys = found.keys,
                carried_over = found.copied,
                "found a registry of the first layout: bans, revocations and refresh sessions are carried over, and no more is read",
            );
        }
    }

    async fn is_marked(&self, shard: Shard) -> Result<bool, LinkError> {
        let get = Cmd::get(self.keys.carried(shard));
        let mark: Option<Vec<u8>> = self
            .link
            .query("carry", self.keys.slot_of(shard), &get)
            .await?;
        Ok(mark.is_some())
    }

    /// Goes through all keys of one server, and marks the shards.
    async fn carry_from(
        &self,
        mut server: Alone,
        shards: &[Shard],
        found: &mut Found,
    ) -> Result<(), RegistryError> {
        let mut cursor = String::from("0");
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor)
                .arg("MATCH")
                .arg(self.keys.first_layout())
                .arg("COUNT")
                .arg(SCANNED);
            let (next, keys): (String, Vec<Vec<u8>>) = server.query("carry", &scan).await?;
            found.keys += keys.len();
            found.copied += self.copy(shards, &keys).await?;
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        for shard in shards {
            // What moved to another server meanwhile may have been seen on neither.
            if !server.has(self.keys.slot_of(*shard)) {
                return Err(not_carried(*shard));
            }
            let mark = Cmd::set(self.keys.carried(*shard), "1");
            self.link
                .query::<redis::Value>("carry", self.keys.slot_of(*shard), &mark)
                .await?;
            self.carry.set(*shard);
        }
        Ok(())
    }

    /// Copies those of some keys that are carried over.
    async fn copy(&self, shards: &[Shard], keys: &[Vec<u8>]) -> Result<u64, RegistryError> {
        let mut copies = BTreeMap::<Shard, Vec<_>>::new();
        for key in keys {
            let Some((shard, copy)) = self.keys.copy_of(key) else {
                continue;
            };
            if self.shards != Shards::default() {
                return Err(RegistryError::Unavailable(format!(
                    "it has 16 shards, and this node has registry.shards = {}: set it to 16, or begin another registry with another registry.prefix",
                    self.shards.count()
                )));
            }
            if shards.contains(&shard) {
                copies.entry(shard).or_default().push((key, copy));
            }
        }
        let mut scripts = Vec::new();
        for (shard, copies) in &copies {
            for chunk in copies.chunks(CHUNK) {
                let mut script = self.scripts.carry.prepare_invoke();
                script.key(self.keys.carried(*shard));
                for (key, copy) in chunk {
                    script.key(key.as_slice()).key(copy.as_slice());
                }
                scripts.push((self.keys.slot_of(*shard), script));
            }
        }
        let copying = scripts
            .iter()
            .map(|(slot, script)| self.link.query::<u64>("carry", *slot, script));
        Ok(try_join_all(copying).await?.into_iter().sum())
    }

    fn warn_of(&self, error: &RegistryError) {
        let mut warned = self.carry.warned.lock();
        if warned.is_none_or(|at| at.elapsed() >= PAUSE) {
            *warned = Some(Instant::now());
            tracing::warn!(%error, "can't carry over what the first layout holds; takes nobody in until that is done");
        }
    }
}

pub(super) fn not_carried(shard: Shard) -> RegistryError {
    RegistryError::Unavailable(format!(
        "what the first layout holds of shard {:x} is not carried over yet",
        shard.index()
    ))
}
