//! What a node has of the bus.

use switchboard::{
    bus::{Bus, BusError, Inbox, Received},
    connection::Instance,
    link::Servers,
    metrics::Metrics,
    registry::keys::{Shard, Shards},
};
use tokio::time::timeout;

use crate::server::{PATIENCE, Server, until};

impl Server {
    /// A node's bus, which may not be up yet.
    pub(crate) fn node(&self) -> Node {
        self.node_as("")
    }

    pub(crate) fn node_as(&self, login: &str) -> Node {
        Node::of(&self.servers_of(login), &[SECRET])
    }

    /// A node's bus that is up.
    pub(crate) async fn node_up(&self) -> Node {
        let node = self.node();
        node.up().await;
        node
    }
}

/// What seals the messages of most nodes.
pub(crate) const SECRET: &str = "the fleet's secret";

/// A node's bus, and what comes in.
pub(crate) struct Node {
    pub(crate) bus: Bus,
    pub(crate) inbox: Inbox,
    pub(crate) instance: Instance,
    pub(crate) metrics: Metrics,
}

impl Node {
    /// A node's bus, with secrets of its own.
    pub(crate) fn of(servers: &Servers, secrets: &[&str]) -> Self {
        let (instance, metrics) = (Instance::random(), Metrics::new().unwrap());
        let secrets: Vec<_> = secrets.iter().map(|secret| (*secret).into()).collect();
        let (bus, inbox) = Bus::redis(
            servers,
            "test",
            Shards::default(),
            &instance,
            &secrets,
            &metrics,
        );
        Self {
            bus,
            inbox,
            instance,
            metrics,
        }
    }

    pub(crate) async fn up(&self) {
        until("the bus is up", async || self.bus.is_up()).await;
    }

    pub(crate) async fn down(&self) {
        until("the bus is down", async || !self.bus.is_up()).await;
    }

    pub(crate) fn gaps(&self) -> u64 {
        *self.bus.gaps().borrow()
    }

    /// Waits for a number of gaps that is greater.
    pub(crate) async fn gap_after(&self, before: u64) {
        let mut gaps = self.bus.gaps();
        let gap = gaps.wait_for(|gaps| *gaps > before);
        timeout(PATIENCE, gap).await.expect("a gap").unwrap();
    }

    /// Publishes to one node; says whether it listens.
    pub(crate) async fn says(&self, to: &Instance, payload: &[u8]) -> Result<bool, BusError> {
        self.says_in(Shard::FIRST, to, payload).await
    }

    pub(crate) async fn says_in(
        &self,
        shard: Shard,
        to: &Instance,
        payload: &[u8],
    ) -> Result<bool, BusError> {
        let heard = self
            .bus
            .publish(shard, std::slice::from_ref(to), payload)
            .await?;
        Ok(heard == [true])
    }

    pub(crate) async fn hears(&mut self) -> Vec<u8> {
        self.receives().await.payload
    }

    pub(crate) async fn receives(&mut self) -> Received {
        let message = timeout(PATIENCE, self.inbox.recv()).await;
        message.expect("a message").expect("an open inbox")
    }

    /// How many messages it has dropped for this reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "switchboard_messages_dropped_total{{reason=\"{reason}\"}}"
        ))
    }

    /// The value of a series, by its name and labels as they are rendered.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| {
            let value = line.strip_prefix(series)?;
            value.strip_prefix(' ')?.parse().ok()
        });
        line.unwrap_or_else(|| panic!("no {series} in:\n{text}"))
    }
}

/// Both ways between two nodes.
pub(crate) async fn talk(a: &mut Node, b: &mut Node) {
    assert!(a.says(&b.instance, b"to b").await.unwrap());
    assert_eq!(b.hears().await, b"to b");
    a.bus.post(&b.instance, b"by the way");
    assert_eq!(b.hears().await, b"by the way");
    assert_eq!(b.bus.publish_all(b"to all").await.unwrap(), 2);
    assert_eq!(a.hears().await, b"to all");
    assert_eq!(b.hears().await, b"to all");
}
