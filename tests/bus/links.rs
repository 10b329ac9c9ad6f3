//! One link breaks, or is refused, while Redis itself is well.

use crate::server::{Server, until};

#[tokio::test]
async fn every_broken_subscription_heals_and_is_a_gap() {
    let server = Server::start().await;
    let mut node = server.node_up().await;
    for round in 0..20 {
        let killed: u64 = server.run("CLIENT KILL TYPE pubsub").await;
        assert_eq!(killed, 1);
        node.gap_after(round).await;
        assert_eq!(node.gaps(), round + 1);
        let heard = node.says(&node.instance, &[round as u8]).await;
        assert!(heard.unwrap());
        assert_eq!(node.hears().await, [round as u8]);
    }
    assert_eq!(node.metric("switchboard_bus_reconnects_total"), 20);
}

#[tokio::test]
async fn messages_still_go_out_while_none_come_in() {
    let server = Server::start().await;
    server
        .run::<()>("ACL SETUSER half on nopass ~* +@all resetchannels &test:2:{nodes}:bus:all")
        .await;
    let mut whole = server.node_up().await;
    let half = server.node_as("half:x@");
    until("the permitted channel is heard", async || {
        server.subscribers("test:2:{nodes}:bus:all").await == 2
    })
    .await;
    assert!(!half.bus.is_up());
    // The link that publishes may come after the one that listens.
    until("what is said goes out", async || {
        half.bus
            .publish_all(b"out")
            .await
            .is_ok_and(|heard| heard == 2)
    })
    .await;
    assert_eq!(whole.hears().await, b"out");
}

#[tokio::test]
async fn a_forbidden_channel_is_asked_for_until_it_is_granted() {
    let server = Server::start().await;
    server
        .run::<()>("ACL SETUSER node on nopass ~* +@all resetchannels &test:2:{s*")
        .await;
    let node = server.node_as("node:x@");
    until("what is permitted is heard", async || {
        node.says(&node.instance, b"")
            .await
            .is_ok_and(|heard| heard)
    })
    .await;
    assert!(!node.bus.is_up());
    server
        .run::<()>("ACL SETUSER node &test:2:{nodes}:bus:all")
        .await;
    node.up().await;
    assert_eq!(node.bus.publish_all(b"").await.unwrap(), 1);
}

#[tokio::test]
async fn a_full_redis_is_tried_until_it_has_room() {
    let server = Server::start().await;
    let mut connection = server.connection().await;
    let mut limit = redis::cmd("CONFIG");
    limit.arg("SET").arg("maxclients");
    let () = limit
        .clone()
        .arg(1)
        .query_async(&mut connection)
        .await
        .unwrap();
    let mut node = server.node();
    until("nodes are turned away", async || {
        let stats: String = connection_info(&mut connection.clone()).await;
        stats.lines().any(|line| {
            let turned_away = line.strip_prefix("rejected_connections:");
            turned_away.is_some_and(|count| count.parse::<u64>().unwrap() > 4)
        })
    })
    .await;
    assert!(!node.bus.is_up());
    let () = limit
        .clone()
        .arg(100)
        .query_async(&mut connection)
        .await
        .unwrap();
    node.up().await;
    assert_eq!(node.bus.publish_all(b"x").await.unwrap(), 1);
    assert_eq!(node.hears().await, b"x");
}

async fn connection_info(connection: &mut redis::aio::MultiplexedConnection) -> String {
    let mut info = redis::cmd("INFO");
    info.arg("stats").query_async(connection).await.unwrap()
}

#[tokio::test]
async fn a_lost_publishing_link_is_no_gap() {
    let server = Server::start().await;
    let node = server.node_up().await;
    let mut connection = server.connection().await;
    let id: u64 = redis::cmd("CLIENT")
        .arg("ID")
        .query_async(&mut connection)
        .await
        .unwrap();
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query_async(&mut connection)
        .await
        .unwrap();
    let publisher = list
        .lines()
        .find(|line| {
            line.contains(" sub=0 ")
                && line.contains(" ssub=0 ")
                && !line.starts_with(&format!("id={id} "))
        })
        .and_then(|line| line.strip_prefix("id=")?.split(' ').next())
        .expect("the publishing link");
    let killed: u64 = server.run(&format!("CLIENT KILL ID {publisher}")).await;
    assert_eq!(killed, 1);
    until("the link is back", async || {
        node.metric("switchboard_bus_reconnects_total") == 1
    })
    .await;
    assert!(node.says(&node.instance, b"").await.unwrap());
    assert_eq!(node.gaps(), 0);
}
