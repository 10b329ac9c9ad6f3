//! What all nodes of a registry agree on: layout, number of shards, and the level at which they write.

use std::{sync::Arc, time::Duration};

use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use serde_json::{Value, json};
use switchboard::{
    config::Presence,
    connection::Instance,
    registry::{Lease, Registry, RegistryError, keys::Keys, redis::RedisRegistry},
};

use super::{
    home::{LONG, Peer, Redis, RedisServer, SHORT, eventually, timing},
    redis::raw,
};

const FIELD: &str = "schema";

/// A registry, and a way to write past its nodes.
struct Scene {
    home: Redis,
    raw: MultiplexedConnection,
    table: String,
    _server: RedisServer,
}

impl Scene {
    async fn set() -> Self {
        let server = RedisServer::start().await;
        let home = Redis::of(&server);
        Self {
            raw: raw(&home).await,
            home,
            table: Keys::new("switchboard").tables(false).remove(0).1,
            _server: server,
        }
    }

    fn handle(&self, lease: Duration) -> RedisRegistry {
        self.home.registry(&timing(lease), &Presence::default())
    }

    /// A node that has joined, and its handle.
    async fn node(&self, name: &str) -> (Peer, RedisRegistry) {
        self.node_speaking(1, LONG, name).await
    }

    async fn node_speaking(
        &self,
        level: u32,
        lease: Duration,
        name: &str,
    ) -> (Peer, RedisRegistry) {
        let handle = self.handle(lease).speaking(level);
        (Peer::join(Arc::new(handle.clone()), name).await, handle)
    }

    /// One attempt to join.
    async fn knock(&self, like: &Peer, handle: &RedisRegistry) -> Result<bool, String> {
        let lease = Lease {
            instance: Instance::random(),
            epoch: 1,
        };
        match handle.join(&lease, &like.report).await {
            Ok(joined) => Ok(joined),
            Err(RegistryError::Unavailable(why)) => Err(why),
            Err(error) => panic!("{error}"),
        }
    }

    async fn write(&mut self, schema: &Value) {
        let () = self
            .raw
            .hset(&self.table, FIELD, schema.to_string())
            .await
            .unwrap();
    }

    async fn schema(&mut self) -> Option<Value> {
        let written: Option<String> = self.raw.hget(&self.table, FIELD).await.unwrap();
        written.map(|written| serde_json::from_str(&written).unwrap())
    }

    async fn forget(&mut self) {
        let () = self.raw.hdel(&self.table, FIELD).await.unwrap();
    }

    async fn flush(&mut self) {
        let () = redis::cmd("FLUSHALL")
            .query_async(&mut self.raw)
            .await
            .unwrap();
    }
}

fn schema(shards: u32, level: u32) -> Value {
    json!({ "layout": 2, "shards": shards, "level": level, "least": level })
}

#[tokio::test]
async fn a_node_that_can_not_serve_what_is_there_does_not_join_and_says_why() {
    let mut scene = Scene::set().await;
    let (first, handle) = scene.node("first").await;
    assert_eq!(scene.schema().await, Some(schema(16, 1)));
    handle.leave(&first.lease).await.unwrap();
    for (written, numbers) in [
        (
            schema(8, 1),
            ["made with registry.shards = 8", "has registry.shards = 16"],
        ),
        (
            json!({ "layout": 3, "shards": 16, "level": 1, "least": 1 }),
            ["layout 3", "serves layout 2"],
        ),
        (schema(16, 7), ["level 7", "speaks level 1"]),
        // A later version may say more of it.
        (
            json!({ "layout": 2, "shards": 8, "level": 1, "least": 1, "more": [1] }),
            ["made with registry.shards = 8", "has registry.shards = 16"],
        ),
    ] {
        scene.write(&written).await;
        let before: Vec<String> = scene.raw.keys("*").await.unwrap();
        let rows: usize = scene.raw.hlen(&scene.table).await.unwrap();
        let handle = scene.handle(LONG);
        let why = scene.knock(&first, &handle).await.unwrap_err();
        for part in numbers.iter().chain(&[scene.table.as_str(), FIELD]) {
            assert!(why.contains(part), "{part} in {why}");
        }
        let after: Vec<String> = scene.raw.keys("*").await.unwrap();
        assert_eq!(after.len(), before.len(), "nothing is written");
        assert_eq!(
            scene.raw.hlen::<_, usize>(&scene.table).await.unwrap(),
            rows
        );
        assert_eq!(scene.schema().await, Some(written));
    }
    // What this version does not know of it is no reason, and stays.
    let more = json!({ "layout": 2, "shards": 16, "level": 2, "least": 1, "more": [1] });
    scene.write(&more).await;
    let (_, handle) = scene.node("last").await;
    assert_eq!(handle.level(), 2);
    assert_eq!(scene.schema().await, Some(more));
}

#[tokio::test]
async fn who_lived_before_a_loss_puts_the_schema_back() {
    let mut scene = Scene::set().await;
    let (a, _) = scene.node("a").await;
    // Lost alone: who comes then waits for those that are there.
    for loss in ["", "{", "[]"] {
        match loss {
            "" => scene.forget().await,
            garbage => {
                let () = scene.raw.hset(&scene.table, FIELD, garbage).await.unwrap();
            }
        }
        let newcomer = scene.handle(LONG);
        let why = scene.knock(&a, &newcomer).await.unwrap_err();
        assert!(why.contains("nodes that live put it back"), "{why}");
        assert!(a.beat().await);
        assert_eq!(scene.schema().await, Some(schema(16, 1)));
        assert_eq!(scene.knock(&a, &newcomer).await, Ok(true));
    }
    // Lost with all, and another node was there first.
    scene.flush().await;
    let () = scene
        .raw
        .hset(&scene.table, "generation", "theirs")
        .await
        .unwrap();
    scene.write(&schema(8, 1)).await;
    assert!(a.beat().await);
    assert_eq!(scene.schema().await, Some(schema(16, 1)));
    // Who joined by it is turned out.
    scene.write(&schema(8, 1)).await;
    let beat = a.registry.heartbeat(&a.lease, &a.report).await;
    assert!(
        matches!(beat, Err(RegistryError::Unavailable(_))),
        "{beat:?}"
    );
}

#[tokio::test]
async fn nodes_write_at_a_level_that_all_of_them_speak() {
    let mut scene = Scene::set().await;
    let (newer, handle) = scene.node_speaking(2, SHORT, "newer").await;
    let (older, _) = scene.node_speaking(1, SHORT, "older").await;
    let (other, other_handle) = scene.node_speaking(2, SHORT, "other").await;
    // For longer than a lease, within which nobody would raise it.
    for _ in 0..20 {
        tokio::time::sleep(SHORT / 10).await;
        for node in [&newer, &older, &other] {
            assert!(node.beat().await);
        }
        assert_eq!(scene.schema().await, Some(schema(16, 1)));
    }
    // One that is late may go on.
    eventually("the older one is late", async || {
        assert!(newer.beat().await && other.beat().await);
        let table = newer.registry.nodes().await.unwrap();
        !table
            .iter()
            .any(|node| node.node_id == older.report.node_id)
    })
    .await;
    assert!(newer.beat().await && handle.level() == 1);
    assert!(older.beat().await);

    older.registry.leave(&older.lease).await.unwrap();
    // A node whose report only Redis can look at.
    let unread = ("odd.1", "99999999999999:1790000000000:{}");
    let () = scene
        .raw
        .hset(&scene.table, unread.0, unread.1)
        .await
        .unwrap();
    for _ in 0..3 {
        assert!(newer.beat().await && other.beat().await);
    }
    assert_eq!(scene.schema().await, Some(schema(16, 1)));
    let () = scene.raw.hdel(&scene.table, unread.0).await.unwrap();
    eventually("the level is raised", async || {
        assert!(newer.beat().await && other.beat().await);
        handle.level() == 2 && other_handle.level() == 2
    })
    .await;
    assert_eq!(scene.schema().await, Some(schema(16, 2)));
    let late = scene.handle(LONG);
    let why = scene.knock(&older, &late).await.unwrap_err();
    assert!(why.contains("level 2"), "{why}");

    // It is never lowered, also not by a loss.
    scene.flush().await;
    assert_eq!(
        scene.knock(&older, &late).await,
        Ok(true),
        "it is the first one"
    );
    assert!(newer.beat().await && other.beat().await);
    assert_eq!(scene.schema().await, Some(schema(16, 2)));
    assert!(scene.knock(&older, &late).await.is_err());
    drop((newer, other));
}
