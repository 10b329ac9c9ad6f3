//! What runs the protocol under the engine's HTTP.

use std::{convert::Infallible, fmt::Display};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::service::Service;

use crate::transport::{request::numbered, wire::EngineStream};

/// The protocol, as the engine calls it: socketioxide's service, or engineioxide's with a handler of one's own.
pub trait Protocol: Send + Sync + 'static {
    /// Answers a request of long-polling.
    fn answer(&self, request: Request<Body>) -> BoxFuture<'_, Response<Bytes>>;

    /// Begins a session on a WebSocket, or has one move there, in a task of its own. In a box, as the engine's task has room for its
    /// stream several times over.
    fn carry(&self, stream: Box<EngineStream>, request: Request<()>) -> BoxFuture<'_, ()>;
}

impl<S, B> Protocol for S
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Service<
            (Box<EngineStream>, Request<()>),
            Response = (),
            Error: Display + Send,
            Future: Send,
        > + Send
        + Sync
        + 'static,
    B: axum::body::HttpBody<Data = Bytes, Error = Infallible> + Send,
{
    fn answer(&self, request: Request<Body>) -> BoxFuture<'_, Response<Bytes>> {
        let answer = Service::<Request<Body>>::call(self, request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            let (parts, body) = response.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => match error {},
            };
            numbered(Response::from_parts(parts, body))
        })
    }

    fn carry(&self, stream: Box<EngineStream>, request: Request<()>) -> BoxFuture<'_, ()> {
        let carried = Service::<(Box<EngineStream>, Request<()>)>::call(self, (stream, request));
        Box::pin(async move {
            if let Err(error) = carried.await {
                tracing::debug!(%error, "the engine refused a handshake");
            }
        })
    }
}
