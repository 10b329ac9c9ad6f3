//! One name, behind which another server takes the master's place; connections to the old one stay as they are.

use reqwest::Method;
use serde_json::Value;

use crate::{
    failover::Scene,
    name::{Named, connections},
    redis_server::until,
};

#[tokio::test]
async fn a_fleet_leaves_a_demoted_server_for_good() {
    let mut named = Named::start().await;
    let mut scene = Scene::set(&named.config()).await;
    // Connections for long answers too.
    scene.reads_at_length().await;
    named.change_places().await;
    let there = &named;
    scene
        .lives_through(async || {
            // The name follows late, and nobody listens to the old one until then.
            let listening: Vec<String> = there.first.run("PUBSUB SHARDCHANNELS").await;
            let left = listening.is_empty();
            if left {
                there.lead_on();
            }
            left
        })
        .await;
    scene.reads_at_length().await;
    until("all have left", async || {
        connections(&named.first).await.is_empty()
    })
    .await;
    named.first.kill();
    for _ in 0..3 {
        assert!(scene.is_exact().await);
        scene.reads_at_length().await;
    }
}

impl Scene {
    /// Of every node, what it has no shared connection for.
    async fn reads_at_length(&self) {
        for node in &self.nodes {
            let page = node.call(Method::GET, "/v1/users", Value::Null).await;
            assert!(page.status().is_success(), "{}", page.status());
        }
    }
}
