//! What all nodes of a registry must agree on: the layout, the number of shards, and the level at which they write.
//!
//! The schema is a field of each copy of the table of leases, so it is lost only with the whole table, survives the loss of a master,
//! and costs no command: the heartbeat reads it with the leases, and puts it back. The first node makes it. One that finds another
//! layout or number of shards, or that does not speak the least level, does not join, and its log says so. Where the table has lost
//! its schema, a newcomer waits until a node that lives has put it back, or none lives any more. A newcomer with other numbers that
//! gets into an empty table first is turned out by those who lived before.
//!
//! A level stands for what a node can read. Every report says which one its node speaks (none: the first). Once all speak a higher
//! one, any node raises the level of the fleet, in one script that looks at all reports; from then on nodes may write what is new at
//! it, and who does not speak it can't join. It is never lowered.

use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::Cmd;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{RedisRegistry, leases::Beaten, table::LeaseStanding};
use crate::registry::{
    NodeReport, RegistryError,
    keys::{LAYOUT, Shards},
};

/// The level that this version speaks.
pub(super) const SPOKEN: u32 = 1;

/// The level of a new registry, and of a report without one.
const FIRST: u32 = 1;

/// The field of the table that has it.
const FIELD: &str = "schema";

/// The pause between two errors in the log: a node that can't join tries again several times a second.
const PAUSE: Duration = Duration::from_secs(60);

/// As it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Schema {
    layout: u32,
    shards: u32,
    /// At which all nodes write.
    level: u32,
    /// Which a node must speak to join.
    least: u32,
}

impl Schema {
    fn read(written: &[u8]) -> Option<Self> {
        serde_json::from_slice(written).ok()
    }
}

/// A report, with the level that its node speaks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) report: NodeReport,
    #[serde(rename = "l", default = "first")]
    pub(super) speaks: u32,
}

fn first() -> u32 {
    FIRST
}

/// What one node knows of the schema.
#[derive(Debug)]
pub(super) struct Agreement {
    speaks: u32,
    known: Mutex<Schema>,
    /// Since when this node has heard of everybody who lives: it joined then, or the table was lost.
    since: Mutex<Option<Instant>>,
    reported: Mutex<Option<Instant>>,
}

impl Agreement {
    /// Of a node with these shards that speaks this level and has heard of no other yet.
    pub(super) fn new(speaks: u32, shards: Shards) -> Self {
        Self {
            speaks,
            known: Mutex::new(Schema {
                layout: LAYOUT.into(),
                shards: u8::from(shards).into(),
                level: FIRST,
                least: FIRST,
            }),
            since: Mutex::default(),
            reported: Mutex::default(),
        }
    }

    pub(super) fn speaks(&self) -> u32 {
        self.speaks
    }

    pub(super) fn level(&self) -> u32 {
        self.known.lock().level
    }

    pub(super) fn written(&self) -> Result<String, RegistryError> {
        serde_json::to_string(&*self.known.lock())
            .map_err(|error| RegistryError::Corrupt(format!("the schema: {error}")))
    }

    /// Nodes that live may be missing in the table that is known, until they have had the time to renew their leases.
    pub(super) fn settle(&self) {
        *self.since.lock() = Some(Instant::now());
    }

    fn is_settled(&self, lease: Duration) -> bool {
        self.since
            .lock()
            .is_some_and(|since| since.elapsed() >= lease)
    }

    /// All nodes write at this level, or a higher one.
    fn rise(&self, level: u32, least: u32) {
        let mut known = self.known.lock();
        known.least = known.least.max(least);
        if known.level < level {
            known.level = level;
            tracing::info!(
                level,
                "all nodes write at this level from now on; older ones can't join any more"
            );
        }
    }

    /// What keeps this node out, if anything does.
    fn mismatch(&self, found: &Schema) -> Option<String> {
        let known = self.known.lock();
        if found.layout != known.layout {
            return Some(format!(
                "the registry has layout {}, and this node serves layout {}",
                found.layout, known.layout
            ));
        }
        if found.shards != known.shards {
            return Some(format!(
                "the registry was made with registry.shards = {}, and this node has registry.shards = {}: set it to {0}, or begin another registry with another registry.prefix",
                found.shards, known.shards
            ));
        }
        (self.speaks < found.least).then(|| {
            format!(
                "nodes must speak level {} to join, and this one speaks level {}: start a newer version",
                found.least, self.speaks
            )
        })
    }
}

impl RedisRegistry {
    /// A report as it is written into the table.
    pub(super) fn written(&self, report: &NodeReport) -> Result<String, RegistryError> {
        let report = Report {
            report: report.clone(),
            speaks: self.schema.speaks(),
        };
        serde_json::to_string(&report).map_err(|error| {
            RegistryError::Corrupt(format!("report of {}: {error}", report.report.node_id))
        })
    }

    /// Looks whether this node can serve what the registry has, before it writes anything there.
    ///
    /// # Errors
    ///
    /// Unavailable if it can't, or if most copies of the table don't answer.
    pub(super) async fn check_schema(&self) -> Result<(), RegistryError> {
        let asking = self
            .tables
            .iter()
            .enumerate()
            .map(async |(copy, (slot, key))| {
                let get = Cmd::hget(key, FIELD);
                let found = self.link.query::<Option<Vec<u8>>>("schema", *slot, &get);
                (copy, found.await)
            });
        let found = self.most_of(join_all(asking).await)?;
        let refusing = found.iter().filter_map(|(copy, written)| {
            let found = Schema::read(written.as_deref()?)?;
            Some((*copy, self.schema.mismatch(&found)?))
        });
        self.refused(found.len(), refusing.collect())
    }

    /// The answers to a heartbeat without those of copies whose schema is another.
    ///
    /// # Errors
    ///
    /// Unavailable if less than most of the copies are left.
    pub(super) fn agreeing(
        &self,
        answers: Vec<(usize, Beaten)>,
    ) -> Result<Vec<(usize, Beaten)>, RegistryError> {
        let count = answers.len();
        let mut refusing = Vec::new();
        let mut agreeing = Vec::new();
        let mut found = Vec::new();
        for (copy, answer) in answers {
            let ((.., verdict), rows) = &answer;
            let field = rows.iter().find(|(name, _)| name == FIELD.as_bytes());
            let schema = field.and_then(|(_, written)| Schema::read(written));
            match verdict.as_str() {
                "refused" | "unsettled" => {
                    let mismatch = schema.and_then(|schema| self.schema.mismatch(&schema));
                    refusing.push((copy, mismatch.unwrap_or_else(|| {
                        "the schema is not there, or can't be read; nodes that live put it back".to_owned()
                    })));
                }
                _ => {
                    found.extend(schema);
                    agreeing.push((copy, answer));
                }
            }
        }
        self.refused(count, refusing)?;
        // The level that a majority of the copies has counts: any two majorities share a copy.
        found.sort_by_key(|schema| std::cmp::Reverse(schema.level));
        if let Some(agreed) = found.get(self.most() - 1) {
            self.schema.rise(agreed.level, agreed.least);
        }
        Ok(agreeing)
    }

    /// `refusing`: the copies that don't let this node in, of those that have answered, and why.
    fn refused(
        &self,
        answered: usize,
        refusing: Vec<(usize, String)>,
    ) -> Result<(), RegistryError> {
        let count = refusing.len();
        match refusing.into_iter().next() {
            Some((copy, why)) if answered - count < self.most() => {
                let (_, key) = &self.tables[copy];
                let error = RegistryError::Unavailable(format!("{key}, field {FIELD}: {why}"));
                let mut reported = self.schema.reported.lock();
                if reported.is_none_or(|at| at.elapsed() >= PAUSE) {
                    *reported = Some(Instant::now());
                    tracing::error!(%error, "this node can't join");
                }
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Raises the level at which the fleet writes, once every node speaks a higher one.
    pub(super) async fn raise_level(&self) {
        let level = {
            let mut known = self.known.lock();
            if !self.schema.is_settled(self.lease) || known.waits(self.lease) {
                return;
            }
            let table = known.table();
            let rows = table
                .rows()
                .filter(|row| row.standing != LeaseStanding::Buried);
            rows.map(|row| row.speaks).min()
        };
        let Some(level) = level.filter(|level| *level > self.schema.level()) else {
            return;
        };
        let raising = self.copies::<u8>("raise", |_, key| {
            let mut script = self.scripts.raise.prepare_invoke();
            script.key(key).arg(level);
            script
        });
        match raising.await {
            Ok(raised)
                if raised.iter().filter(|(_, raised)| *raised == 1).count() >= self.most() =>
            {
                self.schema.rise(level, level);
            }
            Ok(_) => tracing::debug!(level, "not every node speaks this level"),
            Err(error) => tracing::debug!(%error, level, "can't raise the level"),
        }
    }
}
