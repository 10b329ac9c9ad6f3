//! One name, behind which another server takes the master's place; connections to the old one stay as they are.

use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    failover::{EXACT, Scene, scaled},
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
    // The name follows late. Until then nothing is sent to where nobody may hear it.
    until("calls are refused", async || {
        scene.send("user-0").await.is_none()
    })
    .await;
    until("nobody listens there", async || {
        let listening: Vec<String> = named.first.run("PUBSUB SHARDCHANNELS").await;
        listening.is_empty()
    })
    .await;
    named.lead_on();
    let led_on = Instant::now();
    until("everything is as it was", async || scene.is_exact().await).await;
    let took = led_on.elapsed();
    println!("exact {took:?} after the name");
    assert!(took < scaled(EXACT), "{took:?}");
    scene.is_unharmed().await;
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
    /// Asks every node for what it has no shared connection for.
    async fn reads_at_length(&self) {
        for node in &self.nodes {
            let page = node.call(Method::GET, "/v1/users", Value::Null).await;
            assert!(page.status().is_success(), "{}", page.status());
        }
    }
}
