//! What arrives where, with Redis well.

use redis::AsyncCommands as _;
use switchboard::{
    bus::{Bus, INBOX_CAPACITY, seal::Seal},
    connection::Instance,
    registry::keys::{Keys, Shard, Shards},
};
use tokio::time::timeout;

use crate::{
    node::SECRET,
    server::{PATIENCE, Server, until},
};

const ALL: &str = "test:2:{nodes}:bus:all";

/// The seal of a node that has no bus.
fn another() -> Seal {
    Seal::new(&Instance::random(), &[SECRET.into()])
}

#[tokio::test]
async fn a_node_is_heard_and_nobody_is_not() {
    let server = Server::start().await;
    let (a, mut b) = (server.node_up().await, server.node_up().await);
    assert!(a.says(&b.instance, b"hi").await.unwrap());
    assert_eq!(b.hears().await, b"hi");
    let nobody = Instance::random();
    assert!(!a.says(&nobody, b"hi").await.unwrap());
    assert_eq!(
        a.metric("switchboard_bus_messages_total{direction=\"out\"}"),
        2
    );
    assert_eq!(
        b.metric("switchboard_bus_messages_total{direction=\"in\"}"),
        1
    );
    assert_eq!(b.metric("switchboard_bus_up"), 1);
}

/// In one go, and of each it is known whether it listens.
#[tokio::test]
async fn what_is_for_several_reaches_each_of_them() {
    let server = Server::start().await;
    let mut a = server.node_up().await;
    let (mut b, mut c) = (server.node_up().await, server.node_up().await);
    let nobody = Instance::random();
    let to = [b.instance.clone(), nobody, c.instance.clone()];
    for shard in Shards::default().all() {
        let payload = [shard.index() as u8];
        let heard = a.bus.publish(shard, &to, &payload).await.unwrap();
        assert_eq!(heard, [true, false, true]);
        assert_eq!(b.hears().await, payload);
        assert_eq!(c.hears().await, payload);
    }
    assert!(a.inbox.try_recv().is_err());
}

/// Whatever of it waits for an answer and whatever does not.
#[tokio::test]
async fn what_one_node_says_comes_in_the_order_in_which_it_was_said() {
    let server = Server::start().await;
    let (a, mut b) = (server.node_up().await, server.node_up().await);
    let said: Vec<_> = (0..2000_u16).map(u16::to_be_bytes).collect();
    let saying = said
        .iter()
        .enumerate()
        .map(async |(nth, payload)| match nth % 3 {
            0 => a.bus.post(&b.instance, payload),
            1 => drop(a.says(&b.instance, payload).await.unwrap()),
            _ => assert_eq!(a.bus.publish_all(payload).await.unwrap(), 2),
        });
    // All in one go, and in order: a task that has used up its budget would go on with the others.
    tokio::task::unconstrained(futures_util::future::join_all(saying)).await;
    for payload in &said {
        assert_eq!(b.hears().await, payload);
    }
}

#[tokio::test]
async fn all_hear_what_is_for_all_the_publisher_too() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.node_up().await, server.node_up().await);
    for n in 0..100_u8 {
        assert_eq!(a.bus.publish_all(&[n]).await.unwrap(), 2);
    }
    for n in 0..100_u8 {
        assert_eq!(a.hears().await, [n]);
        assert_eq!(b.hears().await, [n]);
    }
    assert_eq!((a.gaps(), b.gaps()), (0, 0));
}

#[tokio::test]
async fn prefixes_keep_fleets_apart() {
    let server = Server::start().await;
    let (a, _b) = (server.node_up().await, server.node_up().await);
    let metrics = &a.metrics;
    let (other, _inbox) = Bus::redis(
        &server.servers_of(""),
        "test2",
        Shards::default(),
        &a.instance,
        &[],
        metrics,
    );
    until("the other fleet is up", async || other.is_up()).await;
    assert_eq!(other.publish_all(b"").await.unwrap(), 1);
    assert_eq!(a.bus.publish_all(b"").await.unwrap(), 2);
}

#[tokio::test]
async fn a_slow_reader_loses_what_does_not_fit_and_it_is_counted() {
    let server = Server::start().await;
    let mut node = server.node_up().await;
    let mut connection = server.connection().await;
    let from = another();
    let excess = 100;
    let mut pipeline = redis::pipe();
    for n in 0..INBOX_CAPACITY + excess {
        pipeline
            .cmd("SPUBLISH")
            .arg(ALL)
            .arg(from.seal(ALL, n.to_string().as_bytes()))
            .ignore();
    }
    pipeline.exec_async(&mut connection).await.unwrap();
    until("what does not fit is dropped", async || {
        node.gaps() == excess as u64
    })
    .await;
    let dropped = "switchboard_messages_dropped_total{reason=\"bus_full\"}";
    assert_eq!(node.metric(dropped), excess as u64);
    for n in 0..INBOX_CAPACITY {
        assert_eq!(node.hears().await, n.to_string().as_bytes());
    }
    assert!(node.bus.is_up());
    assert!(node.says(&node.instance, b"on").await.unwrap());
    assert_eq!(node.hears().await, b"on");
}

#[tokio::test]
async fn garbage_is_just_bytes() {
    let server = Server::start().await;
    let mut node = server.node_up().await;
    let mut connection = server.connection().await;
    let huge = vec![0xff; 4 << 20];
    let from = another();
    let payloads: [&[u8]; 5] = [b"", b"\0", b"\xff\xfe\r\n$-1\r\n", b">3\r\n", &huge];
    let own = Keys::new("test").node_channel(Shard::FIRST, &node.instance);
    for payload in payloads {
        for channel in [ALL, &own] {
            let sealed = from.seal(channel, payload);
            let heard: u64 = connection.spublish(channel, sealed).await.unwrap();
            assert_eq!(heard, 1);
        }
        assert_eq!(node.hears().await, payload);
        assert_eq!(node.hears().await, payload);
    }
    assert!(node.bus.is_up());
    assert_eq!(node.gaps(), 0);
}

#[tokio::test]
async fn close_unsubscribes_and_ends_what_is_read() {
    let server = Server::start().await;
    let (mut node, other) = (server.node_up().await, server.node_up().await);
    node.bus.close().await;
    assert_eq!(server.subscribers("test:2:{nodes}:bus:all").await, 1);
    assert!(!other.says(&node.instance, b"").await.unwrap());
    assert!(node.inbox.recv().await.is_none());
    assert!(!node.bus.is_up());
    assert!(node.bus.publish_all(b"").await.is_err());
    node.bus.close().await;
}

#[tokio::test]
async fn the_last_handle_takes_the_links_with_it() {
    let server = Server::start().await;
    let mut node = server.node_up().await;
    let clone = node.bus.clone();
    let (alone, _inbox) = Bus::memory(&node.instance);
    node.bus = alone;
    assert!(clone.is_up());
    assert_eq!(clone.publish_all(b"still").await.unwrap(), 1);
    assert_eq!(node.hears().await, b"still");
    drop(clone);
    let end = timeout(PATIENCE, node.inbox.recv()).await;
    assert_eq!(end.expect("the inbox ends"), None);
    until("Redis has lost the links", async || {
        let clients: String = server.run("CLIENT LIST").await;
        clients.lines().count() == 1
    })
    .await;
}
