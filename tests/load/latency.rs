//! L7: how long messages take, from when they were due. A report, and not a bound: it depends on the machine.
//!
//! Messages are sent when they are due and not when the one before is answered, and the time that each took counts from then:
//! what waits behind a slow one is late too (no coordinated omission). The sender has a thread and a runtime of its own.
//!
//! `SWITCHBOARD_BIN=target/release/switchboard cargo test --release --test load latency -- --ignored --nocapture`;
//! `SWITCHBOARD_TEST_CLIENTS` says how many there are.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::{
    asker::percentile,
    ground::{Attempts, alone, arrive, crowd_at, given, on_given_binary, sign},
    support::{
        bounds::{PATIENCE, bound, ensure, within},
        client::{Client, Hello},
        fleet::{Fleet, Plan},
        run::Run,
        token::KEY,
    },
};

/// Clients that hear a broadcast, half of them on each node.
const CLIENTS: usize = 10_000;

/// Users that are sent to, one by one: of the other node than the one that is asked.
const SENT_TO: usize = 200;

/// How often, and how many times, each is done.
const SENDS: (Duration, u32) = (Duration::from_millis(5), 4_000);
const BROADCASTS: (Duration, u32) = (Duration::from_secs(1), 15);

/// What is to be sent, and when.
struct Schedule {
    start: Instant,
    every: Duration,
    count: u32,
}

impl Schedule {
    fn new((every, count): (Duration, u32)) -> Self {
        let start = Instant::now() + Duration::from_secs(1);
        Self {
            start,
            every,
            count,
        }
    }

    fn due(&self, number: u32) -> Instant {
        self.start + self.every * number
    }

    /// Sends each when it is due. Returns how long the calls took from then on, and how many were not answered with 2xx.
    fn send(
        &self,
        call: impl Fn(u32) -> (String, Value) + Send + 'static,
    ) -> std::thread::JoinHandle<(Vec<Duration>, usize)> {
        let due: Vec<_> = (0..self.count).map(|number| self.due(number)).collect();
        let sending = async move {
            let http = reqwest::Client::builder()
                .pool_max_idle_per_host(256)
                .timeout(Duration::from_secs(60))
                .build()
                .unwrap();
            let mut under_way = tokio::task::JoinSet::new();
            for (number, due) in (0..).zip(due) {
                let (url, body) = call(number);
                let request = http.post(url).bearer_auth(KEY).json(&body);
                tokio::time::sleep_until(due.into()).await;
                under_way.spawn(async move {
                    let answer = request.send().await.ok();
                    let done = answer.is_some_and(|answer| answer.status().is_success());
                    (due.elapsed(), done)
                });
            }
            let answers = under_way.join_all().await;
            let failed = answers.iter().filter(|(_, done)| !done).count();
            (answers.into_iter().map(|(took, _)| took).collect(), failed)
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(sending)
        })
    }

    /// How long each message of a name took until a client had it.
    fn late<'a>(&self, clients: impl IntoIterator<Item = &'a Client>, name: &str) -> Vec<Duration> {
        let heard = clients.into_iter().flat_map(Client::heard);
        let meant = heard.filter(|heard| heard.name == name);
        let late = meant.map(|heard| {
            let number = heard.data.as_u64().unwrap() as u32;
            heard.at.saturating_duration_since(self.due(number))
        });
        late.collect()
    }
}

fn shown(times: &[Duration]) -> String {
    let of = |percent| percentile(times.iter().copied(), percent);
    format!(
        "{} p50 {:.2?} p99 {:.2?} p99.9 {:.2?} max {:.2?}",
        times.len(),
        of(50.0),
        of(99.0),
        of(99.9),
        of(100.0)
    )
}

/// How busy the machine is, this test included.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<_> = text.split(' ').take(3).collect();
    format!("load of the machine {}", averages.join(" "))
}

/// Clients that keep what they hear.
async fn listeners(door: SocketAddr, prefix: &str, count: usize) -> Vec<Client> {
    let attempts = Attempts::default();
    let coming = (0..count).map(|number| {
        let (hello, attempts) = (Hello::user(&format!("{prefix}-{number}")), &attempts);
        async move { arrive(door, &hello, attempts).await }
    });
    let coming = futures_util::stream::iter(coming).buffered(16);
    coming.collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a report of a minute, to be run on a release build and an idle machine"]
async fn latency_of_sends_across_nodes_and_of_broadcasts() {
    let _alone = alone().await;
    let run = Run::begin("latency");
    let plan = on_given_binary(Plan::of(2)).with("PING__INTERVAL", "120s");
    let fleet = Fleet::start(&run, plan).await;
    let count = given("SWITCHBOARD_TEST_CLIENTS", CLIENTS);
    sign("hears", count);
    run.tell(load());

    // First with hardly anybody there, then among all.
    let mut sent_to = listeners(fleet[1].addr, "sent-to", SENT_TO).await;
    let mut crowd = Vec::new();
    for size in [0, count] {
        let half = size.div_ceil(2);
        crowd.extend(crowd_at(fleet[0].addr, "quiet", half).await);
        crowd.extend(crowd_at(fleet[1].addr, "silent", size - half).await);
        let base = format!("http://{}/v1/users/sent-to-", fleet[0].addr);
        let name = format!("sent-among-{size}");
        let event = name.clone();
        let schedule = Schedule::new(SENDS);
        let calls = schedule.send(move |number| {
            let user = number as usize % SENT_TO;
            let body = json!({ "event": event, "data": number });
            (format!("{base}{user}/events"), body)
        });
        let look = async || {
            let heard = schedule.late(&sent_to, &name).len();
            ensure(heard == SENDS.1 as usize, || format!("{heard} have come"))
        };
        let limit = SENDS.0 * SENDS.1 + bound(PATIENCE);
        within(limit, "all that was sent has come", look).await;
        let (calls, failed) = calls.join().unwrap();
        run.tell(format!(
            "send to a user of the other node, {} a second, {size} others connected: until heard {}; until answered {}; {failed} \
             failed; {}",
            Duration::from_secs(1).as_millis() / SENDS.0.as_millis(),
            shown(&schedule.late(&sent_to, &name)),
            shown(&calls),
            load()
        ));
    }
    drop(crowd);

    let half = count / 2;
    let mut hear = listeners(fleet[0].addr, "hears", half).await;
    hear.extend(listeners(fleet[1].addr, "hears-too", count - half).await);
    hear.append(&mut sent_to);
    let schedule = Schedule::new(BROADCASTS);
    let url = format!("http://{}/v1/broadcast", fleet[0].addr);
    let calls =
        schedule.send(move |number| (url.clone(), json!({ "event": "to-all", "data": number })));
    let all = hear.len() * BROADCASTS.1 as usize;
    let look = async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let heard: u64 = hear.iter().map(Client::count).sum();
        // `ready` is none of them, and what was sent before is.
        let before = 2 * u64::from(SENDS.1);
        ensure(heard == all as u64 + before, || {
            format!("{heard} have come")
        })
    };
    let limit = BROADCASTS.0 * BROADCASTS.1 + bound(PATIENCE);
    within(limit, "everybody has heard all", look).await;
    let (calls, failed) = calls.join().unwrap();
    let late = schedule.late(&hear, "to-all");
    let lasts = last_of_each(&schedule, &hear);
    run.tell(format!(
        "broadcast to {} on two nodes, every {:?}: until heard {}; until the last one heard {}; until answered {}; {failed} \
         failed; {}",
        hear.len(),
        BROADCASTS.0,
        shown(&late),
        shown(&lasts),
        shown(&calls),
        load()
    ));
    drop(hear);
    fleet.finish(Vec::new(), bound(PATIENCE)).await;
}

/// How long each broadcast took until everybody had it.
fn last_of_each(schedule: &Schedule, clients: &[Client]) -> Vec<Duration> {
    let mut last = vec![Duration::ZERO; schedule.count as usize];
    for heard in clients.iter().flat_map(Client::heard) {
        if heard.name == "to-all" {
            let number = heard.data.as_u64().unwrap() as u32;
            let late = heard.at.saturating_duration_since(schedule.due(number));
            let known = &mut last[number as usize];
            *known = late.max(*known);
        }
    }
    last
}
