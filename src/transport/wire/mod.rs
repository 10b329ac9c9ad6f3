//! The TCP stream under a WebSocket.
//!
//! The engine writes and is never kept waiting: what the kernel does not take at once is queued here, and a pump task, which
//! lives only while there is a backlog, hands it on. So the engine's writer always gets through, and with it every promise
//! that hangs on it (the session's end is noticed, a disconnect packet gets out). A peer that does not read is found by the
//! size and the age of its backlog, not by a blocked task.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit},
    time::Instant,
};

use super::{
    frames::{CLOSE_PACKET, Frames},
    probe,
    session::Session,
};

/// How long the end of a wire waits for what was written before to leave. A peer that reads takes milliseconds; one that
/// doesn't is cut off, and the caller of a disconnect is promised an answer within a second.
const FLUSH_DEADLINE: Duration = Duration::from_millis(500);

/// How long a half-closed wire waits for its peer's own end. Closing earlier would answer a packet that is still on its way
/// with a reset, which may take from the peer what it has not read yet.
const LINGER: Duration = Duration::from_secs(3);

/// Bounds of a wire's backlog.
#[derive(Clone, Copy, Debug)]
pub struct WireLimits {
    /// Bytes that may wait.
    pub queue_bytes: usize,
    /// How long a byte may wait.
    pub write_deadline: Duration,
}

/// The stream, shared by the engine's two halves, the pump, and whoever ends it.
pub struct Wire {
    tcp: TcpStream,
    limits: WireLimits,
    backlog: Mutex<Backlog>,
    /// The engine's reader, to be woken when the wire ends.
    reader: AtomicWaker,
    /// What the engine's side reads: an [`Inflow`]. Only goes forward.
    inflow: AtomicU8,
    /// Told when the backlog empties, and when the engine lets its stream go.
    progress: Notify,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// The listener's place, free again when the stream is closed.
    _place: Option<OwnedSemaphorePermit>,
}

/// What the engine's side reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Inflow {
    /// What the client sends.
    Open,
    /// What the client sends, up to the end of its message; then a close packet, and nothing after that.
    Closing,
    /// An end of file.
    Over,
}

/// Small writes share a chunk of the backlog of up to this size: a frame of a few bytes would cost ten times its size alone.
const CHUNK: usize = 16 * 1024;

/// Into how many parts the write deadline is cut: a chunk takes what comes within one of them, so that the age of its first byte
/// is, but for that much, the age of all.
const SLICES: u32 = 32;

/// What the kernel has not taken yet.
#[derive(Default)]
struct Backlog {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// Whether a pump task is at work. At most one is, and only it writes while there are chunks.
    pumping: bool,
    /// Nothing is taken or sent any more.
    dead: bool,
    /// The engine has dropped its stream: nothing more will come.
    sealed: bool,
}

struct Chunk {
    /// When its first byte came.
    queued_at: Instant,
    data: BytesMut,
}

impl Backlog {
    /// Queues `data`, which came at `now`.
    fn push(&mut self, data: &[u8], now: Instant, write_deadline: Duration) {
        self.bytes += data.len();
        if let Some(last) = self.chunks.back_mut()
            && last.data.len() + data.len() <= CHUNK
            && now.duration_since(last.queued_at) < write_deadline / SLICES
        {
            last.data.extend_from_slice(data);
            return;
        }
        self.chunks.push_back(Chunk {
            queued_at: now,
            data: data.into(),
        });
    }

    /// Takes off what has been sent of the first chunk.
    fn sent(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(first) = self.chunks.front_mut() {
            first.data.advance(bytes);
            if first.data.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

impl Wire {
    /// Takes a connected stream.
    pub fn new(
        tcp: TcpStream,
        place: Option<OwnedSemaphorePermit>,
        limits: WireLimits,
    ) -> Arc<Self> {
        Arc::new(Self {
            tcp,
            limits,
            backlog: Mutex::default(),
            reader: AtomicWaker::new(),
            inflow: AtomicU8::new(Inflow::Open as u8),
            progress: Notify::new(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            _place: place,
        })
    }

    /// Bytes read and bytes written since the upgrade.
    pub fn traffic(&self) -> (u64, u64) {
        (
            self.bytes_in.load(Ordering::Relaxed),
            self.bytes_out.load(Ordering::Relaxed),
        )
    }

    fn set_inflow(&self, inflow: Inflow) {
        self.inflow.fetch_max(inflow as u8, Ordering::AcqRel);
        self.reader.wake();
    }

    /// Drops what waits, and sends nothing any more.
    pub fn abort(&self) {
        {
            let mut backlog = self.backlog.lock();
            backlog.dead = true;
            backlog.chunks = VecDeque::new();
            backlog.bytes = 0;
        }
        // A reset, so that the kernel does not go on trying for a peer that reads nothing.
        SockRef::from(&self.tcp)
            .set_linger(Some(Duration::ZERO))
            .ok();
        self.progress.notify_waiters();
        self.set_inflow(Inflow::Over);
    }

    /// Ends the wire: politely within a deadline, certainly after it. Returns when nothing can reach the peer any more;
    /// a half-closed stream then lingers for its peer's own end in a task of its own.
    pub async fn finish(self: Arc<Self>) {
        self.set_inflow(Inflow::Closing);
        tokio::time::timeout(FLUSH_DEADLINE, self.drained())
            .await
            .ok();
        let flushed = {
            let mut backlog = self.backlog.lock();
            let flushed = !backlog.dead && backlog.chunks.is_empty();
            backlog.dead |= flushed;
            flushed
        };
        if !flushed {
            self.abort();
            return;
        }
        // The engine may still be waiting for the rest of a message: that is no reason to reset what the client has yet to
        // receive.
        self.set_inflow(Inflow::Over);
        if SockRef::from(&self.tcp).shutdown(Shutdown::Write).is_ok() {
            tokio::spawn(tokio::time::timeout(LINGER, self.discard_until_eof()));
        }
    }

    /// Sends `last` and ends the wire, which no engine has written to.
    pub(super) async fn say_last(self: Arc<Self>, last: &[u8], session: &Arc<Session>) {
        // One that has failed by now is as good as ended.
        self.accept(last, session).ok();
        self.backlog.lock().sealed = true;
        self.finish().await;
    }

    /// Waits until the engine has written its last and the kernel has taken it.
    async fn drained(&self) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            {
                let backlog = self.backlog.lock();
                if backlog.dead || (backlog.sealed && backlog.chunks.is_empty()) {
                    return;
                }
            }
            progress.await;
        }
    }

    async fn discard_until_eof(self: Arc<Self>) {
        let mut scratch = [0; 4096];
        loop {
            if self.tcp.readable().await.is_err() {
                return;
            }
            match self.tcp.try_read(&mut scratch) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Takes all of `data`, whatever the kernel says. Returns whether the backlog has passed its limit.
    fn accept(self: &Arc<Self>, mut data: &[u8], session: &Arc<Session>) -> io::Result<bool> {
        let mut backlog = self.backlog.lock();
        if backlog.dead {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if backlog.chunks.is_empty() {
            match self.tcp.try_write(data) {
                Ok(sent) => {
                    self.bytes_out.fetch_add(sent as u64, Ordering::Relaxed);
                    data.advance(sent);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    backlog.dead = true;
                    drop(backlog);
                    self.failed(&error, session);
                    self.set_inflow(Inflow::Over);
                    return Err(error);
                }
            }
        }
        if data.is_empty() {
            return Ok(false);
        }
        backlog.push(data, Instant::now(), self.limits.write_deadline);
        if !backlog.pumping {
            backlog.pumping = true;
            tokio::spawn(self.clone().pump(session.clone()));
        }
        Ok(backlog.bytes > self.limits.queue_bytes)
    }

    /// Hands the backlog to the kernel until it is empty or dead. Says so, once, when it is too old; the end that this
    /// brings about aborts the wire.
    async fn pump(self: Arc<Self>, session: Arc<Session>) {
        let mut stalled = false;
        loop {
            // Registered before the look at the backlog: an abort in between is not missed.
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let deadline = {
                let mut backlog = self.backlog.lock();
                match backlog.chunks.front() {
                    Some(first) if !backlog.dead => first.queued_at + self.limits.write_deadline,
                    _ => {
                        backlog.pumping = false;
                        drop(backlog);
                        self.progress.notify_waiters();
                        return;
                    }
                }
            };
            let writable = tokio::select! {
                writable = self.tcp.writable() => writable,
                () = progress => continue,
                () = tokio::time::sleep_until(deadline), if !stalled => {
                    stalled = true;
                    session.stalled();
                    continue;
                }
            };
            if let Err(error) = writable.and_then(|()| self.send_front()) {
                self.failed(&error, &session);
                self.abort();
            }
        }
    }

    /// The stream has failed: when it is for what the peer has not acknowledged in time, that is said.
    fn failed(&self, error: &io::Error, session: &Arc<Session>) {
        if error.kind() == ErrorKind::TimedOut {
            session.stalled();
        }
    }

    fn send_front(&self) -> io::Result<()> {
        let mut backlog = self.backlog.lock();
        while let Some(first) = backlog.chunks.front() {
            match self.tcp.try_write(&first.data) {
                Ok(sent) => {
                    backlog.sent(sent);
                    self.bytes_out.fetch_add(sent as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

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
    pub(super) fn moving(
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
fn follow(frames: &mut Frames, session: &Session, bytes: &[u8]) -> usize {
    let look = session.parted().look();
    if look == 0 {
        frames.advance(bytes);
        return bytes.len();
    }
    let taken = frames.take(bytes, look);
    if frames.between_messages() {
        session.parted().let_go(frames.opening());
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

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn memory(backlog: &Backlog) -> usize {
        let chunks = backlog.chunks.iter().map(|chunk| chunk.data.capacity());
        chunks.sum::<usize>() + backlog.chunks.capacity() * size_of::<Chunk>()
    }

    #[test]
    fn a_backlog_of_tiny_frames_takes_little_more_than_their_bytes() {
        let mut backlog = Backlog::default();
        let start = Instant::now();
        for frame in 0..250_000_u32 {
            let now = start + DEADLINE * frame / 250_000;
            backlog.push(b"\x81\x023a", now, DEADLINE);
        }
        assert_eq!(backlog.bytes, 1_000_000);
        assert!(memory(&backlog) < 2_500_000, "{}", memory(&backlog));
        assert!(backlog.chunks.len() < 150, "{}", backlog.chunks.len());
    }

    #[test]
    fn what_is_queued_leaves_in_order_in_whatever_pieces() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        let frames: Vec<Vec<u8>> = (0..500_usize)
            .map(|n| vec![n as u8; n * 37 % 3000 + 1])
            .collect();
        for frame in &frames {
            backlog.push(frame, now, DEADLINE);
        }
        let mut left = Vec::new();
        while let Some(first) = backlog.chunks.front() {
            let piece = first.data.len().min(777);
            left.extend_from_slice(&first.data[..piece]);
            backlog.sent(piece);
        }
        assert_eq!(backlog.bytes, 0);
        assert!(left == frames.concat());
    }

    #[test]
    fn a_byte_is_taken_for_older_than_it_is_by_a_slice_of_the_deadline_at_most() {
        let mut backlog = Backlog::default();
        let start = Instant::now();
        backlog.push(b"old", start, DEADLINE);
        backlog.push(b"as old", start + DEADLINE / 64, DEADLINE);
        backlog.push(b"young", start + DEADLINE / 2, DEADLINE);
        let ages: Vec<_> = backlog.chunks.iter().map(|chunk| chunk.queued_at).collect();
        assert_eq!(ages, [start, start + DEADLINE / 2]);
    }
}
