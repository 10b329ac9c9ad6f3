//! What emitters publish, in a cluster: on whichever server, every node hears it.

use serde_json::json;
use switchboard::{auth, config::PythonIngress};

use crate::{
    cluster::Cluster,
    node::{Client, Node},
    redis_server::until,
};

const CHANNEL: &str = "socketio";

#[tokio::test]
async fn a_cluster_passes_on_what_is_published_on_any_of_its_servers() {
    auth::install_crypto().unwrap();
    let mut cluster = Cluster::start(0).await;
    for server in 0..3 {
        let () = cluster
            .run(server, "CONFIG SET cluster-require-full-coverage no")
            .await;
    }
    let mut nodes = Vec::new();
    for number in 0..2 {
        let listens = |config: &mut switchboard::Config| {
            config.ingress.python = Some(PythonIngress::default());
        };
        let node = Node::start_as(&cluster.config(), number, listens).await;
        node.ready().await;
        nodes.push(node);
    }
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(node.connect("listener").await);
    }
    heard_by_both(&cluster, &[0, 1, 2]).await;
    for server in 0..3 {
        publish(&cluster, server, &mut clients).await;
    }

    // The one that a node listens to dies: the node goes on with another.
    let mut dead = 0;
    while listeners(&cluster, dead).await == 0 {
        dead += 1;
    }
    cluster.kill(dead);
    let others: Vec<_> = (0..3).filter(|server| *server != dead).collect();
    heard_by_both(&cluster, &others).await;
    for server in others {
        publish(&cluster, server, &mut clients).await;
    }
}

/// How many nodes listen to a server.
async fn listeners(cluster: &Cluster, server: usize) -> u64 {
    let asked = format!("PUBSUB NUMSUB {CHANNEL}");
    let (_, listeners): (String, u64) = cluster.run(server, &asked).await;
    listeners
}

async fn heard_by_both(cluster: &Cluster, servers: &[usize]) {
    until("both nodes listen to one of them", async || {
        let mut all = 0;
        for server in servers {
            all += listeners(cluster, *server).await;
        }
        all == 2
    })
    .await;
}

/// Publishes on a server; each client hears it once, as it has heard nothing else before what comes next.
async fn publish(cluster: &Cluster, server: usize, clients: &mut [Client]) {
    let said = json!({ "method": "emit", "event": "news", "data": [server], "namespace": "/" });
    let _: u64 = cluster
        .run(server, &format!("PUBLISH {CHANNEL} {said}"))
        .await;
    for client in clients {
        assert_eq!(client.next_event().await, json!(["news", server]));
    }
}
