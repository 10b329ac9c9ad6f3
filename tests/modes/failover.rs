//! A master dies, or falls silent, and another server takes its place.
//!
//! `SWITCHBOARD_TEST_SCALE` stretches the bounds on a machine that is busy with other things.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use switchboard::{
    link::Slot,
    registry::keys::{Keys, Shards},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    cluster::Cluster,
    node::{Node, fleet_of},
    redis_server::until,
    sentinel::Sentinels,
};

/// How soon after the promotion everything is to be as before.
pub(crate) const EXACT: Duration = Duration::from_secs(5);

/// How long any call may take, whatever is away.
const CALL: Duration = Duration::from_secs(2);

pub(crate) fn scaled(bound: Duration) -> Duration {
    let scale = std::env::var("SWITCHBOARD_TEST_SCALE").ok();
    bound.mul_f64(scale.and_then(|scale| scale.parse().ok()).unwrap_or(1.0))
}

/// Two nodes; the users are all on the first one, and what is asked of them goes through the second.
pub(crate) struct Scene {
    pub(crate) nodes: Vec<Node>,
    users: Vec<(String, mpsc::UnboundedReceiver<Value>)>,
}

impl Scene {
    pub(crate) async fn set(redis: &switchboard::config::Redis) -> Self {
        let nodes = fleet_of(redis, 2).await;
        let mut users = Vec::new();
        for n in 0..24 {
            let user = format!("user-{n}");
            let events = nodes[0].connect(&user).await.read_on();
            users.push((user, events));
        }
        let ban = nodes[1].call(Method::PUT, "/v1/users/banned/ban", json!({}));
        assert!(ban.await.status().is_success());
        let scene = Self { nodes, users };
        assert!(scene.is_exact().await);
        scene
    }

    /// What a send to a user says; within bounds, and in an outage 503 with a time to come back.
    pub(crate) async fn send(&self, user: &str) -> Option<Value> {
        let path = format!("/v1/users/{user}/events");
        let body = json!({ "event": "e", "data": user });
        let asked = Instant::now();
        let answer = self.nodes[1].call(Method::POST, &path, body).await;
        assert!(asked.elapsed() < scaled(CALL), "{:?}", asked.elapsed());
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert!(answer.headers().contains_key("retry-after"));
            return None;
        }
        // Its server has died with the publish.
        if answer.status() == StatusCode::GATEWAY_TIMEOUT {
            return None;
        }
        assert_eq!(answer.status(), StatusCode::OK);
        Some(answer.json().await.unwrap())
    }

    /// Whether every node is ready, and knows where everybody is, and can reach them.
    pub(crate) async fn is_exact(&self) -> bool {
        for node in &self.nodes {
            let stats = node.call(Method::GET, "/v1/stats", Value::Null).await;
            let expected =
                json!({ "nodes": 2, "connections": self.users.len(), "users": self.users.len() });
            if !node.is_ready().await
                || stats.status() != StatusCode::OK
                || stats.json::<Value>().await.unwrap() != expected
            {
                return false;
            }
        }
        for (user, _) in &self.users {
            if self.send(user).await
                != Some(json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 }))
            {
                return false;
            }
        }
        true
    }

    /// Waits for another to be promoted; meanwhile calls answer in time, and some of them 503. Then everything is as it was,
    /// soon.
    async fn lives_through(&mut self, promoted: impl AsyncFn() -> bool) {
        let promotion = async {
            until("another is promoted", promoted).await;
            Instant::now()
        };
        let asking = async {
            let mut refused = 0;
            loop {
                for (user, _) in &self.users {
                    refused += usize::from(self.send(user).await.is_none());
                    if refused == 1 {
                        println!("calls are refused");
                    }
                }
                if refused > 0 && self.is_exact().await {
                    return (Instant::now(), refused);
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let asking = timeout(scaled(Duration::from_secs(60)), asking);
        let (promoted, exact) = tokio::join!(promotion, asking);
        let (exact, refused) = exact.expect("everything is as it was");
        let took = exact.saturating_duration_since(promoted);
        println!("{refused} calls refused; exact {took:?} after the promotion");
        assert!(took < scaled(EXACT), "{took:?}");
        self.is_unharmed().await;
    }

    /// No client was dropped, all are reached, and bans and revocations still hold.
    pub(crate) async fn is_unharmed(&mut self) {
        for (user, events) in &mut self.users {
            while events.try_recv().is_ok() {}
            assert!(!events.is_closed(), "{user} was dropped");
        }
        assert!(self.is_exact().await);
        for (user, events) in &mut self.users {
            let event = timeout(scaled(EXACT), events.recv())
                .await
                .expect("an event");
            assert_eq!(event.expect("an open connection"), json!(["e", user]));
        }
        let refused = self.nodes[0]
            .knock("banned")
            .await
            .unwrap()
            .next_packet()
            .await;
        assert_eq!(
            refused.unwrap(),
            r#"44{"message":"User banned","data":{"code":"user_banned"}}"#
        );
        let (user, mut events) = self.users.pop().unwrap();
        let path = format!("/v1/users/{user}/disconnect");
        let ended = self.nodes[1].post(&path, json!({})).await;
        assert_eq!(
            ended,
            json!({ "disconnected": 1, "nodes": 1, "remaining": [] })
        );
        while events.recv().await.is_some() {}
        assert!(self.is_exact().await);
    }
}

#[tokio::test]
async fn a_master_that_dies_is_replaced_by_the_sentinels() {
    let mut sentinels = Sentinels::start().await;
    let mut scene = Scene::set(&sentinels.config()).await;
    sentinels.kill(0);
    scene
        .lives_through(async || is_another(&sentinels, 0).await)
        .await;
}

#[tokio::test]
async fn a_master_that_falls_silent_is_replaced_and_is_no_master_when_it_wakes() {
    let sentinels = Sentinels::start().await;
    let mut scene = Scene::set(&sentinels.config()).await;
    sentinels.signal(0, "STOP");
    scene
        .lives_through(async || is_another(&sentinels, 0).await)
        .await;
    sentinels.signal(0, "CONT");
    until("it is a replica", async || !sentinels.is_master(0).await).await;
    until("nobody minds", async || scene.is_exact().await).await;
}

async fn is_another(sentinels: &Sentinels, than: usize) -> bool {
    let master = sentinels.master().await;
    matches!(master, Some(master) if master != than && sentinels.is_master(master).await)
}

#[tokio::test]
async fn a_master_of_a_cluster_that_dies_is_replaced_by_its_replica() {
    let mut cluster = Cluster::start(1).await;
    let mut scene = Scene::set(&cluster.config()).await;
    let slot = Keys::new("switchboard").slot_of(Shards::default().of_user(&"user-0".into()));
    let master = cluster.master_of(slot).await.unwrap();
    cluster.kill(master);
    let cluster = &cluster;
    scene
        .lives_through(async || {
            let now = cluster.master_of(slot).await;
            now.is_some_and(|now| now != master)
        })
        .await;
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_users_along() {
    let cluster = Cluster::start(0).await;
    let mut scene = Scene::set(&cluster.config()).await;
    let shard = Shards::default().of_user(&"user-0".into());
    let slot: Slot = Keys::new("switchboard").slot_of(shard);
    let from = cluster.master_of(slot).await.unwrap();
    let to = (from + 1) % 3;
    cluster.move_slot(slot, from, to).await;
    until("it is found", async || {
        cluster.master_of(slot).await == Some(to)
    })
    .await;
    until("everything is as it was", async || scene.is_exact().await).await;
    for (user, events) in &mut scene.users {
        while events.try_recv().is_ok() {}
        assert!(!events.is_closed(), "{user} was dropped");
    }
    // Those that come are registered where the slot is by now.
    let newcomer = scene.nodes[1].connect("user-0").await;
    let sent = scene.send("user-0").await;
    assert_eq!(
        sent,
        Some(json!({ "connections": 2, "nodes": 2, "unconfirmed": 0 }))
    );
    drop(newcomer);
}
