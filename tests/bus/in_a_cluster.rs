//! The bus around a cluster, whose channels are on several servers.

use switchboard::{
    connection::Instance,
    link::Slot,
    registry::keys::{Keys, Shard, Shards},
};

use crate::{
    cluster::Cluster,
    node::{Node, SECRET, talk},
    server::until,
};

async fn node_up(cluster: &Cluster) -> Node {
    let node = Node::of(&cluster.servers(), &[SECRET]);
    node.up().await;
    node
}

/// Publishes to a node in each shard, as sends do; the node hears all of it.
async fn heard_in_every_shard(from: &Node, to: &mut Node) {
    for shard in Shards::default().all() {
        let payload = [shard.index() as u8];
        assert!(from.says_in(shard, &to.instance, &payload).await.unwrap());
        assert_eq!(to.hears().await, payload);
    }
}

/// Both ways between two nodes, and in every shard.
async fn talk_in_every_shard(a: &mut Node, b: &mut Node) {
    talk(a, b).await;
    heard_in_every_shard(a, b).await;
    // Whatever way it took.
    for node in [a, b] {
        assert_eq!((node.dropped("forged"), node.dropped("replayed")), (0, 0));
    }
}

#[tokio::test]
async fn nodes_are_heard_on_all_servers() {
    let cluster = Cluster::start(0).await;
    let (mut a, mut b) = (node_up(&cluster).await, node_up(&cluster).await);
    talk_in_every_shard(&mut a, &mut b).await;
    let nobody = Instance::random();
    assert!(!a.says(&nobody, b"").await.unwrap());
    assert_eq!((a.gaps(), b.gaps()), (0, 0));
    b.bus.close().await;
    assert_eq!(a.bus.publish_all(b"").await.unwrap(), 1);
    for server in 0..3 {
        let killed: u64 = cluster.run(server, "CLIENT KILL TYPE pubsub").await;
        assert_eq!(killed, 1);
    }
    a.gap_after(0).await;
    until("all is heard again", async || a.bus.is_up()).await;
    assert_eq!(a.bus.publish_all(b"").await.unwrap(), 1);
}

#[tokio::test]
async fn a_channel_whose_slot_moves_is_followed_and_that_is_a_gap() {
    let cluster = Cluster::start(0).await;
    let (mut a, mut b) = (node_up(&cluster).await, node_up(&cluster).await);
    let slot = Keys::new("test").slot_of(Shard::FIRST);
    let from = cluster.master_of(slot).await.unwrap();
    cluster.move_slot(slot, from, (from + 1) % 3).await;
    a.gap_after(0).await;
    b.gap_after(0).await;
    until("both hear", async || {
        a.bus.is_up() && b.bus.is_up() && {
            a.says(&b.instance, b"?").await.is_ok_and(|heard| heard)
        }
    })
    .await;
    while b.hears().await != b"?" {}
    while b.inbox.try_recv().is_ok() {}
    talk_in_every_shard(&mut a, &mut b).await;
}

#[tokio::test]
async fn a_server_that_dies_is_a_gap_once_its_replica_is_heard() {
    let mut cluster = Cluster::start(1).await;
    let (mut a, mut b) = (node_up(&cluster).await, node_up(&cluster).await);
    let slot: Slot = Keys::new("test").slot_of(Shard::FIRST);
    let master = cluster.master_of(slot).await.unwrap();
    cluster.kill(master);
    a.down().await;
    b.down().await;
    assert_eq!((a.gaps(), b.gaps()), (0, 0));
    // What the others have still goes.
    let keys = Keys::new("test");
    let another = Shards::default()
        .all()
        .find(|shard| keys.slot_of(*shard).number() / 5462 != slot.number() / 5462);
    let heard = a.says_in(another.unwrap(), &b.instance, b"on").await;
    assert!(heard.unwrap());
    assert_eq!(b.hears().await, b"on");
    a.gap_after(0).await;
    b.gap_after(0).await;
    while a.inbox.try_recv().is_ok() {}
    while b.inbox.try_recv().is_ok() {}
    talk_in_every_shard(&mut a, &mut b).await;
}
