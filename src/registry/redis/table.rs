//! The table of leases, as it was read: who lives.
//!
//! A row is judged by the time of Redis that came with it, and never by a clock of this node's. So a table is believed only for
//! half a lease.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{RedisRegistry, schema::Report, unreadable::text};
use crate::{
    connection::{ConnectionId, Instance, NodeId},
    registry::{
        Lease, NodeReport, RegistryError,
        shard::{is_marked, mark},
    },
};

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeaseStanding {
    /// Over for good.
    Buried,
    /// Run out, and not buried.
    Late,
    /// Its node lives.
    Holds,
}

/// What the table has of one lease.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) lease: Lease,
    pub(super) standing: LeaseStanding,
    /// When it was last renewed, by the clock of Redis.
    pub(super) renewed: Timestamp,
    pub(super) report: NodeReport,
    /// The level that its node speaks.
    pub(super) speaks: u32,
    /// What the ids have that its node gives out.
    mark: String,
    /// In how many copies it is buried.
    buried: usize,
    /// How long it holds yet.
    left: Duration,
}

impl Row {
    pub(super) fn node(&self) -> &NodeId {
        &self.report.node_id
    }
}

/// The leases at one moment, by their text, as entries hold it.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: HashMap<String, Row>,
    /// When it was asked for; none: never.
    asked: Option<Instant>,
}

impl Table {
    /// The row of a lease, if it holds.
    pub(super) fn live(&self, lease: &str) -> Option<&Row> {
        self.row(lease)
            .filter(|row| row.standing == LeaseStanding::Holds)
    }

    pub(super) fn row(&self, lease: &str) -> Option<&Row> {
        self.rows.get(lease)
    }

    /// All of them.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// Those that hold.
    pub(super) fn holding(&self) -> impl Iterator<Item = &Row> {
        self.rows()
            .filter(|row| row.standing == LeaseStanding::Holds)
    }

    /// Those that don't, and are not reaped yet.
    pub(super) fn gone(&self) -> impl Iterator<Item = &Row> {
        self.rows()
            .filter(|row| row.standing != LeaseStanding::Holds)
    }

    /// The leases that hold whose nodes may have given out an id.
    pub(super) fn marked<'a>(&'a self, id: &'a ConnectionId) -> impl Iterator<Item = &'a Lease> {
        let marked = self.holding().filter(move |row| is_marked(id, &row.mark));
        marked.map(|row| &row.lease)
    }

    /// Every lease with how long it holds yet, or none if it does not.
    pub(super) fn left(&self) -> impl Iterator<Item = (&String, Option<Duration>)> {
        self.rows.iter().map(|(lease, row)| {
            let holds = row.standing == LeaseStanding::Holds;
            (lease, holds.then_some(row.left))
        })
    }

    pub(super) fn instances(&self) -> HashSet<Instance> {
        self.holding()
            .map(|row| row.lease.instance.clone())
            .collect()
    }

    /// Whether it was asked for before another one.
    pub(super) fn is_older(&self, other: &Self) -> bool {
        self.asked < other.asked
    }

    /// Whether it was asked for this lately.
    pub(super) fn is_fresh(&self, within: Duration) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < within)
    }

    /// Takes in what one copy says.
    fn add(
        &mut self,
        lease: Lease,
        ends: Option<i64>,
        at: i64,
        renewed: Timestamp,
        Report { report, speaks }: Report,
    ) {
        let standing = match ends {
            None => LeaseStanding::Buried,
            Some(ends) if ends > at => LeaseStanding::Holds,
            Some(_) => LeaseStanding::Late,
        };
        let row = self.rows.entry(lease.to_string()).or_insert_with(|| Row {
            mark: mark(&lease.instance),
            lease,
            standing,
            renewed,
            report: report.clone(),
            speaks,
            buried: 0,
            left: Duration::ZERO,
        });
        let left = ends.and_then(|ends| u64::try_from(ends - at).ok());
        row.left = row
            .left
            .max(left.map(Duration::from_millis).unwrap_or_default());
        row.buried += usize::from(standing == LeaseStanding::Buried);
        row.standing = row.standing.max(standing);
        if renewed > row.renewed {
            (row.renewed, row.report, row.speaks) = (renewed, report, speaks);
        }
    }

    /// One that is buried in most copies is so, whatever the others say; in too few, it is late: they have yet to agree.
    fn close(mut self, most: usize) -> Self {
        for row in self.rows.values_mut() {
            if row.buried >= most {
                row.standing = LeaseStanding::Buried;
            } else if row.standing == LeaseStanding::Buried {
                row.standing = LeaseStanding::Late;
            }
        }
        self
    }
}

impl RedisRegistry {
    /// The table, of what its copies say: each the time, and its fields. `asked`: when they were asked.
    pub(super) fn table_of<'a>(
        &self,
        copies: impl Iterator<Item = (i64, &'a [(Vec<u8>, Vec<u8>)])>,
        asked: Instant,
    ) -> Table {
        let mut table = Table {
            asked: Some(asked),
            ..Table::default()
        };
        for (at, fields) in copies {
            for (lease, row) in fields {
                if matches!(lease.as_slice(), b"generation" | b"beat" | b"schema") {
                    continue;
                }
                let read = row_of(&text(lease.clone()), &text(row.clone()));
                if let Some((lease, ends, renewed, report)) = self.unreadable.skip("lease", read) {
                    table.add(lease, ends, at, renewed, report);
                }
            }
        }
        table.close(self.most())
    }
}

/// A row: the lease; when it runs out, none if it is buried; when it was renewed; the report.
type Read = (Lease, Option<i64>, Timestamp, Report);

fn row_of(lease: &str, row: &str) -> Result<Read, RegistryError> {
    let read = || {
        let (ends, rest) = row.split_once(':')?;
        let (renewed, report) = rest.split_once(':')?;
        let ends: i64 = ends.parse().ok()?;
        let renewed = Timestamp::from_millisecond(renewed.parse().ok()?).ok()?;
        let report = serde_json::from_str(report).ok()?;
        Some((
            lease.parse().ok()?,
            (ends > 0).then_some(ends),
            renewed,
            report,
        ))
    };
    read().ok_or_else(|| RegistryError::Corrupt(format!("lease {lease:.64?}: {row:.256?}")))
}
