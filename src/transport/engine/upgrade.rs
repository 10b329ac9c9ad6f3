//! Sessions that move from polling to a WebSocket.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, Response};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    Engine, Protocol,
    polling::{Poll, take_waiting},
    websocket::upgraded,
};
use crate::transport::{
    gate::Outgoing,
    packets::CLOSE,
    probe,
    request::{Query, refused, slim_request, switching_protocols, websocket_accept},
    session::{Probing, Session},
    wire::{EngineStream, Wire},
};

/// A close frame without a status code (RFC 6455 section 5.5.1).
const NO_STATUS: &[u8] = &[0x88, 0];

/// How often polls are sent back whose session moves to its WebSocket.
const RELEASE: Duration = Duration::from_millis(5);

impl Engine {
    pub(super) fn upgrade(
        self: &Arc<Self>,
        protocol: &Arc<dyn Protocol>,
        mut request: Request<Body>,
        sid: &str,
    ) -> Response<Body> {
        let Some(session) = self.session(sid) else {
            return refused(1, "Session ID unknown");
        };
        if Query::of(request.uri()).base64 {
            session.gate().set_base64();
        }
        let Some(accept) = websocket_accept(&request) else {
            return refused(3, "Bad request");
        };
        let response = switching_protocols(&accept, &request);
        let upgrade = hyper::upgrade::on(&mut request);
        match session.begin_probe() {
            Some(probing) => tokio::spawn(self.clone().move_to_websocket(
                protocol.clone(),
                upgrade,
                session,
                probing,
                sid.to_owned(),
            )),
            None => tokio::spawn(close_at_once(upgrade)),
        };
        response
    }

    /// Tries a WebSocket beside a session that polls, and has the session move there when its client wants it. Until then
    /// the session is what it was, whatever becomes of the WebSocket.
    async fn move_to_websocket(
        self: Arc<Self>,
        protocol: Arc<dyn Protocol>,
        upgrade: hyper::upgrade::OnUpgrade,
        session: Arc<Session>,
        probing: Probing,
        sid: String,
    ) {
        let Some((mut tcp, place, early)) = upgraded(upgrade).await else {
            return;
        };
        let patience = self.settings.config.now().limits.handshake_timeout;
        let answered = tokio::select! {
            answered = timeout(patience, probe::answer(&mut tcp, &early, &session)) => answered,
            () = session.over() => return,
        };
        let Ok(Ok(Some(early))) = answered else {
            tracing::debug!(
                session = session.id.0,
                "a WebSocket was tried and not taken"
            );
            return;
        };
        let wire = Wire::new(tcp, place, self.settings.config.clone());
        let attached = session.attach(wire.clone());
        if !attached && session.is_aborted() {
            wire.abort();
            return;
        }
        drop(probing);
        let Ok(mut waiting) = timeout(patience, take_what_waits(&protocol, &session, &sid)).await
        else {
            session.abort();
            wire.abort();
            return;
        };
        if !attached {
            // It is ending, and a client that has said `5` polls no more: what it has yet to be told, why it is ended and
            // whether it may come back, can only reach it here.
            // The session is closed once that has left. The close packet is not said on a WebSocket, see `outgoing`.
            if let Some(last) = session.take_last().filter(|last| last != CLOSE) {
                put_frame(&session, last.as_bytes(), &mut waiting);
            }
            tokio::select! {
                biased;
                () = session.closed() => wire.abort(),
                () = wire.clone().say_last(&waiting, &session) => {}
            }
            session.poll_served(Poll::start(&session).number, true);
            return;
        }
        let slim = slim_request(&format!("/socket.io/?EIO=4&transport=websocket&sid={sid}"));
        let stream = EngineStream::moving(wire, session, &early, &waiting);
        protocol.carry(Box::new(stream), slim).await;
    }
}

/// Closes a WebSocket whose session has one, or is ending. The JavaScript server takes it and closes it too: a client
/// that is refused the upgrade instead has an error to handle.
async fn close_at_once(upgrade: hyper::upgrade::OnUpgrade) {
    if let Some((mut tcp, _place, _)) = upgraded(upgrade).await {
        tcp.write_all(NO_STATUS).await.ok();
    }
}

/// Takes what the engine has for the polls of a session that moves, as frames. Its writer to the WebSocket would leave behind
/// what a poll has looked at and found too much. Polls that are at work are sent back first.
async fn take_what_waits(protocol: &Arc<dyn Protocol>, session: &Session, sid: &str) -> Vec<u8> {
    while session.is_polled() {
        session.release_polls();
        tokio::time::sleep(RELEASE).await;
    }
    let mut frames = Vec::new();
    let take = |packet: &[u8]| {
        let outgoing = session.gate().outgoing(packet);
        let packet = match &outgoing {
            Outgoing::AsItIs => packet,
            Outgoing::Instead(packet) => packet.as_bytes(),
            Outgoing::Nothing => return,
        };
        put_frame(session, packet, &mut frames);
    };
    take_waiting(protocol, sid, take).await;
    session.gate().unwritten().settle();
    frames
}

/// Puts a packet for the polls of a session as the frame that it is on its WebSocket.
fn put_frame(session: &Session, packet: &[u8], frames: &mut Vec<u8>) {
    let frame = probe::frame_of(packet, session.gate().is_base64());
    if let Some(Err(error)) = frame.map(|frame| frame.format(frames)) {
        tracing::error!(%error, "a frame");
    }
}
