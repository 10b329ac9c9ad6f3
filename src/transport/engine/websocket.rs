//! Sessions that begin with a WebSocket.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Engine, Protocol};
use crate::{
    connection::TransportKind,
    transport::{
        door::Place,
        listener::{HttpStream, unavailable},
        request::{refused, slim_request, switching_protocols, websocket_accept},
        session::{Session, SessionGuard},
        wire::{EngineStream, Wire},
    },
};

impl Engine {
    pub(super) fn open_websocket(
        self: &Arc<Self>,
        protocol: &Arc<dyn Protocol>,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let Some(accept) = websocket_accept(&request) else {
            return refused(3, "Bad request");
        };
        let Some(session) = self.new_session(&request, TransportKind::Websocket) else {
            return unavailable();
        };
        let mut slim = slim_request("/socket.io/?EIO=4&transport=websocket");
        slim.extensions_mut()
            .insert(SessionGuard::new(session.clone()));
        let response = switching_protocols(&accept, &request);
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(
            self.clone()
                .start_websocket(protocol.clone(), upgrade, session, slim),
        );
        response
    }

    async fn start_websocket(
        self: Arc<Self>,
        protocol: Arc<dyn Protocol>,
        upgrade: hyper::upgrade::OnUpgrade,
        session: Arc<Session>,
        slim: Request<()>,
    ) {
        let Some((tcp, place, early)) = upgraded(upgrade).await else {
            return;
        };
        let wire = Wire::new(tcp, place, self.settings.config.clone());
        if !session.attach(wire.clone()) {
            wire.abort();
            return;
        }
        session.gate().withhold_ping();
        let stream = EngineStream::new(wire, session, &early);
        protocol.carry(Box::new(stream), slim).await;
    }
}

/// What is left of HTTP after an upgrade: the stream, its place, and what had been read beyond the request.
pub(super) async fn upgraded(
    upgrade: hyper::upgrade::OnUpgrade,
) -> Option<(TcpStream, Option<Place>, Bytes)> {
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
