//! L2: many who read, some who never do, and some who read a little now and then.

use std::time::Instant;

use serde_json::json;

use crate::{
    ground::{Attempts, alone, arrive, on_given_binary, plain},
    support::{
        api::Api,
        bounds::{ensure, seconds, within},
        client::{Client, Hello},
        fleet::{Fleet, Plan},
        run::Run,
    },
};

const READERS: usize = 1_000;
const STALLED: usize = 50;
const DRIPPING: usize = 50;

/// `limits.send_queue_bytes`, `limits.write_deadline`.
const QUEUE: u64 = 512 * 1024;
const DEADLINE: f64 = 3.0;

/// A message to them. The kernel takes some MB for each before the first byte waits.
const LARGE: usize = 128 * 1024;

/// What a connection takes besides its queue while it is slow: messages that the engine holds as they are encoded, and what
/// the allocator keeps (measured: 240 KB, with messages of 128 KB).
const SLACK: u64 = 512 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_ended_and_cost_no_other_anything() {
    let _alone = alone().await;
    let run = Run::begin("slow");
    let plan = Plan::of(2)
        .with("LIMITS__SEND_QUEUE_BYTES", "512KiB")
        .with("LIMITS__WRITE_DEADLINE", &format!("{DEADLINE}s"));
    let fleet = Fleet::start(&run, on_given_binary(plan)).await;
    let door = fleet[0].addr;
    let readers = readers(door).await;
    let mut slow = Vec::new();
    for number in 0..STALLED + DRIPPING {
        let hello = Hello {
            receive_buffer: Some(4096),
            namespace: "/public".to_owned(),
            ..plain(&format!("slow-{number}"))
        };
        let client = arrive(door, &hello, &Attempts::default()).await;
        client.stall();
        slow.push(client);
    }
    fleet
        .exact(readers.iter().chain(&slow), seconds(20.0))
        .await;
    let before = fleet[0].process.status("VmRSS");
    let drips = slow[STALLED..].iter().map(|client| client.user.clone());
    run.note(format!("those who drip: {:?}", drips.collect::<Vec<_>>()));

    // All get numbered messages; the slow ones get large ones besides, until they are gone.
    let start = Instant::now();
    let (mut number, mut largest, mut gone) = (0_u64, 0, false);
    let large = "x".repeat(LARGE);
    while !gone || number < 40 {
        assert!(
            start.elapsed() < seconds(60.0),
            "slow clients are there after {:?}: {:?}",
            start.elapsed(),
            online(&fleet[1].api, &slow).await
        );
        let body = json!({ "event": "number", "data": number });
        let answer = fleet[1].api.post("/v1/broadcast", body).await;
        answer.unwrap().ok("broadcast").unwrap();
        number += 1;
        // They are the only ones in `/public`.
        let body = json!({ "event": "large", "data": large, "namespace": "/public" });
        let answer = fleet[1].api.post("/v1/broadcast", body).await;
        answer.unwrap().ok("broadcast").unwrap();
        for client in &slow[STALLED..] {
            // A moment of reading: some hundred bytes to some kilobytes, of the hundreds of kilobytes that come.
            client.resume();
        }
        tokio::task::yield_now().await;
        for client in &slow[STALLED..] {
            client.stall();
        }
        // At the pace of those who read: what is measured is who does not, and not how far a busy node falls behind.
        let look = async || {
            let behind = readers.iter().filter(|client| client.count() < number);
            let behind = behind.count();
            ensure(behind == 0, || format!("{behind} readers wait for it"))
        };
        within(seconds(10.0), "readers are not held up", look).await;
        largest = largest.max(fleet[0].process.status("VmRSS"));
        if number.is_multiple_of(5) {
            gone = online(&fleet[1].api, &slow).await == 0;
        }
    }
    run.tell(format!(
        "slow clients out of the registry after {:.1?}; RSS {before} KB, at most {largest} KB",
        start.elapsed()
    ));
    let bound = (STALLED + DRIPPING) as u64 * (QUEUE + SLACK) / 1024 + 20 * 1024;
    assert!(largest < before + bound, "RSS {before} KB -> {largest} KB");

    let slow_count = (STALLED + DRIPPING) as f64;
    let look = async || {
        let scrape = fleet[0].api.metrics().await?;
        let dropped = scrape.sum(
            "switchboard_messages_dropped_total",
            &["reason=\"slow_consumer\""],
        );
        let ended = scrape.sum("switchboard_disconnects_total", &["slow_consumer"]);
        ensure(dropped >= slow_count && ended == slow_count, || {
            format!("{dropped} dropped, {ended} ended as slow")
        })
    };
    within(seconds(5.0), "they are counted", look).await;
    let look = async || {
        let behind = readers
            .iter()
            .filter(|client| client.count() < number)
            .count();
        ensure(behind == 0, || format!("{behind} readers miss some"))
    };
    let (took, ()) = within(seconds(15.0), "readers have got all", look).await;
    run.tell(format!(
        "{number} messages to {READERS} readers, the last {took:.1?} later"
    ));
    for client in &readers {
        assert!(
            client.is_open(),
            "{} was ended: {:?}",
            client.user,
            client.end()
        );
        let heard = client.heard();
        let numbers: Vec<_> = heard
            .iter()
            .filter_map(|heard| heard.data.as_u64())
            .collect();
        assert!(
            numbers.iter().copied().eq(0..number),
            "{} got {numbers:?}",
            client.user
        );
    }
    drop(slow);
    fleet.finish(readers, seconds(20.0)).await;
}

async fn readers(door: std::net::SocketAddr) -> Vec<Client> {
    use futures_util::StreamExt;
    let attempts = Attempts::default();
    let coming = (0..READERS).map(|number| {
        let (hello, attempts) = (Hello::user(&format!("reader-{number}")), &attempts);
        async move { arrive(door, &hello, attempts).await }
    });
    futures_util::stream::iter(coming)
        .buffered(16)
        .collect()
        .await
}

/// How many of the clients' users are online.
async fn online(api: &Api, clients: &[Client]) -> usize {
    let users: Vec<_> = clients.iter().map(|client| &client.user).collect();
    let body = api.post("/v1/presence", json!({ "users": users })).await;
    let body = body.unwrap().ok("presence").unwrap();
    let users = body["users"].as_object().cloned().unwrap_or_default();
    users.values().filter(|user| user["online"] == true).count()
}
