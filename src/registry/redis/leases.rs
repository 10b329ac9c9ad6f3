//! Leases: who is believed, and the end of those that are not.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{CHUNK, RedisRegistry, milliseconds};
use crate::{
    connection::NodeId,
    registry::{Heartbeat, Lease, Node, NodeReport, RegistryError, keys::Shard},
};

/// How a lease stands.
#[derive(Debug)]
enum Standing {
    Holds,
    /// Run out, not reaped yet; when it was last renewed.
    Lapsed(Timestamp),
}

/// The leases at one moment. Looked up by their text, as entries hold it.
#[derive(Debug)]
pub(super) struct Leases(HashMap<String, (NodeId, Standing)>);

impl Leases {
    fn of(rows: &[String]) -> Self {
        let rows = rows.chunks_exact(3).map(|row| {
            let standing = match row[2].parse() {
                Ok(ms) => Standing::Lapsed(Timestamp::from_millisecond(ms).unwrap_or_default()),
                Err(_) => Standing::Holds,
            };
            (row[0].clone(), (row[1].as_str().into(), standing))
        });
        Self(rows.collect())
    }

    /// The node that holds this lease, if it does.
    pub(super) fn live(&self, lease: &str) -> Option<&NodeId> {
        match self.0.get(lease) {
            Some((node, Standing::Holds)) => Some(node),
            _ => None,
        }
    }

    /// When this lease was last renewed, if it has run out and is not reaped yet.
    pub(super) fn lapsed(&self, lease: &str) -> Option<Timestamp> {
        match self.0.get(lease) {
            Some((_, Standing::Lapsed(renewed))) => Some(*renewed),
            _ => None,
        }
    }

    /// All that hold.
    pub(super) fn all_live(&self) -> Result<Vec<Lease>, RegistryError> {
        self.leases(|standing| matches!(standing, Standing::Holds))
    }

    /// All that have run out.
    pub(super) fn all_lapsed(&self) -> Result<Vec<Lease>, RegistryError> {
        self.leases(|standing| matches!(standing, Standing::Lapsed(_)))
    }

    fn leases(&self, wanted: impl Fn(&Standing) -> bool) -> Result<Vec<Lease>, RegistryError> {
        let rows = self.0.iter().filter(|(_, (_, standing))| wanted(standing));
        rows.map(|(lease, _)| lease.parse()).collect()
    }
}

fn report_text(report: &NodeReport) -> Result<String, RegistryError> {
    serde_json::to_string(report)
        .map_err(|error| RegistryError::Corrupt(format!("report of {}: {error}", report.node_id)))
}

impl RedisRegistry {
    pub(super) async fn leases(&self) -> Result<Leases, RegistryError> {
        let rows: Vec<String> = self
            .link
            .query(
                "leases",
                self.scripts
                    .leases
                    .key(self.keys.leases())
                    .key(self.keys.info())
                    .key(self.keys.names()),
            )
            .await?;
        Ok(Leases::of(&rows))
    }

    pub(super) async fn join_lease(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<(), RegistryError> {
        let before = match lease.epoch.checked_sub(1) {
            None | Some(0) => String::new(),
            Some(epoch) => Lease {
                instance: lease.instance.clone(),
                epoch,
            }
            .to_string(),
        };
        let _: i64 = self
            .link
            .query(
                "join",
                self.scripts
                    .join
                    .key(self.keys.leases())
                    .key(self.keys.info())
                    .key(self.keys.names())
                    .arg(lease.to_string())
                    .arg(milliseconds(self.lease))
                    .arg(report_text(report)?)
                    .arg(report.node_id.as_str())
                    .arg(before),
            )
            .await?;
        Ok(())
    }

    pub(super) async fn prolong(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<Heartbeat, RegistryError> {
        let (held, lapsed): (bool, Vec<String>) = self
            .link
            .query(
                "heartbeat",
                self.scripts
                    .heartbeat
                    .key(self.keys.leases())
                    .key(self.keys.info())
                    .arg(lease.to_string())
                    .arg(milliseconds(self.lease))
                    .arg(report_text(report)?),
            )
            .await?;
        let lapsed = lapsed
            .iter()
            .map(|lease| lease.parse())
            .collect::<Result<_, _>>()?;
        Ok(Heartbeat { held, lapsed })
    }

    /// Out of every answer first, then gone: a crash between the two leaves what any node reaps.
    pub(super) async fn leave_lease(&self, lease: &Lease) -> Result<(), RegistryError> {
        let _: i64 = self
            .link
            .query(
                "leave",
                self.scripts
                    .leave
                    .key(self.keys.leases())
                    .key(self.keys.info())
                    .arg(lease.to_string()),
            )
            .await?;
        self.reap_lease(lease).await.map(drop)
    }

    pub(super) async fn reap_lease(&self, lease: &Lease) -> Result<u64, RegistryError> {
        // Asked once: a lease that has run out stays so.
        let renewed: Option<i64> = self
            .pool
            .query(
                "reap",
                self.scripts
                    .lapsed
                    .key(self.keys.leases())
                    .key(self.keys.info())
                    .arg(lease.to_string()),
            )
            .await?;
        let Some(renewed) = renewed else {
            return Ok(0);
        };
        let mut reaped = 0;
        for shard in Shard::all() {
            reaped += self.reap_shard(lease, shard, renewed).await?;
        }
        let _: i64 = self
            .pool
            .query(
                "reap",
                self.scripts
                    .forget
                    .key(self.keys.leases())
                    .key(self.keys.info())
                    .key(self.keys.names())
                    .arg(lease.to_string()),
            )
            .await?;
        Ok(reaped)
    }

    /// Ends, as each round takes what it has read out of the list that it reads.
    async fn reap_shard(
        &self,
        lease: &Lease,
        shard: Shard,
        renewed: i64,
    ) -> Result<u64, RegistryError> {
        let mut some = redis::cmd("HRANDFIELD");
        some.arg(self.keys.held(shard, lease))
            .arg(CHUNK)
            .arg("WITHVALUES");
        let mut reaped = 0;
        loop {
            let entries: Vec<(String, Vec<u8>)> = self.pool.query("reap", &some).await?;
            if entries.is_empty() {
                return Ok(reaped);
            }
            let entries = entries
                .iter()
                .map(|(id, user)| (id.as_str(), user.as_slice()));
            // The orders stay: the node may still be there, and come back with its connections.
            let script = self.removal(lease, shard, entries, Some(renewed), false);
            reaped += self.pool.query::<u64>("reap", &script).await?;
        }
    }

    pub(super) async fn read_nodes(&self) -> Result<Vec<Node>, RegistryError> {
        let rows: Vec<String> = self
            .link
            .query(
                "nodes",
                self.scripts
                    .nodes
                    .key(self.keys.leases())
                    .key(self.keys.info()),
            )
            .await?;
        let mut nodes = rows
            .iter()
            .map(|row| node_of(row))
            .collect::<Result<Vec<_>, _>>()?;
        nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        Ok(nodes)
    }
}

fn node_of(row: &str) -> Result<Node, RegistryError> {
    let (heartbeat, report) = row
        .split_once(':')
        .and_then(|(ms, report)| {
            let heartbeat = Timestamp::from_millisecond(ms.parse().ok()?).ok()?;
            Some((heartbeat, serde_json::from_str::<NodeReport>(report).ok()?))
        })
        .ok_or_else(|| RegistryError::Corrupt(format!("report {row:?}")))?;
    Ok(report.at(heartbeat))
}
