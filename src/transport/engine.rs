//! `/socket.io/`: handshakes, the upgrade to WebSocket, and long-polling.
//!
//! socketioxide runs the protocol; the HTTP around it is done here, for three reasons. A WebSocket must run over a
//! [`Wire`], or it can't be ended. The engine keeps the parts of the handshake request as long as the
//! session lives, and as hyper made them they pin its read buffer (measured: 29.2 KB a connection; 16.1 KB with parts of
//! our own making). And whether a new session may start at all is decided before one is allocated.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use engineioxide::service::NotFoundService;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Limited};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use socketioxide::{adapter::Emitter, service::SocketIoService};
use socketioxide_redis::CustomRedisAdapter;
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};

use super::{
    listener::{HttpStream, Peer, unavailable},
    origin::Origins,
    peer::client_addr,
    probe,
    request::{
        Query, cut, forbidden, noop, refused, slim_request, switching_protocols, websocket_accept,
    },
    session::{Handshake, Probing, Session, SessionEvents, SessionGuard, SessionId},
    wire::{EngineStream, Wire, WireLimits},
};
use crate::{bus::Bus, connection::TransportKind};

/// The adapter that all namespaces use.
pub type Adapter = CustomRedisAdapter<Emitter, Bus>;

/// socketioxide's service, which runs the protocol.
pub type Protocol = SocketIoService<NotFoundService, Adapter>;

/// The longest `User-Agent` that is kept, in bytes.
const MAX_USER_AGENT: usize = 128;

/// Engine.IO's close packet, and what divides packets in a body.
const CLOSE: &[u8] = b"1";
const SEPARATOR: u8 = 0x1e;

/// How often polling sessions are looked through for clients that have stopped polling.
const SWEEP: Duration = Duration::from_secs(1);

/// How often polls are sent back whose session moves to its WebSocket.
const RELEASE: Duration = Duration::from_millis(5);

/// What a handshake is kept of, apart from the address and the user agent.
const KEPT_HEADERS: [HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::ORIGIN];

/// Bounds and names from the configuration.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Of what a WebSocket's peer has not taken.
    pub wire: WireLimits,
    /// One message, in bytes.
    pub max_payload: usize,
    /// For a POST body to arrive, and for each part of an upgrade.
    pub handshake_timeout: Duration,
    /// Sessions that have sent no CONNECT packet yet; 0: no limit.
    pub handshakes: usize,
    /// Which pages may bring a browser's cookies.
    pub origins: Origins,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// The HTTP side of Engine.IO; one a node.
pub struct Engine {
    settings: EngineSettings,
    events: Arc<dyn SessionEvents>,
    /// Set once, when the namespaces are mounted: the service and its handlers refer to each other.
    protocol: OnceLock<Protocol>,
    /// Sessions that began with polling, by their Engine.IO session id.
    polling: Mutex<HashMap<String, Arc<Session>>>,
    /// Sessions that have sent no CONNECT packet yet, the oldest first.
    waiting: Mutex<BTreeMap<SessionId, Weak<Session>>>,
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
            waiting: Mutex::default(),
            next_id: AtomicU64::new(1),
        })
    }

    /// Gives the engine the service that runs the protocol.
    pub fn mount(&self, protocol: Protocol) {
        self.protocol.set(protocol).ok();
    }

    /// Ends polling sessions whose clients have stopped polling. Runs as long as the node does.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            let idle: Vec<_> = self
                .polling
                .lock()
                .values()
                .filter(|session| session.is_idle(self.settings.wire.write_deadline))
                .cloned()
                .collect();
            for session in idle {
                session.stalled();
            }
        }
    }

    /// Answers a request to `/socket.io/`.
    pub async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let Some(protocol) = self.protocol.get() else {
            return unavailable();
        };
        let query = Query::of(request.uri());
        if query.version != Some("4") {
            return refused(5, "Unsupported protocol version");
        }
        if !self.settings.origins.allow(request.headers()) {
            return forbidden();
        }
        match (query.transport, query.sid) {
            (Some("websocket"), None) => self.open_websocket(protocol, request),
            (Some("websocket"), Some(sid)) => {
                let sid = sid.to_owned();
                self.upgrade(protocol, request, &sid)
            }
            (Some("polling"), None) if request.method() == Method::GET => {
                self.open_polling(protocol, request).await
            }
            (Some("polling"), None) => refused(2, "Bad handshake method"),
            (Some("polling"), Some(sid)) => {
                let sid = sid.to_owned();
                self.poll(protocol, request, &sid).await
            }
            _ => refused(0, "Transport unknown"),
        }
    }

    fn new_session(self: &Arc<Self>, request: &Request<Body>, kind: TransportKind) -> Arc<Session> {
        let id = SessionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let handshake = self.handshake(request);
        let session = Session::new(id, handshake, kind, self.events.clone(), self);
        let displaced = {
            let mut waiting = self.waiting.lock();
            waiting.insert(id, Arc::downgrade(&session));
            let crowded = self.settings.handshakes > 0 && waiting.len() > self.settings.handshakes;
            crowded.then(|| waiting.pop_first()).flatten()
        };
        // The oldest, and not this one: whoever means it sends CONNECT at once, and gets in also while others hold places that
        // they do nothing with.
        if let Some(oldest) = displaced.and_then(|(_, oldest)| oldest.upgrade()) {
            self.events.displaced();
            oldest.abort();
        }
        session
    }

    /// A session has sent CONNECT, or is over.
    pub(super) fn waits_no_more(&self, session: SessionId) {
        self.waiting.lock().remove(&session);
    }

    fn handshake(&self, request: &Request<Body>) -> Handshake {
        let headers = request.headers();
        let peer = request.extensions().get::<Peer>().map_or(
            std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
            |Peer(addr)| *addr,
        );
        let mut kept = HeaderMap::new();
        for name in KEPT_HEADERS {
            for value in headers.get_all(&name) {
                // A copy: the value as hyper made it is a slice of the read buffer.
                if let Ok(mut copy) = http::HeaderValue::from_bytes(value.as_bytes()) {
                    copy.set_sensitive(true);
                    kept.append(name.clone(), copy);
                }
            }
        }
        let user_agent = headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .map(|text| cut(text, MAX_USER_AGENT).to_owned());
        Handshake {
            remote_addr: client_addr(peer, headers, &self.settings.trusted_proxies),
            user_agent,
            headers: kept,
        }
    }

    fn open_websocket(
        self: &Arc<Self>,
        protocol: &Protocol,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let Some(accept) = websocket_accept(&request) else {
            return refused(3, "Bad request");
        };
        if let Err(reason) = self.events.admit() {
            tracing::debug!(reason, "handshake refused");
            return unavailable();
        }
        let session = self.new_session(&request, TransportKind::Websocket);
        let mut slim = slim_request("/socket.io/?EIO=4&transport=websocket");
        slim.extensions_mut()
            .insert(SessionGuard::new(session.clone()));
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(
            self.clone()
                .start_websocket(protocol.clone(), upgrade, session, slim),
        );
        switching_protocols(&accept)
    }

    fn upgrade(
        self: &Arc<Self>,
        protocol: &Protocol,
        mut request: Request<Body>,
        sid: &str,
    ) -> Response<Body> {
        let Some(session) = self.session(sid) else {
            return refused(1, "Session ID unknown");
        };
        let Some(accept) = websocket_accept(&request) else {
            return refused(3, "Bad request");
        };
        let Some(probing) = session.begin_probe() else {
            return refused(3, "Bad request");
        };
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(self.clone().move_to_websocket(
            protocol.clone(),
            upgrade,
            session,
            probing,
            sid.to_owned(),
        ));
        switching_protocols(&accept)
    }

    /// Tries a WebSocket beside a session that polls, and has the session move there when its client wants it. Until then
    /// the session is what it was, whatever becomes of the WebSocket.
    async fn move_to_websocket(
        self: Arc<Self>,
        protocol: Protocol,
        upgrade: hyper::upgrade::OnUpgrade,
        session: Arc<Session>,
        probing: Probing,
        sid: String,
    ) {
        let Some((mut tcp, place, early)) = upgraded(upgrade).await else {
            return;
        };
        let answered = tokio::select! {
            answered = timeout(self.settings.handshake_timeout, probe::answer(&mut tcp, &early, &session)) => answered,
            () = session.over() => return,
        };
        let Ok(Ok(Some(early))) = answered else {
            tracing::debug!(
                session = session.id.0,
                "a WebSocket was tried and not taken"
            );
            return;
        };
        let wire = Wire::new(tcp, place, self.settings.wire);
        let attached = session.attach(wire.clone());
        if !attached && session.is_aborted() {
            wire.abort();
            return;
        }
        drop(probing);
        let Ok(waiting) = timeout(
            self.settings.handshake_timeout,
            take_what_waits(&protocol, &session, &sid),
        )
        .await
        else {
            session.abort();
            wire.abort();
            return;
        };
        if !attached {
            // It is ending, and a client that has said `5` polls no more: what it has yet to be told, why it is ended and
            // whether it may come back, can only reach it here.
            session.poll_served(Poll::start(&session).number, true);
            wire.say_last(&waiting, &session).await;
            return;
        }
        let slim = slim_request(&format!("/socket.io/?EIO=4&transport=websocket&sid={sid}"));
        let stream = EngineStream::moving(wire, session, &early, &waiting);
        if let Err(error) = protocol.call((stream, slim)).await {
            tracing::debug!(%error, "the engine refused a handshake");
        }
    }

    async fn start_websocket(
        self: Arc<Self>,
        protocol: Protocol,
        upgrade: hyper::upgrade::OnUpgrade,
        session: Arc<Session>,
        slim: Request<()>,
    ) {
        let Some((tcp, place, early)) = upgraded(upgrade).await else {
            return;
        };
        let wire = Wire::new(tcp, place, self.settings.wire);
        if !session.attach(wire.clone()) {
            wire.abort();
            return;
        }
        let stream = EngineStream::new(wire, session, &early);
        if let Err(error) = protocol.call((stream, slim)).await {
            tracing::debug!(%error, "the engine refused a handshake");
        }
    }

    async fn open_polling(
        self: &Arc<Self>,
        protocol: &Protocol,
        request: Request<Body>,
    ) -> Response<Body> {
        if let Err(reason) = self.events.admit() {
            tracing::debug!(reason, "handshake refused");
            return unavailable();
        }
        let session = self.new_session(&request, TransportKind::Polling);
        let mut slim = slim_request("/socket.io/?EIO=4&transport=polling").map(|()| Body::empty());
        slim.extensions_mut()
            .insert(SessionGuard::new(session.clone()));
        let response = call(protocol, slim).await;
        let (parts, body) = response.into_parts();
        let sid = body
            .strip_prefix(b"0")
            .and_then(|json| serde_json::from_slice::<OpenPacket>(json).ok())
            .map(|open| open.sid);
        if let Some(sid) = sid {
            session.set_sid(&sid);
            self.polling.lock().insert(sid, session);
        }
        Response::from_parts(parts, Body::from(body))
    }

    async fn poll(
        self: &Arc<Self>,
        protocol: &Protocol,
        request: Request<Body>,
        sid: &str,
    ) -> Response<Body> {
        let Some(session) = self.session(sid) else {
            return refused(1, "Session ID unknown");
        };
        let mut slim = slim_request(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}"))
            .map(|()| Body::empty());
        match *request.method() {
            Method::GET => {
                let poll = Poll::start(&session);
                // Without tokio's budget, after which a channel seems empty (measured: 128 packets a request): what is there
                // is fetched whole, and a session may end on that.
                let mut response = pin!(tokio::task::unconstrained(call(protocol, slim)));
                if session.is_upgrading() {
                    // From here on everything comes over the WebSocket.
                    return noop();
                }
                let at_once = futures_util::poll!(response.as_mut());
                session.poll_served(poll.number, at_once.is_pending());
                let response = match at_once {
                    std::task::Poll::Ready(response) => response,
                    std::task::Poll::Pending => tokio::select! {
                        biased;
                        response = response => response,
                        // It has taken nothing yet: the engine takes packets only when it answers with them.
                        () = session.poll_released() => return noop(),
                    },
                };
                let (parts, body) = response.into_parts();
                if session.is_aborted() {
                    return refused(1, "Session ID unknown");
                }
                poll.fetched(body.len());
                Response::from_parts(parts, Body::from(body))
            }
            Method::POST => {
                *slim.method_mut() = Method::POST;
                if let Some(content_type) = request.headers().get(header::CONTENT_TYPE) {
                    slim.headers_mut()
                        .insert(header::CONTENT_TYPE, content_type.clone());
                }
                // Collected here: the engine would wait for a body that never ends.
                let body = Limited::new(request.into_body(), self.settings.max_payload).collect();
                let body = match timeout(self.settings.handshake_timeout, body).await {
                    Ok(Ok(body)) => body.to_bytes(),
                    Ok(Err(error)) => {
                        session.end();
                        let status = match error.downcast_ref::<http_body_util::LengthLimitError>()
                        {
                            Some(_) => StatusCode::PAYLOAD_TOO_LARGE,
                            None => StatusCode::BAD_REQUEST,
                        };
                        return status.into_response();
                    }
                    Err(_) => {
                        session.end();
                        return StatusCode::REQUEST_TIMEOUT.into_response();
                    }
                };
                let closes = body
                    .split(|byte| *byte == SEPARATOR)
                    .any(|packet| packet == CLOSE);
                let (head, _) = slim.into_parts();
                let response = post(protocol, &head, &session, body).await;
                if closes {
                    session.let_go();
                }
                response.map(Body::from)
            }
            _ => refused(3, "Bad request"),
        }
    }

    fn session(&self, sid: &str) -> Option<Arc<Session>> {
        self.polling.lock().get(sid).cloned()
    }

    /// Has the engine close a polling session, by the close packet that its client would send.
    pub(super) async fn close_polling(&self, session: &Arc<Session>) {
        let (Some(sid), Some(protocol)) = (session.sid(), self.protocol.get()) else {
            return;
        };
        self.forget(session);
        let sid = sid.expose_secret();
        let mut close = slim_request(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}"))
            .map(|()| Body::from(CLOSE));
        *close.method_mut() = Method::POST;
        call(protocol, close).await;
    }

    /// From here on the session's id is unknown.
    pub(super) fn forget(&self, session: &Session) {
        if let Some(sid) = session.sid() {
            self.polling.lock().remove(sid.expose_secret());
        }
    }
}

/// What is left of HTTP after an upgrade: the stream, its place, and what had been read beyond the request.
async fn upgraded(
    upgrade: hyper::upgrade::OnUpgrade,
) -> Option<(TcpStream, Option<OwnedSemaphorePermit>, Bytes)> {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "upgrade");
            return None;
        }
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<HttpStream>>() else {
        tracing::error!("a connection that this listener did not accept asked for an upgrade");
        return None;
    };
    let (tcp, place) = parts.io.into_inner().into_parts();
    Some((tcp, place, parts.read_buf))
}

/// Takes what the engine has for the polls of a session that moves, as frames. Its writer to the WebSocket would leave behind
/// what a poll has looked at and found too much. Polls that are at work are sent back first.
async fn take_what_waits(protocol: &Protocol, session: &Session, sid: &str) -> Vec<u8> {
    while session.is_polled() {
        session.release_polls();
        tokio::time::sleep(RELEASE).await;
    }
    let mut frames = Vec::new();
    loop {
        let poll = slim_request(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}"));
        let poll = call(protocol, poll.map(|()| Body::empty()));
        let mut poll = pin!(tokio::task::unconstrained(poll));
        let std::task::Poll::Ready(answer) = futures_util::poll!(poll.as_mut()) else {
            return frames;
        };
        if answer.status() != StatusCode::OK || answer.body().is_empty() {
            // The session is over; the engine says so again.
            return frames;
        }
        let packets = answer.body().split(|byte| *byte == SEPARATOR);
        for frame in packets.filter_map(probe::frame_of) {
            if let Err(error) = frame.format(&mut frames) {
                tracing::error!(%error, "a frame");
            }
        }
    }
}

/// Hands a POST body to the engine. If the session has ended namespaces, what comes before a CONNECT packet for one of them is
/// handled first.
async fn post(
    protocol: &Protocol,
    head: &request::Parts,
    session: &Session,
    mut body: Bytes,
) -> Response<Bytes> {
    let parted = session.parted();
    let mut at = 0;
    while parted.look() > 0 && at < body.len() {
        let rest = &body[at..];
        let length = rest.iter().position(|byte| *byte == SEPARATOR);
        let packet = &rest[..length.unwrap_or(rest.len())];
        if parted.is_asked_for(packet) {
            if at > 0 {
                let before = body.split_to(at);
                let response = hand_over(protocol, head, before.slice(..at - 1)).await;
                if response.status() != StatusCode::OK {
                    return response;
                }
                at = 0;
                continue;
            }
            parted.let_go(packet);
        }
        at += packet.len() + 1;
    }
    hand_over(protocol, head, body).await
}

async fn hand_over(protocol: &Protocol, head: &request::Parts, body: Bytes) -> Response<Bytes> {
    let request = Request::from_parts(head.clone(), Body::from(body));
    call(protocol, request).await
}

/// A GET request at work; counted out also when its client hangs up.
struct Poll<'a> {
    session: &'a Session,
    number: u64,
    bytes: usize,
}

impl<'a> Poll<'a> {
    fn start(session: &'a Session) -> Self {
        Self {
            session,
            number: session.poll_started(),
            bytes: 0,
        }
    }

    fn fetched(mut self, bytes: usize) {
        self.bytes = bytes;
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        self.session.poll_completed(self.bytes);
    }
}

#[derive(serde::Deserialize)]
struct OpenPacket {
    sid: String,
}

async fn call(protocol: &Protocol, request: Request<Body>) -> Response<Bytes> {
    let Ok(response) = Service::<Request<Body>>::call(protocol, request).await;
    let (parts, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => match error {},
    };
    Response::from_parts(parts, body)
}
