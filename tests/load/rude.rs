//! L3, L8: clients that send far too much, and those that begin and never go on. Their neighbours do not notice.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    asker::percentile,
    ground::{Attempts, MORE_TO_REDIS, alone, arrive, crowd_at, on_given_binary, plain},
    support::{
        bounds::{bound, ensure, seconds, within},
        client::{Client, Hello, dial},
        fleet::{Fleet, Plan},
        run::Run,
    },
};

/// Clients that flood, and events that each tries to send.
const FLOODERS: usize = 10;
const EVENTS: usize = 20_000;

/// Of each kind of half-done connection.
const HALF: usize = 300;

/// `limits.handshake_timeout`.
const HANDSHAKE: f64 = 4.0;

/// Messages to neighbours, one after the other, for as long as it goes on. Returns how long each took, from the call to the
/// client.
async fn reach(fleet: &Fleet, neighbours: &[Client], times: usize) -> Vec<Duration> {
    let mut took = Vec::with_capacity(times);
    for number in 0..times {
        let neighbour = &neighbours[number % neighbours.len()];
        let before = neighbour.count();
        let start = Instant::now();
        let sent = fleet[0]
            .api
            .send(&neighbour.user, "reach", json!(number))
            .await;
        assert_eq!(sent.unwrap().ok("send").unwrap()["connections"], 1);
        let look = async || ensure(neighbour.count() > before, || "nothing".into());
        within(seconds(10.0), "a neighbour is reached", look).await;
        took.push(start.elapsed());
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_limited_and_ended_and_neighbours_do_not_notice() {
    let _alone = alone().await;
    let run = Run::begin("flood");
    let fleet = Fleet::start(&run, on_given_binary(Plan::of(1))).await;
    let neighbours = crowd_at(fleet[0].addr, "neighbour", 50).await;
    let quiet = reach(&fleet, &neighbours, 100).await;
    let mut flooders = Vec::new();
    for number in 0..FLOODERS {
        let hello = Hello::user(&format!("flood-{number}"));
        flooders.push(arrive(fleet[0].addr, &hello, &Attempts::default()).await);
    }
    let before = fleet[0].process.status("VmRSS");
    let (mut loud, mut largest) = (Vec::new(), 0);
    for flooder in &flooders {
        for number in 0..EVENTS {
            flooder.emit("noise", &json!(number));
        }
        loud.extend(reach(&fleet, &neighbours, 10).await);
        largest = largest.max(fleet[0].process.status("VmRSS"));
    }
    for flooder in &flooders {
        let end = flooder.ended(seconds(20.0)).await;
        // What it was told is lost if it was in the middle of a write when the transport went.
        assert!(matches!(end.code(), 4504 | 0), "{end:?}");
    }
    let scrape = fleet[0].api.metrics().await.unwrap();
    let refused = scrape.sum("switchboard_events_refused_total", &[]);
    assert!(refused > 0.0, "events beyond the limit are counted");
    let look = async || {
        let scrape = fleet[0].api.metrics().await?;
        let ended = scrape.sum("switchboard_disconnects_total", &["reason=\"limit\""]);
        ensure(ended == FLOODERS as f64, || {
            format!(
                "{ended} ended for it: {}",
                scrape.sum("switchboard_disconnects_total", &[])
            )
        })
    };
    within(seconds(5.0), "all were ended for flooding", look).await;
    let p99 = |times: &[Duration]| percentile(times.iter().copied(), 99.0);
    run.tell(format!(
        "a neighbour is reached in p99 {:.1?}, in the flood {:.1?}; {refused} events refused; RSS {before} KB, at most {largest} KB",
        p99(&quiet),
        p99(&loud)
    ));
    assert!(
        p99(&loud) < bound(Duration::from_millis(250)) + 2 * p99(&quiet),
        "neighbours are slow"
    );
    assert!(
        largest < before + 32 * 1024,
        "RSS {before} KB -> {largest} KB"
    );
    assert!(neighbours.iter().all(Client::is_open));
    drop(flooders);
    fleet.finish(neighbours, seconds(15.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_half_done_keeps_nobody_out_and_is_cleared_away() {
    let _alone = alone().await;
    let run = Run::begin("half done");
    let plan = Plan::of(1).with("LIMITS__HANDSHAKE_TIMEOUT", &format!("{HANDSHAKE}s"));
    let fleet = Fleet::start(&run, on_given_binary(plan)).await;
    let door = fleet[0].addr;
    let start = Instant::now();

    let mut heads = Vec::new();
    for _ in 0..HALF {
        let mut stream = TcpStream::connect(door).await.unwrap();
        let half = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nUpgr";
        stream.write_all(half.as_bytes()).await.unwrap();
        heads.push(stream);
    }
    // WebSockets that never say who they are.
    let mut mute = Vec::new();
    for _ in 0..HALF {
        mute.push(dial(door, None).await);
    }
    // Polling sessions that are opened and left, and some that begin an upgrade and leave it at that.
    let http = crate::pollers::http();
    let mut probes = Vec::new();
    for number in 0..HALF {
        let url = format!("http://{door}/socket.io/?EIO=4&transport=polling");
        let open = http.get(&url).send().await.unwrap().text().await.unwrap();
        if number % 3 == 0 {
            let open: serde_json::Value =
                serde_json::from_str(open.get(1..).unwrap_or_default()).unwrap();
            let sid = open["sid"].as_str().unwrap_or_default();
            let url = format!("ws://{door}/socket.io/?EIO=4&transport=websocket&sid={sid}");
            let stream = TcpStream::connect(door).await.unwrap();
            probes.push(tokio_tungstenite::client_async(url, stream).await);
        }
    }
    let begun = mute.iter().filter(|socket| socket.is_ok()).count() + probes.len();
    run.tell(format!(
        "{HALF} heads, {begun} WebSockets, after {:.1?}",
        start.elapsed()
    ));

    let came = Instant::now();
    let client = arrive(door, &plain("proper"), &Attempts::default()).await;
    let took = came.elapsed();
    run.tell(format!("a proper client is in after {took:.1?}"));
    assert!(took < seconds(2.0), "a proper client waited {took:?}");

    let look = async || {
        let (now, base) = (fleet[0].process.descriptors(), fleet[0].base());
        ensure(now <= base + 1 + MORE_TO_REDIS, || {
            format!("{now}, at the beginning {base}")
        })
    };
    // The sessions are ended by then; their sockets linger for at most 3 s for their peers' own end.
    let (took, ()) = within(seconds(HANDSHAKE + 5.0), "they are cleared away", look).await;
    run.tell(format!("all cleared away {took:.1?} later"));
    drop((heads, mute, probes));
    fleet.finish(vec![client], seconds(10.0)).await;
}
