//! Sessions that poll: how they begin, their GET requests, and how they are ended.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout};

use super::{Engine, Protocol};
use crate::{
    connection::TransportKind,
    transport::{
        listener::unavailable,
        outgoing::{is_message, outgoing_body},
        packets::{CLOSE, NOOP, SEPARATOR},
        request::{packet, refused, slim_request},
        session::{LastPacket, Session, SessionGuard},
    },
};

/// Engine.IO's pong packet.
const PONG: &str = "3";

/// How long the engine's first ping is waited for. It is sent as soon as its task runs.
const FIRST_PING: Duration = Duration::from_millis(250);

/// How often sessions are looked through for clients that have stopped polling, or that have sent no CONNECT packet.
const SWEEP: Duration = Duration::from_secs(1);

/// How long the close packet waits for the poll after the last one: a client that is there polls again at once.
const FAREWELL: Duration = Duration::from_secs(10);

impl Engine {
    /// Ends polling sessions whose clients have stopped polling, and sessions that have sent no CONNECT packet in time. Runs as
    /// long as the node does.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            let config = self.settings.config.now();
            let deadline = config.limits.write_deadline;
            let idle: Vec<_> = self
                .polling
                .lock()
                .values()
                .filter(|session| session.is_idle(deadline))
                .cloned()
                .collect();
            for session in idle {
                session.stalled();
            }
            for session in self.silent_for(config.limits.handshake_timeout) {
                session.end();
            }
            self.closed
                .lock()
                .retain(|_, (_, since)| since.elapsed() < FAREWELL);
        }
    }

    pub(super) async fn open_polling(
        self: &Arc<Self>,
        protocol: &Arc<dyn Protocol>,
        request: Request<Body>,
    ) -> Response<Body> {
        let Some(session) = self.new_session(&request, TransportKind::Polling) else {
            return unavailable();
        };
        let mut slim = slim_request("/socket.io/?EIO=4&transport=polling").map(|()| Body::empty());
        slim.extensions_mut()
            .insert(SessionGuard::new(session.clone()));
        let response = protocol.answer(slim).await;
        let (mut parts, body) = response.into_parts();
        let sid = body
            .strip_prefix(b"0")
            .and_then(|json| serde_json::from_slice::<OpenPacket>(json).ok())
            .map(|open| open.sid);
        let body = outgoing_body(session.gate(), body);
        parts.headers.remove(header::CONTENT_LENGTH);
        if let Some(sid) = sid {
            answer_first_ping(protocol, &sid).await;
            session.set_sid(&sid);
            self.polling.lock().insert(sid, session);
        }
        Response::from_parts(parts, Body::from(body))
    }

    pub(super) async fn poll(
        self: &Arc<Self>,
        protocol: &Arc<dyn Protocol>,
        request: Request<Body>,
        sid: &str,
    ) -> Response<Body> {
        let Some(session) = self.session(sid) else {
            let last = (request.method() == Method::GET)
                .then(|| self.closed.lock().remove(sid))
                .flatten();
            if let Some((last, _)) = last {
                return packet(last);
            }
            return refused(1, "Session ID unknown");
        };
        let mut slim = slim_request(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}"))
            .map(|()| Body::empty());
        match *request.method() {
            Method::GET => {
                let mut poll = Poll::start(&session);
                // Without tokio's budget, after which a channel seems empty (measured: 128 packets a request): what is there
                // is fetched whole, and a session may end on that.
                let mut response = pin!(tokio::task::unconstrained(protocol.answer(slim)));
                if session.is_upgrading() {
                    // A client that has said `5` polls no more: from here on everything comes over the WebSocket.
                    return refused(3, "Bad request");
                }
                let at_once = futures_util::poll!(response.as_mut());
                session.poll_served(poll.number, at_once.is_pending());
                if at_once.is_pending()
                    && let Some(last) = session.take_last()
                {
                    return packet(last);
                }
                let response = match at_once {
                    std::task::Poll::Ready(response) => response,
                    std::task::Poll::Pending => {
                        poll.waits = true;
                        let response = tokio::select! {
                            biased;
                            response = response => Some(response),
                            // It has taken nothing yet: the engine takes packets only when it answers with them.
                            () = session.poll_released() => None,
                        };
                        poll.waits = false;
                        let Some(response) = response else {
                            if session.is_upgrading() {
                                return refused(3, "Bad request");
                            }
                            return packet(NOOP);
                        };
                        response
                    }
                };
                let (mut parts, body) = response.into_parts();
                if session.is_aborted() {
                    return refused(1, "Session ID unknown");
                }
                // The engine has closed the session under the poll.
                let nothing = parts.status != StatusCode::OK || body.is_empty() || body == NOOP;
                if nothing && let Some(last) = session.take_last() {
                    return packet(last);
                }
                poll.fetched(body.len());
                let body = outgoing_body(session.gate(), body);
                parts.headers.remove(header::CONTENT_LENGTH);
                Response::from_parts(parts, Body::from(body))
            }
            Method::POST => {
                *slim.method_mut() = Method::POST;
                if let Some(content_type) = request.headers().get(header::CONTENT_TYPE) {
                    slim.headers_mut()
                        .insert(header::CONTENT_TYPE, content_type.clone());
                }
                let (head, _) = slim.into_parts();
                self.take_post(protocol, &session, &head, request.into_body())
                    .await
            }
            _ => refused(3, "Bad request"),
        }
    }

    pub(super) fn session(&self, sid: &str) -> Option<Arc<Session>> {
        self.polling.lock().get(sid).cloned()
    }

    /// Has the engine close a polling session, by the close packet that its client would send.
    pub(in crate::transport) async fn close_polling(&self, session: &Arc<Session>) {
        let (Some(sid), Some(protocol)) = (session.sid(), self.protocol.get()) else {
            return;
        };
        self.forget(session);
        let sid = sid.expose_secret();
        let mut packet = slim_request(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}"))
            .map(|()| Body::from(CLOSE));
        *packet.method_mut() = Method::POST;
        protocol.answer(packet).await;
    }

    /// Has the next poll of a session that is about to be unknown answered with `last`.
    pub(in crate::transport) fn owe(&self, session: &Session, last: LastPacket) {
        if let Some(sid) = session.sid() {
            let sid = sid.expose_secret().to_owned();
            self.closed.lock().insert(sid, (last, Instant::now()));
        }
    }

    /// How many messages wait for the polls of a session whose client does not fetch them. They are lost to it.
    pub(in crate::transport) async fn unfetched(&self, session: &Session) -> u64 {
        let (Some(sid), Some(protocol)) = (session.sid(), self.protocol.get()) else {
            return 0;
        };
        let mut messages = 0;
        // A poll that waits has taken all there was.
        if !session.is_polled() {
            let count = |packet: &[u8]| messages += u64::from(is_message(packet));
            take_waiting(protocol, sid.expose_secret(), count).await;
        }
        messages
    }

    /// From here on the session's id is unknown.
    pub(in crate::transport) fn forget(&self, session: &Session) {
        if let Some(sid) = session.sid() {
            self.polling.lock().remove(sid.expose_secret());
        }
    }
}

/// Takes the engine's first ping, which it sends at once, and answers it, before anybody else knows the session: clients expect
/// the first after `ping.interval`.
async fn answer_first_ping(protocol: &Arc<dyn Protocol>, sid: &str) {
    let uri = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let poll = protocol.answer(slim_request(&uri).map(|()| Body::empty()));
    if timeout(FIRST_PING, poll).await.is_err() {
        // It reaches the client then, as any other.
        return;
    }
    let mut pong = slim_request(&uri).map(|()| Body::from(PONG));
    *pong.method_mut() = Method::POST;
    protocol.answer(pong).await;
}

/// Takes the packets that wait for the polls of a session, as a poll would.
pub(super) async fn take_waiting(
    protocol: &Arc<dyn Protocol>,
    sid: &str,
    mut take: impl FnMut(&[u8]),
) {
    loop {
        let poll = slim_request(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}"));
        let poll = protocol.answer(poll.map(|()| Body::empty()));
        let mut poll = pin!(tokio::task::unconstrained(poll));
        let std::task::Poll::Ready(answer) = futures_util::poll!(poll.as_mut()) else {
            return;
        };
        if answer.status() != StatusCode::OK || answer.body().is_empty() {
            // The session is over; the engine says so again.
            return;
        }
        answer
            .body()
            .split(|byte| *byte == SEPARATOR)
            .for_each(&mut take);
    }
}

/// A GET request at work; counted out also when its client hangs up.
pub(super) struct Poll<'a> {
    session: &'a Arc<Session>,
    pub(super) number: u64,
    bytes: usize,
    /// Whether it waits for a packet. One that is dropped meanwhile was cut by its client, which is gone: a stock client lets
    /// each poll come back.
    waits: bool,
}

impl<'a> Poll<'a> {
    pub(super) fn start(session: &'a Arc<Session>) -> Self {
        Self {
            session,
            number: session.poll_started(),
            bytes: 0,
            waits: false,
        }
    }

    fn fetched(mut self, bytes: usize) {
        self.bytes = bytes;
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        self.session.poll_completed(self.bytes);
        if self.waits && !self.session.is_upgrading() {
            self.session.abort();
        }
    }
}

#[derive(serde::Deserialize)]
struct OpenPacket {
    sid: String,
}
