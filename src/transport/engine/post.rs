//! The POST requests of sessions that poll: read, judged and handed to the engine packet by packet.
//!
//! A body holds as many packets as its client had to send, and may be as large as a user's message, also a guest's: the client
//! has been told one size for all. What is held of it is the packet that has not ended, which is bounded as a message is.

use std::sync::Arc;

use axum::{body::Body, response::IntoResponse};
use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode, request};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::{Engine, Protocol};
use crate::{
    ending::Breach,
    transport::{
        gate::MAX_PACKETS_IN_POST,
        packets::{
            CLOSE, NOOP, SEPARATOR, attachment_as_text, attachment_of_text, refusal_of_msgpack,
            with_text_for_name,
        },
        request::refused,
        session::Session,
    },
};

/// How a POST fails.
enum Failed {
    /// Its client has sent what ends the session.
    Breach(Breach),
    /// It did not arrive: the answer's status.
    Broken(StatusCode),
    /// The engine's own answer.
    Refused(Response<Bytes>),
}

impl Engine {
    /// Answers a POST request of a session. `head` is what the engine is told of it.
    pub(super) async fn take_post(
        &self,
        protocol: &Arc<dyn Protocol>,
        session: &Arc<Session>,
        head: &request::Parts,
        body: Body,
    ) -> Response<Body> {
        let Some(_posting) = session.begin_post() else {
            session.breached(Breach::PostOverlap);
            return refused(3, "Bad request");
        };
        if session.breach().is_some() {
            return refused(3, "Bad request");
        }
        let patience = session
            .gate()
            .patience(self.settings.config.now().limits.handshake_timeout);
        let post = Post {
            engine: self,
            protocol,
            session,
            head,
            packets: 0,
        };
        match post.take(body, Instant::now() + patience).await {
            Ok(()) => Response::new("ok".into()),
            Err(Failed::Refused(response)) => response.map(Body::from),
            Err(Failed::Broken(status)) => {
                session.end();
                status.into_response()
            }
            // What came before may have ended the session in its own way.
            Err(Failed::Breach(_)) if session.is_ending() => Response::new("ok".into()),
            Err(Failed::Breach(breach)) => {
                session.breached(breach);
                match breach {
                    Breach::TooLarge => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
                    // To the client it has arrived: a poll tells that it is refused.
                    Breach::OtherParser => {
                        session.end();
                        Response::new("ok".into())
                    }
                    _ => refused(3, "Bad request"),
                }
            }
        }
    }
}

/// A POST request that is being read.
struct Post<'a> {
    engine: &'a Engine,
    protocol: &'a Arc<dyn Protocol>,
    session: &'a Arc<Session>,
    head: &'a request::Parts,
    /// Packets that have been judged.
    packets: usize,
}

impl Post<'_> {
    /// Takes a body that must have arrived by `until`.
    async fn take(mut self, mut body: Body, until: Instant) -> Result<(), Failed> {
        let gate = self.session.gate();
        let mut total = 0;
        let mut rest = BytesMut::new();
        loop {
            let frame = timeout_at(until, body.frame())
                .await
                .map_err(|_| Failed::Broken(StatusCode::REQUEST_TIMEOUT))?;
            let Some(frame) = frame else {
                return self.packets(&rest).await;
            };
            let frame = frame.map_err(|_| Failed::Broken(StatusCode::BAD_REQUEST))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            total += data.len() as u64;
            rest.extend_from_slice(&data);
            if let Some(at) = rest.iter().rposition(|byte| *byte == SEPARATOR) {
                let whole = rest.split_to(at + 1);
                self.packets(&whole[..at]).await?;
            }
            if total > gate.max_body() || rest.len() as u64 > gate.max_message() {
                return Err(Failed::Breach(Breach::TooLarge));
            }
            gate.set_unfinished(rest.len() as u64);
        }
    }

    /// Judges whole packets and hands them to the engine, up to the first that is wrong.
    async fn packets(&mut self, packets: &[u8]) -> Result<(), Failed> {
        let mut passing = BytesMut::with_capacity(packets.len());
        let mut closes = false;
        let mut judged = Ok(());
        for packet in packets.split(|byte| *byte == SEPARATOR) {
            match self.judge(packet) {
                Ok(true) => {
                    closes |= packet == CLOSE.as_bytes();
                    if !passing.is_empty() {
                        passing.extend_from_slice(&[SEPARATOR]);
                    }
                    match packet {
                        // The Java client breaks the lines of its base64, which the engine does not take.
                        [b'b', ..] => packet
                            .split(|byte| *byte == b'\n')
                            .for_each(|line| passing.extend_from_slice(line)),
                        _ => match with_text_for_name(packet) {
                            Some(packet) => passing.extend_from_slice(&packet),
                            None => passing.extend_from_slice(packet),
                        },
                    }
                }
                Ok(false) => {}
                Err(breach) => {
                    judged = Err(Failed::Breach(breach));
                    break;
                }
            }
        }
        if closes && !self.session.is_polled() {
            // Its poll has been overtaken by this, and is answered as if it had not.
            self.engine.owe(self.session, NOOP.into());
            self.engine.forget(self.session);
        }
        if !passing.is_empty() {
            let response = post(self.protocol, self.head, self.session, passing.freeze()).await;
            if closes {
                self.session.let_go();
            }
            if response.status() != StatusCode::OK {
                return Err(Failed::Refused(response));
            }
        }
        judged
    }

    /// Whether the engine gets a packet.
    fn judge(&mut self, packet: &[u8]) -> Result<bool, Breach> {
        self.packets += 1;
        if self.packets > MAX_PACKETS_IN_POST {
            return Err(Breach::CrowdedPost);
        }
        let length = match packet {
            // An attachment, in base64.
            [b'b', data @ ..] => data.len() / 4 * 3,
            text => text.len(),
        };
        if length as u64 > self.session.gate().max_message() {
            return Err(Breach::TooLarge);
        }
        self.session
            .judge(packet, length as u64)
            .inspect_err(|breach| {
                if *breach == Breach::OtherParser {
                    self.refuse_other_parser(packet);
                }
            })
    }

    /// Has a poll tell a client with another parser that it is refused.
    fn refuse_other_parser(&self, connect: &[u8]) {
        let connect = attachment_of_text(connect);
        let refusal = connect.and_then(|connect| refusal_of_msgpack(&connect));
        if let Some(refusal) = refusal {
            self.session.owe(attachment_as_text(&refusal));
        }
    }
}

/// Hands a POST body to the engine. If the session has ended namespaces, what comes before a CONNECT packet for one of them is
/// handled first.
async fn post(
    protocol: &Arc<dyn Protocol>,
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

async fn hand_over(
    protocol: &Arc<dyn Protocol>,
    head: &request::Parts,
    body: Bytes,
) -> Response<Bytes> {
    let request = Request::from_parts(head.clone(), Body::from(body));
    protocol.answer(request).await
}
