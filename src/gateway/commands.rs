//! What nodes ask of each other, and the receipts.
//!
//! A command goes to the channel of each node it concerns; the node carries it out as it would its own and publishes a
//! receipt to the channel of the node that asked. The wire format is one byte of version, then MessagePack of the
//! [`Envelope`]. What can't be read is counted and changes nothing.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Inner, acks,
    endings::closed,
    live::Live,
    message::{Message, Target},
    receipts::{Receipt, Request},
};
use crate::{
    bus::{Inbox, Received},
    connection::Instance,
    registry::EndTarget,
};

/// The first byte of every message. A node of another version does not read what it can't.
const VERSION: u8 = 2;

/// How long a node works on an order to end before it confirms what it could. Longer than any caller waits.
const END_DEADLINE: Duration = Duration::from_secs(6);

/// How deep a message may be nested. What backends and clients send is JSON, which is read to a depth of 128; a few levels are
/// around it. MessagePack of 1,024 levels, which is as far as its reader goes by itself, overflows a stack of 2 MB in a debug
/// build, and that ends the process.
const MAX_DEPTH: usize = 160;

#[derive(Serialize, Deserialize)]
struct Envelope {
    /// The number that the asking node gave its request.
    request: u64,
    body: Body,
}

#[derive(Serialize, Deserialize)]
enum Body {
    Command(Command),
    Receipt(Receipt),
}

/// What a node can be asked.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Command {
    /// Hand a message to whom it is for, as far as they are here.
    Deliver { target: Target, message: Message },
    /// Hand a message to its recipients here, and collect what the clients answer.
    DeliverWithAck {
        target: Target,
        message: Message,
        timeout_ms: u64,
    },
    /// Hand a message to every connection of a namespace.
    Broadcast { message: Message },
    /// End the connections that have been ordered to end, among those of a target. The orders are in the registry: which
    /// they are, and how they end.
    End { target: EndTarget },
    /// End the connections that came in by a token.
    EndToken { token_id: String },
    /// Send a heartbeat at once. All are told so: by a node that has found a lease of its own lost, as theirs may be too, or by
    /// one that has just come, for them to know it. Nobody waits for a receipt.
    Beat { lost: bool },
    /// The node that says so has left the cluster: nobody is to wait for it.
    Farewell,
}

impl Command {
    /// Whether it hands a message to connections.
    fn delivers(&self) -> bool {
        match self {
            Self::Deliver { .. } | Self::DeliverWithAck { .. } | Self::Broadcast { .. } => true,
            Self::End { .. } | Self::EndToken { .. } | Self::Beat { .. } | Self::Farewell => false,
        }
    }
}

/// Reads a message; none if it is none of this version's.
fn read(payload: &[u8]) -> Option<Envelope> {
    let (&VERSION, body) = payload.split_first()? else {
        return None;
    };
    let mut reader = rmp_serde::Deserializer::from_read_ref(body);
    reader.set_max_depth(MAX_DEPTH);
    Envelope::deserialize(&mut reader).ok()
}

impl Inner {
    /// Opens a request; returns it with the bytes to publish.
    pub(super) fn request(&self, command: &Command) -> (Request<'_>, Vec<u8>) {
        let request = self.requests.open();
        let payload = self.encode(request.number(), Body::Command(command.clone()));
        (request, payload)
    }

    fn encode(&self, request: u64, body: Body) -> Vec<u8> {
        let envelope = Envelope { request, body };
        let mut bytes = vec![VERSION];
        if let Err(error) = rmp_serde::encode::write(&mut bytes, &envelope) {
            // Nothing in an envelope can fail to be written; if it does, the receiver counts it as garbage.
            tracing::error!(%error, "can't encode a command");
        }
        bytes
    }

    /// Reads what the bus brings, in order, until it ends.
    pub(super) async fn receive(self: Arc<Self>, mut inbox: Inbox) {
        while let Some(Received { from, payload }) = inbox.recv().await {
            let bytes = payload.len();
            // A panic takes one message, not all that come after it.
            if catch_unwind(AssertUnwindSafe(|| self.take(from, &payload))).is_err() {
                tracing::error!(bytes, "a message on the bus panicked");
            }
        }
    }

    fn take(self: &Arc<Self>, from: Instance, payload: &[u8]) {
        match read(payload) {
            Some(Envelope {
                request,
                body: Body::Command(command),
            }) => self.clone().obey(from, request, command),
            Some(Envelope {
                request,
                body: Body::Receipt(receipt),
            }) => self.requests.receipted(request, from, receipt),
            None => {
                self.metrics.messages_dropped("unreadable").increment(1);
                tracing::warn!(bytes = payload.len(), "a message on the bus can't be read");
            }
        }
    }

    /// Carries a command out. What hands out messages does so before it returns, so that they keep their order.
    fn obey(self: Arc<Self>, from: Instance, request: u64, command: Command) {
        // What others had for this node's clients while it had no lease may be for those who are to be gone. What it says
        // itself it says to its own clients also while nobody else can be reached.
        if from != self.instance
            && command.delivers()
            && let Err(error) = self.vouch_for_its_own()
        {
            self.metrics.messages_dropped("no_lease").increment(1);
            tracing::debug!(%error, "a message from another node is dropped");
            tokio::spawn(self.confirm(from, request, Receipt::Withheld));
            return;
        }
        match command {
            Command::Deliver { target, message } => {
                let connections = self.deliver(&target, &message);
                tokio::spawn(self.confirm(from, request, Receipt::Delivered { connections }));
            }
            Command::DeliverWithAck {
                target,
                message,
                timeout_ms,
            } => {
                let answers =
                    self.deliver_with_ack(&target, &message, Duration::from_millis(timeout_ms));
                tokio::spawn(async move {
                    let (connections, acks) = answers.await;
                    let mut pieces = acks::pieces(acks);
                    let acks = pieces.pop().unwrap_or_default();
                    for acks in pieces {
                        let gateway = self.clone();
                        gateway
                            .confirm(from.clone(), request, Receipt::Acks { acks })
                            .await;
                    }
                    self.confirm(from, request, Receipt::Acked { connections, acks })
                        .await;
                });
            }
            Command::Broadcast { message } => {
                let connections = self.broadcast_here(&message);
                tokio::spawn(self.confirm(from, request, Receipt::Delivered { connections }));
            }
            Command::End { target } => {
                tokio::spawn(async move {
                    let ended = self.carry_out_orders(&target).await;
                    self.confirm_ended(from, request, ended).await;
                });
            }
            Command::EndToken { token_id } => {
                tokio::spawn(async move {
                    let ended = catch_unwind(AssertUnwindSafe(|| self.end_token(&token_id)));
                    let Ok(ended) = ended else {
                        tracing::error!("ending a token's connections panicked");
                        // A resync looks at what each came in by.
                        self.look_for_orders();
                        return;
                    };
                    self.confirm_ended(from, request, ended).await;
                });
            }
            Command::Beat { .. } | Command::Farewell if from == self.instance => {}
            Command::Beat { lost } => self.asked_to_beat(lost),
            Command::Farewell => self.others.has_left(&from),
        }
    }

    async fn confirm_ended(self: Arc<Self>, to: Instance, request: u64, ended: Vec<Arc<Live>>) {
        let closed = closed(ended, Instant::now() + END_DEADLINE).await;
        self.confirm(to, request, Receipt::Ended { closed }).await;
    }

    async fn confirm(self: Arc<Self>, to: Instance, request: u64, receipt: Receipt) {
        let payload = self.encode(request, Body::Receipt(receipt));
        if let Err(error) = self.bus.publish_to(&to, payload).await {
            // The asker counts what is confirmed, and looks into the registry for the rest.
            tracing::debug!(%to, %error, "can't send a receipt");
        }
    }
}
