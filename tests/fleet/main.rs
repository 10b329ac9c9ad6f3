//! Several nodes in one process around a real Redis: what a send costs, and that nodes don't share what is theirs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ends;
mod recorded;
mod sends;
mod shards;
#[path = "../support/mod.rs"]
mod support;
mod versions;

use support::{node, redis_server};

use redis_server::Server;
use serde_json::{Value, json};
use switchboard::{bus::seal::Seal, connection::Instance};

use node::{Client, Node, fleet};

/// How many times Redis has been asked to run a command.
async fn calls(redis: &Server, command: &str) -> u64 {
    let stats = redis.info("commandstats").await;
    let line = format!("cmdstat_{command}:calls=");
    stats
        .lines()
        .find_map(|text| text.strip_prefix(&line))
        .map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

/// Sends to a user from a node; returns the answer and how many messages were published for it.
async fn published(redis: &Server, from: &Node, user: &str) -> (Value, u64) {
    published_by(redis, from, &format!("/v1/users/{user}/events")).await
}

/// Sends by this path.
async fn published_by(redis: &Server, from: &Node, path: &str) -> (Value, u64) {
    let before = calls(redis, "spublish").await;
    let answer = from.post(path, json!({ "event": "e", "data": 1 })).await;
    (answer, calls(redis, "spublish").await - before)
}

#[tokio::test]
async fn a_send_costs_the_nodes_that_hold_the_user_and_not_the_fleet() {
    for size in [1, 3, 8] {
        let redis = Server::start().await;
        let nodes = fleet(&redis, size).await;
        let holder = &nodes[0];
        let _devices = [holder.connect("one").await, holder.connect("one").await];

        // By the node that holds the user: nobody else has to hear of it.
        let (answer, messages) = published(&redis, holder, "one").await;
        assert_eq!(
            answer,
            json!({ "connections": 2, "nodes": 1, "unconfirmed": 0 })
        );
        assert_eq!(messages, 0, "{size} nodes, sent by the holder");

        // By any other: the message, and its receipt.
        for other in &nodes[1..] {
            let (answer, messages) = published(&redis, other, "one").await;
            assert_eq!(
                answer,
                json!({ "connections": 2, "nodes": 1, "unconfirmed": 0 })
            );
            assert_eq!(messages, 2, "{size} nodes, sent by another");
        }

        let (answer, messages) = published(&redis, nodes.last().unwrap(), "nobody").await;
        assert_eq!(
            answer,
            json!({ "connections": 0, "nodes": 0, "unconfirmed": 0 })
        );
        assert_eq!(messages, 0, "{size} nodes, to nobody");
    }
}

#[tokio::test]
async fn a_user_on_three_of_eight_nodes_costs_three_messages_and_three_receipts() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 8).await;
    let mut devices = Vec::new();
    for node in &nodes[..3] {
        devices.push(node.connect("three").await);
    }
    let (answer, messages) = published(&redis, &nodes[7], "three").await;
    assert_eq!(
        answer,
        json!({ "connections": 3, "nodes": 3, "unconfirmed": 0 })
    );
    assert_eq!(messages, 6);
    let (answer, messages) = published(&redis, &nodes[0], "three").await;
    assert_eq!(
        answer,
        json!({ "connections": 3, "nodes": 3, "unconfirmed": 0 })
    );
    assert_eq!(messages, 4, "the sender's own is not published");
    for device in &mut devices {
        for _ in 0..2 {
            assert_eq!(device.next_event().await, json!(["e", 1]));
        }
    }
}

#[tokio::test]
async fn a_broadcast_costs_one_message_and_a_receipt_of_each_other_node() {
    for size in [1, 3, 8] {
        let redis = Server::start().await;
        let nodes = fleet(&redis, size).await;
        let _client = nodes[0].connect("one").await;
        for node in &nodes {
            let (answer, messages) = published_by(&redis, node, "/v1/broadcast").await;
            assert_eq!(
                answer,
                json!({ "connections": 1, "nodes": size, "unconfirmed": 0 })
            );
            assert_eq!(messages, size as u64, "{size} nodes");
        }
    }
}

#[tokio::test]
async fn a_send_to_a_connection_elsewhere_asks_once_whose_it_is() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 3).await;
    let _device = nodes[0].connect("one").await;
    let user = nodes[1].get("/v1/users/one").await;
    let id = user["connections"][0]["id"].as_str().unwrap().to_owned();
    let reads = async || -> u64 {
        let metrics = nodes[1].metrics().await;
        let counts = ["connection", "holders"].map(|operation| {
            let name = "switchboard_registry_duration_seconds_count";
            let line = format!("{name}{{operation=\"{operation}\"}} ");
            let count = metrics.lines().find_map(|text| text.strip_prefix(&line));
            count.map_or(0, |count| count.parse::<u64>().unwrap())
        });
        counts.iter().sum()
    };
    let before = (reads().await, calls(&redis, "spublish").await);
    let path = format!("/v1/connections/{id}/events");
    let answer = nodes[1].post(&path, json!({ "event": "e" })).await;
    assert_eq!(
        answer,
        json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 })
    );
    assert_eq!(reads().await - before.0, 1);
    assert_eq!(calls(&redis, "spublish").await - before.1, 2);
}

#[tokio::test]
async fn a_connection_is_registered_in_one_round_trip() {
    let redis = Server::start().await;
    let [node] = &fleet(&redis, 1).await[..] else {
        unreachable!()
    };
    // The first one loads the script.
    let _first = node.connect("a").await;
    let scripts = |commands: &str| {
        commands
            .lines()
            .filter_map(|line| {
                line.strip_prefix(
                    "switchboard_registry_duration_seconds_count{operation=\"assert\"} ",
                )
            })
            .map(|count| count.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    let mut others = Vec::new();
    for other in 0..5 {
        let before = scripts(&node.metrics().await);
        others.push(node.connect(&format!("other-{other}")).await);
        let round_trips = scripts(&node.metrics().await) - before;
        assert!(round_trips > 0);
        if round_trips == 1 {
            return;
        }
        // A heartbeat came between, which asserts some of those who are there.
    }
    panic!("no connection was registered in one round trip");
}

#[tokio::test]
async fn what_nodes_hold_is_told_before_their_next_heartbeat() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 2).await;
    let told = async |by: &Node| {
        let list = by.get("/v1/nodes").await;
        let rows = list["nodes"].as_array().unwrap().clone();
        rows.into_iter()
            .find(|row| row["nodeId"] == "node-0")
            .unwrap()
    };
    let mut devices = Vec::new();
    // A heartbeat may fall into one round or other, and tell the same.
    for round in 1..=5 {
        let before = told(&nodes[1]).await;
        devices.push(nodes[0].connect(&format!("user-{round}")).await);
        assert_eq!(
            told(&nodes[0]).await["connections"],
            round,
            "by itself, at once"
        );
        let after = loop {
            let row = told(&nodes[1]).await;
            if row["connections"] == round {
                break row;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(after["users"], round);
        if after["lastHeartbeat"] == before["lastHeartbeat"] {
            return;
        }
    }
    panic!("only heartbeats say how many connections there are");
}

#[tokio::test]
async fn nodes_in_one_process_keep_their_own_metrics() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 2).await;
    let _device = nodes[0].connect("a").await;
    let gauge = r#"switchboard_connections{namespace="/",transport="websocket"} 1"#;
    assert!(nodes[0].metrics().await.contains(gauge));
    assert!(!nodes[1].metrics().await.contains(gauge));
}

#[tokio::test]
async fn what_is_no_message_on_the_bus_is_counted_and_changes_nothing() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 2).await;
    let mut device: Client = nodes[0].connect("a").await;
    let garbage: [&[u8]; 6] = [
        b"",
        b"\x03",
        b"\x02\x81\xa1f\xc3",
        b"\x03\x82\xa1n\x01\xa1d\xc3",
        b"hello",
        &[0xff; 4096],
    ];
    // As a node would that has gone mad, and as somebody would who is none.
    let all = "switchboard:2:{nodes}:bus:all";
    let mad = Seal::new(&Instance::random(), &[node::SECRET.into()]);
    for payload in garbage {
        let sealed = mad.seal(all, payload);
        for payload in [&sealed[..], payload] {
            assert_eq!(redis.publish(all, payload).await, 2);
        }
    }
    // Whatever comes after it on the same channel finds the node as it was.
    let (answer, _) = published(&redis, &nodes[1], "a").await;
    assert_eq!(
        answer,
        json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 })
    );
    assert_eq!(device.next_event().await, json!(["e", 1]));
    for reason in ["unreadable", "forged"] {
        let counted = format!(
            r#"switchboard_messages_dropped_total{{reason="{reason}"}} {}"#,
            garbage.len()
        );
        assert!(nodes[0].metrics().await.contains(&counted), "{counted}");
    }
}
