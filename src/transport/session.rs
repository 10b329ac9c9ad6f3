//! One Engine.IO session: what its handshake brought, what carries it, and the one way to end it.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::HeaderMap;
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    engine::Engine,
    parted::{Parted, Removal},
    wire::Wire,
};
use crate::connection::TransportKind;

/// How many refused CONNECT packets a session may send. A stock client sends one for each namespace it wants.
const MAX_REFUSALS: u32 = 10;

/// How many CONNECT packets a session may send at once, and how many a second from then on. Each costs a look at its
/// credentials, two scripts in Redis and a line in the log; DISCONNECT makes room for the next.
const CONNECT_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();
const CONNECTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2).unwrap();

/// How long the answers to refused packets get to leave before the session that sent too many of them ends.
const ANSWERS: Duration = Duration::from_millis(50);

/// How long the end of a polling session waits for its client to fetch what was written before.
const POLL_DEADLINE: Duration = Duration::from_millis(750);

/// Numbers the sessions of one node; never leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What the handshake request said. Kept apart from the request itself, whose headers would pin hyper's read buffer for
/// as long as the session lives.
pub struct Handshake {
    /// The client's address, behind trusted proxies.
    pub remote_addr: IpAddr,
    /// `User-Agent`, cut.
    pub user_agent: Option<String>,
    /// The headers with credentials, `Authorization` and `Cookie`, and `Origin`.
    pub headers: HeaderMap,
}

/// What a session tells its owner. Calls come from any task and must not block.
pub trait SessionEvents: Send + Sync + 'static {
    /// Whether a new session may start now; if not, what is wrong. The client is answered 503 and tries again.
    fn admit(&self) -> Result<(), &'static str>;

    /// A session that has sent no CONNECT packet yet makes room for a newer one.
    fn displaced(&self);

    /// The client does not take what it is sent. Called once or more; the owner ends the session.
    fn stalled(&self, session: &Arc<Session>);

    /// Whether the protocol has moved a session that began with polling to its WebSocket. Asked while that is under way.
    fn is_websocket(&self, session: &Session) -> bool;

    /// The session went from polling to WebSocket.
    fn upgraded(&self, session: &Arc<Session>);

    /// The session is over, whatever ended it. Called once.
    fn over(&self, session: &Arc<Session>);
}

/// One Engine.IO session.
pub struct Session {
    /// Its number on this node.
    pub id: SessionId,
    /// What its handshake request said.
    pub handshake: Handshake,
    kind: AtomicU8,
    /// Only while the session is not closed: whoever holds on to the session must not hold on to the stream.
    wire: Mutex<Option<Arc<Wire>>>,
    /// What the wire had carried when it was closed.
    carried: OnceLock<(u64, u64)>,
    polling: Option<Polling>,
    events: Arc<dyn SessionEvents>,
    engine: Weak<Engine>,
    ending: AtomicBool,
    aborted: AtomicBool,
    let_go: AtomicBool,
    /// Cancelled when the engine has let the session go.
    over: CancellationToken,
    stalled: AtomicBool,
    /// Cancelled when nothing can reach the peer any more.
    closed: CancellationToken,
    connects: DefaultDirectRateLimiter,
    refusals: AtomicU32,
    last_empty: AtomicU64,
    parted: Parted,
}

/// The state of a session that began with long-polling.
struct Polling {
    /// The Engine.IO session id: a credential, since whoever knows it can write into the session.
    sid: Mutex<Option<SecretString>>,
    /// GET requests at work; a healthy client always has one but for a moment.
    requests: Mutex<Requests>,
    /// The number of the last GET request that has taken what was there for it.
    served: watch::Sender<u64>,
    /// Has the GET requests that wait answered with a noop.
    released: Notify,
    /// Whether a WebSocket beside it is being tried.
    probing: AtomicBool,
    /// Bytes sent and not fetched, as far as this node's own sends go.
    unfetched: AtomicUsize,
}

struct Requests {
    at_work: u32,
    /// How many have begun.
    begun: u64,
    idle_since: Instant,
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        handshake: Handshake,
        kind: TransportKind,
        events: Arc<dyn SessionEvents>,
        engine: &Arc<Engine>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            handshake,
            kind: AtomicU8::new(kind as u8),
            wire: Mutex::new(None),
            carried: OnceLock::new(),
            polling: (kind == TransportKind::Polling).then(|| Polling {
                sid: Mutex::new(None),
                requests: Mutex::new(Requests {
                    at_work: 0,
                    begun: 0,
                    idle_since: Instant::now(),
                }),
                served: watch::Sender::new(0),
                released: Notify::new(),
                probing: AtomicBool::new(false),
                unfetched: AtomicUsize::new(0),
            }),
            events,
            engine: Arc::downgrade(engine),
            ending: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            over: CancellationToken::new(),
            stalled: AtomicBool::new(false),
            closed: CancellationToken::new(),
            connects: RateLimiter::direct(
                Quota::per_second(CONNECTS_PER_SECOND).allow_burst(CONNECT_BURST),
            ),
            refusals: AtomicU32::new(0),
            last_empty: AtomicU64::new(0),
            parted: Parted::default(),
        })
    }

    /// What carries the session now.
    pub fn kind(&self) -> TransportKind {
        if self.kind.load(Ordering::Acquire) == TransportKind::Websocket as u8 {
            TransportKind::Websocket
        } else {
            TransportKind::Polling
        }
    }

    /// Bytes read and written over the WebSocket, if there is one.
    pub fn traffic(&self) -> (u64, u64) {
        let wire = self.wire.lock();
        match wire.as_ref() {
            Some(wire) => wire.traffic(),
            None => self.carried.get().copied().unwrap_or_default(),
        }
    }

    /// Whether the session is ending or over: nothing new is let in on it.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Whether the engine has let the session go.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Waits until the engine has let the session go.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Whether what the engine still has to say may not reach the peer.
    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    /// The session has sent its first CONNECT packet: it is nobody's to displace any more.
    pub fn said_connect(&self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.waits_no_more(self.id);
        }
    }

    /// Counts a CONNECT packet. Returns whether it is one too many.
    pub fn connects_too_often(&self) -> bool {
        self.connects.check().is_err()
    }

    /// Counts a refused CONNECT packet, and ends the session at the tenth: nobody guesses tokens on one transport for ever.
    pub fn refused(self: &Arc<Self>) {
        if self.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_REFUSALS {
            self.end_after_answers();
        }
    }

    /// Ends the session a moment later; nothing new is let in from now on. A client that sends its packets along with the
    /// handshake may be refused before the engine's writer has run at all, and a writer that finds its session closed at its
    /// start writes nothing.
    pub fn end_after_answers(self: &Arc<Self>) {
        if !self.ending.swap(true, Ordering::AcqRel) {
            let session = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(ANSWERS).await;
                session.finish().await;
            });
        }
    }

    /// Has `end` end a namespace of a session that goes on: it sends the DISCONNECT packet, and gives what lets the
    /// namespace go, which is called when the client asks for it anew.
    pub fn part(&self, namespace: &Arc<str>, end: impl FnOnce() -> Option<Removal>) {
        self.parted.end(namespace, end);
    }

    /// Its namespaces that were ended.
    pub(super) fn parted(&self) -> &Parted {
        &self.parted
    }

    /// A fresh number for "the session has been left without a namespace"; [`Session::empty_since`] tells whether it is
    /// still the last one.
    pub fn mark_empty(&self) -> u64 {
        self.last_empty.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether nothing has happened to the session's namespaces since `mark`.
    pub fn empty_since(&self, mark: u64) -> bool {
        self.last_empty.load(Ordering::Relaxed) == mark
    }

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

    /// Tells the owner, once, that the client does not take what it is sent.
    pub fn stalled(self: &Arc<Self>) {
        if !self.stalled.swap(true, Ordering::AcqRel) {
            self.events.stalled(self);
        }
    }

    /// Ends the session: what was written before is flushed within a deadline, then the transport is closed, whatever the
    /// peer does. Returns at once; [`Session::closed`] tells when it has happened.
    pub fn end(self: &Arc<Self>) {
        if !self.ending.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().finish());
        }
    }

    /// Ends the session at once: nothing that waits is sent.
    pub fn abort(self: &Arc<Self>) {
        self.aborted.store(true, Ordering::Release);
        if let Some(wire) = self.wire.lock().as_ref() {
            wire.abort();
        }
        self.end();
    }

    /// Waits until nothing can reach the peer any more.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    async fn finish(self: Arc<Self>) {
        let wire = self.wire.lock().clone();
        match (wire, self.kind()) {
            (Some(wire), TransportKind::Websocket) => wire.finish().await,
            (wire, _) => {
                if !self.is_aborted() {
                    self.fetched().await;
                }
                if let Some(engine) = self.engine.upgrade() {
                    engine.close_polling(&self).await;
                }
                if let Some(wire) = wire {
                    wire.finish().await;
                }
            }
        }
        {
            let mut wire = self.wire.lock();
            if let Some(wire) = wire.take() {
                self.carried.set(wire.traffic()).ok();
            }
        }
        self.closed.cancel();
    }

    /// Waits until a polling client has fetched what was sent, within a deadline. A request that begins after the last
    /// packet was queued takes all that is left; one that was waiting before may have taken the first of several.
    async fn fetched(&self) {
        let Some(polling) = &self.polling else {
            return;
        };
        let mut served = polling.served.subscribe();
        let before = polling.requests.lock().begun;
        tokio::select! {
            _ = served.wait_for(|number| *number > before) => {}
            // A stock client closes its session itself when it has read that it is disconnected.
            () = self.over.cancelled() => {}
            () = tokio::time::sleep(POLL_DEADLINE) => {
                tracing::debug!(session = self.id.0, "a polling client did not fetch its last packets");
            }
        }
    }

    /// Puts the session on a wire; refused if it has one. A session that polls until then changes over once the engine
    /// says so, with [`Session::check_upgrade`].
    pub(super) fn attach(&self, wire: Arc<Wire>) -> bool {
        let mut slot = self.wire.lock();
        if slot.is_some() || self.is_ending() {
            return false;
        }
        *slot = Some(wire);
        true
    }

    /// Begins to try a WebSocket beside a session that polls, one at a time. None if it does not poll any more, or is ending.
    pub(super) fn begin_probe(self: &Arc<Self>) -> Option<Probing> {
        let polling = self.polling.as_ref()?;
        if self.kind() != TransportKind::Polling || self.is_upgrading() || self.is_ending() {
            return None;
        }
        let begun = !polling.probing.swap(true, Ordering::AcqRel);
        begun.then(|| Probing(self.clone()))
    }

    /// Has the GET requests that wait at this moment answered with a noop.
    pub(super) fn release_polls(&self) {
        if let Some(polling) = &self.polling {
            polling.released.notify_waiters();
        }
    }

    /// Waits for the next [`Session::release_polls`].
    pub(super) async fn poll_released(&self) {
        match &self.polling {
            Some(polling) => polling.released.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Whether a GET request is at work.
    pub(super) fn is_polled(&self) -> bool {
        let polling = self.polling.as_ref();
        polling.is_some_and(|polling| polling.requests.lock().at_work > 0)
    }

    /// Looks whether a session that began with polling has arrived at its wire. Called with each read from the wire until
    /// it has: the protocol reads again right after it has made the change.
    pub fn check_upgrade(self: &Arc<Self>) {
        if self.is_upgrading() && self.events.is_websocket(self) {
            self.kind
                .store(TransportKind::Websocket as u8, Ordering::Release);
            self.events.upgraded(self);
        }
    }

    /// Whether the session is on its way from polling to a wire.
    pub fn is_upgrading(&self) -> bool {
        self.kind() == TransportKind::Polling && self.wire.lock().is_some()
    }

    pub(super) fn set_sid(&self, sid: &str) {
        if let Some(polling) = &self.polling {
            *polling.sid.lock() = Some(sid.into());
        }
    }

    pub(super) fn sid(&self) -> Option<SecretString> {
        self.polling.as_ref()?.sid.lock().clone()
    }

    /// A GET request begins. Returns its number.
    pub(super) fn poll_started(&self) -> u64 {
        let Some(polling) = &self.polling else {
            return 0;
        };
        let mut requests = polling.requests.lock();
        requests.at_work += 1;
        requests.begun += 1;
        requests.begun
    }

    /// A GET request has taken what was there; `waits` if nothing was.
    pub(super) fn poll_served(&self, number: u64, waits: bool) {
        if let Some(polling) = &self.polling {
            if waits {
                // Fetched, all of it, whatever was counted: a fetch may overtake the count of what it fetches.
                polling.unfetched.store(0, Ordering::Relaxed);
            }
            polling.served.send_modify(|last| *last = number.max(*last));
        }
    }

    pub(super) fn poll_completed(&self, bytes: usize) {
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
    pub(super) fn is_idle(&self, deadline: Duration) -> bool {
        self.kind() == TransportKind::Polling
            && !self.is_upgrading()
            && self.polling.as_ref().is_some_and(|polling| {
                let requests = polling.requests.lock();
                requests.at_work == 0 && requests.idle_since.elapsed() > deadline
            })
    }

    /// The engine has let the session go, or has nothing left to do with it. Called by whoever learns of it first.
    pub(super) fn let_go(self: &Arc<Self>) {
        self.end();
        if !self.let_go.swap(true, Ordering::AcqRel) {
            self.over.cancel();
            if let Some(engine) = self.engine.upgrade() {
                engine.waits_no_more(self.id);
                engine.forget(self);
            }
            self.events.over(self);
        }
    }
}

/// A session beside which a WebSocket is being tried; no longer when this goes.
pub(super) struct Probing(Arc<Session>);

impl Drop for Probing {
    fn drop(&mut self) {
        if let Some(polling) = &self.0.polling {
            polling.probing.store(false, Ordering::Release);
        }
    }
}

/// Sits in the extensions of the session's request parts, which the engine keeps as long as it keeps the session: when the
/// last clone goes, the engine has let the session go, whatever the reason. So the end of a session that never got as far
/// as a namespace, or got lost on the way there, is noticed like any other. Nobody else keeps a clone. It may take as long
/// as a handshake: the engine's own timer for that holds on to the session. Where the end shows earlier, in a stream that
/// is dropped or a close packet, that counts.
pub struct SessionGuard(Arc<Session>);

impl SessionGuard {
    pub(super) fn new(session: Arc<Session>) -> Arc<Self> {
        Arc::new(Self(session))
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.0.let_go();
    }
}
