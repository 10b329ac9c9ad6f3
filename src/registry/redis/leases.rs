//! Leases: who is believed, and the end of those that are not.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::future::join_all;
use jiff::Timestamp;
use redis::{FromRedisValue, Script, ScriptInvocation};

use super::{CHUNK, RedisRegistry, milliseconds, unreadable::text};
use crate::{
    connection::{Instance, NodeId},
    registry::{
        Heartbeat, Lease, Node, NodeReport, RegistryError, Settled, keys::Place, keys::Shard,
    },
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
    fn of(rows: Vec<Vec<u8>>) -> Self {
        let rows: Vec<_> = rows.into_iter().map(text).collect();
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

    /// The texts of all that hold.
    fn holding(&self) -> impl Iterator<Item = &String> {
        let holding = self
            .0
            .iter()
            .filter(|(_, (_, standing))| matches!(standing, Standing::Holds));
        holding.map(|(lease, _)| lease)
    }
}

/// What `heartbeat.lua` answers: whether the lease holds, those that have run out, and those that hold if they were asked for.
type Beaten = (bool, Vec<Vec<u8>>, Vec<Vec<u8>>);

/// What each place notes of a node: a shard its name, the nodes its report.
struct Notes<'a> {
    name: &'a str,
    report: String,
}

impl<'a> Notes<'a> {
    fn of(report: &'a NodeReport) -> Result<Self, RegistryError> {
        let corrupt =
            |error| RegistryError::Corrupt(format!("report of {}: {error}", report.node_id));
        Ok(Self {
            name: report.node_id.as_str(),
            report: serde_json::to_string(report).map_err(corrupt)?,
        })
    }

    fn at(&self, place: Place) -> &str {
        match place {
            Place::Shard(_) => self.name,
            Place::Nodes => &self.report,
        }
    }
}

impl RedisRegistry {
    /// The leases of one place.
    pub(super) async fn leases(&self, place: Place) -> Result<Leases, RegistryError> {
        let rows = self
            .link
            .query(
                "leases",
                self.keys.slot(place),
                &self.of_leases(&self.scripts.leases, place),
            )
            .await?;
        Ok(Leases::of(rows))
    }

    /// The leases that hold.
    pub(super) fn holding(&self, leases: &Leases) -> Vec<Lease> {
        self.parsed(leases.holding().cloned())
    }

    pub(super) fn parsed(&self, leases: impl IntoIterator<Item = String>) -> Vec<Lease> {
        let parsed = leases
            .into_iter()
            .filter_map(|lease| self.unreadable.skip("lease", lease.parse()));
        parsed.collect()
    }

    /// The same for an answer to the node whose handle this is. Unavailable where its own lease does not hold.
    pub(super) async fn believed(&self, place: Place) -> Result<Leases, RegistryError> {
        // As of the question: what was read under one lease is no answer under the next.
        let own = self.asker();
        let leases = self.leases(place).await?;
        match own.is_empty() || leases.live(&own).is_some() {
            true => Ok(leases),
            false => Err(self.not_believed()),
        }
    }

    /// A script about the leases of one place.
    fn of_leases<'a>(&self, script: &'a Script, place: Place) -> ScriptInvocation<'a> {
        let mut script = script.prepare_invoke();
        script
            .key(self.keys.leases(place))
            .key(self.keys.notes(place));
        script
    }

    /// Asks every place, the shards at once and the nodes after them, so that nobody is known as a node whom no shard lists.
    /// All are asked, also when one can't be: whatever is left works on.
    async fn everywhere<'a, T: FromRedisValue>(
        &'a self,
        operation: &'static str,
        script: impl Fn(Place) -> ScriptInvocation<'a>,
    ) -> Result<Vec<(Place, T)>, RegistryError> {
        let ask = async |place| {
            let script = script(place);
            let answer = self.link.query(operation, self.keys.slot(place), &script);
            Ok::<_, RegistryError>((place, answer.await?))
        };
        let mut answers = join_all(Shard::all().map(|shard| ask(Place::Shard(shard)))).await;
        answers.push(ask(Place::Nodes).await);
        answers.into_iter().collect()
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
        let notes = Notes::of(report)?;
        let joined = self.everywhere::<i64>("join", |place| {
            let mut script = self.of_leases(&self.scripts.join, place);
            script
                .arg(lease.to_string())
                .arg(milliseconds(self.lease))
                .arg(notes.at(place))
                .arg(&before)
                .arg(notes.name);
            script
        });
        joined.await.map(drop)
    }

    pub(super) async fn prolong(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<Heartbeat, RegistryError> {
        let notes = Notes::of(report)?;
        let answers = self
            .everywhere::<Beaten>("heartbeat", |place| self.beat(lease, &notes, place, ""))
            .await?;
        let places = answers.iter().filter(|(_, (held, ..))| *held).count();
        let (held, partly) = (places > 0, (1..answers.len()).contains(&places));
        let mut holding = Vec::new();
        let mut lapsed = Vec::new();
        for (place, (_, run_out, hold)) in answers {
            holding.extend(self.parsed(hold.into_iter().map(text)));
            lapsed.push((place, run_out));
        }
        let mut lapsed = self.gone(lapsed).await?;
        lapsed.retain(|lapsed| lapsed != lease || !held);
        Ok(Heartbeat {
            held,
            partly,
            holding,
            lapsed,
        })
    }

    fn beat<'a>(
        &'a self,
        lease: &Lease,
        notes: &Notes<'_>,
        place: Place,
        again: &str,
    ) -> ScriptInvocation<'a> {
        let mut script = self.of_leases(&self.scripts.heartbeat, place);
        script
            .arg(lease.to_string())
            .arg(milliseconds(self.lease))
            .arg(notes.at(place))
            .arg(again)
            .arg(match place {
                Place::Nodes => "1",
                Place::Shard(_) => "",
            });
        script
    }

    pub(super) async fn write_report(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<(), RegistryError> {
        let mut script = self.of_leases(&self.scripts.report, Place::Nodes);
        script.arg(lease.to_string()).arg(Notes::of(report)?.report);
        Ok(self
            .link
            .query::<i64>("report", self.keys.slot(Place::Nodes), &script)
            .await
            .map(drop)?)
    }

    /// One server has lost the lease, or was away for longer than it holds there. Where it holds it is prolonged.
    pub(super) async fn resume_lease(
        &self,
        lease: &Lease,
        report: &NodeReport,
    ) -> Result<(), RegistryError> {
        let notes = Notes::of(report)?;
        let nodes = self.beat(lease, &notes, Place::Nodes, "1");
        self.link
            .query::<Beaten>("heartbeat", self.keys.slot(Place::Nodes), &nodes)
            .await?;
        self.everywhere::<Beaten>("heartbeat", |place| self.beat(lease, &notes, place, "1"))
            .await
            .map(drop)
    }

    pub(super) async fn settled_nodes(&self) -> Result<Settled, RegistryError> {
        let places = self
            .everywhere::<Vec<Vec<u8>>>("leases", |place| {
                self.of_leases(&self.scripts.leases, place)
            })
            .await?;
        let count = places.len();
        let mut held_in: HashMap<Instance, usize> = HashMap::new();
        let mut settled = HashSet::new();
        for (place, rows) in places {
            let leases = Leases::of(rows);
            for lease in self.holding(&leases) {
                let is_settled = || self.unreadable.skip("report", is_settled(&leases, &lease));
                if place == Place::Nodes && is_settled() == Some(true) {
                    settled.insert(lease.instance.clone());
                }
                *held_in.entry(lease.instance).or_default() += 1;
            }
        }
        let (wholly, partly) = held_in
            .into_iter()
            .partition::<Vec<_>, _>(|(instance, places)| {
                *places == count && settled.contains(instance)
            });
        let names =
            |nodes: Vec<(Instance, usize)>| nodes.into_iter().map(|(name, _)| name).collect();
        Ok(Settled {
            wholly: names(wholly),
            partly: names(partly),
        })
    }

    /// Of leases that have run out in some places, those whose nodes are gone. One that holds among the nodes is not: its node
    /// takes it up again where it has run out.
    pub(super) async fn gone(
        &self,
        lapsed: Vec<(Place, Vec<Vec<u8>>)>,
    ) -> Result<Vec<Lease>, RegistryError> {
        let mut gone = BTreeSet::new();
        let mut unsure = BTreeSet::new();
        for (place, leases) in lapsed {
            let leases = leases.into_iter().map(text);
            match place {
                Place::Nodes => gone.extend(leases),
                Place::Shard(_) => unsure.extend(leases),
            }
        }
        unsure.retain(|lease| !gone.contains(lease));
        if !unsure.is_empty() {
            let nodes = self.leases(Place::Nodes).await?;
            gone.extend(
                unsure
                    .into_iter()
                    .filter(|lease| nodes.live(lease).is_none()),
            );
        }
        Ok(self.parsed(gone))
    }

    /// Out of every answer first, then gone: a crash between the two leaves what any node reaps.
    pub(super) async fn leave_lease(&self, lease: &Lease) -> Result<(), RegistryError> {
        self.everywhere::<i64>("leave", |place| {
            let mut script = self.of_leases(&self.scripts.leave, place);
            script.arg(lease.to_string());
            script
        })
        .await?;
        self.reap_lease(lease).await.map(drop)
    }

    pub(super) async fn reap_lease(&self, lease: &Lease) -> Result<u64, RegistryError> {
        let mut reaped = 0;
        for shard in Shard::all() {
            reaped += self.reap_shard(lease, shard).await?;
        }
        self.forget(lease, Place::Nodes, self.keys.leases(Place::Nodes) + ":")
            .await?;
        Ok(reaped)
    }

    /// Ends, as each round takes what it has read out of the list that it reads.
    async fn reap_shard(&self, lease: &Lease, shard: Shard) -> Result<u64, RegistryError> {
        let slot = self.keys.slot_of(shard);
        let held = self.keys.held(shard, lease);
        let mut some = redis::cmd("HRANDFIELD");
        some.arg(&held).arg(CHUNK).arg("WITHVALUES");
        let mut reaped = 0;
        loop {
            let entries: Vec<(Vec<u8>, Vec<u8>)> = self.pool.query("reap", slot, &some).await?;
            if entries.is_empty() {
                self.forget(lease, Place::Shard(shard), held).await?;
                return Ok(reaped);
            }
            let entries = entries
                .iter()
                .map(|(id, user)| (id.as_slice(), user.as_slice()));
            let script = self.removal(lease, shard, entries, "reap");
            match self
                .pool
                .query::<Option<u64>>("reap", slot, &script)
                .await?
            {
                Some(removed) => reaped += removed,
                // It holds here, or its node has taken it up again.
                None => return Ok(reaped),
            }
        }
    }

    async fn forget(&self, lease: &Lease, place: Place, held: String) -> Result<(), RegistryError> {
        let mut script = self.of_leases(&self.scripts.forget, place);
        script.key(held).arg(lease.to_string());
        let slot = self.keys.slot(place);
        Ok(self
            .pool
            .query::<i64>("reap", slot, &script)
            .await
            .map(drop)?)
    }

    pub(super) async fn read_nodes(&self) -> Result<Vec<Node>, RegistryError> {
        let nodes = Place::Nodes;
        let mut script = self.of_leases(&self.scripts.nodes, nodes);
        script.arg(self.asker());
        let rows: Option<Vec<Vec<u8>>> = self
            .link
            .query("nodes", self.keys.slot(nodes), &script)
            .await?;
        let rows = rows.ok_or_else(|| self.not_believed())?;
        let nodes = rows
            .into_iter()
            .filter_map(|row| self.unreadable.skip("report", node_of(&text(row))));
        let mut nodes: Vec<_> = nodes.collect();
        nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        Ok(nodes)
    }
}

/// Whether a node says that it is settled, of whose lease the nodes' note is in `leases`.
fn is_settled(leases: &Leases, lease: &Lease) -> Result<bool, RegistryError> {
    let Some(report) = leases.live(&lease.to_string()) else {
        return Ok(false);
    };
    let report: NodeReport = serde_json::from_str(report.as_str())
        .map_err(|_| RegistryError::Corrupt(format!("report {:.256?}", report.as_str())))?;
    Ok(report.settled)
}

fn node_of(row: &str) -> Result<Node, RegistryError> {
    let (heartbeat, report) = row
        .split_once(':')
        .and_then(|(ms, report)| {
            let heartbeat = Timestamp::from_millisecond(ms.parse().ok()?).ok()?;
            Some((heartbeat, serde_json::from_str::<NodeReport>(report).ok()?))
        })
        .ok_or_else(|| RegistryError::Corrupt(format!("report {row:.256?}")))?;
    Ok(report.at(heartbeat))
}
