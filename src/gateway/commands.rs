//! What nodes ask of each other, and the receipts.
//!
//! A command goes to the channel of each node it concerns; the node carries it out as it would its own and posts a receipt to the
//! node that asked. What can't be read, or is of a kind that is not known, is counted and changes nothing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{task::yield_now, time::Instant};

use super::{
    connections::{LocalConnections, ending::closed, local::LocalConnection},
    delivery::{Deliverer, acks},
    membership::heartbeats::Heartbeats,
    message::{Message, Target},
    operators::Operators,
    peers::{
        Peers,
        wire::{self, Command, PeerMessage, Receipt},
    },
    rooms::RoomChanges,
    tasks::contain,
    watching::Watching,
};
use crate::{
    bus::{Inbox, Received},
    connection::Instance,
    metrics::Metrics,
    telemetry::traces::Span,
};

/// How long a node works on an order to end before it confirms what it could. Longer than any caller waits.
const END_DEADLINE: Duration = Duration::from_secs(6);

/// How many messages are taken before their receipts go out, those to one node as one message.
const TOGETHER: usize = 256;

/// How long messages are taken in one turn, in which the links to Redis wait: a PING of theirs has 800 ms.
const TURN: Duration = Duration::from_millis(5);

/// How many connections one receipt shows: of a hundred rooms each, they are some megabytes.
const SOCKETS: usize = 100;

/// Receipts that are to go out, by the node that asked.
type Outbox = HashMap<Instance, Vec<Receipt>>;

/// Carries out what other nodes ask of this one.
pub(super) struct PeerCommands {
    metrics: Metrics,
    peers: Arc<Peers>,
    connections: Arc<LocalConnections>,
    delivery: Arc<Deliverer>,
    rooms: Arc<RoomChanges>,
    watching: Arc<Watching>,
    heartbeats: Arc<Heartbeats>,
    operators: Arc<Operators>,
}

impl PeerCommands {
    /// Carries out what is asked with these parts.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one of its parts, given once"
    )]
    pub(super) fn new(
        metrics: Metrics,
        peers: Arc<Peers>,
        connections: Arc<LocalConnections>,
        delivery: Arc<Deliverer>,
        rooms: Arc<RoomChanges>,
        watching: Arc<Watching>,
        heartbeats: Arc<Heartbeats>,
        operators: Arc<Operators>,
    ) -> Self {
        Self {
            metrics,
            peers,
            connections,
            delivery,
            rooms,
            watching,
            heartbeats,
            operators,
        }
    }

    /// Reads what the bus brings, in order, until it ends. Receipts go out for all that had come together. To be run where the bus's
    /// links are served.
    pub(super) async fn receive(self: Arc<Self>, mut inbox: Inbox) {
        let mut come = Vec::new();
        while inbox.recv_many(&mut come, TOGETHER).await > 0 {
            let (mut outbox, mut began) = (Outbox::new(), Instant::now());
            for Received { from, payload } in come.drain(..) {
                let take = || self.take(from.clone(), &payload, &mut outbox);
                // A panic takes one message, not all that come after it.
                contain("a message on the bus", &from, take);
                if began.elapsed() > TURN {
                    yield_now().await;
                    began = Instant::now();
                }
            }
            for (to, receipts) in outbox {
                self.peers.confirm(&to, receipts);
            }
        }
    }

    fn take(&self, from: Instance, payload: &[u8], outbox: &mut Outbox) {
        match wire::read(payload) {
            Some(PeerMessage::Command(request, command)) => {
                self.obey(from, request, command, outbox)
            }
            Some(PeerMessage::Receipts(receipts)) => {
                for receipt in receipts {
                    self.peers.receipted(&from, receipt);
                }
            }
            Some(PeerMessage::Unknown) => {
                self.metrics.messages_dropped("unknown").increment(1);
                tracing::debug!(%from, "a message on the bus is of a kind that is not known");
            }
            None => {
                self.metrics.messages_dropped("unreadable").increment(1);
                tracing::warn!(bytes = payload.len(), "a message on the bus can't be read");
            }
        }
    }

    /// Carries a command out. What hands out messages does so before it returns, so that they keep their order.
    fn obey(&self, from: Instance, request: u64, command: Command<'static>, outbox: &mut Outbox) {
        let receipt = Receipt {
            request,
            ..Receipt::default()
        };
        let mut confirm =
            |to: &Instance, receipt| outbox.entry(to.clone()).or_default().push(receipt);
        match command {
            Command::Deliver {
                to,
                message,
                ack,
                trace,
            } => {
                let span = self.delivery.receiving(trace.as_deref(), &to, &message);
                if let Some(timeout) = ack {
                    return self.collect_acks(from, receipt, &to, &message, timeout, span);
                }
                let handed = self.delivery.deliver(&to, &message);
                handed.tell(&span);
                confirm(
                    &from,
                    Receipt {
                        connections: handed.connections,
                        withheld: handed.is_withheld(),
                        ..receipt
                    },
                );
            }
            Command::End { ids, ending } => {
                let connections: Vec<_> = ids
                    .iter()
                    .filter_map(|id| self.connections.table.get(id))
                    .collect();
                self.connections.end_all(&connections, &ending);
                tokio::spawn(confirm_ended(
                    self.peers.clone(),
                    from,
                    receipt,
                    connections,
                ));
            }
            Command::Room(change) => {
                let (rooms, peers) = (self.rooms.clone(), self.peers.clone());
                tokio::spawn(async move {
                    let receipt = rooms.obey(&change, receipt).await;
                    peers.confirm(&from, vec![receipt]);
                });
            }
            Command::Look { user } => self.watching.look_soon(user.as_ref().into()),
            Command::EndToken { token_id } => {
                let ended = self.connections.end_token(&token_id);
                // Which they are nobody else knows.
                let open = ended
                    .iter()
                    .map(|connection| connection.id.clone())
                    .collect();
                let more = true;
                confirm(
                    &from,
                    Receipt {
                        open,
                        more,
                        ..receipt.clone()
                    },
                );
                tokio::spawn(confirm_ended(self.peers.clone(), from, receipt, ended));
            }
            Command::Watch { connections } => self.operators.watched_by(&from, connections),
            Command::Show => {
                let sockets = self.operators.show();
                let mut pieces = sockets.chunks(SOCKETS).peekable();
                while let Some(piece) = pieces.next() {
                    let more = pieces.peek().is_some();
                    let sockets = piece.to_vec();
                    confirm(
                        &from,
                        Receipt {
                            sockets,
                            more,
                            ..receipt.clone()
                        },
                    );
                }
                if sockets.is_empty() {
                    confirm(&from, receipt);
                }
            }
            Command::TellPages { event } => self.operators.tell_pages(event.into_owned()),
            Command::Operate { asked } => self.operators.obey(&asked),
            Command::Beat | Command::Farewell if from == self.peers.instance => {}
            Command::Beat => self.heartbeats.hurry(),
            Command::Farewell => self.heartbeats.has_left(&from),
        }
    }

    fn collect_acks(
        &self,
        to: Instance,
        receipt: Receipt,
        target: &Target,
        message: &Message,
        timeout: Duration,
        span: Span,
    ) {
        let answers = self.delivery.deliver_with_ack(target, message, timeout);
        let peers = self.peers.clone();
        tokio::spawn(async move {
            let (handed, acks) = answers.await;
            handed.tell(&span);
            drop(span);
            let pieces = acks::pieces(acks);
            let last = pieces.len() - 1;
            for (at, acks) in pieces.into_iter().enumerate() {
                let more = at < last;
                let receipt = Receipt {
                    connections: if more { 0 } else { handed.connections },
                    withheld: handed.is_withheld(),
                    acks,
                    more,
                    ..receipt.clone()
                };
                peers.confirm(&to, vec![receipt]);
            }
        });
    }
}

/// Waits until connections are closed, and confirms those that are in time.
async fn confirm_ended(
    peers: Arc<Peers>,
    to: Instance,
    receipt: Receipt,
    ended: Vec<Arc<LocalConnection>>,
) {
    let closed = closed(ended, Instant::now() + END_DEADLINE).await;
    peers.confirm(&to, vec![Receipt { closed, ..receipt }]);
}
