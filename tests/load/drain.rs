//! F2: a node is told to end while its clients are at work; some of them read nothing.

use std::time::{Duration, Instant};

use crate::{
    asker::{Asker, summary},
    ground::{Attempts, alone, arrive, crowd_at, on_given_binary, plain, sign},
    pollers::{Poller, http},
    regulars::{Doors, Manner, Regular},
    support::{
        bounds::{ensure, seconds, within},
        client::{Hello, Refused, dial},
        fleet::{Fleet, Plan},
        run::Run,
        stored::Stored,
    },
};

/// `drain.window`.
const WINDOW: f64 = 6.0;

/// Clients that come back.
const REGULARS: usize = 1_000;
/// The same without a WebSocket.
const POLLERS: usize = 30;
/// Clients that read nothing: of one half the buffers are full.
const STALLED: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_ends_in_time_and_its_clients_are_spread_over_the_window() {
    let _alone = alone().await;
    let run = Run::begin("drain");
    let plan = Plan::of(3)
        .with("DRAIN__WINDOW", &format!("{WINDOW}s"))
        .with("LIMITS__SEND_QUEUE_BYTES", "16MB")
        .with("LIMITS__WRITE_DEADLINE", "120s");
    let mut fleet = Fleet::start(&run, on_given_binary(plan)).await;
    sign("regular", REGULARS);

    // All of them come to the node that is to end.
    let all = Doors::of(&fleet);
    let doors = all.only("node-0");
    let manner = |user: String| Manner {
        doors: doors.clone(),
        hello: plain(&user),
        pause: Duration::from_millis(100)..Duration::from_millis(1_000),
        stay: None,
        stubborn: false,
        stalls: false,
    };
    let regulars: Vec<_> = (0..REGULARS)
        .map(|number| {
            let random = run.random(&format!("regular {number}"));
            Regular::start(manner(format!("regular-{number}")), random)
        })
        .collect();
    let http = http();
    let pollers: Vec<_> = (0..POLLERS)
        .map(|number| {
            let random = run.random(&format!("poller {number}"));
            Poller::start(
                &format!("poller-{number}"),
                doors.clone(),
                http.clone(),
                random,
            )
        })
        .collect();
    let mut stalled = Vec::new();
    for number in 0..STALLED {
        let hello = Hello {
            receive_buffer: Some(4096),
            ..plain(&format!("stalled-{number}"))
        };
        let client = arrive(fleet[0].addr, &hello, &Attempts::default()).await;
        client.stall();
        stalled.push(client);
    }
    let neighbours = crowd_at(fleet[1].addr, "neighbour", 50).await;
    let look = async || {
        let there = regulars
            .iter()
            .filter(|regular| regular.client().is_some())
            .count();
        let polling = pollers
            .iter()
            .filter(|poller| poller.state().at.is_some())
            .count();
        ensure((there, polling) == (REGULARS, POLLERS), || {
            format!("{there} and {polling} are there")
        })
    };
    within(seconds(60.0), "all are there", look).await;
    let large = serde_json::json!("x".repeat(256 * 1024));
    for number in 0..STALLED / 2 {
        for _ in 0..20 {
            let user = format!("stalled-{number}");
            let answer = fleet[1].api.send(&user, "large", large.clone()).await;
            let body = answer.unwrap().ok("send").unwrap();
            assert_eq!(body["connections"], 1, "{user} is still there");
        }
    }
    doors.become_like(&all);

    // Traffic, and the end.
    let users = (0..REGULARS)
        .map(|number| format!("regular-{number}"))
        .collect();
    let every = Duration::from_millis(40);
    let asker = Asker::start(&fleet.nodes[1..], every, users, run.random("asker"));
    let start = Instant::now();
    run.note("SIGTERM node-0");
    fleet[0].process.signal("TERM");
    fleet[0].unready(seconds(1.0)).await;
    let refused = dial(fleet[0].addr, None).await.err();
    assert_eq!(refused, Some(Refused::Http(503)), "a new handshake");
    let status = fleet.nodes[0].process.ends(seconds(WINDOW + 6.0)).await;
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0));
    fleet.nodes[0].silent = true;
    let stored = Stored::read(&fleet.redis, "switchboard").await.unwrap();
    assert!(
        stored.lapsed.is_empty() && stored.live.len() == 2,
        "{:?}",
        stored.live
    );
    let orphans = stored
        .entries
        .values()
        .filter(|(_, lease)| !stored.live.contains_key(lease));
    assert_eq!(orphans.count(), 0, "entries of the node that has left");
    run.tell(format!("exit code 0 after {took:.2?}"));

    // How they were sent away.
    let mut tenths = [0_usize; 10];
    for regular in &regulars {
        let ends = regular.ends();
        let end = ends
            .first()
            .unwrap_or_else(|| panic!("{} has not ended", regular.user));
        assert_eq!(
            (end.code(), end.packet),
            (4000, false),
            "{}: {end:?}",
            regular.user
        );
        let at = end.at.duration_since(start).as_secs_f64() / WINDOW * 10.0;
        tenths[(at as usize).min(9)] += 1;
    }
    run.tell(format!("closed in each tenth of the window: {tenths:?}"));
    let mean = REGULARS / 10;
    assert!(
        tenths
            .iter()
            .all(|tenth| (mean / 5..=3 * mean).contains(tenth)),
        "not at a steady pace: {tenths:?}"
    );
    let look = async || {
        let there = regulars
            .iter()
            .filter(|regular| regular.client().is_some())
            .count();
        let polling = pollers.iter().filter(|poller| {
            let state = poller.state();
            state.at.is_some() && state.visits > 1
        });
        let polling = polling.count();
        ensure((there, polling) == (REGULARS, POLLERS), || {
            let state = pollers
                .iter()
                .map(Poller::state)
                .find(|state| state.at.is_none());
            format!("{there} and {polling} are back; one that is not: {state:?}")
        })
    };
    let (back, ()) = within(seconds(10.0), "all are back by themselves", look).await;
    run.tell(format!("all are back {back:.2?} after the node's end"));
    for poller in &pollers {
        let state = poller.state();
        assert_eq!(state.codes.first(), Some(&4000), "{state:?}");
        poller.rest(true);
    }
    let samples = asker.finish();
    run.tell(format!("the API of the others: {}", summary(&samples)));
    let failed = samples
        .iter()
        .filter(|sample| !matches!(sample.status, 200 | 503));
    let failed: Vec<_> = failed.filter(|sample| !sample.kept).collect();
    assert!(failed.is_empty(), "{failed:?}");

    let there: Vec<_> = regulars.iter().filter_map(Regular::client).collect();
    let all = there.iter().map(|client| &**client).chain(&neighbours);
    fleet.exact(all, seconds(15.0)).await;
    drop((regulars, pollers, stalled, there));
    fleet.finish(neighbours, seconds(15.0)).await;
}
