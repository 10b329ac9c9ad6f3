//! S1: CONNECT packets. The engine begins a task for each of them before it looks whether the namespace is joined.

use futures_util::future::join_all;

use crate::{
    siege::{SOON, Siege},
    support::{client::Hello, token::token},
    wire::{SEPARATOR, Session, Wire, text},
};

/// Polling sessions, and CONNECT packets in the one POST of each: 1 MB.
const SESSIONS: usize = 8;
const PACKETS: usize = 333_000;

/// CONNECT packets in a POST that is within what a stranger's message may be.
const WITHIN_A_GUESTS_MESSAGE: usize = 21_000;

/// WebSockets of guests, and bytes that each tries to send: 50 MB in all.
const GUESTS: usize = 4;
const FLOOD: usize = 12_500_000;

fn connects(count: usize) -> String {
    let mut body = String::with_capacity(3 * count);
    for _ in 0..count {
        body.push_str("40");
        body.push(SEPARATOR);
    }
    body.pop();
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_of_333_000_connect_packets() {
    let siege = Siege::lay("POST of 333,000 CONNECT packets").await;
    posts(siege, PACKETS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_of_as_many_connect_packets_as_a_stranger_may_send() {
    let siege = Siege::lay("POST of 63 KB of CONNECT packets").await;
    posts(siege, WITHIN_A_GUESTS_MESSAGE).await;
}

async fn posts(mut siege: Siege, packets: usize) {
    let door = siege.door();
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(Session::open(door, "").await.unwrap());
    }
    siege.begin().await;
    let body = connects(packets);
    let statuses = join_all(sessions.iter().map(|session| session.post(&body))).await;
    let ended = join_all(sessions.iter().map(|session| session.ended(SOON))).await;
    let ended = ended.iter().filter(|ended| **ended).count();
    let toll = siege.toll().await;
    siege.run.tell(format!("{statuses:?}, {ended} ended"));
    toll.holds(SESSIONS, ended);
    siege.lift().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_who_repeat_connect() {
    let mut siege = Siege::lay("guests who repeat CONNECT").await;
    let door = siege.door();
    let mut guests = Vec::new();
    for _ in 0..GUESTS {
        guests.push(Wire::guest(door, "").await.unwrap());
    }
    siege.begin().await;
    let packets = text("40/public,").repeat(1_000);
    let floods = guests
        .iter_mut()
        .map(|guest| guest.flood(&packets, FLOOD, SOON));
    let floods = join_all(floods).await;
    let ended = floods.iter().filter(|flood| flood.ended).count();
    let written: usize = floods.iter().map(|flood| flood.written).sum();
    let toll = siege.toll().await;
    siege
        .run
        .tell(format!("{ended} ended, {written} bytes taken"));
    toll.holds(GUESTS, ended);
    siege.lift().await;
}

/// One too many is enough, as with the reference server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connect_ends_the_transport() {
    let mut siege = Siege::lay("second CONNECT").await;
    let door = siege.door();
    siege.begin().await;
    let user = Hello::with(token("twice")).packet();
    let mut left = Vec::new();
    let cases = [
        ("a guest's", "40/public,", "42/public,[\"ready\""),
        ("a user's", user.as_str(), "42[\"ready\""),
    ];
    for (who, packet, ready) in cases {
        let mut joined = Wire::open(door, "").await.unwrap();
        joined.send(&text(packet)).await.unwrap();
        assert!(joined.until(ready).await.is_some(), "{who} WebSocket joins");
        joined.send(&text(packet)).await.unwrap();
        if !joined.ended(SOON).await {
            left.push(format!("{who} WebSocket, joined"));
        }
        let joined = Session::open(door, "").await.unwrap();
        joined.post(packet).await;
        assert!(joined.until("ready").await, "{who} polling session joins");
        joined.post(packet).await;
        if !joined.ended(SOON).await {
            left.push(format!("{who} polling session, joined"));
        }
    }
    let toll = siege.toll().await;
    assert!(left.is_empty(), "not ended: {left:?}");
    toll.holds(4, 4);
    siege.lift().await;
}

/// The stock client says CONNECT twice where `connect()` is called on a socket that connects by itself: it joins once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connect_beside_the_first_is_left_out() {
    let siege = Siege::lay("second CONNECT beside the first").await;
    let door = siege.door();
    let user = Hello::with(token("both")).packet();
    for packet in ["40/public,", user.as_str()] {
        let answer = packet.split('{').next().unwrap();
        let mut wire = Wire::open(door, "").await.unwrap();
        wire.send(&text(packet).repeat(2)).await.unwrap();
        assert!(wire.until(answer).await.is_some(), "{answer} joins");
        // What a second answer would have come before.
        wire.send(&text("42[\"x\"]")).await.ok();
        let again = tokio::time::timeout(SOON, wire.until(answer)).await;
        assert!(!matches!(again, Ok(Some(_))), "{answer} joins twice");
        let session = Session::open(door, "").await.unwrap();
        session.post(format!("{packet}{SEPARATOR}{packet}")).await;
        assert!(session.until("ready").await, "{answer} joins, polling");
        session.post("1").await;
    }
    siege.lift().await;
}

/// What the stock client does with `disconnect()` and `connect()`, and with a second namespace, is no attack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_was_left_may_be_joined_again() {
    let siege = Siege::lay("left and joined again").await;
    let mut guest = Wire::guest(siege.door(), "").await.unwrap();
    for _ in 0..5 {
        guest.send(&text("41/public,")).await.unwrap();
        guest.send(&text("40/public,")).await.unwrap();
        let ready = guest.until("42/public,[\"ready\"").await;
        assert!(ready.is_some(), "joined again");
    }
    let user = Hello::with(token("also"));
    guest.send(&text(user.packet())).await.unwrap();
    let ready = guest.until("42[\"ready\"").await;
    assert!(ready.is_some(), "a second namespace is joined");
    drop(guest);
    siege.lift().await;
}
