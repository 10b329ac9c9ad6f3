//! How orders to end connections get to the other nodes.

use reqwest::Method;
use serde_json::json;

use crate::{
    node::fleet,
    redis_server::{Server, until},
};

#[tokio::test]
async fn a_node_is_told_which_connections_end_and_how() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 2).await;
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
    drop(spared);
}

/// No link of the other node's broke, and nobody tells it: it finds the order by what it asserts with its heartbeats.
#[tokio::test]
async fn an_order_that_redis_does_not_publish_is_carried_out_all_the_same() {
    let redis = Server::start().await;
    let nodes = fleet(&redis, 2).await;
    let mut kicked = nodes[0].connect("kicked").await;
    let () = redis.run("ACL SETUSER default -spublish").await;
    let path = "/v1/users/kicked/disconnect";
    let answer = nodes[1].call(Method::POST, path, json!({})).await;
    assert!(answer.status().is_success(), "{}", answer.status());
    assert_eq!(kicked.next_event().await[0], "forceDisconnect");
    let () = redis.run("ACL SETUSER default +spublish").await;
    until("it is out of the registry", async || {
        nodes[1].get("/v1/users/kicked").await["online"] == false
    })
    .await;
}
