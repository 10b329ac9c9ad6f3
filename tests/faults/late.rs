//! A disconnect while a node is slow to tell the registry who has gone (K2): it is not confirmed before the registry has none of
//! the connections it was for, or it names those that it has.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rand::Rng;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    kicks::{REVOKE, disconnect},
    support::{
        bounds::{PATIENCE, bound, ensure, seconds, within},
        client::Hello,
        fleet::{Fleet, Plan},
        proxy::{Flow, Weather},
        returning::{Manner, Returning, not_yet_refused},
        run::Run,
        stored::Stored,
    },
};

/// How many clients of one user come and go at once.
const CROWD: usize = 20;

/// Longer than a disconnect waits.
const BEYOND: Duration = Duration::from_millis(6500);

/// How the node that is late reaches Redis, from a moment before the call.
#[derive(Clone, Copy, Debug)]
enum Late {
    /// It hears soon, and is heard late: less than what a call may take.
    Delay(Duration),
    /// It hears, and nothing that it says comes through for so long.
    Hold(Duration),
}

/// A crowd on three nodes, of which the second is late, is disconnected by the first.
async fn round(run: &Run, fleet: &Fleet, number: usize) -> (u16, Duration, usize) {
    let user = format!("k2-{number}");
    let mut random = run.random(&user);
    let late = match number % 3 {
        0 => Late::Delay(Duration::from_millis(random.random_range(80..220))),
        1 => Late::Hold(BEYOND),
        _ => Late::Hold(Duration::from_millis(random.random_range(1000..3000))),
    };
    let crowd: Vec<_> = (0..CROWD)
        .map(|number| {
            let manner = Manner {
                doors: fleet.nodes.iter().map(|node| node.addr).collect(),
                hello: Hello::user(&user),
                pause: Duration::ZERO..Duration::from_millis(30),
                stubborn: true,
                stay: Some(Duration::from_millis(100)..Duration::from_secs(2)),
            };
            Returning::start(manner, run.random(&format!("{user} {number}")))
        })
        .collect();
    let come = async || {
        let there = crowd.iter().filter_map(Returning::client);
        let late = there.filter(|client| client.node == "node-1").count();
        ensure(late > 3, || format!("{late} are on the late node"))
    };
    within(bound(PATIENCE), "some are on the late node", come).await;

    let proxy = fleet[1].proxy.as_ref().unwrap();
    let (weather, held) = match late {
        Late::Delay(delay) => (
            Weather {
                delay,
                ..Weather::FAIR
            },
            Duration::ZERO,
        ),
        Late::Hold(held) => {
            let there = Flow::Hold;
            (
                Weather {
                    there,
                    ..Weather::FAIR
                },
                held,
            )
        }
    };
    proxy.set(weather);
    let heal = async {
        sleep(held).await;
        if let Late::Hold(_) = late {
            proxy.set(Weather::FAIR);
        }
    };
    let body = REVOKE();
    let call = async {
        sleep(Duration::from_millis(random.random_range(0..100))).await;
        let answer = disconnect(&fleet[0].api, &user, &body).await;
        let answered = Instant::now();
        // What the registry holds at the answer, whichever node asks.
        let stored = Stored::read(&fleet.redis, "switchboard").await.unwrap();
        (answer, answered, stored)
    };
    let ((answer, answered, stored), ()) = tokio::join!(call, heal);
    proxy.set(Weather::FAIR);
    run.note(format!(
        "{user}, {late:?}: {} in {:?}",
        answer.body, answer.took
    ));
    let remaining: BTreeSet<String> = answer.body["remaining"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    assert_eq!(
        answer.status,
        if remaining.is_empty() { 200 } else { 202 },
        "{answer:?}"
    );
    if let Late::Hold(BEYOND) = late {
        assert!(
            !remaining.is_empty(),
            "nobody has heard of the late node's: {answer:?}"
        );
    }
    let mut kept: Vec<_> = stored.entries.iter().collect();
    kept.retain(|(id, (whose, _))| *whose == user && !remaining.contains(*id));
    assert_eq!(kept, [], "round {number}, {late:?}: {answer:?}");

    // All are refused in the end, and those that were not named had ended by then.
    let refused = async || {
        let left = not_yet_refused(&crowd, answered);
        ensure(left == 0, || format!("{left} have not been refused yet"))
    };
    within(bound(PATIENCE), "everybody is refused", refused).await;
    for visit in crowd.iter().flat_map(Returning::visits) {
        if let Ok(stay) = visit.outcome {
            assert!(stay.sent < answered, "{}: let in after the answer", stay.id);
            let end = stay.end.expect("who has been refused since has ended");
            let named = remaining.contains(&stay.id);
            // The end is on its way to the client when it is confirmed.
            let late = end.at.saturating_duration_since(answered);
            assert!(named || late < seconds(1.0), "{}: {late:?} late", stay.id);
        }
    }
    (answer.status, answer.took, remaining.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k2_a_disconnect_is_not_confirmed_before_a_slow_node_has_cleaned_up() {
    let run = Run::begin("k2");
    let fleet = Fleet::start(&run, Plan::of(3).proxied()).await;
    let start = Instant::now();
    let mut rounds = 0;
    while rounds < 12 && (rounds < 4 || start.elapsed() < Duration::from_secs(40)) {
        let (status, took, remaining) = round(&run, &fleet, rounds).await;
        run.tell(format!(
            "measured: round {rounds}: {status} after {took:?}, {remaining} named"
        ));
        rounds += 1;
    }
    let nobody = json!({ "connections": 0, "nodes": 0, "unconfirmed": 0 });
    for number in 0..rounds {
        let sent = async || {
            let user = format!("k2-{number}");
            let sent = fleet[2].api.send(&user, "after", json!(1)).await;
            ensure(sent?.ok("send")? == nobody, || "somebody".to_owned())
        };
        within(seconds(5.0), "nobody of them is there", sent).await;
    }
    fleet.finish(Vec::new(), Duration::from_secs(10)).await;
}
