//! What was measured, and which figures there are.

use std::{collections::BTreeMap, fs};

use serde::{Deserialize, Serialize};

use crate::{options::Options, peers::Peer, servers::Programs};

/// The rows of the tables: what a figure is called in JSON, and what it is. All but one are costs.
pub(crate) const ROWS: [Row; 19] = [
    Row::of("send.servers", "a send to a user: CPU of all servers, µs"),
    Row::of("send.redis", "a send to a user: CPU of Redis, µs"),
    Row::of("send.p50", "a send to a user: latency p50, ms"),
    Row::of("send.p99", "a send to a user: latency p99, ms"),
    Row {
        more_is_better: true,
        ..Row::of(
            "send.rate",
            "sends to users by 32 callers at once, a second",
        )
    },
    Row::of(
        "room.servers",
        "a send to a room of 20: CPU of all servers, µs",
    ),
    Row::of("room.redis", "a send to a room of 20: CPU of Redis, µs"),
    Row::of("room.p50", "a send to a room of 20: latency p50, ms"),
    Row::of("room.p99", "a send to a room of 20: latency p99, ms"),
    Row::of(
        "broadcast.servers",
        "a broadcast: CPU of all servers for each delivery, µs",
    ),
    Row::of("broadcast.redis", "a broadcast: CPU of Redis, µs"),
    Row::of("broadcast.p50", "a broadcast: latency p50, ms"),
    Row::of("broadcast.p99", "a broadcast: latency p99, ms"),
    Row::of(
        "online.servers",
        "which devices of a user are connected: CPU of all servers, µs",
    ),
    Row::of(
        "online.redis",
        "which devices of a user are connected: CPU of Redis, µs",
    ),
    Row::of(
        "online.p50",
        "which devices of a user are connected: answered in, p50, ms",
    ),
    Row::of(
        "idle.memory",
        "an idle connection: memory of its server, KB",
    ),
    Row::of("idle.servers", "an idle second of one server: CPU, µs"),
    Row::of("idle.redis", "an idle second of all: CPU of Redis, µs"),
];

/// A row of the tables.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) more_is_better: bool,
}

/// All that a run has measured.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Results {
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) machine: String,
    pub(crate) users: usize,
    pub(crate) versions: BTreeMap<Peer, String>,
    pub(crate) fleets: Vec<Measured>,
    /// What went wrong, or was left out.
    pub(crate) notes: Vec<String>,
}

/// The figures of one fleet.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Measured {
    pub(crate) peer: Peer,
    pub(crate) nodes: usize,
    pub(crate) figures: BTreeMap<String, f64>,
}

impl Row {
    const fn of(id: &'static str, title: &'static str) -> Self {
        Self {
            id,
            title,
            more_is_better: false,
        }
    }
}

impl Results {
    /// A run that begins now.
    pub(crate) fn new(options: &Options, programs: &Programs) -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let given = std::env::args().skip(1).filter(|word| word != "--bench");
        let given: Vec<_> = given.collect();
        let mut command = "CENTRIFUGO_BIN=… cargo bench --bench compare".to_owned();
        if !given.is_empty() {
            command = format!("{command} -- {}", given.join(" "));
        }
        Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            command,
            machine: format!("on {cores} cores ({model})"),
            users: options.users,
            versions: programs.versions.clone(),
            fleets: Vec::new(),
            notes: programs.left_out.clone(),
        }
    }

    /// The peers that were measured, in their order.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let measured = |peer: &Peer| self.fleets.iter().any(|fleet| fleet.peer == *peer);
        Peer::ALL.into_iter().filter(measured).collect()
    }

    /// The sizes of fleets that were measured, in their order.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<_> = self.fleets.iter().map(|fleet| fleet.nodes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    pub(crate) fn get(&self, peer: Peer, nodes: usize, id: &str) -> Option<f64> {
        let mut fleets = self.fleets.iter();
        let fleet = fleets.find(|fleet| fleet.peer == peer && fleet.nodes == nodes)?;
        fleet.figures.get(id).copied()
    }
}
