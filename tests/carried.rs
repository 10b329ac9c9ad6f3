//! What is carried over from the first layout of keys: in a cluster from every master, and however much it is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/mod.rs"]
mod support;

use support::{cluster, redis_server};

use jiff::Timestamp;
use redis::aio::MultiplexedConnection;
use switchboard::{
    config::Config,
    connection::UserId,
    link::{Servers, Slot},
    metrics::Metrics,
    registry::{
        Ban, Lease, NodeReport, Registry, RegistryError,
        keys::{Keys, Shard, Shards},
        redis::RedisRegistry,
    },
};

use cluster::Cluster;
use redis_server::{Server, until};

fn registry(servers: &Servers) -> RedisRegistry {
    let config = Config::default();
    let metrics = Metrics::new().unwrap();
    RedisRegistry::new(servers, &config.registry, &config.presence, metrics).unwrap()
}

fn newcomer() -> (Lease, NodeReport) {
    let lease = Lease {
        instance: switchboard::connection::Instance::random(),
        epoch: 1,
    };
    let report = NodeReport {
        node_id: "n".into(),
        version: "0".into(),
        started_at: Timestamp::now(),
        connections: 0,
        users: 0,
        draining: false,
    };
    (lease, report)
}

/// Joins as a new node does: again and again until it works.
async fn join(registry: &RedisRegistry) {
    let (lease, report) = newcomer();
    until("the node joins", async || {
        registry.join(&lease, &report).await.is_ok()
    })
    .await;
}

fn slot(shard: Shard) -> Slot {
    Keys::new("switchboard").slot_of(shard)
}

fn users(count: usize) -> Vec<UserId> {
    (0..count).map(|n| format!("user-{n}").into()).collect()
}

/// Bans users as 0.1.0 did.
async fn ban(connection: &mut MultiplexedConnection, users: &[&UserId]) {
    let mut bans = redis::pipe();
    for user in users {
        let shard = Shards::default().of_user(user).index();
        let key = format!("switchboard:{{s{shard:x}}}:ban:{user}");
        bans.set(key, r#"{"reason":"spam","until":null}"#).ignore();
    }
    bans.exec_async(connection).await.unwrap();
}

async fn is_banned(registry: &RedisRegistry, user: &UserId) -> bool {
    let ban = registry.ban_of(user).await.unwrap();
    let spam = Ban {
        reason: Some("spam".into()),
        until: None,
    };
    ban.is_some_and(|ban| ban == spam)
}

#[tokio::test]
async fn from_every_master_of_a_cluster() {
    let cluster = Cluster::start(0).await;
    let users = users(300);
    for server in 0..3 {
        let mut here = Vec::new();
        for user in &users {
            if cluster
                .master_of(slot(Shards::default().of_user(user)))
                .await
                == Some(server)
            {
                here.push(user);
            }
        }
        assert!(!here.is_empty());
        ban(&mut cluster.connection(server).await, &here).await;
    }
    let registry = registry(&cluster.servers());
    join(&registry).await;
    for user in &users {
        assert!(is_banned(&registry, user).await, "{user}");
    }
}

/// Its users would be in other shards, and come back unbanned.
#[tokio::test]
async fn not_into_a_registry_of_another_number_of_shards() {
    let server = Server::start().await;
    let user = users(1).remove(0);
    ban(&mut server.connection().await, &[&user]).await;
    let mut config = Config::default();
    config.registry.shards = 4.try_into().unwrap();
    let servers = Servers::new(&server.config()).unwrap();
    let metrics = Metrics::new().unwrap();
    let registry =
        RedisRegistry::new(&servers, &config.registry, &config.presence, metrics).unwrap();
    let (lease, report) = newcomer();
    let joined = registry.join(&lease, &report).await;
    assert!(
        matches!(joined, Err(RegistryError::Unavailable(_))),
        "{joined:?}"
    );
    assert!(registry.ban_of(&user).await.is_err());
}

/// Nobody of it is taken in until it is back; all others are.
#[tokio::test]
async fn from_a_master_that_was_away_when_it_is_back() {
    let cluster = Cluster::start(0).await;
    let away = cluster.master_of(slot(Shard::FIRST)).await.unwrap();
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for user in users(100) {
        match cluster
            .master_of(slot(Shards::default().of_user(&user)))
            .await
        {
            Some(server) if server == away => gone.push(user),
            _ => there.push(user),
        }
    }
    ban(
        &mut cluster.connection(away).await,
        &gone.iter().collect::<Vec<_>>(),
    )
    .await;
    let registry = registry(&cluster.servers());
    // As long as all of them agree on who has what: a cluster without one of its masters answers for the others only.
    until("the map is known", async || registry.is_up()).await;
    cluster.signal(away, "STOP");
    join(&registry).await;
    for user in &there {
        assert!(registry.ban_of(user).await.unwrap().is_none());
    }
    let refused = registry.ban_of(&gone[0]).await;
    assert!(
        matches!(refused, Err(RegistryError::Unavailable(_))),
        "{refused:?}"
    );
    cluster.signal(away, "CONT");
    until("they are known to be banned", async || {
        matches!(registry.ban_of(&gone[0]).await, Ok(Some(_)))
    })
    .await;
    for user in &gone {
        assert!(is_banned(&registry, user).await, "{user}");
    }
}

#[tokio::test]
async fn all_of_many_beside_what_is_of_others() {
    let server = Server::start().await;
    let users = users(20_000);
    let mut connection = server.connection().await;
    ban(&mut connection, &users.iter().collect::<Vec<_>>()).await;
    let mut others = redis::pipe();
    for n in 0..20_000 {
        others.set(format!("other:{{s1}}:ban:{n}"), "1").ignore();
    }
    others.exec_async(&mut connection).await.unwrap();
    let registry = registry(&server.servers_of(""));
    join(&registry).await;
    for user in users.iter().step_by(97) {
        assert!(is_banned(&registry, user).await, "{user}");
    }
    let size: u64 = server.run("DBSIZE").await;
    // The generations, the leases of the one node, and the marks come on top.
    assert!((60_000..60_100).contains(&size), "{size}");
}
