//! What nodes ask of each other, and the receipts.
//!
//! A command goes to the channel of each node it concerns; the node carries it out as it would its own and posts a receipt to the
//! node that asked. What can't be read, or is of a kind that is not known, is counted and changes nothing.

use std::{
    borrow::Cow,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::gateway::{
    Inner,
    connections::local::LocalConnection,
    delivery::acks,
    endings::orders::closed,
    message::{Message, Target},
    peers::receipts::Request,
    peers::wire::{self, PeerMessage},
};
use crate::{
    bus::{Inbox, Received},
    connection::Instance,
};

pub(super) use wire::{Command, Receipt};

/// How long a node works on an order to end before it confirms what it could. Longer than any caller waits.
const END_DEADLINE: Duration = Duration::from_secs(6);

/// How many messages are taken before their receipts go out, those to one node as one message.
const TOGETHER: usize = 256;

/// Receipts that are to go out, by the node that asked.
type Outbox = HashMap<Instance, Vec<Receipt>>;

impl<'a> Command<'a> {
    /// Hands a message to a target.
    pub(super) fn deliver(target: &'a Target, message: &'a Message, ack: Option<Duration>) -> Self {
        Self::Deliver {
            to: Cow::Borrowed(target),
            message: Cow::Borrowed(message),
            ack,
        }
    }
}

impl Inner {
    /// Opens a request; returns it with the bytes to publish.
    pub(super) fn request(&self, command: &Command<'_>) -> (Request<'_>, Vec<u8>) {
        let request = self.requests.open();
        let payload = wire::command(request.number(), command);
        (request, payload)
    }

    /// Reads what the bus brings, in order, until it ends. Receipts go out for all that had come together.
    pub(super) async fn receive(self: Arc<Self>, mut inbox: Inbox) {
        let mut come = Vec::new();
        while inbox.recv_many(&mut come, TOGETHER).await > 0 {
            let mut outbox = Outbox::new();
            for Received { from, payload } in come.drain(..) {
                let take = AssertUnwindSafe(|| self.take(from, &payload, &mut outbox));
                // A panic takes one message, not all that come after it.
                if catch_unwind(take).is_err() {
                    tracing::error!(bytes = payload.len(), "a message on the bus panicked");
                }
            }
            for (to, receipts) in outbox {
                self.bus.post(&to, &wire::receipts(&receipts));
            }
        }
    }

    fn take(self: &Arc<Self>, from: Instance, payload: &[u8], outbox: &mut Outbox) {
        match wire::read(payload) {
            Some(PeerMessage::Command(request, command)) => {
                self.obey(from, request, command, outbox)
            }
            Some(PeerMessage::Receipts(receipts)) => {
                for receipt in receipts {
                    self.requests.receipted(&from, receipt);
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
    fn obey(
        self: &Arc<Self>,
        from: Instance,
        request: u64,
        command: Command<'static>,
        outbox: &mut Outbox,
    ) {
        let receipt = Receipt {
            request,
            ..Receipt::default()
        };
        let mut confirm =
            |to: &Instance, receipt| outbox.entry(to.clone()).or_default().push(receipt);
        match command {
            Command::Deliver { to, message, ack } => {
                if let Some(timeout) = ack {
                    return self.collect_acks(from, receipt, &to, &message, timeout);
                }
                let handed = self.deliver(&to, &message);
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
                let connections: Vec<_> = ids.iter().filter_map(|id| self.table.get(id)).collect();
                self.end_all(&connections, &ending);
                tokio::spawn(self.clone().confirm_ended(from, receipt, connections));
            }
            Command::EndToken { token_id } => {
                let ended = self.end_token(&token_id);
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
                tokio::spawn(self.clone().confirm_ended(from, receipt, ended));
            }
            Command::Beat | Command::Farewell if from == self.instance => {}
            Command::Beat => self.beat_now.notify_one(),
            Command::Farewell => self.registry.has_left(&from),
        }
    }

    fn collect_acks(
        self: &Arc<Self>,
        to: Instance,
        receipt: Receipt,
        target: &Target,
        message: &Message,
        timeout: Duration,
    ) {
        let answers = self.deliver_with_ack(target, message, timeout);
        let gateway = self.clone();
        tokio::spawn(async move {
            let (handed, acks) = answers.await;
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
                gateway.bus.post(&to, &wire::receipts(&[receipt]));
            }
        });
    }

    async fn confirm_ended(
        self: Arc<Self>,
        to: Instance,
        receipt: Receipt,
        ended: Vec<Arc<LocalConnection>>,
    ) {
        let closed = closed(ended, Instant::now() + END_DEADLINE).await;
        self.bus
            .post(&to, &wire::receipts(&[Receipt { closed, ..receipt }]));
    }
}
