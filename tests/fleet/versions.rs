//! Nodes of other versions beside those of this one, as while a fleet is upgraded node by node.

use std::cell::Cell;

use redis::AsyncCommands as _;
use reqwest::Method;
use serde_json::{Value, json};
use switchboard::registry::keys::{Keys, Shards};

use crate::{
    node::{Client, Node, fleet},
    recorded::{NEWER, OLDER, Recorded, message, said},
    redis_server::{Server, until},
};

/// What was recorded of a send.
fn shipped() -> Value {
    json!({ "event": "order:shipped", "data": { "order": [7, null] } })
}

/// The value of a counter; 0 if nothing was counted.
async fn counted(node: &Node, series: &str) -> u64 {
    let text = node.metrics().await;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(series));
    lines
        .next()
        .map_or(0, |value| value.trim().parse().unwrap())
}

async fn dropped(node: &Node, reason: &str) -> u64 {
    let series = format!(r#"switchboard_messages_dropped_total{{reason="{reason}"}}"#);
    counted(node, &series).await
}

async fn unreadable(node: &Node, what: &str) -> u64 {
    let series = format!(r#"switchboard_registry_unreadable_total{{what="{what}"}}"#);
    counted(node, &series).await
}

/// A node lists the peer's connection wherever it should.
async fn assert_listed(node: &Node, peer: &Recorded, name: &str) {
    let (user, id) = (peer.user.as_str(), peer.id.as_str());
    let read = node.get(&format!("/v1/users/{user}")).await;
    assert_eq!(read["connections"][0]["id"], id, "{read}");
    assert_eq!(read["connections"][0]["nodeId"], name, "{read}");
    let presence = node.post("/v1/presence", json!({ "users": [user] })).await;
    assert_eq!(presence["users"][user]["online"], true);
    let one = node.get(&format!("/v1/connections/{id}")).await;
    assert_eq!(one["userId"], user);
    let users = node.get("/v1/users").await.to_string();
    assert!(users.contains(user), "{users}");
    let nodes = node.get("/v1/nodes").await.to_string();
    assert!(nodes.contains(name), "{nodes}");
}

/// Asks by a node while the peer answers. Returns the answer, and what the peer was asked.
async fn asked(node: &Node, peer: &mut Recorded, path: &str, body: Value) -> (Value, Value) {
    let hearing = async {
        loop {
            // Nodes also say what nobody is to answer: that they leave, or that others are to send a heartbeat.
            let (_, said) = peer.hears().await;
            if said["n"].is_u64() {
                break said;
            }
        }
    };
    tokio::join!(node.post(path, body), hearing)
}

/// What was recorded under a name, as a request of another number.
fn as_recorded(name: &str, heard: &Value) -> Value {
    let mut expected = said(&message(name));
    expected["n"] = heard["n"].clone();
    expected
}

/// All that two nodes and a peer do with each other.
async fn live_together(nodes: &[Node], peer: &mut Recorded, name: &str, client: &mut Client) {
    let [node, other] = nodes else { unreachable!() };
    for node in nodes {
        assert_listed(node, peer, name).await;
    }
    let one = json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 });
    let user = peer.user.to_string();

    let path = format!("/v1/users/{user}/events");
    let (answer, heard) = asked(node, peer, &path, shipped()).await;
    let mut expected = as_recorded("user", &heard);
    expected["d"]["u"] = json!(user);
    assert_eq!((answer, heard), (one.clone(), expected));

    let path = format!("/v1/connections/{}/events", peer.id);
    let body = json!({ "event": "order:shipped", "data": 1 });
    let (answer, heard) = asked(other, peer, &path, body.clone()).await;
    let mut expected = as_recorded("connection", &heard);
    expected["d"]["c"] = json!(peer.id.as_str());
    assert_eq!((answer, heard), (one, expected));

    // What the peer asks for, by a user of a node of this version.
    peer.says("user").await;
    let receipts = peer.receipts(nodes.len()).await;
    let handed: u64 = receipts.values().filter_map(|it| it["c"].as_u64()).sum();
    assert_eq!(handed, 1, "{receipts:?}");
    let expected = json!(["order:shipped", { "order": [7, null] }]);
    assert_eq!(client.next_event().await, expected);
    peer.says("end").await;
    peer.receipts(nodes.len()).await;

    let path = format!("/v1/users/{user}/disconnect");
    let body = json!({ "code": 4501, "reason": "Späm" });
    let (answer, heard) = asked(other, peer, &path, body).await;
    assert_eq!(answer["disconnected"], 1, "{answer}");
    assert_eq!(answer["remaining"], json!([]));
    let mut expected = as_recorded("end", &heard);
    expected["e"]["i"] = json!([peer.id.as_str()]);
    assert_eq!(heard, expected);
    for node in nodes {
        assert_eq!(
            node.get(&format!("/v1/users/{user}")).await["online"],
            false
        );
    }
}

#[tokio::test]
async fn nodes_of_other_versions_are_served_and_serve() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 2).await;
    let mut steady = nodes[0].connect("steady").await;
    let mut client = nodes[0].connect("42").await;
    // A user that nobody can read, beside one that everybody can.
    let conns = Keys::new("switchboard").conns(Shards::default().of_user(&"42".into()));
    let mut raw = redis.connection().await;
    let () = raw.zadd(conns, b"42\0garbage", 0).await.unwrap();

    let sent = Cell::new(0);
    let traffic = async {
        loop {
            let body = json!({ "event": "n", "data": sent.get() });
            let answer = nodes[1].post("/v1/users/steady/events", body).await;
            let one = json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 });
            assert_eq!(answer, one);
            sent.set(sent.get() + 1);
        }
    };
    let checks = async {
        for format in [&OLDER, &NEWER] {
            let mut peer = Recorded::join(&redis, format).await;
            // One that starts meanwhile takes the peer for what it is too.
            let newcomer = Node::start(&redis.config(), 2).await;
            newcomer.ready().await;
            let path = format!("/v1/users/{}", peer.user);
            until("it vouches for the peer's shard", async || {
                let read = newcomer.call(Method::GET, &path, Value::Null).await;
                read.status().is_success()
            })
            .await;
            assert_listed(&newcomer, &peer, format.name).await;
            newcomer.stop().await;
            live_together(&nodes, &mut peer, format.name, &mut client).await;
            if format.name == NEWER.name {
                for kind in ["command+", "recipients+"] {
                    peer.says_as(kind).await;
                }
            }
            peer.leaves().await;
        }
        until("what is not known is counted", async || {
            dropped(&nodes[0], "unknown").await == 2 && dropped(&nodes[1], "unknown").await == 2
        })
        .await;
    };
    tokio::select! {
        () = checks => {}
        () = traffic => {}
    }
    assert!(sent.get() > 0);
    for number in 0..sent.get() {
        assert_eq!(steady.next_event().await, json!(["n", number]));
    }

    for node in &nodes {
        assert_eq!(
            node.get("/v1/users/42").await["connections"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert!(unreadable(node, "entry").await > 0);
        assert_eq!(unreadable(node, "lease").await, 0);
        for reason in ["unreadable", "forged"] {
            assert_eq!(dropped(node, reason).await, 0, "{reason}");
        }
    }
}
