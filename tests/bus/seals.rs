//! What others than the nodes of the fleet put on the bus, and what they put there again.

use redis::AsyncCommands as _;
use switchboard::{
    bus::Received,
    connection::Instance,
    link::Servers,
    registry::keys::{Keys, Shard},
};
use tokio::time::timeout;

use crate::{
    name::Named,
    node::{Node, SECRET, talk},
    server::{PATIENCE, Server, until},
};

const ALL: &str = "test:2:{nodes}:bus:all";

/// A program that has Redis' password.
struct Attacker {
    connection: redis::aio::MultiplexedConnection,
    heard: tokio::sync::mpsc::UnboundedReceiver<redis::PushInfo>,
}

impl Attacker {
    async fn listening(server: &Server, channels: &[&str]) -> Self {
        let client = redis::Client::open(format!("{}?protocol=resp3", server.url())).unwrap();
        let (push, heard) = tokio::sync::mpsc::unbounded_channel();
        let config = redis::AsyncConnectionConfig::new().set_push_sender(push);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .unwrap();
        for channel in channels {
            let mut subscribe = redis::cmd("SSUBSCRIBE");
            subscribe.arg(channel);
            let () = subscribe.query_async(&mut connection).await.unwrap();
        }
        Self { connection, heard }
    }

    /// The next message, as it is on the wire.
    async fn captures(&mut self) -> Vec<u8> {
        loop {
            let push = timeout(PATIENCE, self.heard.recv()).await.unwrap().unwrap();
            if push.kind == redis::PushKind::SMessage
                && let [_, redis::Value::BulkString(message)] = &push.data[..]
            {
                return message.clone();
            }
        }
    }

    async fn publishes(&mut self, channel: &str, message: &[u8]) {
        let heard: u64 = self.connection.spublish(channel, message).await.unwrap();
        assert!(heard > 0, "nobody hears {channel}");
    }
}

fn own(node: &Node) -> String {
    Keys::new("test").node_channel(Shard::FIRST, &node.instance)
}

/// It has dropped so many, and nothing came of them: no message, and no gap.
async fn only_dropped(node: &mut Node, forged: u64, replayed: u64) {
    until("it is dropped", async || {
        node.dropped("forged") == forged && node.dropped("replayed") == replayed
    })
    .await;
    assert!(node.inbox.try_recv().is_err());
    assert_eq!(node.gaps(), 0);
    assert!(node.bus.is_up());
}

#[tokio::test]
async fn what_was_captured_counts_once() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.node_up().await, server.node_up().await);
    let to_b = own(&b);
    for (nth, channel) in [ALL, &to_b].into_iter().enumerate() {
        let mut attacker = Attacker::listening(&server, &[channel]).await;
        match channel == ALL {
            true => drop(a.bus.publish_all(b"x").await.unwrap()),
            false => assert!(a.says(&b.instance, b"x").await.unwrap()),
        }
        let from = a.instance.clone();
        let payload = b"x".to_vec();
        assert_eq!(b.receives().await, Received { from, payload });
        let captured = attacker.captures().await;
        for _ in 0..2 {
            attacker.publishes(channel, &captured).await;
        }
        only_dropped(&mut b, 0, 2 * (nth as u64 + 1)).await;
    }
    while a.inbox.try_recv().is_ok() {}
    talk(&mut a, &mut b).await;
}

#[tokio::test]
async fn what_was_altered_or_moved_does_not_count() {
    let server = Server::start().await;
    let (mut a, mut b, mut c) = (
        server.node_up().await,
        server.node_up().await,
        server.node_up().await,
    );
    let (to_b, to_c) = (own(&b), own(&c));
    let mut attacker = Attacker::listening(&server, &[&to_b]).await;
    assert!(a.says(&b.instance, b"hello").await.unwrap());
    assert_eq!(b.hears().await, b"hello");
    let captured = attacker.captures().await;

    let payload = [b"j", &captured[1..]].concat();
    let sender = String::from_utf8_lossy(&captured[5..16]).into_owned();
    assert_eq!(sender, a.instance.as_str());
    let another = [
        &captured[..5],
        c.instance.as_str().as_bytes(),
        &captured[16..],
    ]
    .concat();
    let mut later = captured.clone();
    later[23] += 1;
    let forged = [
        &payload[..],
        &another,
        &later,
        b"",
        b"hello",
        &captured[1..],
    ];
    for message in forged {
        attacker.publishes(&to_b, message).await;
    }
    only_dropped(&mut b, forged.len() as u64, 0).await;
    attacker.publishes(&to_c, &captured).await;
    only_dropped(&mut c, 1, 0).await;
    attacker.publishes(ALL, &captured).await;
    only_dropped(&mut c, 2, 0).await;
    only_dropped(&mut a, 1, 0).await;
    // No number was used up by any of it.
    only_dropped(&mut b, forged.len() as u64 + 1, 0).await;
    assert!(a.says(&b.instance, b"on").await.unwrap());
    assert_eq!(b.hears().await, b"on");
}

async fn up(servers: &Servers, secrets: &[&str]) -> Node {
    let node = Node::of(servers, secrets);
    node.up().await;
    node
}

#[tokio::test]
async fn only_those_who_have_a_secret_of_the_fleet_are_heard() {
    let server = Server::start().await;
    let servers = server.servers_of("");
    let mut old = up(&servers, &[SECRET]).await;
    let (both, new) = (
        up(&servers, &["another one", SECRET]).await,
        up(&servers, &["another one"]).await,
    );
    let nobody = up(&servers, &[]).await;
    let says = async |from: &Node, to: &Instance| from.says(to, b"x").await;
    for (nth, from) in [&both, &new, &nobody].into_iter().enumerate() {
        assert!(says(from, &old.instance).await.unwrap());
        only_dropped(&mut old, nth as u64 + 1, 0).await;
    }
    let mut both = both;
    assert!(says(&old, &both.instance).await.unwrap());
    assert_eq!(both.receives().await.from, old.instance);
    assert!(says(&new, &both.instance).await.unwrap());
    assert_eq!(both.receives().await.from, new.instance);
    // As a reload does it.
    old.bus.rekey(&[SECRET.into(), "another one".into()]);
    assert!(says(&both, &old.instance).await.unwrap());
    assert_eq!(old.receives().await.from, both.instance);
    let mut nobody = nobody;
    assert!(says(&old, &nobody.instance).await.unwrap());
    only_dropped(&mut nobody, 1, 0).await;
}

#[tokio::test]
async fn what_comes_out_of_order_or_over_new_links_is_no_replay() {
    let named = Named::start().await;
    let servers = named.servers();
    let (mut a, mut b) = (up(&servers, &[SECRET]).await, up(&servers, &[SECRET]).await);
    let many = (0..500_u16).map(|n| {
        let (bus, to) = (a.bus.clone(), b.instance.clone());
        tokio::spawn(async move { bus.publish(Shard::FIRST, &[to], &n.to_be_bytes()).await })
    });
    for sent in many.collect::<Vec<_>>() {
        assert_eq!(sent.await.unwrap().unwrap(), [true]);
    }
    let mut heard = Vec::new();
    for _ in 0..500 {
        heard.push(b.hears().await);
    }
    heard.sort();
    heard.dedup();
    assert_eq!(heard.len(), 500);

    named.change_places().await;
    a.down().await;
    b.down().await;
    named.lead_on();
    a.gap_after(0).await;
    b.gap_after(0).await;
    until("both hear", async || {
        let heard = a.bus.publish_all(b"?").await;
        heard.is_ok_and(|heard| heard == 2)
    })
    .await;
    for node in [&mut a, &mut b] {
        while node.hears().await != b"?" {}
        assert_eq!((node.dropped("forged"), node.dropped("replayed")), (0, 0));
    }
}
