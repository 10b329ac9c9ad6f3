//! L4: a registry of very many connections, which are made up: what a call costs does not grow with them.
//!
//! What holds is counted and not timed: the commands that Redis carries out for a call, and the bytes that it answers with, are the
//! same in a small registry and in a large one. What depends on the machine is reported.
//!
//! A million takes some minutes and 500 MB:
//! `cargo test --release --test load million -- --ignored --nocapture`, with `SWITCHBOARD_TEST_ENTRIES` another number.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::try_join_all, stream};
use jiff::Timestamp;
use switchboard::{
    config::{Presence, RegistryTiming},
    connection::{Connection, Instance, TransportKind, UserId},
    metrics::Metrics,
    registry::{
        Admission, Assertion, Entry, Grant, Lease, NodeReport, Recipient, Registry, RegistryError,
        Totals, keys::Shards, redis::RedisRegistry,
    },
};

use crate::{
    asker::percentile,
    ground::{alone, forget_counts, given, info},
    support::{redis_server::Server, run::Run},
};

/// Nodes that hold them, in turn. The two connections of a user are on two.
const NODES: usize = 10;

/// How often each call is made for one measurement.
const ROUNDS: usize = 50;

/// What Redis may take for one entry, in bytes, where a node holds some hundreds in each shard. From 512 on (Redis's
/// `hash-max-listpack-entries`) its list there is a hash table, which takes more: measured with a million, 434.
const WEIGHT: f64 = 410.0;

/// What a command may keep Redis from all else, in µs.
const SLOW: u32 = 10_000;

/// Commands of the test, of probers, and of a pool that makes sure of its connection.
const OTHERS: [&str; 6] = [
    "info",
    "config|resetstat",
    "ping",
    "client|setinfo",
    "hello",
    "unwatch",
];

const BROWSER: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";

/// A registry with made-up connections.
struct Crowd {
    run: Run,
    server: Server,
    registry: RedisRegistry,
    leases: Vec<Lease>,
    /// Per node.
    held: Vec<Vec<Connection>>,
    users: usize,
    empty: u64,
}

/// A row of `SLOWLOG`: its number, when, µs, the words, and who asked.
type Slow = (u64, u64, u64, Vec<Vec<u8>>, String, String);

/// What Redis did for one call.
#[derive(Debug, Default)]
struct Cost {
    /// Commands by name, those of scripts among them.
    commands: BTreeMap<String, u64>,
    /// What it answered, in bytes.
    answered: u64,
    /// What it took Redis, in µs: the least of all rounds.
    busy: u64,
    /// How long a caller waited.
    waited: Vec<Duration>,
}

fn report(number: usize) -> NodeReport {
    NodeReport {
        node_id: format!("made-up-{number}").into(),
        version: "1.2.3".into(),
        started_at: Timestamp::now(),
        connections: 0,
        users: 0,
        draining: false,
    }
}

fn user(number: usize) -> UserId {
    format!("user-{number:010}").into()
}

fn entry(connection: &Connection) -> Entry {
    Entry {
        user: connection.user_id.clone(),
        id: connection.id.clone(),
    }
}

fn grant() -> Grant {
    Grant {
        issued_at: Some(Timestamp::now()),
        token_id: Some("6f1d8c1e-4f0a-4b8e-9a51-0123456789ab".to_owned()),
        session: None,
        ahead: None,
    }
}

impl Crowd {
    async fn new(run: &Run) -> Self {
        let server = Server::start().await;
        // Longer than any run takes.
        let timing = RegistryTiming {
            lease: Duration::from_secs(6 * 3600),
            ..RegistryTiming::default()
        };
        let servers = server.servers_of("");
        let metrics = Metrics::new().unwrap();
        let registry =
            RedisRegistry::new(&servers, &timing, &Presence::default(), metrics).unwrap();
        let mut leases = Vec::new();
        for number in 0..NODES {
            let lease = Lease {
                instance: Instance::random(),
                epoch: 1,
            };
            registry.join(&lease, &report(number)).await.unwrap();
            leases.push(lease);
        }
        let () = server
            .run(&format!("CONFIG SET slowlog-log-slower-than {SLOW}"))
            .await;
        let empty = info(&server, "memory", "used_memory").await;
        Self {
            run: run.clone(),
            server,
            registry,
            leases,
            held: vec![Vec::new(); NODES],
            users: 0,
            empty,
        }
    }

    fn entries(&self) -> usize {
        2 * self.users
    }

    fn connection(&self, user: UserId, number: usize, node: usize) -> Connection {
        Connection {
            id: Shards::default().new_id(Some(&user), Some(&self.leases[node].instance)),
            user_id: Some(user),
            namespace: "/".into(),
            node_id: report(node).node_id,
            transport: TransportKind::Websocket,
            connected_at: Timestamp::now(),
            expires_at: Some(Timestamp::now() + Duration::from_secs(900)),
            device_id: number
                .is_multiple_of(4)
                .then(|| format!("9b2fc0de-7c1e-4c39-9d5b-{number:012}")),
            remote_addr: Some(format!("203.0.{}.{}", number / 256 % 256, number % 256)),
            user_agent: Some(BROWSER.into()),
            rooms: Vec::new(),
            meta: None,
        }
    }

    /// Registers connections until there are so many; of each user two.
    async fn grow(&mut self, entries: usize) {
        let start = Instant::now();
        let mut new = Vec::new();
        for number in self.users..entries / 2 {
            for which in 0..2 {
                let node = (number + which) % NODES;
                let connection = self.connection(user(number), 2 * number + which, node);
                new.push((node, connection));
            }
        }
        let grown = new.len();
        let asserting = new
            .iter()
            .map(|(node, connection)| self.assert(&self.leases[*node], connection, false));
        let mut asserting = stream::iter(asserting).buffer_unordered(256);
        while let Some(asserted) = asserting.next().await {
            asserted.unwrap();
        }
        drop(asserting);
        for (node, connection) in new {
            self.held[node].push(connection);
        }
        self.users = entries / 2;
        let rate = grown as f64 / start.elapsed().as_secs_f64();
        let total = self.entries();
        self.run
            .tell(format!("{total} entries; {rate:.0} asserts a second"));
    }

    async fn assert(
        &self,
        lease: &Lease,
        connection: &Connection,
        again: bool,
    ) -> Result<(), RegistryError> {
        let grant = grant();
        let assertion = Assertion {
            connection,
            grant: &grant,
            version: 1,
            start: None,
            limit: None,
            again,
        };
        match self.registry.assert(lease, &assertion).await? {
            Admission::Admitted { .. } => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    /// Makes a call again and again, and has Redis count.
    async fn cost(&self, call: impl AsyncFn() -> Result<(), RegistryError>) -> Cost {
        let mut cost = Cost {
            busy: u64::MAX,
            ..Cost::default()
        };
        // The first one loads scripts and opens connections.
        call().await.unwrap();
        for _ in 0..ROUNDS {
            forget_counts(&self.server).await;
            let before = info(&self.server, "stats", "total_net_output_bytes").await;
            let start = Instant::now();
            call().await.unwrap();
            cost.waited.push(start.elapsed());
            let after = info(&self.server, "stats", "total_net_output_bytes").await;
            let stats = self.server.info("commandstats").await;
            let (commands, busy) = work(&stats);
            // The answers to the test's own questions are always as long, nearly.
            cost.answered = cost.answered.max(after - before);
            cost.busy = cost.busy.min(busy);
            cost.commands = commands;
        }
        cost
    }

    /// What each call costs, by name.
    async fn costs(&self) -> Vec<(&'static str, Cost)> {
        let registry = &self.registry;
        let asked: Vec<_> = (0..100).map(user).collect();
        let some = &self.held[0][0];
        let grants: Vec<_> = self.held[0][..100]
            .iter()
            .map(|connection| (entry(connection), grant()))
            .collect();
        let passing = self.connection("passes".into(), 0, 0);
        let lease = &self.leases[0];
        vec![
            (
                "user",
                self.cost(async || registry.user(&asked[0]).await.map(drop))
                    .await,
            ),
            (
                "presence of 100",
                self.cost(async || registry.presence(&asked).await.map(drop))
                    .await,
            ),
            (
                "page of 50 users",
                self.cost(async || registry.users(None, 50).await.map(drop))
                    .await,
            ),
            (
                "connection",
                self.cost(async || registry.connection(&some.id).await.map(drop))
                    .await,
            ),
            (
                "totals",
                self.cost(async || registry.totals().await.map(drop)).await,
            ),
            (
                "nodes",
                self.cost(async || registry.nodes().await.map(drop)).await,
            ),
            (
                "heartbeat",
                self.cost(async || registry.heartbeat(lease, &report(0)).await.map(drop))
                    .await,
            ),
            (
                "standing of 100",
                self.cost(async || registry.standing(&grants).await.map(drop))
                    .await,
            ),
            (
                "holders",
                self.cost(async || {
                    let recipient = Recipient::User(asked[1].clone());
                    registry.holders(&recipient).await.map(drop)
                })
                .await,
            ),
            (
                "assert and unregister",
                self.cost(async || {
                    self.assert(lease, &passing, false).await?;
                    registry.unregister(lease, &[entry(&passing)]).await
                })
                .await,
            ),
        ]
    }

    /// As a node does that has lost its lease: everything that it holds is put under the next one, all at once; what comes too late is
    /// tried again.
    async fn reassert(&mut self, node: usize) {
        let next = Lease {
            epoch: self.leases[node].epoch + 1,
            ..self.leases[node].clone()
        };
        self.registry.join(&next, &report(node)).await.unwrap();
        self.leases[node] = next;
        let (lease, mine) = (&self.leases[node], &self.held[node]);
        let (start, mut rounds) = (Instant::now(), 0);
        let mut missing: Vec<&Connection> = mine.iter().collect();
        while !missing.is_empty() {
            rounds += 1;
            let again = missing
                .iter()
                .map(|connection| self.assert(lease, connection, true));
            let done = try_join_all(again).await;
            assert!(
                start.elapsed() < Duration::from_secs(300),
                "{} are missing after {rounds} rounds",
                missing.len()
            );
            if done.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
            let held = self.held_by(lease).await;
            missing.retain(|connection| !held.contains(connection.id.as_str()));
        }
        self.run.tell(format!(
            "{} put under another lease in {:.2?}, all at once, {rounds} rounds",
            mine.len(),
            start.elapsed()
        ));
        let again = mine
            .iter()
            .map(|connection| self.assert(lease, connection, true));
        let start = Instant::now();
        let mut again = stream::iter(again).buffer_unordered(256);
        while let Some(asserted) = again.next().await {
            asserted.unwrap();
        }
        self.run.tell(format!(
            "the same again, 256 at a time: {:.2?}",
            start.elapsed()
        ));
        let start = Instant::now();
        let held = self.held_by(lease).await;
        assert_eq!(held.len(), mine.len(), "what the registry says it holds");
        let took = start.elapsed();
        self.run
            .tell(format!("all that it holds, read: {took:.2?}"));
    }

    async fn held_by(&self, lease: &Lease) -> std::collections::HashSet<String> {
        // Late is no answer: asked again, as a node does.
        loop {
            let shards = Shards::default()
                .all()
                .map(|shard| self.registry.held(lease, shard));
            match try_join_all(shards).await {
                Ok(held) => {
                    let held = held.iter().flatten();
                    return held.map(|entry| entry.id.to_string()).collect();
                }
                Err(error) => self.run.note(error),
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn totals(&self) -> Totals {
        self.registry.totals().await.unwrap()
    }

    /// Commands that took Redis longer than [`SLOW`], of all but the test's own.
    async fn slow(&self) -> Vec<String> {
        let rows: Vec<Slow> = self.server.run("SLOWLOG GET 1000").await;
        let rows = rows.into_iter().filter(|row| row.3[0] != b"INFO");
        rows.map(|(_, _, took, words, ..)| {
            let words = words[..words.len().min(4)].join(&b' ');
            format!("{took} µs {}", String::from_utf8_lossy(&words))
        })
        .collect()
    }
}

/// Commands by name, and µs of all, from what Redis says; without those of the test and of probers. Those of scripts count in
/// the time of their scripts.
fn work(stats: &str) -> (BTreeMap<String, u64>, u64) {
    let (mut commands, mut busy) = (BTreeMap::new(), 0);
    for line in stats.lines() {
        let Some((name, rest)) = line
            .strip_prefix("cmdstat_")
            .and_then(|line| line.split_once(":calls="))
        else {
            continue;
        };
        if OTHERS.contains(&name) {
            continue;
        }
        let mut fields = rest.split(',');
        let calls = fields.next().and_then(|calls| calls.parse().ok());
        commands.insert(name.to_owned(), calls.unwrap_or(0));
        let usec = fields.find_map(|field| field.strip_prefix("usec="));
        busy += usec.and_then(|usec| usec.parse().ok()).unwrap_or(0);
    }
    (commands, busy)
}

/// Holds what a registry costs at one size against what it costs at another.
async fn grows(name: &'static str, small: usize, large: usize) {
    let _alone = alone().await;
    let run = Run::begin(name);
    let mut crowd = Crowd::new(&run).await;
    crowd.grow(small).await;
    let few = crowd.costs().await;
    crowd.grow(large).await;
    let used = info(&crowd.server, "memory", "used_memory").await;
    let weight = (used - crowd.empty) as f64 / large as f64;
    run.tell(format!("{weight:.0} bytes of Redis an entry"));
    let many = crowd.costs().await;
    let times = large as f64 / small as f64;
    for ((call, few), (_, many)) in few.iter().zip(&many) {
        let waited = |percent| percentile(many.waited.iter().copied(), percent);
        run.tell(format!(
            "{call}: {:?}; {} and {} bytes answered; Redis busy for {} and {} µs; waited p50 {:.1?} p99 {:.1?}",
            many.commands,
            few.answered,
            many.answered,
            few.busy,
            many.busy,
            waited(50.0),
            waited(99.0),
        ));
        assert_eq!(few.commands, many.commands, "{call}: commands");
        let more = many.answered as f64 / few.answered as f64;
        assert!(more < 1.5, "{call}: {more:.2} times the bytes");
        // The least of many rounds: a busy machine makes some of them late, and not all.
        let more = many.busy as f64 / few.busy.max(20) as f64;
        assert!(
            more < times / 2.0,
            "{call}: Redis is busy {more:.1} times as long"
        );
    }
    if large / NODES / Shards::default().count() < 512 {
        assert!(weight <= WEIGHT, "{weight:.0} bytes an entry");
    }

    crowd.reassert(0).await;
    let totals = Totals {
        nodes: NODES as u64,
        connections: large as u64,
        users: crowd.users as u64,
    };
    assert_eq!(crowd.totals().await, totals);

    let start = Instant::now();
    let gone = crowd.held[1].len();
    // The asker has another lease: that one goes.
    crowd.registry.leave(&crowd.leases[1]).await.unwrap();
    run.tell(format!(
        "{gone} of a node that leaves reaped in {:.2?}",
        start.elapsed()
    ));
    let (lease, report) = (&crowd.leases[0], report(0));
    crowd.registry.heartbeat(lease, &report).await.unwrap();
    let after = Totals {
        nodes: NODES as u64 - 1,
        connections: (large - gone) as u64,
        ..totals
    };
    assert_eq!(crowd.totals().await, after);
    let slow = crowd.slow().await;
    run.tell(format!(
        "commands that kept Redis for more than {SLOW} µs: {} {:?}",
        slow.len(),
        &slow[..slow.len().min(8)]
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_costs_does_not_grow_with_the_registry() {
    grows("registry", 4_000, 40_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a report of some minutes"]
async fn what_a_call_costs_in_a_registry_of_a_million() {
    let entries = given("SWITCHBOARD_TEST_ENTRIES", 1_000_000);
    grows("million", 4_000, entries).await;
}
