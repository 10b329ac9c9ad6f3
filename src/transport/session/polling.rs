//! What a session that began with long-polling keeps: its id, its GET requests, and what its client has yet to fetch.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::Session;
use crate::connection::TransportKind;

/// The packet with which the last poll of a session is answered.
pub(in crate::transport) type LastPacket = Cow<'static, str>;

/// How long the end of a polling session waits for its client to fetch what was written before.
const POLL_DEADLINE: Duration = Duration::from_millis(750);

/// The state of a session that began with long-polling.
pub(super) struct Polling {
    /// The Engine.IO session id: a credential, since with it anybody can write into the session.
    sid: Mutex<Option<SecretString>>,
    /// GET requests at work; a healthy client always has one but for a moment.
    requests: Mutex<Requests>,
    /// The number of the last GET request that has taken what was there for it.
    served: watch::Sender<u64>,
    /// Has the GET requests that wait answered with a noop.
    released: Notify,
    /// Whether a WebSocket beside it is being tried.
    probing: AtomicBool,
    /// What its client is still to be told when the session ends.
    last: Mutex<Option<LastPacket>>,
    /// Bytes sent and not fetched, as far as this node's own sends go.
    unfetched: AtomicUsize,
    /// Whether a POST is at work.
    posting: AtomicBool,
}

struct Requests {
    at_work: u32,
    /// How many have begun.
    begun: u64,
    idle_since: Instant,
}

impl Polling {
    pub(super) fn new() -> Self {
        Self {
            sid: Mutex::new(None),
            requests: Mutex::new(Requests {
                at_work: 0,
                begun: 0,
                idle_since: Instant::now(),
            }),
            served: watch::Sender::new(0),
            released: Notify::new(),
            probing: AtomicBool::new(false),
            last: Mutex::default(),
            unfetched: AtomicUsize::new(0),
            posting: AtomicBool::new(false),
        }
    }
}

impl Session {
    /// Adds `bytes` to what a polling client has yet to fetch. Returns whether that is more than `limit`. Over a WebSocket
    /// the wire itself counts.
    pub fn sent(&self, bytes: usize, limit: usize) -> bool {
        match &self.polling {
            Some(polling) if self.kind() == TransportKind::Polling => {
                polling.unfetched.fetch_add(bytes, Ordering::Relaxed) + bytes > limit
            }
            _ => false,
        }
    }

    /// Bytes that a polling client has yet to fetch.
    pub(super) fn unfetched(&self) -> usize {
        match &self.polling {
            Some(polling) if self.kind() == TransportKind::Polling => {
                polling.unfetched.load(Ordering::Relaxed)
            }
            _ => 0,
        }
    }

    /// Waits until a polling client has fetched what was sent, within a deadline. A request that begins after the last
    /// packet was queued takes all that is left; one that was waiting before may have taken the first of several.
    pub(super) async fn fetched(&self) {
        let Some(polling) = &self.polling else {
            return;
        };
        let mut served = polling.served.subscribe();
        let before = polling.requests.lock().begun;
        tokio::select! {
            _ = served.wait_for(|number| *number > before) => {}
            // A stock client closes its session itself when it has read that it is disconnected.
            _ = self.over.wait() => {}
            () = tokio::time::sleep(POLL_DEADLINE) => {
                tracing::debug!(session = self.id.0, "a polling client did not fetch its last packets");
            }
        }
    }

    /// Has a client that polls told `last` when the session ends, in place of what it was to be told.
    pub(in crate::transport) fn owe(&self, last: impl Into<LastPacket>) {
        if let Some(polling) = &self.polling {
            *polling.last.lock() = Some(last.into());
        }
    }

    /// Takes what the client is to be told last. None before the session is ending.
    pub(in crate::transport) fn take_last(&self) -> Option<LastPacket> {
        let polling = self.polling.as_ref().filter(|_| self.is_ending())?;
        polling.last.lock().take()
    }

    /// Begins to try a WebSocket beside a session that polls, one at a time. None if it does not poll any more, or is ending.
    pub(in crate::transport) fn begin_probe(self: &Arc<Self>) -> Option<Probing> {
        let polling = self.polling.as_ref()?;
        if self.kind() != TransportKind::Polling || self.is_upgrading() || self.is_ending() {
            return None;
        }
        let begun = !polling.probing.swap(true, Ordering::AcqRel);
        begun.then(|| Probing(self.clone()))
    }

    /// Begins a POST, one at a time: a stock client sends the next when it has the answer. None if one is at work.
    pub(in crate::transport) fn begin_post(self: &Arc<Self>) -> Option<Posting> {
        let polling = self.polling.as_ref()?;
        let begun = !polling.posting.swap(true, Ordering::AcqRel);
        begun.then(|| Posting(self.clone()))
    }

    /// Has the GET requests that wait at this moment answered with a noop.
    pub(in crate::transport) fn release_polls(&self) {
        if let Some(polling) = &self.polling {
            polling.released.notify_waiters();
        }
    }

    /// Waits for the next [`Session::release_polls`].
    pub(in crate::transport) async fn poll_released(&self) {
        match &self.polling {
            Some(polling) => polling.released.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Whether a GET request is at work.
    pub(in crate::transport) fn is_polled(&self) -> bool {
        let polling = self.polling.as_ref();
        polling.is_some_and(|polling| polling.requests.lock().at_work > 0)
    }

    pub(in crate::transport) fn set_sid(&self, sid: &str) {
        if let Some(polling) = &self.polling {
            *polling.sid.lock() = Some(sid.into());
        }
    }

    pub(in crate::transport) fn sid(&self) -> Option<SecretString> {
        self.polling.as_ref()?.sid.lock().clone()
    }

    /// A GET request begins. Returns its number.
    pub(in crate::transport) fn poll_started(&self) -> u64 {
        let Some(polling) = &self.polling else {
            return 0;
        };
        let mut requests = polling.requests.lock();
        requests.at_work += 1;
        requests.begun += 1;
        requests.begun
    }

    /// A GET request has taken what was there; `waits` if nothing was.
    pub(in crate::transport) fn poll_served(&self, number: u64, waits: bool) {
        if let Some(polling) = &self.polling {
            if waits {
                // Fetched, all of it, whatever was counted: a fetch may overtake the count of what it fetches.
                polling.unfetched.store(0, Ordering::Relaxed);
            }
            polling.served.send_modify(|last| *last = number.max(*last));
        }
    }

    pub(in crate::transport) fn poll_completed(&self, bytes: usize) {
        if let Some(polling) = &self.polling {
            {
                let mut requests = polling.requests.lock();
                requests.at_work = requests.at_work.saturating_sub(1);
                requests.idle_since = Instant::now();
            }
            let fetch = |left: usize| Some(left.saturating_sub(bytes));
            polling
                .unfetched
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fetch)
                .ok();
        }
    }

    /// Whether a polling client has had no request at work for longer than `deadline`.
    pub(in crate::transport) fn is_idle(&self, deadline: Duration) -> bool {
        self.kind() == TransportKind::Polling
            && !self.is_upgrading()
            && self.polling.as_ref().is_some_and(|polling| {
                let requests = polling.requests.lock();
                requests.at_work == 0 && requests.idle_since.elapsed() > deadline
            })
    }
}

/// A session beside which a WebSocket is being tried; no longer when this goes.
pub(in crate::transport) struct Probing(Arc<Session>);

impl Drop for Probing {
    fn drop(&mut self) {
        if let Some(polling) = &self.0.polling {
            polling.probing.store(false, Ordering::Release);
        }
    }
}

/// A POST at work, until this goes.
pub(in crate::transport) struct Posting(Arc<Session>);

impl Drop for Posting {
    fn drop(&mut self) {
        self.0.gate().set_unfinished(0);
        if let Some(polling) = &self.0.polling {
            polling.posting.store(false, Ordering::Release);
        }
    }
}
