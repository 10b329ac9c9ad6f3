//! Fleets whose registry is divided into another number of shards than by default.

use serde_json::json;
use switchboard::{auth, registry::keys::Shards};

use crate::{
    node::{Client, Node},
    redis_server::{Server, until},
};

async fn connected(node: &Node, users: impl Iterator<Item = u32>) -> Vec<Client> {
    let mut clients = Vec::new();
    for user in users {
        clients.push(node.connect(&user.to_string()).await);
    }
    clients
}

#[tokio::test]
async fn a_fleet_of_another_number_of_shards_serves_and_takes_in_none_of_a_third() {
    auth::install_crypto().unwrap();
    for count in [4, 64] {
        let redis = Server::start().await;
        let config = redis.config();
        let shards = Shards::try_from(count).unwrap();
        let nodes = [
            Node::start_with(&config, 0, shards).await,
            Node::start_with(&config, 1, shards).await,
        ];
        for node in &nodes {
            node.ready().await;
        }
        let other = Node::start(&config, 2).await;
        let mut clients = connected(&nodes[0], 0..20).await;
        let one = json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 });
        for (user, client) in clients.iter_mut().enumerate() {
            let path = format!("/v1/users/{user}/events");
            let body = json!({ "event": "e", "data": user });
            assert_eq!(nodes[1].post(&path, body).await, one);
            assert_eq!(client.next_event().await, json!(["e", user]));
        }
        for user in 0..20 {
            let path = format!("/v1/users/{user}/disconnect");
            let ended = nodes[1].post(&path, json!({})).await;
            assert_eq!(ended["disconnected"], 1, "{ended}");
            assert_eq!(ended["remaining"], json!([]));
        }
        let users = nodes[1].get("/v1/users").await;
        assert_eq!(users["users"], json!([]));
        // It is one that has had the time to join.
        let third = Node::start_with(&config, 3, shards).await;
        third.ready().await;
        assert!(!other.is_ready().await);
        until("the others don't know it", async || {
            let known = nodes[0].get("/v1/nodes").await;
            known["nodes"].as_array().is_some_and(|it| it.len() == 3)
        })
        .await;
    }
}
