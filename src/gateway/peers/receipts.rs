//! Who was asked, and who has not said what became of it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::connection::Instance;
use crate::gateway::peers::wire::Receipt;

/// The nodes that a request was published to.
#[derive(Debug)]
pub(crate) struct AskedNodes {
    /// Those that are known to have to answer.
    nodes: HashSet<Instance>,
    /// How many got it: more answers are not waited for.
    heard: usize,
    /// Whether nodes that are not known may answer.
    anybody: bool,
}

impl AskedNodes {
    /// These nodes and nobody else, each with whether it listens.
    pub(crate) fn holders(holders: impl IntoIterator<Item = (Instance, bool)>) -> Self {
        let mut heard = 0;
        let nodes = holders.into_iter().map(|(holder, listens)| {
            heard += usize::from(listens);
            holder
        });
        Self {
            nodes: nodes.collect(),
            heard,
            anybody: false,
        }
    }

    /// All nodes: those that are known, and newcomers. `heard` of them listen.
    pub(crate) fn all(nodes: HashSet<Instance>, heard: usize) -> Self {
        Self {
            nodes,
            heard,
            anybody: true,
        }
    }
}

/// What came of a request.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Collected {
    /// Of the nodes that have carried it out.
    pub(crate) receipts: Vec<Receipt>,
    /// How many nodes these are of, and have said their last.
    pub(crate) nodes: u64,
    /// How many nodes have not said in time what became of it, or have handed it to nobody although somebody may be there.
    pub(crate) unconfirmed: u64,
}

/// The requests of this node that wait for receipts.
#[derive(Default)]
pub(crate) struct Requests {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

/// What has come of one request, and was not looked at.
#[derive(Default)]
struct Waiting {
    come: Vec<(Instance, Receipt)>,
    /// How many of these are the last of their nodes'.
    last: usize,
    /// So many wake who waits: each wake-up costs more than the receipt.
    enough: usize,
    wake: Arc<Notify>,
}

impl Requests {
    /// Opens a request, with a number that no other one of this node has.
    pub(crate) fn open(&self) -> Request<'_> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let waiting = Waiting {
            enough: usize::MAX,
            ..Waiting::default()
        };
        let wake = Arc::clone(&waiting.wake);
        self.waiting.lock().insert(number, waiting);
        Request {
            number,
            wake,
            requests: self,
        }
    }

    /// A receipt has come. Nobody may be waiting for it any more.
    pub(crate) fn receipted(&self, from: &Instance, receipt: Receipt) {
        if let Some(waiting) = self.waiting.lock().get_mut(&receipt.request) {
            waiting.last += usize::from(!receipt.more);
            waiting.come.push((from.clone(), receipt));
            if waiting.last >= waiting.enough {
                waiting.wake.notify_one();
            }
        }
    }
}

/// One request that waits for receipts; dropping it is giving up.
pub(crate) struct Request<'a> {
    number: u64,
    wake: Arc<Notify>,
    requests: &'a Requests,
}

impl Request<'_> {
    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The receipts that have come since, as soon as `enough` of them are the last of their nodes'. Loses none if it is given up.
    pub(crate) async fn next(&self, enough: usize) -> Vec<(Instance, Receipt)> {
        loop {
            if let Some(waiting) = self.requests.waiting.lock().get_mut(&self.number) {
                if waiting.last >= enough {
                    waiting.last = 0;
                    return std::mem::take(&mut waiting.come);
                }
                waiting.enough = enough;
            }
            self.wake.notified().await;
        }
    }

    /// The receipts of those that were asked, once all that got it have answered, or at `deadline`.
    pub(crate) async fn collect(&self, asked: AskedNodes, deadline: Instant) -> Collected {
        let mut collected = Collected::default();
        let mut answered = HashSet::new();
        let mut in_time = true;
        while in_time && answered.len() < asked.heard {
            let next = self.next(asked.heard - answered.len());
            let come = match timeout_at(deadline, next).await {
                Ok(come) => come,
                Err(_) => {
                    in_time = false;
                    self.next(0).await
                }
            };
            for (from, receipt) in come {
                let may_answer = asked.anybody || asked.nodes.contains(&from);
                if !may_answer || answered.contains(&from) {
                    continue;
                }
                if !receipt.more {
                    answered.insert(from);
                }
                if receipt.withheld {
                    collected.unconfirmed += 1;
                    continue;
                }
                collected.nodes += u64::from(!receipt.more);
                collected.receipts.push(receipt);
            }
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
    use crate::gateway::message::Answer;

    fn delivered() -> Receipt {
        Receipt {
            request: 1,
            connections: 1,
            ..Receipt::default()
        }
    }

    fn holders(nodes: &[(&str, bool)]) -> AskedNodes {
        AskedNodes::holders(nodes.iter().map(|(name, heard)| ((*name).into(), *heard)))
    }

    /// What is collected of receipts that have come, if no more come in time.
    async fn collect(asked: AskedNodes, receipts: &[(&str, Receipt)]) -> Collected {
        collect_until(Instant::now(), asked, receipts).await
    }

    async fn collect_until(
        deadline: Instant,
        asked: AskedNodes,
        receipts: &[(&str, Receipt)],
    ) -> Collected {
        let requests = Requests::default();
        let request = requests.open();
        for (from, receipt) in receipts {
            requests.receipted(&(*from).into(), receipt.clone());
        }
        request.collect(asked, deadline).await
    }

    #[tokio::test]
    async fn who_was_asked_and_has_not_answered_is_unconfirmed() {
        assert_eq!(collect(holders(&[]), &[]).await, Collected::default());
        let asked = holders(&[("a", true), ("b", true), ("deaf", false)]);
        let collected = collect(asked, &[("a", delivered())]).await;
        assert_eq!(collected.receipts, [delivered()]);
        assert_eq!(collected.unconfirmed, 2);
    }

    #[tokio::test]
    async fn a_receipt_counts_once_and_from_who_was_asked() {
        let asked = holders(&[("a", true), ("b", true)]);
        let receipts = [
            ("a", delivered()),
            ("a", delivered()),
            ("stranger", delivered()),
        ];
        let collected = collect(asked, &receipts).await;
        assert_eq!(collected.receipts, [delivered()]);
        assert_eq!(collected.unconfirmed, 1);
    }

    #[tokio::test]
    async fn who_may_not_deliver_is_unconfirmed_and_not_waited_for() {
        let asked = holders(&[("a", true), ("b", true)]);
        let never = Instant::now() + Duration::from_secs(3600);
        let withheld = Receipt {
            connections: 0,
            withheld: true,
            ..delivered()
        };
        let receipts = [("a", withheld), ("b", delivered())];
        let collected = collect_until(never, asked, &receipts).await;
        assert_eq!(collected.receipts, [delivered()]);
        assert_eq!(collected.unconfirmed, 1);
    }

    #[tokio::test]
    async fn of_all_nodes_a_newcomer_counts_and_one_that_is_known_and_silent_too() {
        let known = || HashSet::from(["a".into(), "b".into()]);
        let answers = [("a", delivered()), ("new", delivered())];
        let collected = collect(AskedNodes::all(known(), 2), &answers).await;
        assert_eq!((collected.receipts.len(), collected.unconfirmed), (2, 1));
        let collected = collect(AskedNodes::all(known(), 3), &answers[..1]).await;
        assert_eq!((collected.receipts.len(), collected.unconfirmed), (1, 2));
    }

    #[tokio::test]
    async fn answers_come_in_pieces_and_the_last_one_ends_them() {
        let piece = |id: &str| Receipt {
            request: 1,
            acks: vec![(id.into(), Answer::TooLarge)],
            more: true,
            ..Receipt::default()
        };
        let last = Receipt {
            connections: 3,
            more: false,
            ..piece("3")
        };
        let receipts = [
            ("a", piece("1")),
            ("a", piece("2")),
            ("a", last),
            ("a", piece("4")),
        ];
        let collected = collect(holders(&[("a", true)]), &receipts).await;
        let connections: u64 = collected.receipts.iter().map(|it| it.connections).sum();
        let acks = collected.receipts.into_iter().flat_map(|it| it.acks);
        assert_eq!(connections, 3);
        assert_eq!(acks.count(), 3);
        assert_eq!(collected.unconfirmed, 0);
    }

    #[test]
    fn who_waits_is_woken_once_for_all() {
        struct Woken(AtomicU64);

        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }

        let woken = Arc::new(Woken(AtomicU64::new(0)));
        let waker = Arc::clone(&woken).into();
        let mut context = std::task::Context::from_waker(&waker);
        let requests = Requests::default();
        let request = requests.open();
        let mut collecting = std::pin::pin!(request.next(3));
        for node in ["a", "b", "c"] {
            assert!(collecting.as_mut().poll(&mut context).is_pending());
            assert_eq!(woken.0.load(Ordering::Relaxed), 0, "before {node}");
            requests.receipted(&node.into(), delivered());
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(collecting.poll(&mut context).is_ready());
    }
}
