//! What goes between nodes: commands, and the receipts of those that carried them out.
//!
//! [`Peers`] asks and tells other nodes; `wire` is the format, `receipts` who was asked and what they have said.

pub(crate) mod receipts;
pub(crate) mod wire;

use std::{collections::HashSet, panic::resume_unwind, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use self::{
    receipts::{AskedNodes, Collected, Request, Requests},
    wire::{Command, Receipt},
};
use super::{GatewayError, lease::OwnLease, tasks::Tasks};
use crate::{
    bus::{Bus, BusError},
    connection::Instance,
    metrics::Metrics,
    registry::{Recipient, Registry, keys::Shard},
    telemetry::traces::carried,
};

/// The pause before other nodes are told once more of an order to end that Redis did not take.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// How long that goes on: as long as the registry keeps the order.
const TELLING: Duration = Duration::from_secs(3600);

/// Who is told of an order to end.
#[derive(Debug)]
pub(crate) enum Audience {
    /// A node, by its channel in a shard.
    Node(Shard, Instance),
    All,
}

/// The other nodes, as this one asks and tells them.
pub(crate) struct Peers {
    /// This node.
    pub(crate) instance: Instance,
    metrics: Metrics,
    registry: Arc<dyn Registry>,
    bus: Arc<Bus>,
    lease: Arc<OwnLease>,
    tasks: Tasks,
    requests: Requests,
}

impl Peers {
    /// The peers of a node that has asked nothing yet.
    pub(crate) fn new(
        instance: Instance,
        metrics: Metrics,
        registry: Arc<dyn Registry>,
        bus: Arc<Bus>,
        lease: Arc<OwnLease>,
        tasks: Tasks,
    ) -> Self {
        Self {
            instance,
            metrics,
            registry,
            bus,
            lease,
            tasks,
            requests: Requests::default(),
        }
    }

    /// Runs `work` where the links are served, and to its end though the caller goes away. On a node that runs alone it is a part of the
    /// caller.
    ///
    /// # Errors
    ///
    /// [`BusError::Unanswered`] if the links end before it.
    pub(crate) async fn beside_links<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, BusError> {
        if let Bus::Memory(_) = &*self.bus {
            return Ok(work.await);
        }
        let done = self.bus.spawn(carried(work)).await;
        done.map_err(|error| match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(error) => BusError::Unanswered(error.to_string()),
        })
    }

    /// Opens a request that waits for receipts.
    pub(crate) fn open(&self) -> Request<'_> {
        self.requests.open()
    }

    /// Opens a request; returns it with the bytes to publish.
    pub(crate) fn request(&self, command: &Command<'_>) -> (Request<'_>, Vec<u8>) {
        let request = self.open();
        let payload = wire::command(request.number(), command);
        (request, payload)
    }

    /// Takes a receipt in for the request that it names.
    pub(crate) fn receipted(&self, from: &Instance, receipt: Receipt) {
        self.requests.receipted(from, receipt);
    }

    /// Posts receipts to the node that asked. Where that is this node, they are taken in at once.
    pub(crate) fn confirm(&self, to: &Instance, receipts: Vec<Receipt>) {
        if *to != self.instance {
            return self.bus.post(to, &wire::receipts(&receipts));
        }
        for receipt in receipts {
            self.receipted(to, receipt);
        }
    }

    /// Posts a command to nodes, none of which answers. What can't go out is counted.
    pub(crate) fn post(&self, to: &[Instance], command: &Command<'_>) {
        let payload = wire::command(0, command);
        for node in to {
            self.bus.post(node, &payload);
        }
    }

    /// Changes when messages to this node may have been lost.
    pub(crate) fn gaps(&self) -> watch::Receiver<u64> {
        self.bus.gaps()
    }

    /// The nodes that are known, and this one.
    fn everybody(&self) -> HashSet<Instance> {
        let mut nodes = self.registry.known();
        nodes.insert(self.instance.clone());
        nodes
    }

    /// Publishes to all nodes, this one among them; again and again where Redis does not take it. Counts on all that are known then.
    pub(crate) async fn ask_all_surely(
        self: &Arc<Self>,
        command: &Command<'_>,
    ) -> (Request<'_>, AskedNodes) {
        let (request, payload) = self.request(command);
        let nodes = self.everybody();
        let heard = match self.bus.publish_all(&payload).await {
            Ok(heard) => heard as usize,
            Err(error) => {
                tracing::warn!(%error, "can't tell of a revoked token, and tries again");
                self.tell_surely(Audience::All, payload);
                nodes.len()
            }
        };
        (request, AskedNodes::all(nodes, heard))
    }

    /// Publishes to the other nodes that hold a recipient: returns the request (none if no other node does), and whether this
    /// node holds one.
    pub(crate) async fn ask_holders(
        &self,
        recipient: &Recipient,
        command: &Command<'_>,
    ) -> Result<(Option<(Request<'_>, AskedNodes)>, bool), GatewayError> {
        // An id that names no shard is nobody's.
        let Some(shard) = recipient.shard(self.registry.shards()) else {
            return Ok((None, false));
        };
        let mut holders = self
            .lease
            .vouched(Some(shard), self.registry.holders(recipient))
            .await?;
        let all = holders.len();
        holders.retain(|holder| *holder != self.instance);
        let mine = holders.len() < all;
        if holders.is_empty() {
            return Ok((None, mine));
        }
        let (request, payload) = self.request(command);
        let listen = self.bus.publish(shard, &holders, &payload).await?;
        for (holder, _) in holders
            .iter()
            .zip(&listen)
            .filter(|(_, listens)| !**listens)
        {
            self.metrics.messages_dropped("node_deaf").increment(1);
            tracing::warn!(node = %holder, "a node that holds connections does not listen");
        }
        let asked = AskedNodes::holders(holders.into_iter().zip(listen));
        Ok((Some((request, asked)), mine))
    }

    /// Publishes to the other nodes that hold a recipient, and waits for no receipts. Returns whether this node holds one.
    pub(crate) async fn hint_holders(
        &self,
        recipient: &Recipient,
        command: &Command<'_>,
    ) -> Result<bool, GatewayError> {
        let mut holders = self.registry.holders(recipient).await?;
        let all = holders.len();
        holders.retain(|holder| *holder != self.instance);
        if let Some(shard) = recipient.shard(self.registry.shards())
            && !holders.is_empty()
        {
            let payload = wire::command(0, command);
            self.bus.publish(shard, &holders, &payload).await?;
        }
        Ok(holders.len() < all)
    }

    /// Publishes to all nodes, this one among them.
    pub(crate) async fn ask_all(
        &self,
        command: &Command<'_>,
    ) -> Result<(Request<'_>, AskedNodes), GatewayError> {
        self.lease.vouch(None)?;
        let (request, payload) = self.request(command);
        let heard = self.bus.publish_all(&payload).await?;
        Ok((request, AskedNodes::all(self.everybody(), heard as usize)))
    }

    /// Takes nodes that have died off the unconfirmed of a request to all: this node hears of a death with its next heartbeat
    /// only.
    pub(crate) async fn forget_the_dead(&self, collected: &mut Collected) {
        if collected.unconfirmed > 0
            && let Ok(nodes) = self.registry.nodes().await
        {
            let silent = (nodes.len() as u64).saturating_sub(collected.nodes);
            collected.unconfirmed = collected.unconfirmed.min(silent);
        }
    }

    /// Tells all nodes, and waits for no receipts.
    pub(crate) async fn tell_all(&self, command: Command<'_>) {
        let payload = wire::command(0, &command);
        if let Err(error) = self.bus.publish_all(&payload).await {
            // Their next heartbeat comes without it.
            tracing::debug!(%error, "can't tell the other nodes");
        }
    }

    /// Tells other nodes of an order to end; again and again where Redis does not take it. The order stands in the registry, but
    /// only a node whose own link broke looks there by itself.
    pub(crate) fn tell_surely(self: &Arc<Self>, to: Audience, command: Vec<u8>) {
        let peers = self.clone();
        self.tasks.spawn(async move {
            let until = Instant::now() + TELLING;
            while let Err(error) = peers.tell(&to, &command).await
                && Instant::now() < until
            {
                tracing::warn!(?to, %error, "can't tell of an order to end, and tries again");
                tokio::time::sleep(TELL_AGAIN).await;
            }
        });
    }

    async fn tell(&self, to: &Audience, command: &[u8]) -> Result<(), BusError> {
        match to {
            Audience::Node(shard, node) => {
                let nodes = std::slice::from_ref(node);
                self.bus.publish(*shard, nodes, command).await.map(drop)
            }
            Audience::All => self.bus.publish_all(command).await.map(drop),
        }
    }
}
