//! Redis goes away and comes back. No test here issues a command that could wake a link up.

use std::time::Duration;

use futures_util::FutureExt as _;
use switchboard::bus::BusError;
use tokio::time::{sleep, timeout};

use crate::{
    node::talk,
    server::{PATIENCE, Server, until},
};

async fn down_and_back(outage: Duration) {
    let mut server = Server::start().await;
    let (mut a, mut b) = (server.node_up().await, server.node_up().await);
    talk(&mut a, &mut b).await;

    server.kill();
    a.down().await;
    b.down().await;
    // The link that listens may have noticed before the one that publishes.
    until("a publish fails without waiting", async || {
        let refused = a.bus.publish_all(b"").now_or_never();
        matches!(refused, Some(Err(BusError::NotSent(_))))
    })
    .await;
    a.bus.post(&b.instance, b"lost");
    assert_eq!(a.dropped("unpublished"), 1);
    assert_eq!((a.gaps(), a.metric("switchboard_bus_up")), (0, 0));

    sleep(outage).await;
    server.launch().await;
    a.gap_after(0).await;
    b.gap_after(0).await;
    assert!(a.bus.is_up() && b.bus.is_up());
    talk(&mut a, &mut b).await;
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
    assert!(a.bus.publish_all(b"").await.is_err());
    assert!(!a.bus.is_up());

    server.launch().await;
    a.up().await;
    b.up().await;
    talk(&mut a, &mut b).await;
    assert_eq!((a.gaps(), b.gaps()), (0, 0));
    assert_eq!(a.metric("switchboard_bus_reconnects_total"), 0);
}

#[tokio::test]
async fn a_redis_that_hangs_is_given_up_and_found_again() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.node_up().await, server.node_up().await);
    server.signal("STOP");
    let refused = timeout(PATIENCE, a.bus.publish_all(b"")).await;
    let refused = refused.expect("a deadline");
    assert!(
        matches!(refused, Err(BusError::Unanswered(_))),
        "{refused:?}"
    );
    a.down().await;
    sleep(Duration::from_secs(5)).await;
    server.signal("CONT");
    a.gap_after(0).await;
    b.gap_after(0).await;
    while a.inbox.try_recv().is_ok() {}
    while b.inbox.try_recv().is_ok() {}
    talk(&mut a, &mut b).await;
}

/// What is refused was published to nobody, and what is left unanswered may have been.
#[tokio::test]
async fn what_redis_refuses_is_told_from_what_it_leaves_unanswered() {
    let server = Server::start().await;
    let (a, mut b) = (server.node_up().await, server.node_up().await);
    let () = server.run("ACL SETUSER default -spublish").await;
    let refused = a.bus.publish_all(b"refused").await;
    assert!(matches!(refused, Err(BusError::NotSent(_))), "{refused:?}");
    let () = server.run("ACL SETUSER default +spublish").await;
    // Reads are answered meanwhile, and PINGs: the link stays up.
    let () = server.run("CLIENT PAUSE 2000 WRITE").await;
    let unanswered = a.says(&b.instance, b"unanswered").await;
    assert!(
        matches!(unanswered, Err(BusError::Unanswered(_))),
        "{unanswered:?}"
    );
    let () = server.run("CLIENT UNPAUSE").await;
    assert_eq!(b.hears().await, b"unanswered", "and it was published");
    assert_eq!((a.gaps(), b.gaps()), (0, 0));
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
