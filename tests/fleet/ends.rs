//! How orders to end connections get to the other nodes.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    node::{Node, fleet},
    redis_server::{Server, until},
};

/// How often a node has asked the registry for orders to end.
async fn orders(node: &Node) -> u64 {
    let metrics = node.metrics().await;
    let count = "switchboard_registry_duration_seconds_count{operation=\"orders\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(count));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_node_that_is_told_to_end_connections_asks_redis_for_nothing() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 2).await;
    // A node that has just come looks once by itself.
    let first = nodes[0].connect("first").await;
    nodes[1].post("/v1/users/first/disconnect", json!({})).await;
    drop(first);
    let before = orders(&nodes[0]).await;
    let spared = nodes[0].connect("kicked").await;
    let listed = nodes[1].get("/v1/users/kicked").await;
    let stays = vec![listed["connections"][0]["id"].clone()];
    let mut kicked = nodes[0].connect("kicked").await;
    let body = json!({ "except": stays, "reason": "Späm", "code": 4777 });
    let answer = nodes[1].post("/v1/users/kicked/disconnect", body).await;
    assert_eq!(answer["disconnected"], 1, "{answer}");
    let told = kicked.next_event().await;
    let expected = json!({ "code": 4777, "reason": "Späm", "reconnect": false });
    assert_eq!(told, json!(["forceDisconnect", expected]));
    let there = nodes[1].get("/v1/users/kicked").await;
    assert_eq!(there["connections"].as_array().unwrap().len(), 1);
    assert_eq!(orders(&nodes[0]).await, before);
    drop(spared);
}

/// No link of the other node's broke, so it looks for nothing by itself.
#[tokio::test]
async fn an_order_that_redis_does_not_publish_is_told_when_it_does() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 2).await;
    let mut kicked = nodes[0].connect("kicked").await;
    let () = redis.run("ACL SETUSER default -spublish").await;
    let path = "/v1/users/kicked/disconnect";
    let answer = nodes[1].call(Method::POST, path, json!({})).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["remaining"].as_array().unwrap().len(), 1, "{answer}");
    let () = redis.run("ACL SETUSER default +spublish").await;
    assert_eq!(kicked.next_event().await[0], "forceDisconnect");
    until("it is out of the registry", async || {
        nodes[1].get("/v1/users/kicked").await["online"] == false
    })
    .await;
}
