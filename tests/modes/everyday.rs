//! What users and backends do all day, by nodes that must work together for it.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use switchboard::{
    config,
    link::{Link, Servers, Slot},
    metrics::Metrics,
    registry::keys::{Keys, Shards},
};

use crate::{
    cluster::Cluster,
    node::{Node, fleet_of},
    redis_server::{Server, until},
    sentinel::Sentinels,
};

#[tokio::test]
async fn around_one_server() {
    let server = Server::start().await;
    a_day(&server.config()).await;
}

#[tokio::test]
async fn around_sentinels() {
    let sentinels = Sentinels::start().await;
    a_day(&sentinels.config()).await;
}

#[tokio::test]
async fn around_a_cluster() {
    let cluster = Cluster::start(0).await;
    a_day(&cluster.config()).await;
}

/// One of three masters is stopped: users in the shards of the others are served all along (foundation H4).
#[tokio::test]
async fn a_cluster_without_one_of_its_masters_serves_the_users_of_the_others() {
    let cluster = Cluster::start(0).await;
    for server in 0..3 {
        let () = cluster
            .run(server, "CONFIG SET cluster-require-full-coverage no")
            .await;
    }
    let nodes = fleet_of(&cluster.config(), 2).await;
    let slot =
        |user: &str| Keys::new("switchboard").slot_of(Shards::default().of_user(&user.into()));
    let stopped = cluster.master_of(slot("stopped")).await.unwrap();
    let (mut served, mut unserved) = (Vec::new(), Vec::new());
    for user in (0..24).map(|n| format!("user-{n}")) {
        let client = nodes[0].connect(&user).await;
        match cluster.master_of(slot(&user)).await == Some(stopped) {
            true => unserved.push((user, client)),
            false => served.push((user, client)),
        }
    }
    assert!(!served.is_empty() && !unserved.is_empty());
    cluster.signal(stopped, "STOP");
    for node in &nodes {
        until("a node says that it is degraded", async || {
            let answer = node.call(Method::GET, "/readyz", Value::Null).await;
            answer.status() == StatusCode::OK
                && answer
                    .json::<Value>()
                    .await
                    .is_ok_and(|answer| answer["degraded"] == true)
        })
        .await;
    }
    let message = json!({ "event": "e", "data": 1 });
    // For longer than a lease, so that nobody lives on what was known before.
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(12) {
        for (user, client) in &mut served {
            let path = format!("/v1/users/{user}/events");
            let sent = nodes[1].post(&path, message.clone());
            let expected = json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 });
            assert_eq!(sent.await, expected, "{user}");
            assert_eq!(client.next_event().await, json!(["e", 1]));
            let read = nodes[1].get(&format!("/v1/users/{user}")).await;
            assert_eq!(read["online"], true, "{user}");
        }
    }
    for (user, _) in &unserved {
        let path = format!("/v1/users/{user}/events");
        let answer = nodes[1].call(Method::POST, &path, message.clone()).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{user}");
    }
    // Who comes and who goes among the others.
    let (user, _) = &served[0];
    let _second = nodes[1].connect(user).await;
    let path = format!("/v1/users/{user}/disconnect");
    let kicked = nodes[1].post(&path, json!({}));
    assert_eq!(kicked.await["disconnected"], 2);
    cluster.signal(stopped, "CONT");
    for (user, _) in &unserved {
        until("everybody is served", async || {
            let path = format!("/v1/users/{user}");
            let read = nodes[1].call(Method::GET, &path, Value::Null).await;
            read.status() == StatusCode::OK
                && read
                    .json::<Value>()
                    .await
                    .is_ok_and(|read| read["online"] == true)
        })
        .await;
    }
}

async fn a_day(redis: &config::Redis) {
    let mut nodes = fleet_of(redis, 3).await;
    let [a, b, c] = &nodes[..] else {
        unreachable!()
    };

    // Users of all shards, each on one node or two.
    let users: Vec<_> = (0..40).map(|n| format!("user-{n}")).collect();
    let mut clients = Vec::new();
    for (n, user) in users.iter().enumerate() {
        clients.push(a.connect(user).await);
        if n % 2 == 0 {
            clients.push(b.connect(user).await);
        }
    }
    let message = json!({ "event": "e", "data": 1 });
    for (n, user) in users.iter().enumerate() {
        let nodes = 2 - n % 2;
        let path = format!("/v1/users/{user}/events");
        let sent = c.post(&path, message.clone()).await;
        let expected = json!({ "connections": nodes, "nodes": nodes, "unconfirmed": 0 });
        assert_eq!(sent, expected, "{user}");
    }
    for client in &mut clients {
        assert_eq!(client.next_event().await, json!(["e", 1]));
    }
    let all = c.post("/v1/broadcast", json!({ "event": "all", "data": 2 }));
    assert_eq!(all.await["nodes"], 3);
    for client in &mut clients {
        assert_eq!(client.next_event().await, json!(["all", 2]));
    }

    reads(c, &users).await;
    ends(c, &users, &mut clients).await;
    comes_by_cookie(redis, c).await;

    // What a node leaves behind when it goes.
    drop(clients);
    until("nobody is left", async || {
        c.get("/v1/stats").await == json!({ "nodes": 3, "connections": 0, "users": 0 })
    })
    .await;
    nodes.truncate(1);
    until("the others are gone", async || {
        nodes[0].get("/v1/stats").await["nodes"] == 1
    })
    .await;
}

async fn reads(node: &Node, users: &[String]) {
    assert_eq!(
        node.get("/v1/stats").await,
        json!({ "nodes": 3, "connections": 60, "users": 40 })
    );
    let presence = node.post("/v1/presence", json!({ "users": users })).await;
    for (n, user) in users.iter().enumerate() {
        assert_eq!(presence["users"][user]["connections"], 2 - n % 2, "{user}");
    }
    let mut found = BTreeSet::new();
    let mut path = "/v1/users?limit=7".to_owned();
    loop {
        let page = node.get(&path).await;
        for user in page["users"].as_array().unwrap() {
            assert!(found.insert(user["userId"].as_str().unwrap().to_owned()));
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/users?limit=7&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, users.iter().cloned().collect());
    let user = node.get("/v1/users/user-0").await;
    assert_eq!(user["online"], true);
    let connections = user["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 2);
    for connection in connections {
        let id = connection["id"].as_str().unwrap();
        assert_eq!(
            node.get(&format!("/v1/connections/{id}")).await,
            *connection
        );
    }
}

/// Disconnects, bans and revokes from a node that holds none of them.
async fn ends(node: &Node, users: &[String], clients: &mut Vec<crate::node::Client>) {
    let mut next = clients.drain(..3);
    let path = |what: &str, n: usize| format!("/v1/users/{}/{what}", users[n]);

    // The first is on two nodes, the second on one.
    let ended = node.post(&path("disconnect", 0), json!({})).await;
    assert_eq!(
        ended,
        json!({ "disconnected": 2, "nodes": 2, "remaining": [] })
    );
    for _ in 0..2 {
        let mut client = next.next().unwrap();
        let goodbye = client.next_event().await;
        assert_eq!(
            (&goodbye[0], &goodbye[1]["code"]),
            (&json!("forceDisconnect"), &json!(4500))
        );
    }
    let banned = node.call(Method::PUT, &path("ban", 1), json!({})).await;
    assert!(banned.status().is_success(), "{}", banned.status());
    let mut client = next.next().unwrap();
    assert_eq!(client.next_event().await[1]["code"], 4501);
    let refused = node.knock(&users[1]).await.unwrap().next_packet().await;
    assert_eq!(
        refused.unwrap(),
        r#"44{"message":"User banned","data":{"code":"user_banned"}}"#
    );
    let lifted = node
        .call(Method::DELETE, &path("ban", 1), Value::Null)
        .await;
    assert!(lifted.status().is_success());
    clients_come_back(node, &users[1]).await;

    let token = node
        .post("/v1/tokens/revoke", json!({ "jti": "nobody's" }))
        .await;
    assert_eq!(token["disconnected"], 0);
    assert_eq!(
        node.get("/v1/stats").await,
        json!({ "nodes": 3, "connections": 57, "users": 38 })
    );
}

async fn clients_come_back(node: &Node, user: &str) {
    let client = node.connect(user).await;
    drop(client);
    until("it has gone again", async || {
        node.get(&format!("/v1/users/{user}")).await["online"] == false
    })
    .await;
}

/// The sessions are where the registry is, each key in a slot of its own.
async fn comes_by_cookie(redis: &config::Redis, node: &Node) {
    let servers = Servers::new(redis).unwrap();
    let link = Link::new(&servers, Metrics::new().unwrap()).unwrap();
    until("the store is there", async || link.is_up()).await;
    let key = "sess:hello";
    let session = json!({ "cookie": {}, "userId": "by-cookie" }).to_string();
    let mut set = redis::cmd("SET");
    set.arg(key).arg(session);
    let () = link
        .query("set", Slot::of(key.as_bytes()), &set)
        .await
        .unwrap();
    let cookie = "connect.sid=s%3Ahello.DGDUkGlIkCzPz%2BC0B064FNgHdEjox7ch8tOBGslZ5QI";
    let client = node.connect_by_cookie(cookie).await;
    assert_eq!(node.get("/v1/users/by-cookie").await["online"], true);
    drop(client);
}
