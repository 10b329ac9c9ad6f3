//! What nodes say became of a request, and who has not said so.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};

use super::message::Answer;
use crate::connection::{ConnectionId, Instance};

/// What came of a command, on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Receipt {
    /// To how many connections a message was handed.
    Delivered { connections: u64 },
    /// To how many connections a message was handed, and the last piece of their answers.
    Acked {
        connections: u64,
        acks: Vec<(ConnectionId, Answer)>,
    },
    /// A piece of the answers, before the last one.
    Acks { acks: Vec<(ConnectionId, Answer)> },
    /// The node may not deliver for now: a recipient may be there, and did not get it.
    Withheld,
    /// Which connections are closed and out of the registry.
    Ended { closed: Vec<ConnectionId> },
}

impl Receipt {
    /// To how many connections the message was handed.
    pub(super) fn connections(&self) -> u64 {
        match self {
            Self::Delivered { connections } | Self::Acked { connections, .. } => *connections,
            Self::Acks { .. } | Self::Withheld | Self::Ended { .. } => 0,
        }
    }

    /// The answers in it.
    pub(super) fn into_acks(self) -> Vec<(ConnectionId, Answer)> {
        match self {
            Self::Acked { acks, .. } | Self::Acks { acks } => acks,
            Self::Delivered { .. } | Self::Withheld | Self::Ended { .. } => Vec::new(),
        }
    }
}

/// The nodes that a request was published to.
#[derive(Debug)]
pub(super) struct Asked {
    /// Those that are known to have to answer.
    nodes: HashSet<Instance>,
    /// How many got it: more answers are not waited for.
    heard: usize,
    /// Whether nodes that are not known may answer.
    anybody: bool,
}

impl Asked {
    /// Nobody was asked.
    pub(super) fn nobody() -> Self {
        Self::holders(Vec::new())
    }

    /// These nodes and nobody else, each with whether it listens.
    pub(super) fn holders(holders: Vec<(Instance, bool)>) -> Self {
        Self {
            heard: holders.iter().filter(|(_, heard)| *heard).count(),
            nodes: holders.into_iter().map(|(holder, _)| holder).collect(),
            anybody: false,
        }
    }

    /// All nodes: those that are known, and newcomers. `heard` of them listen.
    pub(super) fn all(nodes: HashSet<Instance>, heard: usize) -> Self {
        Self {
            nodes,
            heard,
            anybody: true,
        }
    }
}

/// What came of a request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Collected {
    /// Of the nodes that have carried it out.
    pub(super) receipts: Vec<Receipt>,
    /// How many nodes have not said in time what became of it, or have it withheld.
    pub(super) unconfirmed: u64,
}

type Sender = mpsc::UnboundedSender<(Instance, Receipt)>;

/// The requests of this node that wait for receipts.
#[derive(Default)]
pub(super) struct Requests {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, Sender>>,
}

impl Requests {
    /// Opens a request, with a number that no other one of this node has.
    pub(super) fn open(&self) -> Request<'_> {
        let (sender, receipts) = mpsc::unbounded_channel();
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.waiting.lock().insert(number, sender);
        Request {
            number,
            receipts,
            requests: self,
        }
    }

    /// A receipt has come. Nobody may be waiting for it any more.
    pub(super) fn receipted(&self, request: u64, from: Instance, receipt: Receipt) {
        if let Some(waiting) = self.waiting.lock().get(&request) {
            waiting.send((from, receipt)).ok();
        }
    }
}

/// One request that waits for receipts; dropping it is giving up.
pub(super) struct Request<'a> {
    number: u64,
    receipts: mpsc::UnboundedReceiver<(Instance, Receipt)>,
    requests: &'a Requests,
}

impl Request<'_> {
    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next receipt, of any node.
    pub(super) async fn next(&mut self) -> Option<(Instance, Receipt)> {
        self.receipts.recv().await
    }

    /// The receipts of those that were asked, once all that got it have answered, or at `deadline`.
    pub(super) async fn collect(&mut self, asked: Asked, deadline: Instant) -> Collected {
        let mut collected = Collected::default();
        let mut answered = HashSet::new();
        while answered.len() < asked.heard {
            let next = tokio::time::timeout_at(deadline, self.next()).await;
            let Ok(Some((from, receipt))) = next else {
                break;
            };
            let may_answer = asked.anybody || asked.nodes.contains(&from);
            if !may_answer || answered.contains(&from) {
                continue;
            }
            match receipt {
                Receipt::Acks { .. } => {}
                Receipt::Withheld => {
                    collected.unconfirmed += 1;
                    answered.insert(from);
                    continue;
                }
                _ => {
                    answered.insert(from);
                }
            }
            collected.receipts.push(receipt);
        }
        let silent = asked.nodes.difference(&answered).count();
        let unheard = asked.heard.saturating_sub(answered.len());
        collected.unconfirmed += silent.max(unheard) as u64;
        collected
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.requests.waiting.lock().remove(&self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DELIVERED: Receipt = Receipt::Delivered { connections: 1 };

    fn holders(nodes: &[(&str, bool)]) -> Asked {
        let nodes = nodes.iter().map(|(name, heard)| ((*name).into(), *heard));
        Asked::holders(nodes.collect())
    }

    /// What is collected of receipts that have come, if no more come in time.
    async fn collect(asked: Asked, receipts: &[(&str, Receipt)]) -> Collected {
        collect_until(Instant::now(), asked, receipts).await
    }

    async fn collect_until(
        deadline: Instant,
        asked: Asked,
        receipts: &[(&str, Receipt)],
    ) -> Collected {
        let requests = Requests::default();
        let mut request = requests.open();
        for (from, receipt) in receipts {
            requests.receipted(request.number(), (*from).into(), receipt.clone());
        }
        request.collect(asked, deadline).await
    }

    #[tokio::test]
    async fn who_was_asked_and_has_not_answered_is_unconfirmed() {
        assert_eq!(collect(Asked::nobody(), &[]).await, Collected::default());
        let asked = holders(&[("a", true), ("b", true), ("deaf", false)]);
        let collected = collect(asked, &[("a", DELIVERED)]).await;
        assert_eq!(collected.receipts, [DELIVERED]);
        assert_eq!(collected.unconfirmed, 2);
    }

    #[tokio::test]
    async fn a_receipt_counts_once_and_from_who_was_asked() {
        let asked = holders(&[("a", true), ("b", true)]);
        let receipts = [("a", DELIVERED), ("a", DELIVERED), ("stranger", DELIVERED)];
        let collected = collect(asked, &receipts).await;
        assert_eq!(collected.receipts, [DELIVERED]);
        assert_eq!(collected.unconfirmed, 1);
    }

    #[tokio::test]
    async fn who_may_not_deliver_is_unconfirmed_and_not_waited_for() {
        let asked = holders(&[("a", true), ("b", true)]);
        let never = Instant::now() + Duration::from_secs(3600);
        let receipts = [("a", Receipt::Withheld), ("b", DELIVERED)];
        let collected = collect_until(never, asked, &receipts).await;
        assert_eq!(collected.receipts, [DELIVERED]);
        assert_eq!(collected.unconfirmed, 1);
    }

    #[tokio::test]
    async fn of_all_nodes_a_newcomer_counts_and_one_that_is_known_and_silent_too() {
        let known = || HashSet::from(["a".into(), "b".into()]);
        let answers = [("a", DELIVERED), ("new", DELIVERED)];
        let collected = collect(Asked::all(known(), 2), &answers).await;
        assert_eq!((collected.receipts.len(), collected.unconfirmed), (2, 1));
        let collected = collect(Asked::all(known(), 3), &answers[..1]).await;
        assert_eq!((collected.receipts.len(), collected.unconfirmed), (1, 2));
    }

    #[tokio::test]
    async fn answers_come_in_pieces_and_the_last_one_ends_them() {
        let ack = |id: &str| vec![(id.into(), Answer::TooLarge)];
        let piece = |id| Receipt::Acks { acks: ack(id) };
        let last = Receipt::Acked {
            connections: 3,
            acks: ack("3"),
        };
        let receipts = [
            ("a", piece("1")),
            ("a", piece("2")),
            ("a", last),
            ("a", piece("4")),
        ];
        let collected = collect(holders(&[("a", true)]), &receipts).await;
        let connections: u64 = collected.receipts.iter().map(Receipt::connections).sum();
        let acks = collected.receipts.into_iter().flat_map(Receipt::into_acks);
        assert_eq!(connections, 3);
        assert_eq!(acks.count(), 3);
        assert_eq!(collected.unconfirmed, 0);
    }
}
