//! One name, behind which another server takes the master's place.

use std::collections::BTreeSet;

use switchboard::{
    link::{Link, LinkError, Servers, Slot},
    metrics::Metrics,
};

use crate::{
    name::{Named, connections},
    node::{Node, SECRET},
    server::{Server, until},
};

fn node(servers: &Servers) -> Node {
    Node::of(servers, &[SECRET])
}

fn slot() -> Slot {
    Slot::of(b"")
}

#[tokio::test]
async fn a_bus_leaves_a_server_that_is_demoted_and_does_not_come_back_to_it() {
    let named = Named::start().await;
    let mut node = node(&named.servers());
    node.up().await;
    named.change_places().await;
    node.down().await;
    // The name has not followed yet.
    until("it is left", async || {
        connections(&named.first).await.is_empty()
    })
    .await;
    assert!(node.bus.publish_all(b"").await.is_err());
    named.lead_on();
    node.gap_after(0).await;
    assert!(node.bus.is_up());
    assert_eq!(node.bus.publish_all(b"x").await.unwrap(), 1);
    assert_eq!(node.hears().await, b"x");
    assert!(!connections(&named.second).await.is_empty());
}

#[tokio::test]
async fn what_refuses_one_write_is_left_by_all() {
    let server = Server::start().await;
    let servers = server.servers_of("");
    let metrics = Metrics::new().unwrap();
    let link = Link::new(&servers, metrics.clone()).unwrap();
    // As sessions are read, of the same servers.
    let another = Link::new(&servers, metrics).unwrap();
    let pool = link.pooled();
    let node = node(&servers);
    node.up().await;
    until("all links are up", async || link.is_up() && another.is_up()).await;
    let ping = redis::cmd("PING");
    let () = pool.query("ping", slot(), &ping).await.unwrap();
    let before = connections(&server).await;
    assert!(before.len() >= 5, "{before:?}");

    let mut refuse = redis::cmd("EVAL");
    refuse.arg("return redis.error_reply('READONLY no')").arg(0);
    let refused = link.query::<()>("refuse", slot(), &refuse).await;
    assert!(matches!(refused, Err(LinkError::Redis(_))), "{refused:?}");
    node.gap_after(0).await;
    until("all are others", async || {
        let () = pool.query("ping", slot(), &ping).await.unwrap();
        let () = another.query("ping", slot(), &ping).await.unwrap();
        let after = connections(&server).await;
        after.len() >= before.len() && after.is_disjoint(&before)
    })
    .await;
    // And that is that.
    let after = connections(&server).await;
    node.up().await;
    assert_eq!(node.gaps(), 1);
    assert!(after.is_subset(&connections(&server).await));
}

#[tokio::test]
async fn a_replica_is_read_where_one_will_do_and_nowhere_else() {
    let named = Named::start().await;
    let servers = named.servers();
    let metrics = Metrics::new().unwrap();
    let reading = Link::new(&servers, metrics.clone()).unwrap();
    let writing = Link::to_masters(&servers, metrics).unwrap();
    let pool = reading.pooled();
    let ping = redis::cmd("PING");
    until("both are up", async || reading.is_up() && writing.is_up()).await;
    let () = pool.query("ping", slot(), &ping).await.unwrap();

    named.change_places().await;
    until("it is away", async || !writing.is_up()).await;
    let refused = writing.query::<()>("ping", slot(), &ping).await;
    assert!(matches!(refused, Err(LinkError::Away(_))), "{refused:?}");
    let () = reading.query("ping", slot(), &ping).await.unwrap();
    until("long reads are refused", async || {
        let answer = pool.query::<()>("ping", slot(), &ping).await;
        matches!(answer, Err(LinkError::Pool(_)))
    })
    .await;

    named.lead_on();
    until("all is well", async || {
        let answer = pool.query::<()>("ping", slot(), &ping).await;
        answer.is_ok() && reading.is_up() && writing.is_up()
    })
    .await;
    let nobody = BTreeSet::new();
    until("the other is left", async || {
        connections(&named.first).await == nobody
    })
    .await;
}
