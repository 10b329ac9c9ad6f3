//! Transports: frames and packets after a valid handshake, upgrades that stop half way, and the known attacks.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    cases,
    node::{Neighbour, Node},
    noise, random,
    redis_server::{PATIENCE, Server, until},
    seed,
};

/// How long a hostile client waits for an answer that need not come.
const SHORT: Duration = Duration::from_millis(300);

/// What the node may have kept of it all, in bytes: its allocator does not give all back. 3 MB were measured.
const KEPT: u64 = 24 * 1024 * 1024;

/// A frame of RFC 6455 section 5.2, with a mask of zeroes if masked.
fn frame(first: u8, masked: bool, length: Length, payload: &[u8]) -> Vec<u8> {
    let mask = u8::from(masked) << 7;
    let mut frame = vec![first];
    match length {
        Length::True if payload.len() < 126 => frame.push(mask | payload.len() as u8),
        Length::True => {
            frame.push(mask | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
        Length::Short(said) => {
            frame.push(mask | 126);
            frame.extend(said.to_be_bytes());
        }
        Length::Long(said) => {
            frame.push(mask | 127);
            frame.extend(said.to_be_bytes());
        }
    }
    if masked {
        frame.extend([0; 4]);
    }
    frame.extend(payload);
    frame
}

#[derive(Clone, Copy)]
enum Length {
    True,
    Short(u16),
    Long(u64),
}

fn text_frame(text: &str) -> Vec<u8> {
    frame(0x81, true, Length::True, text.as_bytes())
}

/// A frame that a client would send, or one that breaks a rule.
fn random_frame(random: &mut StdRng, token: &str) -> Vec<u8> {
    let payload = match random.random_range(0..4) {
        0 => noise::bytes(random, 200),
        _ => noise::packet(random, token).into_bytes(),
    };
    match random.random_range(0..14) {
        0..7 => frame(0x81, true, Length::True, &payload),
        7 => frame(0x82, true, Length::True, &payload),
        8 => frame(
            *[0x01, 0x02, 0x00, 0x80].choose(random).unwrap(),
            true,
            Length::True,
            &payload,
        ),
        9 => frame(
            *[0x89, 0x8a, 0x88, 0x09].choose(random).unwrap(),
            true,
            Length::True,
            &payload,
        ),
        10 => frame(random.random(), random.random(), Length::True, &payload),
        11 => frame(0x81, true, Length::Short(random.random()), &payload),
        12 => frame(
            0x81,
            true,
            Length::Long(*[0, 1, 1 << 20, 1 << 40, u64::MAX].choose(random).unwrap()),
            &payload,
        ),
        _ => {
            let whole = frame(0x81, true, Length::True, &payload);
            whole[..random.random_range(0..whole.len())].to_vec()
        }
    }
}

/// Reads until the other side says nothing for a while; what it has said.
async fn read(stream: &mut TcpStream, patience: Duration) -> Vec<u8> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(Ok(length @ 1..)) = timeout(patience, stream.read(&mut buffer)).await {
        said.extend(&buffer[..length]);
        if said.len() > 1 << 20 {
            break;
        }
    }
    said
}

/// Writes what the other side still takes.
async fn write(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = timeout(SHORT, stream.write_all(bytes)).await;
}

/// Reads until what was said has `end` in it.
async fn read_to(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while !said.windows(end.len()).any(|part| part == end) {
        let length = timeout(PATIENCE, stream.read(&mut buffer))
            .await
            .expect("in time")
            .unwrap_or(0);
        assert!(length > 0, "it ended: {:?}", String::from_utf8_lossy(&said));
        said.extend(&buffer[..length]);
    }
    said
}

/// A WebSocket by hand. `query`: what follows `transport=websocket`.
async fn upgraded(address: &str, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// One whose namespace is connected.
async fn connected(address: &str, token: &str) -> TcpStream {
    let mut stream = upgraded(address, "").await;
    read_to(&mut stream, b"\"pingTimeout\"").await;
    stream
        .write_all(&text_frame(&format!("40{{\"token\":\"{token}\"}}")))
        .await
        .unwrap();
    read_to(&mut stream, b"[\"ready\"").await;
    stream
}

fn polling(sid: &str) -> String {
    format!("/socket.io/?EIO=4&transport=polling&sid={sid}")
}

async fn open_polling(node: &Node) -> Option<String> {
    let asked = node
        .http
        .get(node.url("/socket.io/?EIO=4&transport=polling"))
        .send()
        .await
        .ok()?;
    let text = asked.text().await.ok()?;
    let open: serde_json::Value = serde_json::from_str(text.strip_prefix('0')?).ok()?;
    Some(open["sid"].as_str()?.to_owned())
}

async fn post(node: &Node, sid: &str, body: impl Into<reqwest::Body>) -> Option<u16> {
    let post = node
        .http
        .post(node.url(&polling(sid)))
        .header("content-type", "text/plain");
    let answer = timeout(PATIENCE, post.body(body).send())
        .await
        .expect("an answer in time");
    answer.ok().map(|answer| answer.status().as_u16())
}

async fn over_websocket(node: &Node, random: &mut StdRng, token: &str) {
    let mut stream = match random.random_range(0..3) {
        0 => upgraded(&node.address, "").await,
        _ => connected(&node.address, token).await,
    };
    for _ in 0..random.random_range(1..30) {
        let mut bytes = random_frame(random, token);
        if random.random_bool(0.3) {
            // In two writes, so that the node meets the frame half read.
            let rest = bytes.split_off(random.random_range(0..=bytes.len()));
            write(&mut stream, &bytes).await;
            tokio::task::yield_now().await;
            bytes = rest;
        }
        write(&mut stream, &bytes).await;
    }
    match random.random_range(0..4) {
        0 => drop(read(&mut stream, SHORT).await),
        1 => drop(stream.shutdown().await),
        2 => stream.set_zero_linger().unwrap(),
        _ => {}
    }
}

async fn over_polling(node: &Node, random: &mut StdRng, token: &str) {
    let Some(sid) = open_polling(node).await else {
        return;
    };
    if random.random_bool(0.7) {
        post(node, &sid, format!("40{{\"token\":\"{token}\"}}")).await;
    }
    for _ in 0..random.random_range(1..6) {
        let status = match random.random_range(0..5) {
            0 => post(node, &sid, noise::bytes(random, 300)).await,
            _ => {
                let packets: Vec<_> = (0..random.random_range(1..8))
                    .map(|_| noise::packet(random, token))
                    .collect();
                post(node, &sid, packets.join("\u{1e}")).await
            }
        };
        assert!(status.is_none_or(|it| it < 500), "{status:?} to a POST");
        let asked = node
            .http
            .get(node.url(&polling(&sid)))
            .timeout(SHORT)
            .send()
            .await;
        if let Ok(answer) = asked {
            assert!(
                answer.status().as_u16() < 500,
                "{} to a poll",
                answer.status()
            );
        }
    }
    if random.random_bool(0.5) {
        // An upgrade that may stop at any point.
        let mut stream = upgraded(&node.address, &format!("&sid={sid}")).await;
        let steps = ["2probe", "5", "é", "", "2", "2probe"];
        for step in &steps[..random.random_range(0..steps.len())] {
            let step = if random.random_bool(0.3) {
                noise::packet(random, token)
            } else {
                (*step).to_owned()
            };
            write(&mut stream, &text_frame(&step)).await;
        }
        read(&mut stream, Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_frames_hurt_nobody() {
    let redis = Server::start().await;
    let mut node = Node::start(Some(&redis)).await;
    let mut neighbour = Neighbour::move_in(&node).await;
    let (seed, cases) = (seed(), cases(600));
    // Warm: what is allocated once is not counted.
    some(&node, seed ^ 1, 0..40).await;
    neighbour.is_well(&node).await;
    let (memory, descriptors) = (node.memory(), node.descriptors());
    for start in (0..cases).step_by(60) {
        some(&node, seed, start..(start + 60).min(cases)).await;
        neighbour.is_well(&node).await;
        node.is_sound();
    }
    node.has_only(neighbour.user).await;
    until("descriptors are back", async || {
        node.descriptors() <= descriptors + 16
    })
    .await;
    let grown = node.memory().saturating_sub(memory);
    println!("{cases} cases: memory {memory} + {grown}");
    assert!(grown < KEPT, "{grown} bytes more than before");
    neighbour.is_well(&node).await;
    assert!(neighbour.heard_nothing_else(), "a message that nobody sent");
    node.is_sound();
}

async fn some(node: &Node, seed: u64, range: std::ops::Range<u64>) {
    stream::iter(range)
        .for_each_concurrent(12, |case| async move {
            let mut random = random(seed, case);
            let token = Node::token(&format!("hostile-{}", case % 7));
            match random.random_range(0..3) {
                0 => over_polling(node, &mut random, &token).await,
                _ => over_websocket(node, &mut random, &token).await,
            }
        })
        .await;
}

/// Each on a connection of its own; the advisory that it comes from.
fn known() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text_frame(text))
            .collect::<Vec<_>>()
    };
    let placeholder = |num: &str| format!("451-[\"x\",{{\"_placeholder\":true,\"num\":{num}}}]");
    let attachment = || frame(0x82, true, Length::True, b"abc");
    let mut known = vec![
        (
            "GHSA-55mf-67qm-4wpg: a billion attachments",
            texts(&["451000000-[\"x\"]"]),
        ),
        ("GHSA-55mf-67qm-4wpg: eleven attachments", {
            let mut frames = texts(&["4511-[\"x\"]"]);
            frames.extend((0..11).map(|_| attachment()));
            frames
        }),
        (
            "engineioxide #794: é in front",
            texts(&["é42[]", "é", "ééé", "4é", "b", "", "bé"]),
        ),
        (
            "GHSA-c6g7-r2mf-pf5g: nesting",
            texts(&[
                &format!("42[\"x\",{}", "[".repeat(10_000)),
                &format!("40{}", "[".repeat(10_000)),
            ]),
        ),
        (
            "CVE-2022-21676: RSV bits",
            vec![frame(0xf1, true, Length::True, b"42[\"x\"]")],
        ),
        (
            "CVE-2022-21676: unmasked",
            vec![frame(0x81, false, Length::True, b"42[\"x\"]")],
        ),
        (
            "CVE-2022-21676: a reserved opcode",
            vec![
                frame(0x83, true, Length::True, b"x"),
                frame(0x8b, true, Length::True, b"x"),
            ],
        ),
        (
            "CVE-2022-41940: a fragmented control frame",
            vec![
                frame(0x09, true, Length::True, b"x"),
                frame(0x80, true, Length::True, b"x"),
            ],
        ),
        (
            "a control frame of 200 bytes",
            vec![frame(0x89, true, Length::True, &[b'x'; 200])],
        ),
        (
            "a length of 64 bits that lies",
            vec![frame(0x81, true, Length::Long(u64::MAX), b"42")],
        ),
        (
            "a length of 16 bits that lies",
            vec![frame(0x81, true, Length::Short(65535), b"42")],
        ),
        (
            "text that is no UTF-8",
            vec![frame(0x81, true, Length::True, b"42[\"\xff\xfe\"]")],
        ),
        (
            "CVE-2023-32695: no event name",
            texts(&[
                "42[1]", "42[{}]", "42[null]", "42[[]]", "42{}", "42\"x\"", "42", "420",
            ]),
        ),
        (
            "CVE-2023-32695: an event name of the protocol's",
            texts(&[
                "42[\"connect\"]",
                "42[\"disconnect\"]",
                "42[\"__proto__\",{}]",
            ]),
        ),
        (
            "CVE-2024-38355: an event called error",
            texts(&["42[\"error\",1]", "420[\"error\"]"]),
        ),
        (
            "CVE-2026-69185: no attachments",
            (0..20_000).map(|_| text_frame("450-[\"e\"]")).collect(),
        ),
        ("CVE-2026-48779: empty fragments", {
            let mut frames = vec![frame(0x01, true, Length::True, b"")];
            frames.extend((0..200_000).map(|_| frame(0x00, true, Length::True, b"")));
            frames
        }),
        (
            "an attachment that nobody announced",
            vec![attachment(), attachment()],
        ),
        (
            "events among attachments",
            texts(&[
                "452-[\"x\",{\"_placeholder\":true,\"num\":0}]",
                "42[\"x\"]",
                "2",
                "41",
            ]),
        ),
    ];
    for num in [
        "\"x\"",
        "-1",
        "1e9",
        "0.5",
        "null",
        "{}",
        "99999999999999999999",
    ] {
        known.push(("CVE-2022-2421: a placeholder's number", {
            let mut frames = texts(&[&placeholder(num)]);
            frames.push(attachment());
            frames
        }));
    }
    known
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_attacks_hurt_nobody() {
    let mut node = Node::start(None).await;
    let mut neighbour = Neighbour::move_in(&node).await;
    let token = Node::token("hostile");
    let memory = node.memory();
    for (what, frames) in known() {
        println!("{what}");
        let mut stream = connected(&node.address, &token).await;
        for frames in frames.chunks(1000) {
            write(&mut stream, &frames.concat()).await;
        }
        neighbour.is_well(&node).await;
        node.is_sound();
        // The same before CONNECT.
        let mut early = upgraded(&node.address, "").await;
        for frames in frames.chunks(1000) {
            write(&mut early, &frames.concat()).await;
        }
        neighbour.is_well(&node).await;
        node.is_sound();
    }
    // CVE-2020-36048: a payload of very many packets.
    let sid = open_polling(&node).await.unwrap();
    post(&node, &sid, format!("40{{\"token\":\"{token}\"}}")).await;
    let many = vec!["4"; 40_000].join("\u{1e}");
    let status = post(&node, &sid, many).await;
    assert!(status.is_none_or(|it| it < 500), "{status:?}");
    neighbour.is_well(&node).await;
    // 413 to one that is too large.
    let sid = open_polling(&node).await.unwrap();
    let status = post(&node, &sid, vec![b'4'; 200_000]).await;
    assert!(status.is_none_or(|it| it == 413 || it == 400), "{status:?}");
    node.has_only(neighbour.user).await;
    let grown = node.memory().saturating_sub(memory);
    println!("memory {memory} + {grown}");
    assert!(grown < KEPT, "{grown} bytes more than before");
    neighbour.is_well(&node).await;
    node.is_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_that_are_never_finished_leave_nothing() {
    let mut node = Node::start(None).await;
    let mut neighbour = Neighbour::move_in(&node).await;
    let descriptors = node.descriptors();
    let count = cases(200);
    let mut kept = Vec::new();
    for _ in 0..count {
        let sid = open_polling(&node).await.unwrap();
        let mut stream = upgraded(&node.address, &format!("&sid={sid}")).await;
        write(&mut stream, &text_frame("2probe")).await;
        kept.push(stream);
    }
    neighbour.is_well(&node).await;
    // The node ends them by itself: its clients are all still there.
    until("upgrades are given up", async || {
        sleep(Duration::from_millis(200)).await;
        node.descriptors() <= descriptors + 16
    })
    .await;
    drop(kept);
    node.has_only(neighbour.user).await;
    neighbour.is_well(&node).await;
    node.is_sound();
}
