//! A disconnect in the midst of a crowd (K1): clients of one user come and go at all nodes while it runs, with the token that it
//! revokes. From its answer on (a) nothing of theirs is heard or told to them, (b) nobody is let in, (c) nobody is listed.
//!
//! A hundred rounds, or as many as 40 s allow; `SWITCHBOARD_TEST_ROUNDS` says how many, for however long.

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::try_join_all, stream};
use parking_lot::Mutex;
use rand::Rng;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    kicks::{REVOKE, disconnect},
    support::{
        bounds::{PATIENCE, bound, ensure, within},
        client::{Client, Hello, Refused},
        fleet::{Fleet, Plan},
        returning::{Manner, Returning, not_yet_refused},
        run::Run,
    },
};

/// How many clients of one user come and go at once.
const CROWD: usize = 20;

/// How many rounds, and how long at most.
const ROUNDS: (usize, Duration) = (100, Duration::from_secs(40));

/// How many rounds go on at once, each with a user of its own: while one waits, the other works.
const SIDE_BY_SIDE: usize = 2;

/// Between two times that everybody who is connected asks something.
const ASKING: Duration = Duration::from_millis(15);

/// What a round's clients have asked, and when.
#[derive(Default)]
struct Asked(HashMap<String, (Arc<Client>, Vec<Instant>)>);

impl Asked {
    /// Everybody who is connected asks something.
    fn ask(&mut self, crowd: &[Returning]) {
        for client in crowd.iter().filter_map(Returning::client) {
            let id = client.id.clone();
            let (client, times) = self.0.entry(id).or_insert_with(|| (client, Vec::new()));
            // Before it is sent: what is noted as asked after the answer was.
            times.push(Instant::now());
            client.ask(times.len() as u64 - 1, "devices");
        }
    }

    /// What was handled, or heard, although it was after the answer.
    fn wrongs(&self, answered: Instant) -> Vec<String> {
        let mut wrongs = Vec::new();
        for (client, times) in self.0.values() {
            for heard in client.heard() {
                let late = match heard.name.as_str() {
                    "ack" => {
                        let number = heard.data[0].as_u64().unwrap() as usize;
                        times[number] > answered
                    }
                    name => name == "after",
                };
                if late {
                    wrongs.push(format!("{}: {} {}", client.id, heard.name, heard.data));
                }
            }
        }
        wrongs
    }
}

fn millis(range: Range<u64>) -> Range<Duration> {
    Duration::from_millis(range.start)..Duration::from_millis(range.end)
}

/// What came of a round.
struct Round {
    /// Connections that the disconnect met.
    met: u64,
    /// How often a client was let in, or not.
    visits: usize,
}

/// A crowd comes, is disconnected, and every one of it is refused.
async fn round(run: &Run, fleet: &Fleet, number: usize) -> Round {
    let user = format!("k1-{number}");
    let mut random = run.random(&user);
    let crowd: Vec<_> = (0..CROWD)
        .map(|number| {
            let manner = Manner {
                doors: fleet.nodes.iter().map(|node| node.addr).collect(),
                hello: Hello::user(&user),
                pause: millis(0..20),
                stubborn: true,
                stay: Some(millis(5..80)),
            };
            Returning::start(manner, run.random(&format!("{user} {number}")))
        })
        .collect();
    let come = async || {
        let visits = crowd.iter().flat_map(Returning::visits);
        let count = visits.filter(|visit| visit.outcome.is_ok()).count();
        ensure(count >= CROWD / 2, || format!("{count} have come"))
    };
    within(bound(PATIENCE), "half of the crowd has come", come).await;

    let asked = Mutex::new(Asked::default());
    let api = &fleet[random.random_range(0..fleet.nodes.len())].api;
    let pause = Duration::from_millis(random.random_range(0..40));
    let disconnect = async {
        sleep(pause).await;
        let answer = disconnect(api, &user, &REVOKE()).await;
        (answer, Instant::now())
    };
    let asking = async {
        loop {
            asked.lock().ask(&crowd);
            sleep(ASKING).await;
        }
    };
    let (answer, answered) = tokio::select! {
        done = disconnect => done,
        () = asking => unreachable!(),
    };
    asked.lock().ask(&crowd);
    run.note(format!("{user}: {}", answer.body));
    assert_eq!(
        (answer.status, &answer.body["remaining"]),
        (200, &json!([])),
        "{answer:?}"
    );

    // Nobody is listed, sent to, or heard.
    let nobody = async || {
        try_join_all(fleet.up().map(async |node| {
            assert_eq!(node.api.connections_of(&user).await?, [], "{}", node.name);
            let sent = node.api.send(&user, "after", json!(number)).await?;
            let sent = sent.ok("send")?;
            assert_eq!(
                sent,
                json!({ "connections": 0, "nodes": 0, "unconfirmed": 0 })
            );
            Ok(())
        }))
        .await
    };
    // A node without time says 503: what counts is what it says when it does answer.
    within(bound(PATIENCE / 3), "the nodes answer", nobody).await;
    asked.lock().ask(&crowd);
    // Each has been refused with a CONNECT packet that it sent after the answer, and is done then.
    let refused = async || {
        let left = not_yet_refused(&crowd, answered);
        ensure(left == 0, || format!("{left} have not been refused yet"))
    };
    within(bound(PATIENCE), "everybody is refused", refused).await;
    let visits: Vec<_> = crowd.iter().flat_map(Returning::visits).collect();
    for visit in &visits {
        match &visit.outcome {
            Ok(stay) => {
                assert!(stay.sent < answered, "{}: let in after the answer", stay.id);
                assert!(stay.end.is_some(), "{}: not ended", stay.id);
            }
            Err(Refused::Connect(why)) => assert_eq!(why, "Token revoked"),
            Err(Refused::Closed(_) | Refused::Http(503)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    let wrongs = asked.lock().wrongs(answered);
    assert_eq!(wrongs, Vec::<String>::new(), "after the answer");
    Round {
        met: answer.body["disconnected"].as_u64().unwrap(),
        visits: visits.len(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_twenty_clients_come_back_again_and_again_while_disconnect_runs() {
    let run = Run::begin("k1");
    let given = std::env::var("SWITCHBOARD_TEST_ROUNDS").ok();
    let given: Option<usize> = given.map(|text| {
        text.parse()
            .expect("SWITCHBOARD_TEST_ROUNDS is a number of rounds")
    });
    let fleet = Fleet::start(&run, Plan::of(3)).await;
    let start = Instant::now();
    let (mut rounds, mut met, mut visits) = (0, 0, 0);
    let in_time = |_: &usize| {
        let in_time = given.is_some() || start.elapsed() < ROUNDS.1;
        std::future::ready(in_time)
    };
    let mut going = stream::iter(0..given.unwrap_or(ROUNDS.0))
        .take_while(in_time)
        .map(|number| round(&run, &fleet, number))
        .buffer_unordered(SIDE_BY_SIDE);
    while let Some(round) = going.next().await {
        rounds += 1;
        met += round.met;
        visits += round.visits;
    }
    drop(going);
    assert!(
        rounds >= given.unwrap_or(3) && met > 0,
        "{rounds} rounds, {met} connections met"
    );
    run.tell(format!(
        "measured: {rounds} rounds of {CROWD} clients in {:?}, {visits} attempts to come in, {met} connections met by the disconnects",
        start.elapsed()
    ));
    fleet.finish(Vec::new(), Duration::from_secs(10)).await;
}
