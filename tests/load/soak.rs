//! The soak: a fleet behind proxies, clients of all kinds, a backend that sends, kicks and bans, and a random fault every
//! `SOAK_EVERY` seconds for `SOAK_MINUTES` minutes. After each fault everything comes to rest, and the oracle is asked: the
//! registry and every node's answers are exactly the live connections; nobody has been lost; nodes hold no file descriptor
//! more than their connections need.
//!
//! Not a part of `cargo test`; `tests/soak` starts it.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;

use crate::{
    asker::{Asker, summary},
    ground::{MORE_TO_REDIS, alone, given, on_given_binary, sign},
    pollers::{Poller, http},
    regulars::{Doors, Manner, Regular},
    support::{
        bounds::{ensure, seconds, within},
        client::Hello,
        fleet::{Fleet, Plan},
        proxy::Weather,
        run::Run,
        stored::Stored,
        token::KEY,
    },
};

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    None,
    KillNode,
    FreezeNode,
    DrainNode,
    RestartRedisEmpty,
    RestartRedisWithData,
    FlushAll,
    FreezeRedis,
    KillPubsub,
    KillNormal,
    CutNode,
    HalfOpenNode,
    DeafNode,
    FlushScripts,
}

const FAULTS: [Fault; 14] = [
    Fault::None,
    Fault::KillNode,
    Fault::FreezeNode,
    Fault::DrainNode,
    Fault::RestartRedisEmpty,
    Fault::RestartRedisWithData,
    Fault::FlushAll,
    Fault::FreezeRedis,
    Fault::KillPubsub,
    Fault::KillNormal,
    Fault::CutNode,
    Fault::HalfOpenNode,
    Fault::DeafNode,
    Fault::FlushScripts,
];

/// How long after a fault everything is exact: the lease, 2 s, and as long again for clients that are on their way.
const EXACT: f64 = 20.0;

/// What a node takes at rest.
#[derive(Clone, Copy, Debug)]
struct Size {
    minute: f64,
    rss_kb: u64,
    descriptors: usize,
    threads: u64,
}

struct Soak {
    run: Run,
    fleet: Fleet,
    random: StdRng,
    doors: Doors,
    /// Those that stay, and are counted by the oracle.
    regulars: Vec<Regular>,
    /// Those that rest while it looks.
    restless: Vec<Regular>,
    pollers: Vec<Poller>,
    /// Each node's first and last size at rest, in the order in which they came.
    sizes: BTreeMap<String, (Size, Size)>,
    keys: Vec<usize>,
    faults: BTreeMap<Fault, u32>,
    calls: BTreeMap<u16, u64>,
    slowest: Duration,
}

#[ignore = "takes SOAK_MINUTES (30); tests/soak starts it"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    let _alone = alone().await;
    let run = Run::begin("soak");
    let minutes: f64 = given("SOAK_MINUTES", 30.0);
    let every = Duration::from_secs_f64(given("SOAK_EVERY", 30.0));
    let plan = Plan {
        heartbeat: Duration::from_secs(1),
        lease: Duration::from_secs(5),
        ..Plan::of(3)
    };
    let plan = plan
        .proxied()
        .with("DRAIN__WINDOW", "3s")
        .with("LIMITS__WRITE_DEADLINE", "4s")
        .with("LIMITS__SEND_QUEUE_BYTES", "256KB");
    let fleet = Fleet::start(&run, on_given_binary(plan)).await;
    let mut soak = Soak::new(&run, fleet, given("SOAK_CLIENTS", 300));
    let start = Instant::now();
    soak.quiesce("at the beginning").await;
    let mut rounds = 0;
    while start.elapsed().as_secs_f64() < minutes * 60.0 {
        rounds += 1;
        soak.round(rounds, every).await;
    }
    soak.report(rounds, start.elapsed());
    soak.finish().await;
}

impl Soak {
    fn new(run: &Run, fleet: Fleet, clients: usize) -> Self {
        let doors = Doors::of(&fleet);
        let seconds = |range: Range<f64>| {
            Duration::from_secs_f64(range.start)..Duration::from_secs_f64(range.end)
        };
        for kind in ["stays", "comes", "stalls", "polls"] {
            sign(kind, clients);
        }
        let manner = |user: String| Manner {
            doors: doors.clone(),
            hello: Hello {
                keep: false,
                ..Hello::user(&user)
            },
            pause: seconds(0.1..1.0),
            stay: None,
            stubborn: true,
            stalls: false,
        };
        let part = |share: f64| (clients as f64 * share) as usize;
        // Every tenth user is there twice.
        let regulars = (0..part(0.6)).map(|number| {
            let user = format!("stays-{}", number - usize::from(number % 10 == 9));
            Regular::start(manner(user), run.random(&format!("stays {number}")))
        });
        let comes = (0..part(0.2)).map(|number| {
            let manner = Manner {
                stay: Some(seconds(0.05..5.0)),
                ..manner(format!("comes-{number}"))
            };
            Regular::start(manner, run.random(&format!("comes {number}")))
        });
        let stalls = (0..part(0.07)).map(|number| {
            let mut manner = Manner {
                stalls: true,
                stay: Some(seconds(5.0..20.0)),
                ..manner(format!("stalls-{number}"))
            };
            manner.hello.receive_buffer = Some(4096);
            Regular::start(manner, run.random(&format!("stalls {number}")))
        });
        let http = http();
        let pollers = (0..part(0.13)).map(|number| {
            let random = run.random(&format!("polls {number}"));
            Poller::start(
                &format!("polls-{number}"),
                doors.clone(),
                http.clone(),
                random,
            )
        });
        Self {
            run: run.clone(),
            random: run.random("soak"),
            regulars: regulars.collect(),
            restless: comes.chain(stalls).collect(),
            pollers: pollers.collect(),
            doors,
            fleet,
            sizes: BTreeMap::new(),
            keys: Vec::new(),
            faults: BTreeMap::new(),
            calls: BTreeMap::new(),
            slowest: Duration::ZERO,
        }
    }

    /// Unrest, a fault in its midst, and rest.
    async fn round(&mut self, number: u32, every: Duration) {
        let began = Instant::now();
        for regular in &self.restless {
            regular.rest(false);
        }
        for poller in &self.pollers {
            poller.rest(false);
        }
        let users: Vec<_> = ["stays", "comes", "polls"]
            .iter()
            .flat_map(|kind| (0..20).map(move |number| format!("{kind}-{number}")))
            .collect();
        let random = self.run.random(&format!("asker {number}"));
        let asker = Asker::start(self.fleet.up(), Duration::from_millis(50), users, random);
        let backend = self.backend(number);
        tokio::time::sleep(every / 6).await;
        let fault = *FAULTS.choose(&mut self.random).unwrap();
        *self.faults.entry(fault).or_default() += 1;
        self.run.tell(format!("round {number}: {fault:?}"));
        self.strike(fault).await;
        tokio::time::sleep((every * 2 / 3).saturating_sub(began.elapsed())).await;
        backend.abort();
        let samples = asker.finish();
        for sample in &samples {
            *self.calls.entry(sample.status).or_default() += 1;
            // A node that is gone answers nobody; and who asks on a kept connection at the moment at which the node closes it
            // for being idle gets no answer either.
            let gone = matches!(
                fault,
                Fault::KillNode | Fault::FreezeNode | Fault::DrainNode
            );
            let gone = sample.status == 0 && (gone || sample.kept);
            assert!(
                matches!(sample.status, 200 | 503) || gone,
                "{} was answered with {} in round {number}, {fault:?}",
                sample.call,
                sample.status
            );
        }
        self.run.note(summary(&samples));
        self.quiesce(&format!("after round {number}, {fault:?}"))
            .await;
    }

    /// What a backend does meanwhile, to users that are there: kicks that are for coming back, kicks that are not, bans that are
    /// lifted, and messages that fill the buffers of those that do not read.
    fn backend(&self, round: u32) -> tokio::task::JoinHandle<()> {
        let doors = self.doors.clone();
        let mut random = self.run.random(&format!("backend {round}"));
        tokio::spawn(async move {
            let http = reqwest::Client::builder()
                .timeout(Duration::from_secs(10))
                .pool_max_idle_per_host(0)
                .build()
                .unwrap();
            let large = "x".repeat(16 * 1024);
            loop {
                tokio::time::sleep(Duration::from_millis(random.random_range(20..200))).await;
                let Some(door) = doors.pick(&mut random, None) else {
                    continue;
                };
                let kind = ["stays", "comes", "stalls", "polls"]
                    .choose(&mut random)
                    .unwrap();
                let user = format!("{kind}-{}", random.random_range(0..20));
                let base = format!("http://{door}/v1");
                let of_user = format!("{base}/users/{user}");
                let request = match random.random_range(0..20) {
                    0 => http
                        .post(format!("{of_user}/disconnect"))
                        .json(&json!({ "code": 4003, "reconnect": true })),
                    1 => http.post(format!("{of_user}/disconnect")).json(&json!({})),
                    2 => http.put(format!("{of_user}/ban")).json(&json!({
                        "until": jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2)
                    })),
                    3 => http.delete(format!("{of_user}/ban")),
                    4 => http
                        .post(format!("{base}/broadcast"))
                        .json(&json!({ "event": "all", "data": "x" })),
                    _ => {
                        let message = |number| json!({ "user": format!("stalls-{number}"), "event": "large", "data": large });
                        let messages: Vec<_> = (0..20).map(message).collect();
                        http.post(format!("{base}/events"))
                            .json(&json!({ "messages": messages }))
                    }
                };
                request.bearer_auth(KEY).send().await.ok();
            }
        })
    }

    async fn strike(&mut self, fault: Fault) {
        let node = self.random.random_range(0..3);
        let part: f64 = self.random.random();
        let lasting = |range: Range<f64>| {
            Duration::from_secs_f64(range.start + part * (range.end - range.start))
        };
        match fault {
            Fault::None => {}
            Fault::KillNode => {
                self.fleet.kill(node);
                self.doors.set(&self.fleet);
                tokio::time::sleep(lasting(0.0..4.0)).await;
                self.replace(node).await;
            }
            Fault::FreezeNode => {
                let time = lasting(1.0..12.0);
                self.fleet.freeze(node);
                self.doors.set(&self.fleet);
                tokio::time::sleep(time).await;
                self.fleet.wake(node);
                self.doors.set(&self.fleet);
            }
            Fault::DrainNode => {
                self.fleet.nodes[node].process.signal("TERM");
                let limit = seconds(30.0);
                let status = self.fleet.nodes[node].process.ends(limit).await;
                assert_eq!(status.code(), Some(0), "a drained node's exit code");
                self.fleet.nodes[node].silent = true;
                self.doors.set(&self.fleet);
                self.replace(node).await;
            }
            Fault::RestartRedisEmpty | Fault::RestartRedisWithData => {
                let time = lasting(0.0..6.0);
                if fault == Fault::RestartRedisEmpty {
                    let () = self.fleet.redis.run("FLUSHALL").await;
                }
                let () = self.fleet.redis.run("SAVE").await;
                self.fleet.redis.kill();
                tokio::time::sleep(time).await;
                self.fleet.redis.launch().await;
            }
            Fault::FlushAll => {
                let () = self.fleet.redis.run("FLUSHALL").await;
            }
            Fault::FreezeRedis => {
                let time = lasting(0.5..8.0);
                self.fleet.redis.signal("STOP");
                tokio::time::sleep(time).await;
                self.fleet.redis.signal("CONT");
            }
            Fault::KillPubsub => {
                for _ in 0..20 {
                    let _: u64 = self.fleet.redis.run("CLIENT KILL TYPE pubsub").await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            Fault::KillNormal => {
                let _: u64 = self.fleet.redis.run("CLIENT KILL TYPE normal").await;
            }
            Fault::CutNode => self.weather(node, Weather::CUT, lasting(0.5..12.0)).await,
            Fault::HalfOpenNode => {
                let time = lasting(0.5..12.0);
                self.weather(node, Weather::HALF_OPEN, time).await;
            }
            Fault::DeafNode => {
                let time = lasting(0.5..12.0);
                self.weather(node, Weather::NO_ANSWERS, time).await;
            }
            Fault::FlushScripts => {
                let () = self.fleet.redis.run("SCRIPT FLUSH").await;
            }
        }
    }

    async fn weather(&self, node: usize, weather: Weather, time: Duration) {
        let proxy = self.fleet[node].proxy.as_ref().unwrap();
        self.run.note(format!(
            "{weather:?} for {time:?} at {}",
            self.fleet[node].name
        ));
        proxy.set(weather);
        tokio::time::sleep(time).await;
        proxy.set(Weather::FAIR);
    }

    /// A node in the place of one that is gone.
    async fn replace(&mut self, gone: usize) {
        let new = self.fleet.add().await;
        assert!(
            new > gone && self.fleet[gone].silent,
            "the new node takes the place of a dead one"
        );
        crate::support::oracle::no_panic(&self.fleet).unwrap();
        self.fleet.nodes.swap_remove(gone);
        self.doors.set(&self.fleet);
    }

    /// The restless go, and everything is exact.
    async fn quiesce(&mut self, when: &str) {
        for regular in &self.restless {
            regular.rest(true);
        }
        for poller in &self.pollers {
            poller.rest(true);
        }
        let look = async || {
            let there = self
                .restless
                .iter()
                .filter(|regular| regular.client().is_some());
            ensure(there.count() == 0, || "the restless are there".into())?;
            let polling = self
                .pollers
                .iter()
                .filter(|poller| poller.state().at.is_some());
            ensure(polling.count() == 0, || "pollers are there".into())?;
            let clients: Vec<_> = self.regulars.iter().filter_map(Regular::client).collect();
            ensure(clients.len() == self.regulars.len(), || {
                let missing = self
                    .regulars
                    .iter()
                    .filter(|regular| regular.client().is_none());
                let missing: Vec<_> = missing
                    .map(|regular| (&regular.user, regular.refusals()))
                    .collect();
                format!("{} are not back: {missing:?}", missing.len())
            })?;
            let clients: Vec<_> = clients.iter().map(|client| &**client).collect();
            crate::support::oracle::exact(&self.fleet, &clients).await?;
            self.descriptors()
        };
        let what = format!("exact {when}");
        let (took, ()) = within(seconds(EXACT), &what, look).await;
        self.slowest = self.slowest.max(took);
        crate::support::oracle::no_panic(&self.fleet).unwrap();
        self.reach(when).await;
        let keys = Stored::read(&self.fleet.redis, "switchboard")
            .await
            .unwrap()
            .keys
            .len();
        self.keys.push(keys);
        for node in &self.fleet.nodes {
            let size = Size {
                minute: self.run.clock() / 60.0,
                rss_kb: node.process.status("VmRSS"),
                descriptors: node.process.descriptors(),
                threads: node.process.status("Threads"),
            };
            let sizes = self.sizes.entry(node.name.clone()).or_insert((size, size));
            sizes.1 = size;
        }
        self.run
            .tell(format!("exact {took:.1?} {when}; {keys} keys"));
    }

    /// Nodes hold a file descriptor for each connection and no other.
    fn descriptors(&self) -> Result<(), String> {
        let clients: Vec<_> = self.regulars.iter().filter_map(Regular::client).collect();
        for node in &self.fleet.nodes {
            let here = clients
                .iter()
                .filter(|client| client.node == node.name)
                .count();
            let (now, base) = (node.process.descriptors(), node.base());
            ensure(now <= base + here + MORE_TO_REDIS, || {
                format!(
                    "{}: {now} with {here} clients, at the beginning {base}",
                    node.name
                )
            })?;
        }
        Ok(())
    }

    /// Every regular is reached from every node. A call that found Redis late is made again, as a backend would.
    async fn reach(&self, when: &str) {
        for node in &self.fleet.nodes {
            let before = self.counted();
            let messages: Vec<_> = self
                .regulars
                .iter()
                .map(|regular| json!({ "user": regular.user, "event": "reach", "data": null }))
                .collect();
            let body = json!({ "messages": messages });
            let send = async || {
                let answer = node.api.post("/v1/events", body.clone()).await?;
                let body = answer.ok("/v1/events")?;
                let results = body["results"].as_array().cloned().unwrap_or_default();
                let missed = self
                    .regulars
                    .iter()
                    .zip(&results)
                    .find(|(_, result)| result["connections"].as_u64() < Some(1));
                ensure(
                    results.len() == self.regulars.len() && missed.is_none(),
                    || {
                        let missed =
                            missed.map(|(regular, result)| format!("{}: {result}", regular.user));
                        format!("{missed:?} {}", results.len())
                    },
                )
            };
            let what = format!("all are reached from {} {when}", node.name);
            within(seconds(5.0), &what, send).await;
            let look = async || {
                let now = self.counted();
                let missed = before
                    .iter()
                    .zip(&now)
                    .filter(|(before, now)| now <= before);
                let missed = missed.count();
                ensure(missed == 0, || format!("{missed} have got nothing"))
            };
            within(seconds(5.0), "what was sent has come", look).await;
        }
    }

    /// How many events each regular has got on its connection.
    fn counted(&self) -> Vec<u64> {
        let counts = self.regulars.iter().map(|regular| {
            let client = regular.client();
            client.map_or(0, |client| client.count())
        });
        counts.collect()
    }

    fn report(&self, rounds: u32, took: Duration) {
        let tell = |line: String| self.run.tell(line);
        for (name, (first, last)) in &self.sizes {
            tell(format!(
                "{name}: RSS {} KB -> {} KB, descriptors {} -> {}, threads {} -> {}, minutes {:.1} to {:.1}",
                first.rss_kb,
                last.rss_kb,
                first.descriptors,
                last.descriptors,
                first.threads,
                last.threads,
                first.minute,
                last.minute
            ));
        }
        tell(format!("keys at rest: {:?}", self.keys));
        tell(format!(
            "SUMMARY {rounds} rounds in {:.1} minutes; faults {:?}; API answers {:?}; slowest exact {:.1?}",
            took.as_secs_f64() / 60.0,
            self.faults,
            self.calls,
            self.slowest
        ));
    }

    async fn finish(self) {
        drop((self.regulars, self.restless, self.pollers));
        self.fleet.finish(Vec::new(), seconds(EXACT)).await;
        self.run.tell("nothing is left over");
    }
}
