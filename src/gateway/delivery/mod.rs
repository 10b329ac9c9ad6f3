//! Handing messages to connections: on this node, and through the nodes that hold recipients.

pub(crate) mod acks;
mod in_rooms;
mod repeats;
mod traced;

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use crate::gateway::{
    GatewayError,
    connections::{
        LocalConnections,
        local::{LocalConnection, NotSent},
    },
    delivery::{acks::AckBudget, repeats::Repeats},
    lease::OwnLease,
    message::{AckReply, Acked, Answer, Delivery, Message, Target},
    peers::{
        Peers,
        receipts::{AskedNodes, Collected, Request},
        wire::Command,
    },
    tail::Happening,
};
use crate::{
    config::RunningConfig,
    connection::ConnectionId,
    metrics::Metrics,
    telemetry::traces::{Span, Traces},
    transport::{EventFrames, Writes},
};

/// How long a send waits for the receipts of other nodes. Who has not confirmed by then is unconfirmed.
const RECEIPTS: Duration = Duration::from_secs(1);

/// What became of a message on one node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Handed {
    /// How many connections have it in their queues.
    pub(crate) connections: u64,
    /// A recipient is here, or may be, and did not get it.
    missed: bool,
}

impl Handed {
    const WITHHELD: Self = Self {
        connections: 0,
        missed: true,
    };

    /// Whether no connection got it although a recipient may be here: to say that there is none would be wrong.
    pub(crate) fn is_withheld(self) -> bool {
        self.missed && self.connections == 0
    }

    /// Says in a span what became of its message on this node.
    pub(crate) fn tell(self, span: &Span) {
        span.set("switchboard.connections", self.connections as i64);
        span.set("switchboard.withheld", self.is_withheld());
    }

    /// Corrects the outcome once it is known whether the registry lists a recipient on this node: a connection that it does not list
    /// has not arrived yet, and was not missed.
    fn of(self, listed: bool) -> Self {
        Self {
            missed: self.missed && listed,
            ..self
        }
    }
}

/// Hands messages to connections: to this node's, and through other nodes to theirs.
pub(crate) struct Deliverer {
    config: RunningConfig,
    metrics: Metrics,
    lease: Arc<OwnLease>,
    connections: Arc<LocalConnections>,
    peers: Arc<Peers>,
    repeats: Repeats,
    traces: Traces,
}

impl Deliverer {
    /// To these connections, and to those of other nodes.
    pub(crate) fn new(
        config: RunningConfig,
        metrics: Metrics,
        lease: Arc<OwnLease>,
        connections: Arc<LocalConnections>,
        peers: Arc<Peers>,
        traces: Traces,
    ) -> Self {
        Self {
            config,
            metrics,
            lease,
            connections,
            peers,
            repeats: Repeats::default(),
            traces,
        }
    }

    /// How many bytes a message may have, as JSON.
    pub(crate) fn max_payload(&self) -> usize {
        self.config.now().limits.max_payload.as_u64() as usize
    }

    /// Refuses a namespace that the configuration does not have.
    pub(crate) fn check_namespace(&self, namespace: &str) -> Result<(), GatewayError> {
        let config = self.config.now();
        match config.namespaces.iter().any(|it| it.path == namespace) {
            true => Ok(()),
            false => Err(GatewayError::UnknownNamespace(namespace.to_owned())),
        }
    }

    /// Hands a message to its recipients on this node. Never waits. Hands it to nobody while this node does not vouch for its
    /// connections: others may have been told that they are gone.
    pub(crate) fn deliver(&self, target: &Target, message: &Message) -> Handed {
        if !self.may_deliver(target, &message.namespace) {
            return Handed::WITHHELD;
        }
        let Some(id) = &message.id else {
            return self.hand_over(target, message);
        };
        let hand = || self.hand_over(target, message);
        match self.repeats.once(id, hand, |handed| handed.connections) {
            Ok(handed) => handed,
            Err(connections) => Handed {
                connections,
                missed: false,
            },
        }
    }

    fn hand_over(&self, target: &Target, message: &Message) -> Handed {
        let handed = self.hand_to_each(&self.here(target, message), message);
        self.handed(target, message, handed);
        handed
    }

    /// Counts what was handed to connections of this node, and tells followers of the tail.
    fn handed(&self, target: &Target, message: &Message, handed: Handed) {
        self.metrics
            .messages_delivered(target.kind())
            .increment(handed.connections);
        self.connections.tail.tell(|| Happening::Message {
            kind: target.kind(),
            to: target.name(),
            namespace: &message.namespace,
            event: &message.event,
            bytes: message.weight(),
            connections: handed.connections,
        });
    }

    fn hand_to_each(&self, connections: &[Arc<LocalConnection>], message: &Message) -> Handed {
        let (limit, mut handed) = (self.connections.send_queue_bytes(), Handed::default());
        let args = message.arguments();
        // Not for one: its frames would be written alone, where the engine writes all that has come by then.
        let frames = (connections.len() > 1)
            .then(|| EventFrames::of(&message.namespace, &message.event, &args))
            .flatten();
        let mut writes = Writes::default();
        for connection in connections {
            let frames = frames.as_ref();
            let sent = connection.send(message, &args, frames, &mut writes, limit);
            self.count(&mut handed, sent);
        }
        handed
    }

    fn may_deliver(&self, target: &Target, namespace: &str) -> bool {
        let vouched = self
            .lease
            .vouch(target.shard(namespace, self.lease.shards()));
        if let Err(error) = &vouched {
            self.metrics.messages_dropped("no_lease").increment(1);
            tracing::debug!(%error, "a message is dropped");
        }
        vouched.is_ok()
    }

    fn count(&self, handed: &mut Handed, sent: Result<(), NotSent>) {
        match sent {
            Ok(()) => handed.connections += 1,
            Err(NotSent::Arriving) => handed.missed = true,
            Err(error) => {
                handed.missed |= error == NotSent::Full;
                error.count(&self.metrics);
            }
        }
    }

    /// Hands a message to its recipients on this node, and collects what the clients answer. The messages
    /// are handed out before this returns; the answers come with the future.
    pub(crate) fn deliver_with_ack(
        &self,
        target: &Target,
        message: &Message,
        timeout: Duration,
    ) -> impl Future<Output = (Handed, Vec<(ConnectionId, Answer)>)> + Send + use<> {
        let limit = self.connections.send_queue_bytes();
        let pending = FuturesUnordered::new();
        let hand = || {
            let (mut handed, args) = (Handed::default(), message.arguments());
            for connection in self.here(target, message) {
                let sent = connection.send_with_ack(message, &args, limit, timeout);
                let sent = sent.map(|answer| {
                    pending.push(async move { (connection.id.clone(), answer.await) });
                });
                self.count(&mut handed, sent);
            }
            self.handed(target, message, handed);
            handed
        };
        let handed = match (self.may_deliver(target, &message.namespace), &message.id) {
            (false, _) => Handed::WITHHELD,
            (true, None) => hand(),
            // What the clients answered the first time was for who asked then.
            (true, Some(id)) => self
                .repeats
                .once(id, hand, |handed| handed.connections)
                .unwrap_or_else(|connections| Handed {
                    connections,
                    missed: false,
                }),
        };
        let mut budget = AckBudget::new(self.config.now().limits.ack_bytes.as_u64() as usize);
        let cut = self.metrics.messages_dropped("ack_too_large");
        async move {
            let acks = pending.filter_map(|(id, data)| {
                let answer = data.map(|data| {
                    let mut answer = Answer::Given(data);
                    cut.increment(u64::from(budget.admit(&mut answer)));
                    (id, answer)
                });
                async move { answer }
            });
            (handed, acks.collect().await)
        }
    }

    /// The connections of this node that get a message.
    fn here(&self, target: &Target, message: &Message) -> Vec<Arc<LocalConnection>> {
        let mut connections = match target {
            Target::User(user) => self.connections.table.of_user(user),
            Target::Device(user, device) => {
                let mut connections = self.connections.table.of_user(user);
                connections.retain(|connection| connection.device_id.as_ref() == Some(device));
                connections
            }
            Target::Connection(id) => self.connections.table.get(id).into_iter().collect(),
            Target::Room(room) => self.connections.members.of(&message.namespace, room),
            Target::All => self.connections.table.in_namespace(&message.namespace),
        };
        // A connection is in one namespace: to name that as well would be to say it twice.
        let any_namespace = matches!(target, Target::Connection(_));
        let except: HashSet<_> = message.except.iter().collect();
        connections.retain(|connection| {
            (any_namespace || *connection.namespace == *message.namespace)
                && !except.contains(&connection.id)
        });
        self.drop_for_lagging(&mut connections, message);
        connections
    }

    /// Takes out those that lag, where a message is volatile: for them it is dropped, and counted.
    fn drop_for_lagging(&self, connections: &mut Vec<Arc<LocalConnection>>, message: &Message) {
        if message.volatile {
            let all = connections.len();
            connections.retain(|connection| !connection.lags());
            let dropped = self.metrics.messages_dropped("volatile");
            dropped.increment((all - connections.len()) as u64);
        }
    }

    /// Hands a message to its recipients on every node, and waits for what became of it. A caller that goes away does not end it
    /// halfway, in a fleet.
    pub(crate) async fn send(
        self: &Arc<Self>,
        target: Target,
        message: Message,
    ) -> Result<Delivery, GatewayError> {
        let deliverer = self.clone();
        let sending = async move { Ok(deliverer.dispatch(&target, &message).await?.await) };
        self.peers.beside_links(sending).await?
    }

    /// Sends in two steps. When this returns the message is with this node's connections and on its way to the others; what comes
    /// is where it went, once the others have said so. Of a message to all, the nodes are those that have carried it out, also
    /// where no connection is.
    ///
    /// An error means that nobody got it, on no node: this node's own connections get it when Redis has taken it for the others.
    /// The one exception is [`BusError::Unanswered`](crate::bus::BusError::Unanswered): other nodes may have got it then.
    pub(crate) async fn dispatch<'a>(
        &'a self,
        target: &Target,
        message: &Message,
    ) -> Result<BoxFuture<'a, Delivery>, GatewayError> {
        let span = self.sending(target, message);
        let sent = self.hand_out(target, message, &span).await;
        traced::with_outcome(span, sent)
    }

    async fn hand_out<'a>(
        &'a self,
        target: &Target,
        message: &Message,
        span: &Span,
    ) -> Result<BoxFuture<'a, Delivery>, GatewayError> {
        self.metrics.messages_sent(target.kind()).increment(1);
        let command = Command::deliver(target, message, None, span.traceparent_if_sampled());
        // Where nobody keeps who the recipients are, all nodes are asked, this one among them.
        let Some(recipient) = target.recipient(&message.namespace) else {
            let (request, asked) = self.peers.ask_all(&command).await?;
            let all = *target == Target::All;
            let confirmed = async move {
                let mut collected = request.collect(asked, Instant::now() + RECEIPTS).await;
                self.peers.forget_the_dead(&mut collected).await;
                let delivery = total(Handed::default(), &collected);
                match all {
                    true => Delivery {
                        nodes: collected.nodes,
                        ..delivery
                    },
                    false => delivery,
                }
            };
            return Ok(confirmed.boxed());
        };
        let (asked, mine) = self.peers.ask_holders(&recipient, &command).await?;
        let local = self.deliver(target, message).of(mine);
        let deadline = Instant::now() + RECEIPTS;
        let confirmed = async move {
            let collected = collect(asked, deadline).await;
            total(local, &collected)
        };
        Ok(confirmed.boxed())
    }

    /// Hands a message to its recipients on every node, and collects the answers.
    pub(crate) async fn send_with_ack(
        &self,
        target: &Target,
        message: &Message,
        timeout: Duration,
    ) -> Result<Acked, GatewayError> {
        let span = self.sending(target, message);
        let answered = self
            .hand_out_with_ack(target, message, timeout, &span)
            .await;
        match &answered {
            Ok(acked) => {
                traced::handed(&span, acked.connections, acked.nodes, acked.unconfirmed);
                span.set("switchboard.missing", acked.missing as i64);
            }
            Err(error) => span.fail(error),
        }
        answered
    }

    async fn hand_out_with_ack(
        &self,
        target: &Target,
        message: &Message,
        timeout: Duration,
        span: &Span,
    ) -> Result<Acked, GatewayError> {
        self.metrics.messages_sent(target.kind()).increment(1);
        let trace = span.traceparent_if_sampled();
        let command = Command::deliver(target, message, Some(timeout), trace);
        let deadline = Instant::now() + timeout + RECEIPTS;
        let ((local, mut answers), collected) = match target.recipient(&message.namespace) {
            Some(recipient) => {
                let (asked, mine) = self.peers.ask_holders(&recipient, &command).await?;
                let local = self.deliver_with_ack(target, message, timeout);
                let ((local, answers), collected) = tokio::join!(local, collect(asked, deadline));
                ((local.of(mine), answers), collected)
            }
            None => {
                let (request, asked) = self.peers.ask_all(&command).await?;
                let mut collected = request.collect(asked, deadline).await;
                self.peers.forget_the_dead(&mut collected).await;
                ((Handed::default(), Vec::new()), collected)
            }
        };
        let Delivery {
            connections,
            nodes,
            unconfirmed,
        } = total(local, &collected);
        answers.extend(collected.receipts.into_iter().flat_map(|it| it.acks));
        // Each node has cut what is too large by itself; this is for all of them together.
        let mut budget = AckBudget::new(usize::MAX);
        let cut = self.metrics.messages_dropped("ack_too_large");
        let acks = answers.into_iter().map(|(id, mut answer)| {
            cut.increment(u64::from(budget.admit(&mut answer)));
            AckReply::of(id, answer)
        });
        let acks: Vec<_> = acks.collect();
        let missing = connections.saturating_sub(acks.len() as u64);
        Ok(Acked {
            connections,
            nodes,
            unconfirmed,
            acks,
            missing,
        })
    }
}

async fn collect(asked: Option<(Request<'_>, AskedNodes)>, deadline: Instant) -> Collected {
    match asked {
        Some((request, asked)) => request.collect(asked, deadline).await,
        None => Collected::default(),
    }
}

fn total(local: Handed, collected: &Collected) -> Delivery {
    let none = Delivery {
        unconfirmed: collected.unconfirmed + u64::from(local.is_withheld()),
        ..Delivery::default()
    };
    let remote = collected.receipts.iter().map(|it| it.connections);
    std::iter::once(local.connections)
        .chain(remote)
        .filter(|connections| *connections > 0)
        .fold(none, |sum, connections| Delivery {
            connections: sum.connections + connections,
            nodes: sum.nodes + 1,
            ..sum
        })
}
