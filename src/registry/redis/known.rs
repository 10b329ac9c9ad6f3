//! What a handle knows without asking: which nodes live, which shards are whole, and which nodes it waits for.
//!
//! Each shard has a random name, its generation, and under that name the leases that have put all their entries in. A generation
//! that this handle has seen complete says that what was read before it was whole. Another one means that the shard has lost its
//! data: then nothing is said of its users until every node is in that lived before the loss, or lives now. A node that lives is
//! waited for a few leases long; one that is silent as long as a lease that it may have renewed at the last moment.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    strangers::Strangers,
    table::{LeaseStanding, Row, Table},
};
use crate::{
    connection::Instance,
    registry::{
        Lease,
        keys::{Shard, Shards},
    },
};

/// For how many leases a node is waited for that lives and does not get done.
const MOST: u32 = 6;

/// How many leases of nobody are remembered.
const NOBODIES: usize = 1024;

/// What one handle knows.
#[derive(Debug)]
pub(super) struct Known {
    /// The lease of the node whose handle this is, once it has joined.
    own: Option<Lease>,
    table: Arc<Table>,
    /// The generation of each copy of the table in which this node has put its lease; empty for none.
    pub(super) copies: Vec<String>,
    /// The runs of the nodes that lived when last nothing was amiss.
    others: HashSet<Instance>,
    /// The table was lost: who is not back in it.
    lost: Option<Loss>,
    of: Shards,
    shards: Vec<Part>,
    /// Since when leases are seen to be late.
    late: HashMap<String, Instant>,
    /// Leases of entries, and marks of ids, that no table has.
    nobodies: HashSet<String>,
    pub(super) strangers: Strangers,
}

/// What is known of one shard.
#[derive(Debug, Default)]
struct Part {
    /// The generation under which this node asserts its connections.
    generation: Option<String>,
    /// Whether they are all in.
    entered: bool,
    /// The generation that was seen complete.
    whole: Option<String>,
    /// One that is not complete.
    loss: Option<(String, Loss)>,
    /// Since when a node is back that was buried, and may not have put in again what it has.
    returning: Option<Instant>,
}

/// What was lost, and who is waited for.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    since: Instant,
    others: HashSet<Instance>,
}

impl Loss {
    /// Whether a node need not be waited for: it is in, or silent or slow for too long.
    fn has(&self, is_in: bool, lives: bool, lease: Duration) -> bool {
        let patience = if lives { MOST * lease } else { lease };
        is_in || self.since.elapsed() >= patience
    }
}

impl Known {
    pub(super) fn new(copies: usize, shards: Shards) -> Self {
        Self {
            own: None,
            table: Arc::default(),
            copies: vec![String::new(); copies],
            others: HashSet::new(),
            lost: None,
            of: shards,
            shards: shards.all().map(|_| Part::default()).collect(),
            late: HashMap::new(),
            nobodies: HashSet::new(),
            strangers: Strangers::default(),
        }
    }

    pub(super) fn own(&self) -> Option<&Lease> {
        self.own.as_ref()
    }

    /// The node has a lease, or none any more. Its entries are in no shard under that.
    pub(super) fn set_own(&mut self, own: Option<Lease>) {
        if self.own == own {
            return;
        }
        self.own = own;
        for part in &mut self.shards {
            part.entered = false;
        }
    }

    /// A node that has left asks like anybody from outside.
    pub(super) fn leave(&mut self, lease: &Lease) {
        if self.own.as_ref() == Some(lease) {
            self.set_own(None);
        }
    }

    pub(super) fn table(&self) -> Arc<Table> {
        self.table.clone()
    }

    /// The runs of the nodes that live, or did when last nothing was amiss.
    pub(super) fn instances(&self) -> HashSet<Instance> {
        self.others.clone()
    }

    /// Whether no node is known, nor ever was.
    pub(super) fn nobody(&self) -> bool {
        self.own.is_none() && self.others.is_empty()
    }

    /// Takes in a table that was read, and returns it. `lost`: it is another one than before.
    pub(super) fn hear(&mut self, table: Table, lost: bool, lease: Duration) -> Arc<Table> {
        if table.is_older(&self.table) {
            return self.table.clone();
        }
        let table = Arc::new(table);
        let before = std::mem::replace(&mut self.table, table.clone());
        if !lost {
            // A row goes when its lease is buried and reaped. The entries of such a node are not lost, and nobody puts them back.
            let is_over = |row: &&Row| {
                let now = table.row(&row.lease.to_string());
                now.is_none_or(|now| now.standing == LeaseStanding::Buried)
            };
            for row in before.rows().filter(is_over) {
                self.has_left(&row.lease.instance);
            }
        }
        // Whose lease was in none may have come since.
        self.nobodies.clear();
        self.strangers
            .retain(|name| table.row(name).is_none(), lease);
        self.late.retain(|lease, _| {
            table
                .row(lease)
                .is_some_and(|row| row.standing != LeaseStanding::Holds)
        });
        for row in table.gone() {
            let lease = row.lease.to_string();
            self.late.entry(lease).or_insert_with(Instant::now);
        }
        let own = self.own.as_ref().map(|own| &own.instance);
        let returns = table.holding().any(|row| {
            let is_back = row.lease.epoch > 1 && Some(&row.lease.instance) != own;
            is_back && before.live(&row.lease.to_string()).is_none()
        });
        if returns {
            for part in &mut self.shards {
                part.returning = Some(Instant::now());
            }
        }
        if lost {
            self.lost = Some(self.loss());
        }
        let live = table.instances();
        let calm = !self.waits(lease) && self.shards.iter().all(|part| part.loss.is_none());
        if calm {
            self.others.clear();
        }
        self.others.extend(live);
        table
    }

    fn loss(&self) -> Loss {
        Loss {
            since: Instant::now(),
            others: self.others.clone(),
        }
    }

    /// These nodes live, whatever the table says: if some of them are not in it, it was lost just now, and they are waited for.
    pub(super) fn expect(&mut self, nodes: impl Iterator<Item = Instance>) {
        let there = self.table.instances();
        let absent: Vec<_> = nodes.filter(|node| !there.contains(node)).collect();
        if absent.is_empty() {
            return;
        }
        self.others.extend(absent);
        let loss = self.loss();
        for (_, known) in self.shards.iter_mut().filter_map(|it| it.loss.as_mut()) {
            known.clone_from(&loss);
        }
        self.lost = Some(loss);
    }

    /// Whether nodes are waited for that are not back in a table that was lost.
    pub(super) fn waits(&mut self, lease: Duration) -> bool {
        let Some(loss) = &self.lost else {
            return false;
        };
        let live = self.table.instances();
        let waits = loss
            .others
            .iter()
            .any(|node| !loss.has(live.contains(node), false, lease));
        if !waits {
            self.lost = None;
        }
        waits
    }

    /// A node has left, with nobody on it.
    pub(super) fn has_left(&mut self, node: &Instance) {
        self.others.remove(node);
        let losses = self.shards.iter_mut().filter_map(|part| part.loss.as_mut());
        let losses = losses.map(|(_, loss)| loss);
        for loss in losses.chain(&mut self.lost) {
            loss.others.remove(node);
        }
    }

    /// For how long a lease was seen to be late or buried.
    pub(super) fn late_for(&self, lease: &str) -> Duration {
        self.late
            .get(lease)
            .map_or(Duration::ZERO, Instant::elapsed)
    }

    /// How soon something is to be seen that a heartbeat sees: a lease that runs out, or one that is late for long enough.
    pub(super) fn next(&self, patience: Duration) -> Option<Duration> {
        let waits = self.table.left().filter_map(|(lease, left)| {
            let late = self.late_for(lease);
            match left {
                Some(left) => Some(left),
                None => patience.checked_sub(late).filter(|left| !left.is_zero()),
            }
        });
        waits.min()
    }

    pub(super) fn is_of_nobody(&self, lease: &str) -> bool {
        self.nobodies.contains(lease)
    }

    pub(super) fn of_nobody(&mut self, lease: String) {
        if self.nobodies.len() >= NOBODIES {
            self.nobodies.clear();
        }
        self.nobodies.insert(lease);
    }

    /// The leases that no table has had for as long as a lease, and entries name; each with how long that is over. None while nodes
    /// are waited for that are not back in a table that was lost.
    pub(super) fn strangers(&mut self, lease: Duration) -> Vec<(Lease, Duration)> {
        if self.waits(lease) {
            return Vec::new();
        }
        let over = self.strangers.over(lease);
        over.filter(|(name, _)| Some(name) != self.own.as_ref())
            .collect()
    }

    /// A shard has this generation. Returns whether it had another one before: it has lost what this node had put in.
    pub(super) fn adopt(&mut self, shard: Shard, generation: &str) -> bool {
        let loss = self.loss();
        let part = &mut self.shards[shard.index()];
        if part.generation.as_deref() == Some(generation) {
            return false;
        }
        part.entered = false;
        part.meet(generation, loss);
        part.generation.replace(generation.to_owned()).is_some()
    }

    /// The generation under which this node asserts.
    pub(super) fn generation(&self, shard: Shard) -> Option<String> {
        self.shards[shard.index()].generation.clone()
    }

    /// All of this node's entries are in a shard of this generation.
    pub(super) fn entered(&mut self, lease: &Lease, shard: Shard, generation: &str) {
        let part = &mut self.shards[shard.index()];
        part.entered |=
            self.own.as_ref() == Some(lease) && part.generation.as_deref() == Some(generation);
    }

    /// The shards that do not have all of this node's entries.
    pub(super) fn lacking(&self) -> Vec<Shard> {
        self.of
            .all()
            .filter(|shard| !self.shards[shard.index()].entered)
            .collect()
    }

    /// Whether a shard of this generation was seen complete.
    pub(super) fn is_whole(&self, shard: Shard, generation: Option<&str>) -> bool {
        generation.is_some() && self.shards[shard.index()].whole.as_deref() == generation
    }

    /// The generation of a shard that is whole, while a node is back that may not have put in again what it has.
    pub(super) fn awaiting(&self, shard: Shard) -> Option<String> {
        let part = &self.shards[shard.index()];
        part.returning.and(part.whole.clone())
    }

    /// Looks whether a shard is complete, by the leases that are in. Returns who is missing.
    pub(super) fn look(
        &mut self,
        shard: Shard,
        generation: &str,
        entered: &HashSet<String>,
        lease: Duration,
    ) -> Vec<Instance> {
        let loss = self.loss();
        let table = self.table.clone();
        let part = &mut self.shards[shard.index()];
        let loss = part.meet(generation, loss);
        let live: HashMap<_, _> = table
            .holding()
            .map(|row| (&row.lease.instance, row.lease.to_string()))
            .collect();
        let silent = loss.others.iter().filter(|node| !live.contains_key(node));
        let silent = silent.filter(|node| {
            let in_some_epoch = |lease: &String| {
                lease
                    .rsplit_once('.')
                    .is_some_and(|(instance, _)| instance == node.as_str())
            };
            !loss.has(entered.iter().any(in_some_epoch), false, lease)
        });
        let slow = live
            .iter()
            .filter(|(_, its)| !loss.has(entered.contains(*its), true, lease))
            .map(|(node, _)| *node);
        let missing: Vec<_> = silent.chain(slow).cloned().collect();
        if missing.is_empty() {
            part.whole = Some(generation.to_owned());
            part.loss = None;
            part.returning = None;
        }
        missing
    }
}

impl Part {
    /// The loss that a generation stands for that was not seen complete; of one that was, what nodes have lost that are back.
    fn meet(&mut self, generation: &str, loss: Loss) -> Loss {
        match &self.loss {
            Some((known, loss)) if known == generation => loss.clone(),
            _ if self.whole.as_deref() == Some(generation) => Loss {
                since: self.returning.unwrap_or(loss.since),
                ..loss
            },
            _ => {
                self.loss = Some((generation.to_owned(), loss.clone()));
                loss
            }
        }
    }
}
