//! Accepts TCP connections and serves HTTP/1.1 on them, within bounds that hyper and axum leave open by default: a request
//! head that does not come, a response that is not read, more connections than the node or an address may hold.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use axum::Router;
use http::{Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::Sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    door::{Door, Place},
    turn_away::TurnAway,
};
use crate::config::RunningConfig;

/// The largest request head, in bytes: that of Node.js, and so of socket.io's own server. hyper's default is 400 KB, which each
/// connection may hold before it is anybody.
const MAX_HEAD: usize = 16 * 1024;

/// How long connections get to finish their last response when the listener stops.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// The address of the TCP peer, in every request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Bounds of a listener.
#[derive(Clone)]
pub struct ListenerLimits {
    /// Where the bounds are that a reload may change: `limits.handshake_timeout`, for a request to begin and then for its head,
    /// and `limits.write_deadline`, for a response to wait for its reader, and anything that was sent for the peer to
    /// acknowledge it.
    pub config: RunningConfig,
    /// Time for a request to begin, and then for its head, in place of `limits.handshake_timeout`.
    pub head_timeout: Option<Duration>,
    /// What turns connections away that are too many; the answer is 503. None: no bound but the process's.
    pub door: Option<Arc<Door>>,
}

/// Serves `router` on `listener` until `stop`; then takes nothing new, and gives what is at work a moment to finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ListenerLimits,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).max_buf_size(MAX_HEAD);
    let connections = TaskTracker::new();
    let turned_away = TurnAway::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a connection that was gone before it was accepted. Without the pause the
                // first would be a busy loop.
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let place = match &limits.door {
            None => None,
            Some(door) => match door.tcp(peer.ip()) {
                Ok(place) => Some(place),
                Err(refused) => {
                    tracing::debug!(%peer, reason = refused.label(), "connection turned away");
                    turned_away.take(tcp);
                    continue;
                }
            },
        };
        tcp.set_nodelay(true).ok();
        let now = limits.config.now();
        bound_unacknowledged(&tcp, now.limits.write_deadline);
        let head_timeout = limits.head_timeout.unwrap_or(now.limits.handshake_timeout);
        http.header_read_timeout(head_timeout);
        let (http, router, stop) = (http.clone(), router.clone(), stop.clone());
        let config = limits.config.clone();
        connections.spawn(async move {
            // hyper takes its read buffer, 8 KB, when it first looks for a request: a connection that sends nothing costs none.
            let begun = tokio::select! {
                begun = tokio::time::timeout(head_timeout, tcp.readable()) => begun,
                () = stop.cancelled() => return,
            };
            if !matches!(begun, Ok(Ok(()))) {
                return;
            }
            let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                polled_once(router.clone().oneshot(request.map(axum::body::Body::new)))
            });
            let stream = HttpStream::new(tcp, place, config);
            let connection = http
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let mut connection = pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "HTTP connection");
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(STOP_DEADLINE, connections.wait())
        .await
        .is_err()
    {
        tracing::debug!("HTTP connections were still at work");
    }
}

/// `answer`, polled once already. hyper 1.12 drops the answer to a request unpolled when it reads the end of the stream right behind
/// that: a poll that was cut at once would be seen by nobody, and its client would stay online.
fn polled_once<F: Future>(answer: F) -> impl Future<Output = F::Output> {
    let mut answer = Box::pin(answer);
    // hyper polls it again before it waits for anything.
    let first = answer
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    async move {
        match first {
            Poll::Ready(output) => output,
            Poll::Pending => answer.await,
        }
    }
}

/// Has the kernel end a connection, with [`io::ErrorKind::TimedOut`], whose peer takes nothing of what was sent for that long:
/// a peer that is gone, and one that reads nothing and whose window is full (tcp(7), `TCP_USER_TIMEOUT`; measured on Linux
/// 6.18). Otherwise what fits into the kernel's own buffer, megabytes, could stay there for as long as pings are answered.
/// Costs nothing while nothing is under way. Elsewhere than on Linux only the bounds of what the kernel has not taken are left.
pub(super) fn bound_unacknowledged(tcp: &TcpStream, deadline: Duration) {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(tcp)
        .set_tcp_user_timeout(Some(deadline))
        .ok();
    #[cfg(not(target_os = "linux"))]
    let _ = (tcp, deadline);
}

/// Too many, too early, too late: the stock client tries again by itself.
pub fn unavailable() -> Response<axum::body::Body> {
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    response
}

/// A TCP stream that carries HTTP: an error ends it when a response has waited too long for its reader.
pub struct HttpStream {
    tcp: TcpStream,
    /// The connection's place among those that may be open; goes with the stream, also through an upgrade.
    place: Option<Place>,
    config: RunningConfig,
    /// Runs while a write is waiting, and only then.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl HttpStream {
    fn new(tcp: TcpStream, place: Option<Place>, config: RunningConfig) -> Self {
        Self {
            tcp,
            place,
            config,
            waiting: None,
        }
    }

    /// The bare stream and its place, for the protocol that takes over.
    pub fn into_parts(self) -> (TcpStream, Option<Place>) {
        (self.tcp, self.place)
    }

    fn guard<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let waiting = self.waiting.get_or_insert_with(|| {
            let deadline = self.config.now().limits.write_deadline;
            Box::pin(tokio::time::sleep(deadline))
        });
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.guard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
