//! The whole scene: a stranger with 2,000 connections, all of which do the worst they may, and a user with 700 sockets who comes back
//! all the time with one token, against a fleet of two. Others come, and are kicked, as ever.
//!
//! The stranger, the user and the others have a thread each, as they would have a machine each. What the stranger and the user
//! compute themselves is no part of what is measured: their threads stand behind the fleet's (`renice`), and take all that it leaves.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    ground::{alone, crowd_at, given, on_given_binary},
    support::{
        api::Api,
        bounds::{bound, seconds},
        client::{Client, Hello},
        fleet::{Fleet, Plan},
        run::Run,
        token::token,
    },
    wire::{SEPARATOR, Session, TEXT, Wire, drain, frame_head, text},
};

/// Connections of the stranger's, and sockets of the user's.
const STRANGER: usize = 2_000;
const USER: usize = 700;

/// Between the end of one of the stranger's connections and its next, and between two sockets of the user's: with 700, some 400
/// a second.
const STRANGERS_PAUSE: (u64, u64) = (100, 500);
const USERS_PAUSE: (u64, u64) = (1_000, 2_500);

/// One of the others comes, and is kicked, so often.
const EVERY: Duration = Duration::from_millis(50);

/// Clients that are there all along.
const NEIGHBOURS: usize = 50;

/// What a node may hold more than before, in KB. Measured: 53 to 67 MB.
const MORE_MEMORY: u64 = 128 * 1024;

/// How long the attack goes on, in seconds, if `SWITCHBOARD_TEST_ATTACK` names no other: a minute for a release build, which
/// `SWITCHBOARD_BIN` names.
fn lasts() -> Duration {
    let seconds = match std::env::var_os("SWITCHBOARD_BIN") {
        Some(_) => 60,
        None => 15,
    };
    Duration::from_secs(given("SWITCHBOARD_TEST_ATTACK", seconds))
}

/// Within which 99 of 100 kicks and handshakes are done. Of a debug build it only says that they go on being done.
fn p99() -> Duration {
    bound(match std::env::var_os("SWITCHBOARD_BIN") {
        Some(_) => Duration::from_millis(500),
        None => Duration::from_secs(5),
    })
}

/// Two nodes with the limits of users that the product has by default: other tests of fleets have none.
fn plan() -> Plan {
    let limits = switchboard::config::Config::default().limits;
    let rate = limits.connects_per_second_per_user.to_string();
    Plan::of(2)
        .with(
            "LIMITS__CONNECTIONS_PER_USER",
            &limits.connections_per_user.to_string(),
        )
        .with("LIMITS__CONNECTS_PER_SECOND_PER_USER", &rate)
}

/// Both nodes see one address: the one that the proxy names, which they trust.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_one_address() {
    let plan = plan().with("TRUSTED_PROXIES", "127.0.0.0/8");
    scene(
        "crowd of one address",
        plan,
        "X-Forwarded-For: 203.0.113.7\r\n",
    )
    .await;
}

/// From the loopback, which has no limits an address: what else there is has to hold by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_limits_an_address() {
    scene("crowd of no address", plan(), "").await;
}

async fn scene(name: &'static str, plan: Plan, headers: &'static str) {
    let _alone = alone().await;
    let run = Run::begin(name);
    let fleet = Fleet::start(&run, on_given_binary(plan)).await;
    let doors = [fleet[0].addr, fleet[1].addr];
    let mut neighbours = crowd_at(doors[0], "zero", NEIGHBOURS / 2).await;
    neighbours.extend(crowd_at(doors[1], "one", NEIGHBOURS / 2).await);
    let before: Vec<_> = fleet
        .nodes
        .iter()
        .map(|node| node.process.status("VmRSS"))
        .collect();

    let others = Others::default();
    let stop = CancellationToken::new();
    let regulars = apart(&stop, {
        let others = others.clone();
        move || come_and_be_kicked(doors, others)
    });
    sleep(Duration::from_secs(3)).await;
    let quiet = others.take();
    run.tell(format!("before: {quiet}"));
    let cpu = fleet.nodes.iter().map(|node| node.process.cpu());
    let cpu: Vec<_> = cpu.collect();

    let (strangers, users) = (Tally::default(), Tally::default());
    let attack = CancellationToken::new();
    let stranger = behind(&attack, {
        let (tally, seed) = (strangers.clone(), run.random("stranger").random());
        move || {
            crowd(STRANGER, seed, move |number, random| {
                stranger(number, doors, headers, tally.clone(), random)
            })
        }
    });
    let user = behind(&attack, {
        let (tally, seed) = (users.clone(), run.random("user").random());
        move || {
            crowd(USER, seed, move |_, random| {
                reconnect(doors, tally.clone(), random)
            })
        }
    });
    let start = Instant::now();
    while start.elapsed() < lasts() {
        sleep(Duration::from_secs(5).min(lasts())).await;
        run.note(format!("{others}"));
    }
    let attacked = others.take();
    let took = start.elapsed();
    attack.cancel();
    stop.cancel();
    stranger.join().unwrap();
    user.join().unwrap();
    regulars.join().unwrap();
    run.tell(format!("for {took:.1?}: {attacked}"));
    run.tell(format!("the stranger: {strangers}"));
    run.tell(format!("the user: {users}"));
    let stats = fleet.redis.info("commandstats").await;
    let cpu_of_redis = fleet.redis.info("cpu").await;
    let scripts = stats
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha:"));
    let seconds_of_cpu = cpu_of_redis
        .lines()
        .find(|line| line.starts_with("used_cpu_user:"));
    run.tell(format!("Redis: {scripts:?}, {seconds_of_cpu:?}"));
    let mut wrong = Vec::new();
    for (number, node) in fleet.nodes.iter().enumerate() {
        let peak = node.process.status("VmHWM").saturating_sub(before[number]);
        run.tell(format!(
            "{}: {:.1} MB more, {:.1?} of CPU",
            node.name,
            peak as f64 / 1024.0,
            node.process.cpu() - cpu[number]
        ));
        if peak > MORE_MEMORY {
            wrong.push(format!(
                "{}: {peak} KB more, {MORE_MEMORY} KB at most",
                node.name
            ));
        }
    }
    wrong.extend(attacked.wrong());
    let open = neighbours.iter().filter(|client| client.is_open()).count();
    if open < NEIGHBOURS {
        wrong.push(format!("{} neighbours were dropped", NEIGHBOURS - open));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    fleet.finish(neighbours, seconds(30.0)).await;
}

/// Runs something on a thread and a runtime of its own until it is stopped.
fn apart<F: Future<Output = ()>>(
    stop: &CancellationToken,
    work: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<()> {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(stop.run_until_cancelled(work()));
    })
}

/// Runs something on a thread of its own that computes when the fleet does not.
fn behind<F: Future<Output = ()>>(
    stop: &CancellationToken,
    work: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<()> {
    apart(stop, || {
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        let thread = thread.file_name().unwrap();
        let mut renice = std::process::Command::new("renice");
        let reniced = renice.args(["-n", "10", "-p"]).arg(thread).output();
        assert!(reniced.unwrap().status.success(), "renice {thread:?}");
        work()
    })
}

/// As many at once as are told, each with random numbers of its own, for ever.
async fn crowd<F: Future<Output = ()> + Send + 'static>(
    count: usize,
    seed: u64,
    one: impl Fn(usize, StdRng) -> F,
) {
    let mut all = tokio::task::JoinSet::new();
    for number in 0..count {
        all.spawn(one(number, StdRng::seed_from_u64(seed ^ number as u64)));
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
}

/// What became of attempts, by outcome. Clones are the same one.
#[derive(Clone, Default)]
struct Tally(Arc<Mutex<BTreeMap<String, u64>>>);

impl Tally {
    fn count(&self, outcome: impl Into<String>) {
        *self.0.lock().entry(outcome.into()).or_default() += 1;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.lock())
    }
}

/// One of the stranger's connections: does its worst, and comes again when it is ended.
async fn stranger(
    number: usize,
    doors: [SocketAddr; 2],
    headers: &'static str,
    tally: Tally,
    mut random: StdRng,
) {
    let door = doors[number % 2];
    loop {
        let pause = random.random_range(STRANGERS_PAUSE.0..STRANGERS_PAUSE.1);
        sleep(Duration::from_millis(pause)).await;
        let (what, outcome) = worst(number / 2 % 11, door, headers).await;
        match outcome {
            Ok(()) => tally.count(format!("{what} ended")),
            Err(status) => tally.count(format!("{what} refused {status}")),
        }
    }
}

/// Does what a stranger of this kind does, until the node ends it. An error is the status that refused it; 0: none.
async fn worst(
    kind: usize,
    door: SocketAddr,
    headers: &'static str,
) -> (&'static str, Result<(), u16>) {
    match kind {
        0 => ("idle TCP", hold(door, "").await),
        1 => {
            let head = format!("GET /socket.io/?EIO=4 HTTP/1.1\r\nHost: a\r\n{headers}Upgr");
            ("half a head", hold(door, &head).await)
        }
        2 => ("mute", flood(Wire::open(door, headers).await, &[]).await),
        3 => (
            "pongs",
            flood(Wire::guest(door, headers).await, &text("3").repeat(1_000)).await,
        ),
        4 => {
            let connects = text("40/public,").repeat(1_000);
            (
                "connects",
                flood(Wire::guest(door, headers).await, &connects).await,
            )
        }
        5 => {
            let body = format!("40{SEPARATOR}").repeat(21_000) + "40";
            ("posts", posts(door, headers, &body).await)
        }
        6 => (
            "large posts",
            posts(door, headers, &"4".repeat(990_000)).await,
        ),
        7 => {
            let mut message = frame_head(TEXT, 999_000);
            message.resize(message.len() + 990_000, b'x');
            (
                "large messages",
                flood(Wire::guest(door, headers).await, &message).await,
            )
        }
        8 => {
            let auth = format!("40[{}0]", "{\"\":0},".repeat(8_500));
            (
                "credentials",
                flood(Wire::open(door, headers).await, &text(auth)).await,
            )
        }
        9 => {
            let cookie = format!("{headers}Cookie: other={}\r\n", "x".repeat(12 * 1024));
            (
                "cookies",
                flood(Wire::guest(door, &cookie).await, &[]).await,
            )
        }
        _ => {
            // A signature that has to be looked at, and is wrong.
            let mut forged = token("forged");
            let end = if forged.ends_with('A') { "B" } else { "A" };
            forged.truncate(forged.len() - 1);
            let connect = Hello::with(forged + end).packet();
            (
                "forged tokens",
                flood(Wire::open(door, headers).await, &text(connect)).await,
            )
        }
    }
}

/// A connection on which nothing comes after its first bytes.
async fn hold(door: SocketAddr, first: &str) -> Result<(), u16> {
    let mut stream = TcpStream::connect(door).await.map_err(|_| 0_u16)?;
    stream.write_all(first.as_bytes()).await.ok();
    drain(&mut stream).await;
    Ok(())
}

/// Sends the same again and again, without end.
async fn flood(wire: Result<Wire, u16>, bytes: &[u8]) -> Result<(), u16> {
    let mut wire = wire?;
    let total = if bytes.is_empty() { 0 } else { usize::MAX };
    wire.flood(bytes, total, Duration::from_secs(3_600)).await;
    Ok(())
}

/// Posts the same again and again.
async fn posts(door: SocketAddr, headers: &str, body: &str) -> Result<(), u16> {
    let session = Session::open(door, headers).await?;
    while matches!(session.post(body).await, 200 | 413) {}
    Ok(())
}

/// One of the user's sockets: comes with the token, stays a moment, and comes again.
async fn reconnect(doors: [SocketAddr; 2], tally: Tally, mut random: StdRng) {
    let hello = Hello::with(token("hog"));
    loop {
        let door = doors[random.random_range(0..2)];
        let outcome = match Wire::open(door, "").await {
            Err(status) => format!("refused {status}"),
            Ok(mut wire) => {
                wire.send(&text(hello.packet())).await.ok();
                let said = wire.next().await.unwrap_or_default();
                let said = String::from_utf8_lossy(&said).into_owned();
                let pause = random.random_range(USERS_PAUSE.0..USERS_PAUSE.1);
                sleep(Duration::from_millis(pause)).await;
                match said.get(..2) {
                    Some("40") => "let in".to_owned(),
                    _ => said.chars().take(60).collect(),
                }
            }
        };
        tally.count(outcome);
        let pause = random.random_range(0..USERS_PAUSE.0 / 2);
        sleep(Duration::from_millis(pause)).await;
    }
}

/// How the others fare. Clones are the same.
#[derive(Clone, Default)]
struct Others(Arc<Mutex<Fared>>);

#[derive(Default)]
struct Fared {
    handshakes: Vec<Duration>,
    kicks: Vec<Duration>,
    failed: BTreeMap<String, u64>,
}

impl Others {
    /// What was noted since the last look.
    fn take(&self) -> Fared {
        std::mem::take(&mut *self.0.lock())
    }

    fn failed(&self, what: String) {
        *self.0.lock().failed.entry(what).or_default() += 1;
    }
}

impl std::fmt::Display for Others {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.lock())
    }
}

fn share(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    let at = (times.len() as f64 * share).ceil() as usize;
    times.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

impl Fared {
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (what, times) in [("handshakes", &self.handshakes), ("kicks", &self.kicks)] {
            if times.is_empty() || share(times, 0.99) > p99() {
                let took = share(times, 0.99);
                wrong.push(format!(
                    "{} {what}, p99 {took:.1?}, {:.1?} at most",
                    times.len(),
                    p99()
                ));
            }
        }
        if !self.failed.is_empty() {
            wrong.push(format!("failed: {:?}", self.failed));
        }
        wrong
    }
}

impl std::fmt::Display for Fared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, times) in [("handshakes", &self.handshakes), ("kicks", &self.kicks)] {
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| share(times, part));
            write!(
                f,
                "{} {what} p50 {p50:.1?} p99 {p99:.1?} max {max:.1?}; ",
                times.len()
            )?;
        }
        write!(f, "failed {:?}", self.failed)
    }
}

/// Others, one after the other: each comes to one node, and is kicked through the other. Both are begun when they are due.
async fn come_and_be_kicked(doors: [SocketAddr; 2], others: Others) {
    let apis = doors.map(Api::new);
    let start = Instant::now();
    let mut under_way = tokio::task::JoinSet::new();
    for number in 0_u32.. {
        let due = start + EVERY * number;
        tokio::time::sleep_until(due.into()).await;
        let (node, others) = (number as usize % 2, others.clone());
        let (door, api) = (doors[node], apis[1 - node].clone());
        under_way.spawn(async move {
            let user = format!("other-{number}");
            let hello = Hello::with(token(&user));
            let client = match Client::connect(door, &hello).await {
                Ok(client) => client,
                Err(refused) => return others.failed(format!("a handshake: {refused:?}")),
            };
            others.0.lock().handshakes.push(due.elapsed());
            let kick = Instant::now();
            let answer = match api.disconnect(&user, json!({})).await {
                Ok(answer) => answer,
                Err(error) => return others.failed(format!("a kick: {error}")),
            };
            others.0.lock().kicks.push(kick.elapsed());
            if (answer.status, &answer.body["disconnected"]) != (200, &json!(1)) {
                others.failed(format!("a kick: {} {}", answer.status, answer.body));
            }
            let ended = client.ended(Duration::from_secs(60));
            match tokio::time::timeout(seconds(10.0), ended).await {
                Ok(end) if end.code() == 4500 => {}
                Ok(end) => others.failed(format!("an end with {}", end.code())),
                Err(_) => others.failed("not ended".to_owned()),
            }
        });
        while let Some(done) = under_way.try_join_next() {
            done.unwrap();
        }
    }
}
