//! The engine's end of a wire: what it reads, what it writes, and what happens when it lets go.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Inflow, Wire};
use crate::transport::{
    frames::{CLOSE_PACKET, Frames},
    probe,
    session::Session,
};

/// The engine's end of a [`Wire`]. When the engine drops it, the session is over.
pub struct EngineStream {
    wire: Arc<Wire>,
    session: Arc<Session>,
    /// What is to be read before anything else: what came with the upgrade request, in the end the close packet.
    early: Bytes,
    /// Where the client is in its frames.
    frames: Frames,
    /// The close packet has been read, or is about to be.
    closing: bool,
    /// Whether the session still polls.
    upgrading: bool,
    /// How much of what the engine writes first is dropped: the client has it already.
    muted: usize,
}

impl EngineStream {
    /// Wraps a wire for the engine. `early` is what hyper had read beyond the upgrade request.
    pub fn new(wire: Arc<Wire>, session: Arc<Session>, early: &[u8]) -> Self {
        Self {
            upgrading: session.is_upgrading(),
            wire,
            session,
            // A copy, also of nothing: a slice of hyper's read buffer, even an empty one, keeps all of that alive (measured:
            // 4.4 KB a connection).
            early: Bytes::copy_from_slice(early),
            frames: Frames::default(),
            closing: false,
            muted: 0,
        }
    }

    /// Wraps a wire for a session that moves to it: the client has had its probe answered, and sent `early` after it.
    /// `first` is what it is to get before anything that the engine has for it.
    pub(in crate::transport) fn moving(
        wire: Arc<Wire>,
        session: Arc<Session>,
        early: &[u8],
        first: &[u8],
    ) -> Self {
        // One that has failed by now is found by the engine.
        if !first.is_empty() && wire.accept(first, &session).unwrap_or_default() {
            session.stalled();
        }
        let replayed = [probe::REPLAY, early].concat();
        let mut stream = Self::new(wire, session, &replayed);
        stream.muted = probe::ANSWER;
        stream
    }
}

/// Follows what the engine is about to read; returns how much of it may be read at once. That is all of it, unless the session
/// has ended namespaces: then one message at a time, for when a read is asked for all before it has been handled.
fn follow(frames: &mut Frames, session: &Arc<Session>, bytes: &[u8]) -> usize {
    let parted = session.parted().look();
    let look = parted.max(session.namespaces().reach());
    let mut taken = 0;
    while taken < bytes.len() {
        taken += frames.take(&bytes[taken..], look);
        if !frames.between_messages() {
            continue;
        }
        session.asked(frames.opening());
        if parted > 0 {
            session.parted().let_go(frames.opening());
            break;
        }
    }
    taken
}

impl AsyncRead for EngineStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.upgrading {
            self.session.check_upgrade();
            self.upgrading = self.session.is_upgrading();
        }
        let this = &mut *self;
        this.wire.reader.register(cx.waker());
        loop {
            let inflow = this.wire.inflow.load(Ordering::Acquire);
            if inflow == Inflow::Over as u8 {
                return Poll::Ready(Ok(()));
            }
            if !this.early.is_empty() {
                let n = this.early.len().min(buf.remaining());
                let n = follow(&mut this.frames, &this.session, &this.early[..n]);
                buf.put_slice(&this.early.split_to(n));
                return Poll::Ready(Ok(()));
            }
            if inflow == Inflow::Closing as u8 && this.frames.between_messages() {
                if this.closing {
                    // The engine did not want the packet, in the middle of an upgrade.
                    return Poll::Ready(Ok(()));
                }
                this.closing = true;
                this.early = Bytes::from_static(CLOSE_PACKET);
                continue;
            }
            if let Err(error) = ready!(this.wire.tcp.poll_read_ready(cx)) {
                this.wire.failed(&error, &this.session);
                return Poll::Ready(Err(error));
            }
            match this.wire.tcp.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    let before = buf.filled().len();
                    buf.advance(n);
                    let read = &buf.filled()[before..];
                    let taken = follow(&mut this.frames, &this.session, read);
                    this.early = Bytes::copy_from_slice(&read[taken..]);
                    buf.set_filled(before + taken);
                    this.wire.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    this.wire.failed(&error, &this.session);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl AsyncWrite for EngineStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let muted = self.muted.min(buf.len());
        self.muted -= muted;
        let heard = &buf[muted..];
        if !heard.is_empty() && self.wire.accept(heard, &self.session)? {
            self.session.stalled();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for EngineStream {
    fn drop(&mut self) {
        self.wire.backlog.lock().sealed = true;
        self.wire.progress.notify_waiters();
        self.session.let_go();
    }
}
