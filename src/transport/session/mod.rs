//! One Engine.IO session: what its handshake brought, what carries it, and the one way to end it.
//!
//! `polling` is what a session that polls keeps besides, `guard` notices that the engine has let it go, or that its end is over.

mod guard;
mod polling;

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::SetOnce;

use self::{guard::Closing, polling::Polling};
use super::{
    door::SessionPlace,
    engine::Engine,
    gate::{Gate, Judged},
    packets::CLOSE,
    parted::{Parted, Removal},
    wire::Wire,
};
use crate::{
    connection::{ConnectionId, TransportKind},
    ending::Breach,
};

pub(super) use self::polling::{LastPacket, Probing};

pub use self::guard::SessionGuard;

/// How many refused CONNECT packets a session may send. A stock client sends one for each namespace it wants.
const MAX_REFUSALS: u32 = 10;

/// How long the answers to what came before get to leave before a session ends for what its client sends.
const ANSWERS: Duration = Duration::from_millis(50);

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
    /// The headers with credentials, as far as they can count.
    pub headers: HeaderMap,
    /// Those that backends are told.
    pub forwarded: HeaderMap,
}

impl Handshake {
    /// Whether the client takes Engine.IO's close packet for an end of its own, after which it never comes back: python-engineio
    /// 4.15 does, which requests or aiohttp speak for in `User-Agent`.
    fn stays_away_once_closed(&self) -> bool {
        let agent = self.user_agent.as_deref().unwrap_or_default();
        agent.starts_with("python-requests/") || agent.starts_with("Python/")
    }
}

/// What a session tells its owner. Calls come from any task and must not block.
pub trait SessionEvents: Send + Sync + 'static {
    /// Whether a new session may start now; if not, what is wrong. The client is answered 503 and tries again.
    fn admit(&self) -> Result<(), &'static str>;

    /// A session that has sent no CONNECT packet yet makes room for a newer one.
    fn displaced(&self);

    /// A client of another version of the protocol is refused.
    fn other_protocol(&self);

    /// The client does not take what it is sent. Called once or more; the owner ends the session.
    fn stalled(&self, session: &Arc<Session>);

    /// A CONNECT packet asks for a namespace that is not there. It is answered all the same.
    fn no_namespace(&self);

    /// The session is ended for what its client has sent. Called once at the most.
    fn breached(&self, breach: Breach);

    /// A session whose client was too slow is closed, and with it that many messages were dropped that had been handed to it.
    fn lost(&self, messages: u64);

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
    /// Until the engine has let the session go.
    place: Mutex<Option<SessionPlace>>,
    kind: AtomicU8,
    /// Only while the session is not closed: who keeps the session must not keep the stream open.
    wire: Mutex<Option<Arc<Wire>>>,
    /// What the wire had carried when it was closed.
    carried: OnceLock<(u64, u64)>,
    polling: Option<Box<Polling>>,
    events: Arc<dyn SessionEvents>,
    gate: Gate,
    engine: Weak<Engine>,
    ending: AtomicBool,
    aborted: AtomicBool,
    let_go: AtomicBool,
    /// Set when the engine has let the session go.
    over: SetOnce<()>,
    stalled: AtomicBool,
    /// Connections that end because the client is too slow.
    slow: AtomicU64,
    /// Set when nothing can reach the peer any more.
    closed: SetOnce<()>,
    refusals: AtomicU32,
    last_empty: AtomicU64,
    parted: Parted,
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        handshake: Handshake,
        place: SessionPlace,
        kind: TransportKind,
        events: Arc<dyn SessionEvents>,
        gate: Gate,
        engine: &Arc<Engine>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            handshake,
            place: Mutex::new(Some(place)),
            kind: AtomicU8::new(kind as u8),
            wire: Mutex::new(None),
            carried: OnceLock::new(),
            polling: (kind == TransportKind::Polling).then(|| Box::new(Polling::new())),
            events,
            gate,
            engine: Arc::downgrade(engine),
            ending: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            over: SetOnce::new(),
            stalled: AtomicBool::new(false),
            slow: AtomicU64::new(0),
            closed: SetOnce::new(),
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

    /// Bytes that wait for the client, and of the client's that wait for their rest: what the kernel has not taken, what polls have
    /// yet to fetch, and a message that has not ended.
    pub fn queued(&self) -> usize {
        let held = usize::try_from(self.gate.held()).unwrap_or(usize::MAX);
        self.unsent() + held
    }

    /// Bytes that wait for the client: what the kernel has not taken, and what polls have yet to fetch.
    pub fn unsent(&self) -> usize {
        self.wire().map_or(0, |wire| wire.queued()) + self.unfetched()
    }

    /// Whether the session is ending or over: nothing new is let in on it.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Whether the engine has let the session go.
    pub fn is_over(&self) -> bool {
        self.over.initialized()
    }

    /// Waits until the engine has let the session go.
    pub async fn over(&self) {
        self.over.wait().await;
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

    /// The session carries a user's connection: its client may send larger messages from now on.
    pub fn set_identified(&self) {
        self.gate.set_identified();
    }

    /// The client's connection in a namespace is `id`: its CONNECT packet is answered with that name.
    pub fn name(&self, namespace: &str, id: &ConnectionId) {
        self.gate.name(namespace, id);
    }

    /// The client's CONNECT packet for a namespace is refused: it may ask again.
    pub fn refuse(&self, namespace: &str) {
        self.gate.refuse(namespace);
    }

    /// The client's connection `id` in a namespace is over: it may ask again.
    pub fn leave(&self, namespace: &str, id: &ConnectionId) {
        self.gate.leave(namespace, id);
    }

    /// Whether the client is in a namespace.
    pub fn has_joined(&self) -> bool {
        self.gate.has_joined()
    }

    /// What the session is ended for, of what its client has sent.
    pub fn breach(&self) -> Option<Breach> {
        self.gate.breach()
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
    fn end_after_answers(self: &Arc<Self>) {
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

    /// What bounds what its client may send, and names what it gets.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Judges a packet of `length` bytes that begins with `opening`. A CONNECT packet for a namespace that is not there is told
    /// to the owner, and counts as refused. Returns whether the engine gets the packet.
    pub(super) fn judge(self: &Arc<Self>, opening: &[u8], length: u64) -> Result<bool, Breach> {
        if self.gate.is_overdue(Instant::now()) {
            return Err(Breach::Unfinished);
        }
        let judged = self.gate.packet(opening, length)?;
        if judged == Judged::NoNamespace {
            self.events.no_namespace();
            self.refused();
        }
        Ok(judged != Judged::Repeated)
    }

    /// Ends the session for what its client has sent. What came before it has been, or is being, answered.
    pub(super) fn breached(self: &Arc<Self>, breach: Breach) {
        if self.gate.set_breach(breach) {
            self.events.breached(breach);
            let hint = match breach {
                Breach::TooLarge => {
                    "limits.max_payload and .max_payload_guest say how large a message may be"
                }
                Breach::OtherParser => {
                    "it has the parser socket.io-msgpack-parser: it needs that of socket.io-client"
                }
                _ => "a stock client doesn't",
            };
            tracing::warn!(
                session = self.id.0,
                address = %self.handshake.remote_addr,
                reason = breach.label(),
                "a transport is ended for what its client sends: {hint}"
            );
            let session = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(ANSWERS).await;
                session.end();
            });
        }
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

    /// Tells the owner, once, that the client does not take what it is sent.
    pub fn stalled(self: &Arc<Self>) {
        if !self.stalled.swap(true, Ordering::AcqRel)
            && catch_unwind(AssertUnwindSafe(|| self.events.stalled(self))).is_err()
        {
            // It is told once, and the session is not to stay.
            tracing::error!(session = self.id.0, "the end of a slow session panicked");
            self.abort();
        }
    }

    /// Ends the session: what was written before is flushed within a deadline, then the transport is closed, whatever the
    /// peer does. Returns at once; [`Session::closed`] tells when it has happened.
    pub fn end(self: &Arc<Self>) {
        if !self.ending.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().finish());
        }
    }

    /// Ends the session, whose client is to come back: the same, and one that polls is told by Engine.IO's close packet. A
    /// session that is unknown would be an error to it. A Python client is left to find that: see
    /// `Handshake::stays_away_once_closed`.
    pub fn close(self: &Arc<Self>) {
        if !self.handshake.stays_away_once_closed() {
            self.owe(CLOSE);
        }
        self.end();
    }

    /// Ends the session at once: nothing that waits is sent.
    pub fn abort(self: &Arc<Self>) {
        self.aborted.store(true, Ordering::Release);
        if let Some(wire) = self.wire.lock().as_ref() {
            wire.abort();
        }
        self.end();
    }

    /// The client is too slow for that many connections, which end for it. What they are not told is counted in the end.
    pub fn is_too_slow_for(&self, connections: usize) {
        self.slow.store(connections as u64, Ordering::Release);
    }

    fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Acquire) > 0
    }

    /// Waits until nothing can reach the peer any more.
    pub async fn closed(&self) {
        self.closed.wait().await;
    }

    async fn finish(self: Arc<Self>) {
        let _closing = Closing::of(&self);
        let wire = self.wire();
        let mut lost = 0;
        if wire.is_none() || self.kind() == TransportKind::Polling {
            if !self.is_aborted() {
                self.fetched().await;
            }
            if let Some(engine) = self.engine.upgrade() {
                if self.is_slow() && wire.is_none() {
                    lost = engine.unfetched(&self).await;
                }
                let known = !self.is_aborted() && !self.is_over();
                if known
                    && wire.is_none()
                    && let Some(last) = self.take_last()
                {
                    engine.owe(&self, last);
                }
                engine.close_polling(&self).await;
            }
        }
        if let Some(wire) = wire {
            wire.clone().finish().await;
            lost += wire.lost();
        }
        if self.is_slow() {
            let least = self.slow.load(Ordering::Acquire);
            self.events.lost(lost.max(least));
        }
        {
            let mut wire = self.wire.lock();
            if let Some(wire) = wire.take() {
                self.carried.set(wire.traffic()).ok();
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

    /// What carries it, if that is a WebSocket and not closed.
    pub(super) fn wire(&self) -> Option<Arc<Wire>> {
        self.wire.lock().clone()
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

    /// The engine has let the session go, or has nothing left to do with it. Called from where that is noticed first.
    pub(super) fn let_go(self: &Arc<Self>) {
        self.end();
        if !self.let_go.swap(true, Ordering::AcqRel) {
            self.place.lock().take();
            self.over.set(()).ok();
            if let Some(engine) = self.engine.upgrade() {
                engine.waits_no_more(self.id);
                engine.forget(self);
            }
            self.events.over(self);
        }
    }
}
