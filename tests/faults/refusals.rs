//! Redis is there and refuses: no memory, a replica, no rights, no room for connections, scripts forgotten (F11).

use serde_json::json;

use crate::{
    scene::{PAIR, Scene, turned_away},
    support::{
        bounds::{seconds, within},
        client::{Client, Hello, Refused},
        fleet::Plan,
        redis_server::patient,
        run::Run,
    },
};

/// What holds while Redis answers, and refuses to write: no client is dropped; what writes gets 503; newcomers are turned away so
/// that the stock client tries again; and once leases have run out the nodes say that they are not ready.
async fn refuses(scene: &Scene) {
    for node in scene.fleet.up() {
        let come = async || match Client::connect(node.addr, &Hello::user("newcomer")).await {
            Err(Refused::Http(503) | Refused::Closed(_)) => Ok(()),
            Err(other) => panic!("a newcomer at {}: {other:?}", node.name),
            Ok(_) => Err("let in".to_owned()),
        };
        within(seconds(2.0), "a newcomer is turned away", come).await;
        let ban = node
            .api
            .call("PUT", "/v1/users/somebody/ban", Some(json!({})));
        let ban = ban.await.unwrap();
        assert_eq!(ban.status, 503, "{ban:?}");
        assert!(
            ban.retry_after.is_some() && ban.took < seconds(1.0),
            "{ban:?}"
        );
        let kick = node.api.disconnect(PAIR, json!({})).await.unwrap();
        assert_eq!(kick.status, 503, "{kick:?}");
    }
    for node in scene.fleet.up() {
        node.unready(seconds(6.0)).await;
        turned_away(node).await;
        let read = node.api.get(&format!("/v1/users/{PAIR}")).await.unwrap();
        scene.run().note(format!("{}: {read:?}", node.name));
        assert!(
            read.status == 503 || read.body["online"] == true,
            "a node without a lease says that somebody is offline who is connected to it: {read:?}"
        );
    }
    scene.nobody_dropped();
}

#[tokio::test]
async fn f11_redis_is_out_of_memory() {
    let run = Run::begin("f11 oom");
    let scene = Scene::set(&run, Plan::brisk(3), 30).await;
    let _: () = scene.fleet.redis.run("CONFIG SET maxmemory 1").await;
    refuses(&scene).await;
    let _: () = scene.fleet.redis.run("CONFIG SET maxmemory 0").await;
    scene.back().await;
    scene.close().await;
}

#[tokio::test]
async fn f11_redis_has_become_a_replica() {
    let run = Run::begin("f11 readonly");
    let scene = Scene::set(&run, Plan::brisk(3), 30).await;
    // A master that nobody is.
    let _: () = scene.fleet.redis.run("REPLICAOF 127.0.0.1 1").await;
    refuses(&scene).await;
    let _: () = scene.fleet.redis.run("REPLICAOF NO ONE").await;
    scene.back().await;
    scene.close().await;
}

#[tokio::test]
async fn f11_the_nodes_lose_their_rights() {
    let run = Run::begin("f11 noperm");
    let scene = Scene::set(&run, Plan::brisk(3), 30).await;
    let redis = &scene.fleet.redis;
    let _: () = redis.run("ACL SETUSER admin on >secret ~* &* +@all").await;
    let client = redis.client_of("admin:secret@");
    let mut admin = patient(&client).await.unwrap();
    let mut acl = async |rights: &str| {
        let mut command = redis::cmd("ACL");
        command
            .arg("SETUSER")
            .arg("default")
            .arg(rights.split(' ').collect::<Vec<_>>());
        command.query_async::<()>(&mut admin).await.unwrap();
    };
    acl("-evalsha -eval -publish").await;
    refuses(&scene).await;
    acl("+@all").await;
    scene.back().await;
    scene.close().await;
}

/// A node that loses its links finds no room for new ones: for it, Redis is away.
#[tokio::test]
async fn f11_redis_has_no_room_for_connections() {
    let run = Run::begin("f11 maxclients");
    let scene = Scene::set(&run, Plan::brisk(2), 20).await;
    let mut admin = scene.fleet.redis.connection().await;
    let mut tell = async |words: &str| {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        command
            .query_async::<redis::Value>(&mut admin)
            .await
            .unwrap()
    };
    tell("CONFIG SET maxclients 1").await;
    tell("CLIENT KILL TYPE normal SKIPME yes").await;
    tell("CLIENT KILL TYPE pubsub").await;
    scene.away(0..2).await;
    tell("CONFIG SET maxclients 10000").await;
    scene.back().await;
    scene.close().await;
}

/// Scripts are forgotten before every single call: nobody notices.
#[tokio::test]
async fn f11_scripts_are_flushed_over_and_over() {
    let run = Run::begin("f11 script flush");
    let mut scene = Scene::set(&run, Plan::of(2), 10).await;
    let mut admin = scene.fleet.redis.connection().await;
    let mut flush = async || {
        let mut flush = redis::cmd("SCRIPT");
        flush
            .arg("FLUSH")
            .query_async::<()>(&mut admin)
            .await
            .unwrap();
    };
    for round in 0..40 {
        let (node, other) = (&scene.fleet[round % 2], &scene.fleet[(round + 1) % 2]);
        let user = format!("round-{round}");
        flush().await;
        let client = Client::connect(node.addr, &Hello::user(&user))
            .await
            .unwrap();
        flush().await;
        let answer = other.api.send(&user, "e", json!(round)).await.unwrap();
        assert_eq!(
            answer.body,
            json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 }),
            "{answer:?}"
        );
        flush().await;
        if round % 2 == 0 {
            let answer = other.api.disconnect(&user, json!({})).await.unwrap();
            let closed = json!({ "disconnected": 1, "nodes": 1, "remaining": [] });
            assert_eq!(answer.body, closed, "{answer:?}");
            client.ended(seconds(2.0)).await;
        } else {
            scene.clients.push(client);
        }
    }
    scene.back().await;
    scene.no_lease_lost();
    scene.close().await;
}
