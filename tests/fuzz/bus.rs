//! The bus: what is no message, what is almost one, and what is one of another version.

use rand::{Rng, seq::IndexedRandom};
use serde_json::{Value, json};
use switchboard::{bus::seal::Seal, connection::Instance};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    cases,
    node::{KEY, Neighbour, Node, SECRET},
    noise, random,
    redis_server::{PATIENCE, Server, until},
    seed,
};

const UNREADABLE: &str = r#"switchboard_messages_dropped_total{reason="unreadable"}"#;
const FORGED: &str = r#"switchboard_messages_dropped_total{reason="forged"}"#;

/// What is behind a payload that another node has sealed: its instance, a number, two bytes, and the tag.
const SEAL: usize = 11 + 8 + 2 + 32;

async fn post(node: &Node, path: &str, body: Value) {
    let answer = node
        .http
        .post(node.url(path))
        .bearer_auth(KEY)
        .json(&body)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
}

/// Payloads of messages and receipts that two nodes really exchange, about a user who is then gone.
async fn real(redis: &Server, holder: &Node, other: &Node) -> Vec<Vec<u8>> {
    // What every client and script has Redis publish, whatever the kind of channel.
    let address = redis.url();
    let address = address.trim_start_matches("redis://").trim_end_matches('/');
    let mut monitor = TcpStream::connect(address).await.unwrap();
    monitor.write_all(b"MONITOR\r\n").await.unwrap();
    let url = format!(
        "ws://{}/socket.io/?EIO=4&transport=websocket",
        holder.address
    );
    let (mut victim, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let connect = format!("40{}", json!({ "token": Node::token("victim") }));
    futures_util::SinkExt::send(&mut victim, connect.into())
        .await
        .unwrap();
    until("the victim is there", async || {
        other
            .get("/v1/users/victim")
            .await
            .contains(r#""online":true"#)
    })
    .await;
    post(
        other,
        "/v1/users/victim/events",
        json!({ "event": "e", "data": "MARKER" }),
    )
    .await;
    post(
        other,
        "/v1/users/victim/events",
        json!({ "event": "e", "data": "MARKER", "ack": { "timeoutMs": 10 } }),
    )
    .await;
    post(
        other,
        "/v1/events",
        json!({ "messages": [{ "room": "user:victim", "event": "e", "data": "MARKER" }] }),
    )
    .await;
    post(
        other,
        "/v1/tokens/revoke",
        json!({ "jti": "no-such-token" }),
    )
    .await;
    takes_what_a_backend_may_send(other).await;
    post(other, "/v1/users/victim/disconnect", json!({})).await;
    // What has been answered was published before this.
    let _: String = redis.run("ECHO END-OF-ALL").await;
    let (mut said, mut buffer) = (Vec::new(), [0; 65536]);
    let mut ended = false;
    while !ended {
        let read = timeout(PATIENCE, monitor.read(&mut buffer)).await;
        let length = read.expect("MONITOR goes on").unwrap();
        assert!(length > 0, "Redis has ended MONITOR");
        said.extend(&buffer[..length]);
        let tail = &said[said.len().saturating_sub(length + 100)..];
        ended = String::from_utf8_lossy(tail).contains("END-OF-ALL\"\r\n");
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    let lines = said
        .lines()
        .filter(|line| line.contains("PUBLISH\" \"switchboard:"));
    let messages = lines.map(|line| {
        let mut message = published(line);
        message.truncate(message.len() - SEAL);
        message
    });
    let messages: Vec<_> = messages.collect();
    assert!(
        messages.len() >= 6,
        "{} messages and receipts",
        messages.len()
    );
    messages
}

/// The last word of a command as MONITOR shows it: in quotes, and with those within escaped.
fn published(line: &str) -> Vec<u8> {
    let (_, quoted) = line.trim_end().rsplit_once("\" \"").unwrap();
    let mut bytes = Vec::new();
    let mut chars = quoted[..quoted.len() - 1].chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            bytes.push(u8::try_from(char).unwrap());
            continue;
        }
        bytes.push(match chars.next().unwrap() {
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'a' => 7,
            'b' => 8,
            'x' => {
                let digits: String = chars.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).unwrap()
            }
            other => u8::try_from(other).unwrap(),
        });
    }
    bytes
}

/// A channel, and the command that publishes to it.
type Channel = (&'static str, String);

async fn channels(redis: &Server) -> Vec<Channel> {
    let mut all = Vec::new();
    for (kind, command) in [("CHANNELS", "PUBLISH"), ("SHARDCHANNELS", "SPUBLISH")] {
        let names: Vec<String> = redis.run(&format!("PUBSUB {kind} switchboard:*")).await;
        all.extend(names.into_iter().map(|name| (command, name)));
    }
    all
}

/// Publishes what a node has sealed that has gone mad.
async fn publish_sealed(redis: &Server, to: &Channel, payload: &[u8]) -> u64 {
    let mad = Seal::new(&Instance::random(), &[SECRET.into()]);
    publish(redis, to, &mad.seal(&to.1, payload)).await
}

async fn publish(redis: &Server, (command, channel): &Channel, payload: &[u8]) -> u64 {
    let mut publish = redis::cmd(command);
    publish.arg(channel).arg(payload);
    let mut connection = redis.connection().await;
    publish.query_async(&mut connection).await.unwrap()
}

/// What JSON may be nested as deep as, a node takes from another.
async fn takes_what_a_backend_may_send(other: &Node) {
    let deepest = format!("{}1{}", "[".repeat(125), "]".repeat(125));
    let body = format!(r#"{{"event":"e","data":{deepest}}}"#);
    let send = other.http.post(other.url("/v1/users/victim/events"));
    let send = send
        .bearer_auth(KEY)
        .header("content-type", "application/json")
        .body(body);
    let answer: Value = send.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        answer,
        json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 })
    );
}

/// Replaces the marker by an array of an array of … nothing.
fn nested(message: &[u8], depth: usize) -> Option<Vec<u8>> {
    let marker = b"\xa8\"MARKER\"";
    let at = message
        .windows(marker.len())
        .position(|part| part == marker)?;
    let mut deep = message[..at].to_vec();
    deep.extend(std::iter::repeat_n(0x91, depth));
    deep.push(0xc0);
    deep.extend(&message[at + marker.len()..]);
    Some(deep)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_is_counted_and_changes_nothing() {
    let redis = Server::start().await;
    let [mut node, other] = [
        Node::start(Some(&redis)).await,
        Node::start(Some(&redis)).await,
    ];
    let real = real(&redis, &node, &other).await;
    drop(other);
    until("one node is left", async || {
        let stats: Value = serde_json::from_str(&node.get("/v1/stats").await).unwrap();
        stats["nodes"] == 1
    })
    .await;
    let mut neighbour = Neighbour::move_in(&node).await;
    let channels = channels(&redis).await;
    let is_own = |(_, name): &&Channel| name.contains(":bus:") && !name.ends_with(":all");
    let own = channels.iter().find(is_own);
    let own = own.unwrap_or_else(|| panic!("{channels:?}"));

    // Unreadable to a certainty: each is counted.
    let seed = seed();
    let mut certain = vec![Vec::new(), vec![1], vec![0xff; 100_000], b"hello".to_vec()];
    for message in &real {
        certain.push([&[message[0] + 1], &message[1..]].concat());
        certain.extend(
            (1..message.len())
                .step_by(7)
                .map(|end| message[..end].to_vec()),
        );
        certain.extend(nested(message, 100_000));
    }
    let is_deep = |message: &&Vec<u8>| message.len() > 100_000;
    assert!(
        certain.iter().filter(is_deep).count() >= 3,
        "the sends hold the marker"
    );
    let before = [node.series(UNREADABLE).await, node.series(FORGED).await];
    for payload in &certain {
        publish(&redis, own, payload).await;
        let heard = publish_sealed(&redis, own, payload).await;
        node.is_sound();
        assert_eq!(heard, 1, "{} bytes", payload.len());
    }
    until("all of them are counted", async || {
        let more = certain.len() as u64;
        let now = [node.series(UNREADABLE).await, node.series(FORGED).await];
        now == before.map(|before| before + more)
    })
    .await;
    neighbour.is_well(&node).await;
    node.is_sound();

    // Anything, on every channel that it listens on.
    for case in 0..cases(3000) {
        let mut random = random(seed, case);
        let payload = match random.random_range(0..4) {
            0 => noise::bytes(&mut random, 300),
            1 => [vec![real[0][0]], noise::bytes(&mut random, 300)].concat(),
            _ => {
                let message = real.choose(&mut random).unwrap();
                noise::mutated_bytes(&mut random, message)
            }
        };
        let channel = channels.choose(&mut random).unwrap();
        match random.random_range(0..8) {
            0 => publish(&redis, channel, &payload).await,
            _ => publish_sealed(&redis, channel, &payload).await,
        };
        if case % 200 == 0 {
            neighbour.is_well(&node).await;
            node.is_sound();
        }
    }
    for channel in &channels {
        publish(&redis, channel, &[0x91; 100_000]).await;
        publish_sealed(&redis, channel, &[0x91; 100_000]).await;
    }
    for message in &real {
        for depth in [10, 100, 1000, 1020, 1023, 5000] {
            if let Some(payload) = nested(message, depth) {
                publish_sealed(&redis, own, &payload).await;
            }
        }
    }
    timeout(PATIENCE, neighbour.is_well(&node)).await.unwrap();
    node.is_sound();
    assert!(neighbour.heard_nothing_else(), "a message that nobody sent");
    node.has_only(neighbour.user).await;
}
