//! `/socket.io/`: handshakes, the upgrade to WebSocket, and long-polling.
//!
//! socketioxide runs the protocol; the HTTP around it is done here, for three reasons. A WebSocket must run over a
//! [`Wire`](super::wire::Wire), or it can't be ended. The engine keeps the parts of the handshake request as long as the
//! session lives, and as hyper made them they pin its read buffer (measured: 29.2 KB a connection; 16.1 KB with parts of
//! our own making). And whether a new session may start at all is decided before one is allocated.
//!
//! `websocket` and `polling` are the ways a session may begin and go on, `post` is what it sends while it polls, `upgrade` the move
//! from the second to the first.

mod adapter;
mod polling;
mod post;
mod protocol;
mod upgrade;
mod websocket;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    door::Door,
    gate::{Gate, MessageSizes},
    listener::unavailable,
    namespaces::Namespaces,
    origin::Origins,
    request::{Query, cut, forbidden, refused, uncached},
    session::{Handshake, LastPacket, Session, SessionEvents, SessionId},
};
use crate::{
    auth::KeptHeaders,
    config::{Backend, RunningConfig},
    connection::TransportKind,
};

pub use adapter::{Adapter, ThisNode};
pub use protocol::Protocol;

/// The longest text of a client's in the log, in bytes.
const MAX_TOLD: usize = 128;

/// The address of a client that no listener has taken.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The longest `User-Agent` that is kept, in bytes.
const MAX_USER_AGENT: usize = 512;

/// Bounds and names from the configuration.
#[derive(Clone)]
pub struct EngineSettings {
    /// Where `limits` is. The sizes of messages are read when a session begins, as its client is told them then; everything
    /// else whenever it is needed.
    pub config: RunningConfig,
    /// Which pages may bring a browser's cookies.
    pub origins: Origins,
    /// What a client may ask for.
    pub namespaces: Arc<Namespaces>,
    /// What is kept of a handshake's headers.
    pub kept: KeptHeaders,
    /// Whether there is room for a newcomer.
    pub door: Arc<Door>,
}

/// The HTTP side of Engine.IO; one a node.
pub struct Engine {
    settings: EngineSettings,
    events: Arc<dyn SessionEvents>,
    /// Set once, when the namespaces are mounted: the service and its handlers refer to each other.
    protocol: OnceLock<Arc<dyn Protocol>>,
    /// Sessions that began with polling, by their Engine.IO session id.
    polling: Mutex<HashMap<String, Arc<Session>>>,
    /// The ids of sessions that polled and are over, with the answer to the next poll of each, and since when.
    closed: Mutex<HashMap<String, (LastPacket, Instant)>>,
    /// Sessions that have sent no CONNECT packet yet, the oldest first, and since when they are there.
    waiting: Mutex<BTreeMap<SessionId, (Weak<Session>, Instant)>>,
    next_id: AtomicU64,
}

impl Engine {
    /// A new engine; it answers 503 until [`Engine::mount`].
    pub fn new(settings: EngineSettings, events: Arc<dyn SessionEvents>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            events,
            protocol: OnceLock::new(),
            polling: Mutex::default(),
            closed: Mutex::default(),
            waiting: Mutex::default(),
            next_id: AtomicU64::new(1),
        })
    }

    /// Gives the engine the service that runs the protocol.
    pub fn mount(&self, protocol: impl Protocol) {
        self.protocol.set(Arc::new(protocol)).ok();
    }

    /// Answers a request to `/socket.io/`.
    pub async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let Some(protocol) = self.protocol.get() else {
            return unavailable();
        };
        let query = Query::of(request.uri());
        let headers = request.headers();
        if query.version != Some("4") {
            self.events.other_protocol();
            tracing::warn!(
                version = cut(query.version.unwrap_or("none"), MAX_TOLD),
                address = %self.settings.door.client(request.extensions(), headers).unwrap_or(UNKNOWN),
                user_agent = told(headers, header::USER_AGENT),
                "a client speaks another version of the protocol than 4 (EIO, in its query) and is refused: it needs a client of \
                 Socket.IO 3 or newer"
            );
            return refused(5, "Unsupported protocol version");
        }
        let allowed = self.settings.origins.allow(headers);
        let begins_polling = query.transport == Some("polling") && query.sid.is_none();
        if !allowed || begins_polling && self.settings.origins.is_unknown(headers) {
            tracing::warn!(
                origin = told(headers, header::ORIGIN),
                "a page of another origin is refused, here or by its browser: if it may connect, add its origin to \
                 cors.allowed_origins"
            );
        }
        if !allowed {
            return forbidden();
        }
        match (query.transport, query.sid) {
            (Some("websocket"), None) => self.with_cookie(self.open_websocket(protocol, request)),
            (Some("websocket"), Some(sid)) => {
                let sid = sid.to_owned();
                self.upgrade(protocol, request, &sid)
            }
            (Some("polling"), None) if request.method() == Method::GET => {
                uncached(self.with_cookie(self.open_polling(protocol, request).await))
            }
            (Some("polling"), None) => refused(2, "Bad handshake method"),
            (Some("polling"), Some(sid)) => {
                let sid = sid.to_owned();
                uncached(self.poll(protocol, request, &sid).await)
            }
            _ => refused(0, "Transport unknown"),
        }
    }

    /// The answer to a handshake, with the cookie of `transport.cookie` if it is let in.
    fn with_cookie(&self, mut response: Response<Body>) -> Response<Body> {
        let config = self.settings.config.now();
        let Some(cookie) = &config.transport.cookie else {
            return response;
        };
        if !matches!(response.status().as_u16(), 101 | 200) {
            return response;
        }
        let (name, attributes) = cookie.split_at(cookie.find(';').unwrap_or(cookie.len()));
        let value: u128 = rand::random();
        // It has been validated.
        if let Ok(cookie) = HeaderValue::try_from(format!("{name}={value:032x}{attributes}")) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }

    /// A new session, if one may start now.
    fn new_session(
        self: &Arc<Self>,
        request: &Request<Body>,
        kind: TransportKind,
    ) -> Option<Arc<Session>> {
        if let Err(reason) = self.events.admit() {
            tracing::debug!(reason, "handshake refused");
            return None;
        }
        let handshake = self.handshake(request);
        let place = self.settings.door.session(handshake.remote_addr);
        let place = place
            .inspect_err(|refused| tracing::debug!(reason = refused.label(), "handshake refused"))
            .ok()?;
        let config = self.settings.config.now();
        let limits = &config.limits;
        let id = SessionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let session = Session::new(
            id,
            handshake,
            place,
            kind,
            self.events.clone(),
            Gate::new(
                self.settings.namespaces.clone(),
                MessageSizes {
                    guest: limits.max_payload_guest.as_u64(),
                    user: limits.max_payload.as_u64(),
                },
            ),
            self,
        );
        if Query::of(request.uri()).base64 {
            session.gate().set_base64();
        }
        let displaced = {
            let mut waiting = self.waiting.lock();
            waiting.insert(id, (Arc::downgrade(&session), Instant::now()));
            let most = limits.handshakes as usize;
            let crowded = most > 0 && waiting.len() > most;
            crowded.then(|| waiting.pop_first()).flatten()
        };
        // The oldest, and not this one: a real client sends CONNECT at once, and gets in also while others hold places that
        // they do nothing with.
        if let Some(oldest) = displaced.and_then(|(_, (oldest, _))| oldest.upgrade()) {
            self.events.displaced();
            oldest.abort();
        }
        Some(session)
    }

    /// A session has sent CONNECT, or is over.
    pub(super) fn waits_no_more(&self, session: SessionId) {
        self.waiting.lock().remove(&session);
    }

    /// Sessions that have been there for that long and have sent no CONNECT packet.
    fn silent_for(&self, time: Duration) -> Vec<Arc<Session>> {
        let waiting = self.waiting.lock();
        let late = waiting
            .values()
            .take_while(|(_, since)| since.elapsed() >= time);
        late.filter_map(|(session, _)| session.upgrade()).collect()
    }

    fn handshake(&self, request: &Request<Body>) -> Handshake {
        let headers = request.headers();
        let user_agent = headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .map(|text| cut(text, MAX_USER_AGENT).to_owned());
        Handshake {
            remote_addr: self
                .settings
                .door
                .client(request.extensions(), headers)
                .unwrap_or(UNKNOWN),
            user_agent,
            headers: self.settings.kept.of(headers),
            forwarded: forwarded(headers, &self.settings.config.now().backends),
        }
    }
}

/// Copies of the headers that backends are told: as hyper made them they are slices of its read buffer.
fn forwarded(headers: &HeaderMap, backends: &[Backend]) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in backends.iter().flat_map(|one| &one.forward_headers) {
        let Ok(name) = HeaderName::try_from(name) else {
            continue;
        };
        if kept.contains_key(&name) {
            continue;
        }
        for value in headers.get_all(&name) {
            if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
                copy.set_sensitive(true);
                kept.append(name.clone(), copy);
            }
        }
    }
    kept
}

/// A header as the log shows it.
fn told(headers: &HeaderMap, name: HeaderName) -> &str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    cut(value.unwrap_or_default(), MAX_TOLD)
}
