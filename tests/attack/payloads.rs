//! S7: much in one message, body, handshake or head, and messages that are never finished.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all, stream};

use crate::{
    siege::{MORE_MEMORY, SOON, Siege, Toll},
    support::{client::Hello, token::token},
    wire::{BINARY, MORE, Session, TEXT, TEXT_BEGINS, Wire, frame, frame_head, request, text},
};

/// Guests with a message that they do not finish.
const UNFINISHED: usize = 550;

/// How large that message says it is, and within what a guest's has to be (`limits.max_payload_guest` is 64 KB).
const LARGE: usize = 999_000;
const ALLOWED: usize = 60_000;

/// Guests with a large head, of the 16 KB that a head may have.
const COOKIES: usize = 500;
const COOKIE: usize = 12 * 1024;

/// What a guest with a large head may cost more than another, in KB.
const MORE_FOR_A_COOKIE: f64 = 4.0;

/// Opens many guests, some at once.
async fn guests(siege: &Siege, count: usize, headers: &str) -> Vec<Wire> {
    let door = siege.door();
    let coming = (0..count).map(|_| async move { Wire::guest(door, headers).await.unwrap() });
    stream::iter(coming).buffered(16).collect().await
}

/// Opens many WebSockets without a CONNECT packet.
async fn strangers(siege: &Siege, count: usize) -> Vec<Wire> {
    let door = siege.door();
    let coming = (0..count).map(|_| async move { Wire::open(door, "").await.unwrap() });
    stream::iter(coming).buffered(16).collect().await
}

/// Sends the same bytes on all; returns how many the node then ends within `limit`.
async fn ended_by(wires: &mut [Wire], bytes: &[u8], limit: Duration) -> usize {
    let sent = wires.iter_mut().map(|wire| async {
        // A write that fails: it is ended already.
        wire.send(bytes).await.is_err() || wire.ended(limit).await
    });
    join_all(sent).await.into_iter().filter(|it| *it).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_with_a_message_that_is_too_large_and_not_finished() {
    let mut siege = Siege::lay("unfinished messages").await;
    let mut wires = guests(&siege, UNFINISHED, "").await;
    siege.begin().await;
    let mut message = frame_head(TEXT, LARGE);
    message.resize(message.len() + LARGE - 1_000, b'x');
    let ended = ended_by(&mut wires, &message, SOON).await;
    let toll = siege.toll().await;
    siege.run.tell(format!("{ended} of {UNFINISHED} ended"));
    toll.holds(UNFINISHED, ended);
    drop(wires);
    siege.lift().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_with_a_message_in_fragments_that_is_too_large_and_not_finished() {
    let mut siege = Siege::lay("unfinished messages in fragments").await;
    let mut wires = guests(&siege, UNFINISHED, "").await;
    siege.begin().await;
    let part = vec![b'x'; 16_000];
    let mut message = frame(TEXT_BEGINS, &part);
    message.extend(frame(MORE, &part).repeat(LARGE / part.len()));
    let ended = ended_by(&mut wires, &message, SOON).await;
    let toll = siege.toll().await;
    siege.run.tell(format!("{ended} of {UNFINISHED} ended"));
    toll.holds(UNFINISHED, ended);
    drop(wires);
    siege.lift().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_with_a_message_that_is_too_large_and_not_finished() {
    let mut siege = Siege::lay("unfinished messages before CONNECT").await;
    let mut wires = strangers(&siege, UNFINISHED).await;
    siege.begin().await;
    let mut message = frame_head(TEXT, LARGE);
    message.resize(message.len() + LARGE - 1_000, b'x');
    let ended = ended_by(&mut wires, &message, SOON).await;
    let toll = siege.toll().await;
    siege.run.tell(format!("{ended} of {UNFINISHED} ended"));
    toll.holds(UNFINISHED, ended);
    drop(wires);
    siege.lift().await;
}

/// What a guest may send is held for as long as it takes, and is bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_with_an_allowed_message_that_is_not_finished() {
    let mut siege = Siege::lay("unfinished messages of 60 KB").await;
    let mut wires = guests(&siege, UNFINISHED, "").await;
    siege.begin().await;
    let mut message = frame_head(TEXT, ALLOWED);
    message.resize(message.len() + ALLOWED - 1_000, b'x');
    for wire in &mut wires {
        wire.send(&message).await.unwrap();
    }
    siege.toll().await.holds(0, 0);
    drop(wires);
    siege.lift().await;
}

/// The message that a user may send is as large as before, and a guest's is refused over polling too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_may_send_64_kb_and_a_user_a_megabyte() {
    let mut siege = Siege::lay("64 KB and a megabyte").await;
    let door = siege.door();
    siege.begin().await;
    let event = |namespace: &str, size: usize| {
        format!("42{namespace}1[\"devices\",\"{}\"]", "x".repeat(size))
    };
    let user = Hello::with(token("large")).packet();

    let mut wire = Wire::open(door, "").await.unwrap();
    wire.send(&text(&user)).await.unwrap();
    assert!(wire.until("42[\"ready\"").await.is_some());
    wire.send(&text(event("", 900_000))).await.unwrap();
    assert!(wire.until("431[").await.is_some(), "a user's, WebSocket");
    let session = Session::open(door, "").await.unwrap();
    assert_eq!(session.post(&user).await, 200);
    assert!(session.until("ready").await);
    assert_eq!(session.post(event("", 900_000)).await, 200);
    assert!(session.until("431[").await, "a user's, polling");
    session.post("1").await;
    drop(wire);

    let mut wire = Wire::guest(door, "").await.unwrap();
    wire.send(&text(event("/public,", ALLOWED))).await.unwrap();
    assert!(
        wire.until("43/public,1[").await.is_some(),
        "a guest's of 60 KB, WebSocket"
    );
    wire.send(&text(event("/public,", 70_000))).await.unwrap();
    assert!(wire.ended(SOON).await, "a guest's of 70 KB, WebSocket");
    let session = Session::open(door, "").await.unwrap();
    assert_eq!(session.post("40/public,").await, 200);
    assert!(session.until("ready").await);
    assert_eq!(session.post(event("/public,", ALLOWED)).await, 200);
    assert!(
        session.until("43/public,1[").await,
        "a guest's of 60 KB, polling"
    );
    let status = session.post(event("/public,", 70_000)).await;
    assert_eq!(status, 413, "a guest's of 70 KB, polling");
    siege.toll().await.holds(2, 2);
    drop((wire, session));
    siege.lift().await;
}

/// One POST at a time: a second one beside it ends the session, as with the reference server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_posts_of_a_megabyte_at_once() {
    let mut siege = Siege::lay("300 POSTs at once").await;
    let session = Session::open(siege.door(), "").await.unwrap();
    let user = Hello::with(token("poster")).packet();
    assert_eq!(session.post(&user).await, 200);
    assert!(session.until("ready").await);
    siege.begin().await;
    let body = format!("42[\"x\",\"{}\"]", "x".repeat(990_000));
    let statuses = join_all((0..300).map(|_| session.post(&body))).await;
    let taken = statuses.iter().filter(|status| **status == 200).count();
    let ended = session.ended(SOON).await;
    let toll = siege.toll().await;
    siege
        .run
        .tell(format!("{taken} were answered with 200; ended: {ended}"));
    toll.holds(1, usize::from(ended));
    siege.lift().await;
}

/// The same of a session that has shown nothing yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_posts_of_a_stranger_at_once() {
    let mut siege = Siege::lay("300 POSTs of a stranger").await;
    let session = Session::open(siege.door(), "").await.unwrap();
    siege.begin().await;
    let body = format!("42[\"x\",\"{}\"]", "x".repeat(990_000));
    let statuses = join_all((0..300).map(|_| session.post(&body))).await;
    let taken = statuses.iter().filter(|status| **status == 200).count();
    let ended = session.ended(SOON).await;
    let toll = siege.toll().await;
    siege
        .run
        .tell(format!("{taken} were answered with 200; ended: {ended}"));
    toll.holds(1, usize::from(ended));
    assert_eq!(taken, 0, "bodies that were taken");
    siege.lift().await;
}

/// Sends the same CONNECT packet on all; returns how many are then refused: by a `connect_error`, or by an end.
async fn refused_by(wires: &mut [Wire], packet: &[u8]) -> usize {
    let sent = wires
        .iter_mut()
        .map(|wire| async { wire.send(packet).await.is_err() || wire.refused(SOON).await });
    join_all(sent).await.into_iter().filter(|it| *it).count()
}

/// Credentials are measured before they are parsed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_too_much() {
    let mut siege = Siege::lay("credentials").await;
    let elements = |size: usize| format!("40[{}{{}}]", "{\"\":0},".repeat(size / 7));
    let nested = |depth: usize| format!("40{}{}", "[".repeat(depth), "]".repeat(depth));
    let fields = |size: usize| {
        let fields: Vec<_> = (0..size / 12).map(|n| format!("\"k{n:05}\":[]")).collect();
        format!("40{{{}}}", fields.join(","))
    };
    let cases = [
        ("874 KB of small objects", 4, elements(874_000)),
        ("63 KB of small objects", 200, elements(63_000)),
        ("63 KB of small fields", 200, fields(60_000)),
        ("a hundred thousand brackets", 20, nested(100_000)),
        ("thirty thousand brackets", 200, nested(30_000)),
        (
            "brackets that are not closed",
            200,
            "40[".to_owned() + &"[".repeat(60_000),
        ),
        (
            "a token of 60 KB",
            200,
            format!("40{{\"token\":\"{}\"}}", "x".repeat(60_000)),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, count, packet) in cases {
        let mut wires = strangers(&siege, count).await;
        siege.begin().await;
        let refused = refused_by(&mut wires, &text(packet)).await;
        let toll = siege.toll().await;
        let mut saw = toll.too_much();
        if refused < count {
            saw.push(format!("{refused} of {count} refused"));
        }
        if toll.refusals() < count as f64 {
            saw.push(format!("{} of {count} counted", toll.refusals()));
        }
        siege.run.tell(format!("{what}: {saw:?}"));
        if !saw.is_empty() {
            wrong.push(format!("{what}: {}", saw.join("; ")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    siege.lift().await;
}

/// An event of a guest's that announces so many attachments.
fn announced(count: usize) -> String {
    let parts = (0..count).map(|number| format!("{{\"_placeholder\":true,\"num\":{number}}}"));
    let parts: Vec<_> = parts.collect();
    format!("45{count}-/public,[\"x\",{}]", parts.join(","))
}

/// An event with attachments is kept until the last of them is there: all of it is one message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachments_that_never_come_or_never_end() {
    let mut siege = Siege::lay("attachments").await;
    let door = siege.door();
    let mut wrong = Vec::new();
    let mut look = |what: &str, toll: Toll, guests: usize, ended: usize| {
        let mut saw = toll.too_much();
        if ended < guests {
            saw.push(format!("{ended} of {guests} ended"));
        }
        // What the engine can't parse it ends itself.
        let counted = toll.refusals().max(toll.ends());
        if counted < guests as f64 {
            saw.push(format!("{counted} of {guests} counted"));
        }
        if !saw.is_empty() {
            wrong.push(format!("{what}: {}", saw.join("; ")));
        }
    };

    // Each announces one, and keeps what it said waiting: no more than with a message that is not finished.
    let mut wires = guests(&siege, UNFINISHED, "").await;
    siege.begin().await;
    let waiting = text(format!(
        "451-/public,[\"x\",\"{}\",{{\"_placeholder\":true,\"num\":0}}]",
        "x".repeat(ALLOWED)
    ));
    for wire in &mut wires {
        wire.send(&waiting).await.unwrap();
    }
    look("one that never comes", siege.toll().await, 0, 0);
    drop(wires);

    // Each attachment is within what a guest's message may be, all of them together are not.
    let mut wires = guests(&siege, UNFINISHED, "").await;
    siege.begin().await;
    let mut all_but_one = text(announced(10));
    all_but_one.extend(frame(BINARY, vec![0; ALLOWED]).repeat(9));
    let ended = ended_by(&mut wires, &all_but_one, SOON).await;
    let toll = siege.toll().await;
    look("nine of ten, 60 KB each", toll, UNFINISHED, ended);

    // So many are announced that to keep them, or to make room for them, is the attack.
    for (what, begin) in [
        ("990 announced", announced(990)),
        (
            "ten thousand million announced",
            "459999999999-/public,[\"x\",{\"_placeholder\":true,\"num\":0}]".to_owned(),
        ),
    ] {
        let mut wires = guests(&siege, 50, "").await;
        siege.begin().await;
        let mut bytes = text(begin);
        bytes.extend(frame(BINARY, vec![0; ALLOWED]).repeat(50));
        let ended = ended_by(&mut wires, &bytes, SOON).await;
        look(what, siege.toll().await, 50, ended);
    }

    // A polling session's come in base64, and as POSTs.
    let session = Session::open(door, "").await.unwrap();
    assert_eq!(session.post("40/public,").await, 200);
    assert!(session.until("ready").await);
    siege.begin().await;
    session.post(announced(10)).await;
    let part = format!("b{}", "A".repeat(ALLOWED));
    for _ in 1..10 {
        session.post(&part).await;
    }
    let ended = session.ended(SOON).await;
    let toll = siege.toll().await;
    look("nine of ten, polling", toll, 1, usize::from(ended));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    siege.lift().await;
}

/// Of a head, what is not needed any more is not kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_with_large_heads() {
    let mut siege = Siege::lay("large heads").await;
    let per_guest = |memory: u64| memory as f64 / COOKIES as f64;
    let rss = || siege.fleet[0].process.status("VmRSS");
    // The first ones have the allocator grow to what all later ones use again.
    let header = format!("Cookie: other={}\r\n", "x".repeat(COOKIE));
    let before = rss();
    let plain = guests(&siege, COOKIES, "").await;
    let with_plain = rss().saturating_sub(before);
    let before = rss();
    let large = guests(&siege, COOKIES, &header).await;
    let with_cookie = rss().saturating_sub(before);
    siege.run.tell(format!(
        "{:.1} KB a guest, {:.1} KB with a cookie of 12 KB",
        per_guest(with_plain),
        per_guest(with_cookie)
    ));
    siege.begin().await;
    // A head that is larger than a head may be is refused.
    let door = siege.door();
    let header = format!("Cookie: other={}\r\n", "x".repeat(2 * COOKIE));
    let (status, _) = request(
        door,
        "GET /socket.io/?EIO=4&transport=polling",
        &header,
        &[],
    )
    .await;
    assert_eq!(status, 431);
    let toll = siege.toll().await;
    assert!(toll.too_much().is_empty(), "{:?}", toll.too_much());
    drop((plain, large));
    assert!(
        per_guest(with_cookie) < per_guest(with_plain) + MORE_FOR_A_COOKIE,
        "a cookie is kept: {:.1} KB a guest, {:.1} KB with it",
        per_guest(with_plain),
        per_guest(with_cookie)
    );
    assert!(with_plain + with_cookie < MORE_MEMORY);
    siege.lift().await;
}
