//! What all tests of load stand on: the machine to themselves, file descriptors, the binary, and what Redis counts.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures_util::StreamExt;
use tokio::sync::{Mutex, MutexGuard};

use crate::support::{
    bounds::{bound, ensure, seconds, within},
    client::{Client, Hello, Refused},
    fleet::{Node, Plan},
    redis_server::Server,
    token::token,
};

/// File descriptors that a test or a node may need.
const DESCRIPTORS: u64 = 12_000;

/// How many connections to Redis a node may open beyond those that it has when it is ready: the pool's four, and one of each
/// link that is being replaced.
pub(crate) const MORE_TO_REDIS: usize = 6;

static TURN: Mutex<()> = Mutex::const_new(());

/// Waits until no other test of this binary runs, and makes sure of file descriptors. The nodes inherit the limit.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    let turn = TURN.lock().await;
    let have = rlimit::increase_nofile_limit(DESCRIPTORS).unwrap_or(0);
    assert!(
        have >= DESCRIPTORS,
        "these tests need {DESCRIPTORS} file descriptors and may have {have}: raise the hard limit (`ulimit -Hn`)"
    );
    turn
}

/// A plan whose nodes are `SWITCHBOARD_BIN`, if that is given.
pub(crate) fn on_given_binary(mut plan: Plan) -> Plan {
    if let Ok(binary) = std::env::var("SWITCHBOARD_BIN") {
        let instead = format!("shift; exec '{binary}' \"$@\"");
        plan.wrapper = ["sh", "-c", &instead, "sh"].map(str::to_owned).to_vec();
    }
    plan
}

/// A number from the environment: how long, or how much.
pub(crate) fn given<T: std::str::FromStr>(name: &str, default: T) -> T {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number"))
    })
}

/// How [`crowd_at`]'s clients and other plain ones come: events are counted, not kept.
pub(crate) fn plain(user: &str) -> Hello {
    Hello {
        keep: false,
        ..Hello::user(user)
    }
}

/// Connects clients of the users `prefix-0`, `prefix-1`, … to one node, 16 at a time. As the stock client does, each tries
/// again when it is told to come later: how a fleet takes a crowd is not what the tests look at that begin with one.
pub(crate) async fn crowd_at(door: SocketAddr, prefix: &str, count: usize) -> Vec<Client> {
    let attempts = Attempts::default();
    let coming = (0..count).map(|number| {
        let (hello, attempts) = (plain(&format!("{prefix}-{number}")), &attempts);
        async move { arrive(door, &hello, attempts).await }
    });
    futures_util::stream::iter(coming)
        .buffered(16)
        .collect()
        .await
}

/// Connects one client, which tries again when it is told to come later.
pub(crate) async fn arrive(door: SocketAddr, hello: &Hello, attempts: &Attempts) -> Client {
    let pause = Duration::from_millis(500);
    let coming = come_back(door, hello, pause, attempts);
    match tokio::time::timeout(bound(Duration::from_secs(30)), coming).await {
        Ok(client) => client.unwrap(),
        Err(_) => panic!("not let in within 30 s: {:?}", attempts.outcomes()),
    }
}

/// What became of the attempts of many clients.
#[derive(Debug, Default)]
pub(crate) struct Attempts(parking_lot::Mutex<BTreeMap<String, u64>>);

impl Attempts {
    fn count(&self, outcome: impl Into<String>) {
        *self.0.lock().entry(outcome.into()).or_default() += 1;
    }

    /// How many there were of each outcome.
    pub(crate) fn outcomes(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }
}

/// Comes back to a door, again and again with the same pause; only a `connect_error` is final. Counts the attempts.
pub(crate) async fn come_back(
    door: SocketAddr,
    hello: &Hello,
    pause: Duration,
    attempts: &Attempts,
) -> Result<Client, String> {
    loop {
        match Client::connect(door, hello).await {
            Ok(client) => {
                attempts.count("ready");
                return Ok(client);
            }
            Err(Refused::Connect(error)) => return Err(error),
            Err(refused) => attempts.count(format!("{refused:?}")),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Signs tokens ahead of time: that is not what is measured.
pub(crate) fn sign(prefix: &str, count: usize) {
    for number in 0..count {
        token(&format!("{prefix}-{number}"));
    }
}

/// Commands that Redis has carried out since [`forget_counts`], by name; those of scripts among them.
pub(crate) async fn counts(redis: &Server) -> BTreeMap<String, u64> {
    let text = redis.info("commandstats").await;
    let rows = text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let (calls, _) = rest.split_once(',')?;
        Some((name.to_owned(), calls.parse().ok()?))
    });
    rows.collect()
}

/// Waits until the nodes ask Redis nothing any more.
pub(crate) async fn quiet(redis: &Server) {
    const LOOKS: usize = 25;
    let (mut before, mut same) = (None, 0);
    let look = async || {
        let scripts = counts(redis).await.get("evalsha").copied();
        same = if before == Some(scripts) { same + 1 } else { 0 };
        before = Some(scripts);
        ensure(same >= LOOKS, || format!("{scripts:?} scripts so far"))
    };
    within(seconds(30.0), "nobody asks Redis", look).await;
}

/// A number of `INFO`.
pub(crate) async fn info(redis: &Server, section: &str, name: &str) -> u64 {
    let text = redis.info(section).await;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok()).unwrap()
}

/// Begins to count anew.
pub(crate) async fn forget_counts(redis: &Server) {
    let () = redis.run("CONFIG RESETSTAT").await;
}

/// How often the nodes have asked their registry, by operation.
pub(crate) async fn operations(nodes: &[Node], operation: &str) -> u64 {
    let mut sum = 0;
    for node in nodes {
        let scrape = node.api.metrics().await.unwrap();
        let label = format!("operation=\"{operation}\"");
        let name = "switchboard_registry_duration_seconds_count";
        sum += scrape.sum(name, &[&label]) as u64;
    }
    sum
}
