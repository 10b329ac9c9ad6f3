//! Redis goes away and comes back. No test here issues a command that could wake a link up.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use socketioxide_redis::drivers::Driver as _;
use switchboard::bus::BusError;
use tokio::time::{sleep, timeout};

use crate::{
    node::talk,
    server::{PATIENCE, Server, until},
};

async fn down_and_back(outage: Duration) {
    let mut server = Server::start().await;
    let (mut a, mut b) = (server.node_up().await, server.node_up().await);
    let mut stream = b.bus.subscribe("s".into(), 8).await.unwrap();
    talk(&mut a, &mut b).await;

    server.kill();
    a.down().await;
    b.down().await;
    // The link that listens may have noticed before the one that publishes.
    until("a publish fails without waiting", async || {
        let refused = a.bus.publish_all(Vec::new()).now_or_never();
        matches!(refused, Some(Err(BusError::Unavailable(_))))
    })
    .await;
    assert!(a.bus.num_serv("any").await.is_err());
    assert_eq!((a.gaps(), a.metric("switchboard_bus_up")), (0, 0));

    sleep(outage).await;
    server.launch().await;
    a.gap_after(0).await;
    b.gap_after(0).await;
    assert!(a.bus.is_up() && b.bus.is_up());
    talk(&mut a, &mut b).await;
    a.bus.publish("s".into(), b"x".to_vec()).await.unwrap();
    let got = timeout(PATIENCE, stream.next()).await.unwrap();
    assert_eq!(got.unwrap().1, b"x");
    assert_eq!((a.gaps(), b.gaps()), (1, 1));
    assert_eq!(a.metric("switchboard_bus_reconnects_total"), 1);
    assert_eq!(a.metric("switchboard_bus_up"), 1);
}

#[tokio::test]
async fn a_restart_heals_by_itself_and_is_a_gap() {
    down_and_back(Duration::ZERO).await;
}

#[tokio::test]
async fn a_long_outage_heals_by_itself_too() {
    down_and_back(Duration::from_secs(11)).await;
}

#[tokio::test]
async fn a_node_may_come_before_redis() {
    let mut server = Server::absent();
    let (mut a, mut b) = (server.node(), server.node());
    let stream = timeout(PATIENCE, b.bus.subscribe("s".into(), 8)).await;
    let mut stream = stream.expect("nothing to wait for").unwrap();
    assert!(a.bus.publish_all(Vec::new()).await.is_err());
    assert!(!a.bus.is_up());

    server.launch().await;
    a.up().await;
    b.up().await;
    talk(&mut a, &mut b).await;
    a.bus.publish("s".into(), b"x".to_vec()).await.unwrap();
    let got = timeout(PATIENCE, stream.next()).await.unwrap();
    assert_eq!(got.unwrap().1, b"x");
    assert_eq!((a.gaps(), b.gaps()), (0, 0));
    assert_eq!(a.metric("switchboard_bus_reconnects_total"), 0);
}

#[tokio::test]
async fn subscribed_while_down_is_heard_afterwards() {
    let mut server = Server::start().await;
    let node = server.node_up().await;
    server.kill();
    node.down().await;
    let mut stream = node.bus.subscribe("s".into(), 8).await.unwrap();
    let gone = node.bus.subscribe("t".into(), 8).await.unwrap();
    node.bus.unsubscribe("t".into()).await.unwrap();
    server.launch().await;
    node.up().await;
    node.bus.publish("s".into(), b"x".to_vec()).await.unwrap();
    let got = timeout(PATIENCE, stream.next()).await.unwrap();
    assert_eq!(got.unwrap().1, b"x");
    assert_eq!(node.bus.num_serv("t").await.unwrap(), 0);
    drop(gone);
}

#[tokio::test]
async fn a_redis_that_hangs_is_given_up_and_found_again() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.node_up().await, server.node_up().await);
    server.signal("STOP");
    let refused = timeout(PATIENCE, a.bus.publish_all(Vec::new())).await;
    assert!(refused.expect("a deadline").is_err());
    a.down().await;
    sleep(Duration::from_secs(5)).await;
    server.signal("CONT");
    a.gap_after(0).await;
    b.gap_after(0).await;
    while a.inbox.try_recv().is_ok() {}
    while b.inbox.try_recv().is_ok() {}
    talk(&mut a, &mut b).await;
}

#[tokio::test]
async fn closing_does_not_wait_for_a_redis_that_is_away() {
    let mut server = Server::start().await;
    let mut node = server.node_up().await;
    server.kill();
    node.down().await;
    node.bus.close().await;
    assert!(node.inbox.recv().await.is_none());
}
