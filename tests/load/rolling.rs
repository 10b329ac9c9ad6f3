//! F14: three nodes are restarted one after the other while a backend sends and asks.
//!
//! A user with two connections has them on different nodes, so one of them is there all the time: no send may say that nobody
//! is, and nothing that was sent may be lost. A user with one may miss what is sent while it is on its way, and no more.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{Rng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    ground::{alone, on_given_binary, sign},
    regulars::{Doors, Manner, Regular},
    support::{
        bounds::{ensure, seconds, within},
        client::Hello,
        fleet::{Fleet, Plan},
        run::Run,
        token::KEY,
    },
};

/// Users with two connections, and users with one.
const PAIRS: usize = 60;
const SINGLES: usize = 120;

/// How far from a connection's end or beginning a message may be to count as sent in between: the clocks of both sides are
/// one, but neither sees the moment itself.
const BLUR: Duration = Duration::from_millis(500);

/// What the backend knows of a message.
#[derive(Clone, Debug)]
struct Sent {
    from: Instant,
    until: Instant,
    /// To how many connections it was handed; none: no answer.
    connections: Option<u64>,
}

#[derive(Clone, Default)]
struct Ledger {
    /// By user and number.
    sent: Arc<Mutex<BTreeMap<String, Vec<Sent>>>>,
    /// Answers to reads of users with two connections that said they were offline.
    offline: Arc<Mutex<Vec<String>>>,
    reads: Arc<Mutex<u64>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_one_after_the_other_lose_nobody_and_nothing_that_was_handed_over() {
    let _alone = alone().await;
    let run = Run::begin("rolling");
    let plan = Plan::of(3).with("DRAIN__WINDOW", "2s");
    let mut fleet = Fleet::start(&run, on_given_binary(plan)).await;
    let doors = Doors::of(&fleet);
    sign("pair", PAIRS);
    sign("single", SINGLES);
    let manner = |user: &str| Manner {
        doors: doors.clone(),
        hello: Hello::user(user),
        pause: Duration::from_millis(50)..Duration::from_millis(500),
        stay: None,
        stubborn: false,
        stalls: false,
    };
    let mut first = Vec::new();
    for (prefix, count) in [("pair", PAIRS), ("single", SINGLES)] {
        for number in 0..count {
            let user = format!("{prefix}-{number}");
            first.push(Regular::start(manner(&user), run.random(&user)));
        }
    }
    let there = async |regulars: &[Regular]| {
        let look = async || {
            let there = regulars
                .iter()
                .filter(|regular| regular.client().is_some())
                .count();
            ensure(there == regulars.len(), || {
                format!("{there} of {} are", regulars.len())
            })
        };
        within(seconds(30.0), "all are connected", look).await;
    };
    there(&first).await;
    let second: Vec<_> = first[..PAIRS]
        .iter()
        .map(|sibling| {
            let random = run.random(&format!("second {}", sibling.user));
            sibling.join(manner(&sibling.user), random)
        })
        .collect();
    there(&second).await;
    let apart = || {
        let pairs = first.iter().zip(&second);
        let nodes = pairs.map(|(a, b)| Some((a.client()?.node.clone(), b.client()?.node.clone())));
        nodes
            .into_iter()
            .all(|pair| pair.is_some_and(|(a, b)| a != b))
    };
    assert!(
        apart(),
        "two connections of one user are on different nodes"
    );

    let ledger = Ledger::default();
    let backends: Vec<_> = (0..2)
        .map(|number| {
            let random = run.random(&format!("backend {number}"));
            tokio::spawn(send_and_ask(number, doors.clone(), ledger.clone(), random))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for round in 0..3 {
        run.note(format!("SIGTERM {}", fleet[0].name));
        fleet[0].process.signal("TERM");
        let status = fleet.nodes[0].process.ends(seconds(15.0)).await;
        assert_eq!(status.code(), Some(0), "in round {round}");
        fleet.nodes[0].silent = true;
        doors.set(&fleet);
        fleet.add().await;
        fleet.nodes.remove(0);
        doors.set(&fleet);
        there(&first).await;
        there(&second).await;
        assert!(apart(), "after round {round}");
        run.note(format!("round {round} is over"));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for backend in backends {
        backend.abort();
        backend.await.ok();
    }
    let there: Vec<_> = first
        .iter()
        .chain(&second)
        .filter_map(Regular::client)
        .collect();
    fleet
        .exact(there.iter().map(|client| &**client), seconds(15.0))
        .await;
    judge(&run, &first, &second, &ledger);
    drop((first, second, there));
    fleet.finish(Vec::new(), seconds(15.0)).await;
}

/// Sends numbered messages to users in turn, and asks who is online, until it is ended. Each backend has users of its own, so
/// that the numbers of a user are sent one after the other.
async fn send_and_ask(number: usize, doors: Doors, ledger: Ledger, mut random: StdRng) {
    let http = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    let users = (0..PAIRS).map(|user| format!("pair-{user}"));
    let users = users.chain((0..SINGLES).map(|user| format!("single-{user}")));
    let users: Vec<_> = users.skip(number).step_by(2).collect();
    for turn in 0_usize.. {
        let user = &users[turn % users.len()];
        let Some(door) = doors.pick(&mut random, None) else {
            continue;
        };
        let ask = async |request: reqwest::RequestBuilder| {
            let answer = request.bearer_auth(KEY).send().await.ok()?;
            (answer.status() == 200).then_some(())?;
            answer.json::<Value>().await.ok()
        };
        let base = format!("http://{door}/v1/users/{user}");
        let count = ledger.sent.lock().get(user).map_or(0, Vec::len);
        let from = Instant::now();
        let body = json!({ "event": "message", "data": count });
        let answer = ask(http.post(format!("{base}/events")).json(&body)).await;
        let sent = Sent {
            from,
            until: Instant::now(),
            connections: answer.and_then(|body| body["connections"].as_u64()),
        };
        ledger
            .sent
            .lock()
            .entry(user.clone())
            .or_default()
            .push(sent);
        if user.starts_with("pair")
            && random.random_ratio(1, 3)
            && let Some(body) = ask(http.get(&base)).await
        {
            *ledger.reads.lock() += 1;
            if body["online"] != true {
                ledger
                    .offline
                    .lock()
                    .push(format!("{user} from {door}: {body}"));
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn judge(run: &Run, first: &[Regular], second: &[Regular], ledger: &Ledger) {
    let offline = ledger.offline.lock().clone();
    assert!(offline.is_empty(), "said to be offline: {offline:?}");
    for regular in first.iter().chain(second) {
        assert_eq!(regular.away(), None, "{} has given up", regular.user);
    }
    let (mut handed, mut missed, mut unanswered) = (0, 0, 0);
    let mut wrong = Vec::new();
    for (user, sent) in &*ledger.sent.lock() {
        let mine: Vec<_> = first
            .iter()
            .chain(second)
            .filter(|regular| regular.user == *user)
            .collect();
        let mut got = vec![0_u32; sent.len()];
        for regular in &mine {
            for stay in regular.stays() {
                let heard = stay.client.heard();
                let numbers = heard.iter().filter(|heard| heard.name == "message");
                let numbers: Vec<_> = numbers.filter_map(|heard| heard.data.as_u64()).collect();
                if !numbers.is_sorted_by(|a, b| a < b) {
                    wrong.push(format!("{user} got {numbers:?}"));
                }
                for number in numbers {
                    // One that was on its way when the backends were ended is in no ledger.
                    if let Some(got) = got.get_mut(number as usize) {
                        *got += 1;
                    }
                }
            }
        }
        for (number, sent) in sent.iter().enumerate() {
            match sent.connections {
                None => unanswered += 1,
                Some(0) if mine.len() > 1 => {
                    wrong.push(format!(
                        "{user} {number}: handed to nobody, and one is there"
                    ));
                }
                Some(0) => {
                    missed += 1;
                    if !in_transit(mine[0], sent) {
                        wrong.push(format!(
                            "{user} {number}: handed to nobody, and it is there"
                        ));
                    }
                }
                Some(_) => {
                    handed += 1;
                    if got[number] == 0 {
                        wrong.push(format!("{user} {number}: handed over and lost, {sent:?}"));
                    }
                }
            }
        }
    }
    run.tell(format!(
        "{handed} messages handed over, {missed} to users on their way, {unanswered} without an answer; {} reads; {} wrong",
        ledger.reads.lock(),
        wrong.len()
    ));
    wrong.truncate(10);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether a user with one connection had none, or may have had none, while a message was sent.
fn in_transit(regular: &Regular, sent: &Sent) -> bool {
    let stays = regular.stays();
    stays.windows(2).any(|pair| {
        let gone = pair[0].client.end().map_or(pair[1].set_out, |end| end.at);
        sent.until + BLUR > gone && sent.from < pair[1].client.since + BLUR
    })
}
