//! Request heads byte for byte, as no HTTP client would send them: paths, queries, cookies, addresses, credentials.

use futures_util::{StreamExt, stream};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    cases,
    node::{KEY, Neighbour, Node},
    noise, random,
    redis_server::{PATIENCE, Server, until},
    seed,
};

const METHODS: [&str; 8] = [
    "GET", "GET", "GET", "POST", "PUT", "TRACE", "OPTIONS", "G\u{1}T",
];
const PATHS: [&str; 16] = [
    "/socket.io/?EIO=4&transport=polling",
    "/socket.io/?EIO=4&transport=websocket",
    "/socket.io/?EIO=3&transport=polling",
    "/socket.io/?EIO=abc",
    "/socket.io/?transport=polling&EIO=4&sid=AAAAAAAAAAAAAAAA&sid=B",
    "/socket.io/?EIO=4&transport=webtransport",
    "/socket.io/?EIO=4&transport=polling&sid=%00%ff",
    "/socket.io",
    "//socket.io/",
    "/v1/users/%",
    "/v1/users/%zz/ban",
    "/v1/users/%ff",
    "/v1/users/%2e%2e%2fstats",
    "/v1/../metrics",
    "/v1/users?cursor=%&limit=%",
    "*",
];
const NAMES: [&str; 14] = [
    "X-Forwarded-For",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "Cookie",
    "Cookie",
    "Authorization",
    "Origin",
    "Upgrade",
    "Connection",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Content-Length",
    "Transfer-Encoding",
    "Content-Type",
];
const VALUES: [&str; 26] = [
    "1.2.3.4",
    "1.2.3.4, 127.0.0.1",
    "[::1]:80",
    "::ffff:127.0.0.1",
    "999.1.1.1, ,",
    "unknown",
    "https",
    "https://evil.example",
    "null",
    "connect.sid=s%3Ahello.DGDUkGlIkCzPz%2BC0B064FNgHdEjox7ch8tOBGslZ5QI",
    "connect.sid=s:a.b.c; connect.sid=%",
    "connect.sid=\"",
    "=; ;;=",
    "refreshToken=a.b",
    "Bearer ",
    "Bearer a.b.c",
    "bearer eyJhbGciOiJub25lIn0.e30.",
    "Basic x",
    "websocket",
    "Upgrade",
    "keep-alive, Upgrade",
    "MDEyMzQ1Njc4OWFiY2RlZg==",
    "13",
    "-1",
    "chunked",
    "99999999999999999999",
];

/// A head of almost HTTP.
fn head(random: &mut StdRng) -> Vec<u8> {
    if random.random_bool(0.1) {
        return noise::bytes(random, 2000);
    }
    let mut path = (*PATHS.choose(random).unwrap()).to_owned();
    if random.random_bool(0.3) {
        path = noise::mutated(random, &path).replace(['\r', '\n', ' '], "");
    }
    let mut head = format!(
        "{} {path} HTTP/1.1\r\nHost: x\r\n",
        METHODS.choose(random).unwrap()
    );
    if random.random_bool(0.3) {
        head += &format!("Authorization: Bearer {KEY}\r\n");
    }
    for _ in 0..random.random_range(0..8) {
        let value = *VALUES.choose(random).unwrap();
        let value = if random.random_bool(0.4) {
            noise::mutated(random, value)
        } else {
            value.to_owned()
        };
        head += &format!("{}: {value}\r\n", NAMES.choose(random).unwrap());
    }
    if random.random_bool(0.9) {
        head += "\r\n";
    }
    head += &noise::text(random);
    if random.random_bool(0.2) {
        return noise::mutated_bytes(random, head.as_bytes());
    }
    head.into_bytes()
}

/// What the node says to these bytes, if anything.
async fn said(node: &Node, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&node.address).await.unwrap();
    let _ = timeout(PATIENCE, stream.write_all(bytes)).await;
    stream.shutdown().await.ok();
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    // A poll or a WebSocket would be left open.
    while let Ok(Ok(length @ 1..)) = timeout(
        std::time::Duration::from_millis(300),
        stream.read(&mut buffer),
    )
    .await
    {
        said.extend(&buffer[..length]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_head_is_answered_with_500() {
    let redis = Server::start().await;
    let mut node = Node::start(Some(&redis)).await;
    let mut neighbour = Neighbour::move_in(&node).await;
    let descriptors = node.descriptors();
    let (seed, cases) = (seed(), cases(2000));
    for start in (0..cases).step_by(250) {
        stream::iter(start..(start + 250).min(cases))
            .for_each_concurrent(24, |case| {
                let node = &node;
                async move {
                    let head = head(&mut random(seed, case));
                    let said = said(node, &head).await;
                    assert!(
                        !said.contains("HTTP/1.1 500"),
                        "case {case}: {:?} was answered {said}",
                        String::from_utf8_lossy(&head)
                    );
                }
            })
            .await;
        neighbour.is_well(&node).await;
        node.is_sound();
    }
    // Many headers, and large ones.
    for head in [
        format!(
            "GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n",
            "A: b\r\n".repeat(2000)
        ),
        format!(
            "GET /healthz HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n",
            "b".repeat(400_000)
        ),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "b".repeat(400_000)),
    ] {
        let said = said(&node, head.as_bytes()).await;
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 4"),
            "{}",
            said.lines().next().unwrap_or_default()
        );
    }
    node.has_only(neighbour.user).await;
    until("descriptors are back", async || {
        node.descriptors() <= descriptors + 16
    })
    .await;
    neighbour.is_well(&node).await;
    assert!(neighbour.heard_nothing_else(), "a message that nobody sent");
    node.is_sound();
}
