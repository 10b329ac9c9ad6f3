//! The TCP stream under a WebSocket.
//!
//! The engine writes and is never kept waiting: what the kernel does not take at once is queued here, and a pump task, which
//! lives only while there is a backlog, hands it on. So the engine's writer always gets through, and with it every promise
//! that hangs on it (the session's end is noticed, a disconnect packet gets out). A peer that does not read is found by the
//! size and the age of its backlog, not by a blocked task.
//!
//! `backlog` is the queue, `stream` the engine's end, `queue` takes what comes past the engine.

mod backlog;
mod queue;
mod stream;

use std::{
    io::{self, ErrorKind},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Buf;
use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, timeout},
};

use self::backlog::Backlog;
use super::{door::Place, listener::bound_unacknowledged, outgoing::Rest, session::Session};
use crate::config::RunningConfig;

pub use self::stream::EngineStream;

pub(super) use self::queue::Queued;

/// How long the end of a wire waits for what was written before to leave. A peer that reads takes milliseconds; one that
/// doesn't is cut off, and the caller of a disconnect is promised an answer within a second.
const FLUSH_DEADLINE: Duration = Duration::from_millis(500);

/// How long a client that was told to go gets to end its transport itself. python-socketio 5.18 handles a packet in another thread
/// than it reads in: if it reads the end of the stream before it has handled the DISCONNECT packet, it comes back.
const OWN_END: Duration = Duration::from_millis(200);

/// How long a half-closed wire waits for its peer's own end. Closing earlier would answer a packet that is still on its way
/// with a reset, which may take from the peer what it has not read yet.
const LINGER: Duration = Duration::from_secs(3);

/// How often a backlog that does not move is held against the deadline as it is by then: a reload may have made it shorter.
const LOOK: Duration = Duration::from_secs(1);

/// The stream, shared by the engine's two halves, the pump, and what ends it.
pub struct Wire {
    tcp: TcpStream,
    /// Where the bounds of the backlog are: `limits.send_queue_bytes` and `.write_deadline`.
    config: RunningConfig,
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
    _place: Option<Place>,
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

impl Wire {
    /// Takes a connected stream.
    pub fn new(tcp: TcpStream, place: Option<Place>, config: RunningConfig) -> Arc<Self> {
        Arc::new(Self {
            tcp,
            config,
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

    /// Messages that the engine wrote and that were dropped here.
    pub fn lost(&self) -> u64 {
        self.backlog.lock().lost
    }

    /// Bytes that the kernel has not taken yet.
    pub fn queued(&self) -> usize {
        self.backlog.lock().bytes
    }

    fn set_inflow(&self, inflow: Inflow) {
        self.inflow.fetch_max(inflow as u8, Ordering::AcqRel);
        self.reader.wake();
    }

    /// Drops what waits, and sends nothing any more.
    pub fn abort(&self) {
        {
            let mut backlog = self.backlog.lock();
            backlog.kill();
        }
        // A reset, so that the kernel does not go on trying for a peer that reads nothing.
        SockRef::from(&self.tcp)
            .set_linger(Some(Duration::ZERO))
            .ok();
        self.progress.notify_waiters();
        self.set_inflow(Inflow::Over);
    }

    /// Ends the wire: politely within a deadline, certainly after it. Returns when nothing can reach the peer any more;
    /// the stream then lingers for its peer's own end in a task of its own.
    pub async fn finish(self: Arc<Self>) {
        self.set_inflow(Inflow::Closing);
        timeout(FLUSH_DEADLINE, self.drained()).await.ok();
        let flushed = {
            let mut backlog = self.backlog.lock();
            let flushed = !backlog.dead && backlog.is_empty();
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
        tokio::spawn(async move {
            timeout(OWN_END, self.discard_until_eof()).await.ok();
            if SockRef::from(&self.tcp).shutdown(Shutdown::Write).is_ok() {
                timeout(LINGER, self.discard_until_eof()).await.ok();
            }
        });
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
                if backlog.dead || (backlog.sealed && backlog.is_empty()) {
                    return;
                }
            }
            progress.await;
        }
    }

    async fn discard_until_eof(&self) {
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
    fn accept(self: &Arc<Self>, data: &[u8], session: &Arc<Session>) -> io::Result<bool> {
        let mut backlog = self.backlog.lock();
        if backlog.dead {
            backlog.lost += Rest::default().messages(data);
            return Err(ErrorKind::BrokenPipe.into());
        }
        backlog.within_packet = session.gate().unwritten().is_within_packet();
        if backlog.fresh.is_empty() {
            return self.hand_on(backlog, data, session);
        }
        let before = std::mem::take(&mut backlog.fresh).concat();
        self.hand_on(backlog, &[&before, data].concat(), session)
    }

    /// Hands `data` to the kernel, or puts it behind what waits. Returns whether the backlog has passed its limit.
    fn hand_on(
        self: &Arc<Self>,
        mut backlog: MutexGuard<'_, Backlog>,
        mut data: &[u8],
        session: &Arc<Session>,
    ) -> io::Result<bool> {
        let limits = &self.config.now().limits;
        if backlog.acknowledged_within != Some(limits.write_deadline) {
            backlog.acknowledged_within = Some(limits.write_deadline);
            bound_unacknowledged(&self.tcp, limits.write_deadline);
        }
        let mut begun = Rest::default();
        if backlog.chunks.is_empty() {
            match self.tcp.try_write(data) {
                Ok(sent) => {
                    self.bytes_out.fetch_add(sent as u64, Ordering::Relaxed);
                    if sent < data.len() {
                        begun = begun.after(data, sent);
                    }
                    data.advance(sent);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    backlog.dead = true;
                    backlog.lost += begun.messages(data);
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
        backlog.push(data, begun, Instant::now(), limits.write_deadline);
        if !backlog.pumping {
            backlog.pumping = true;
            tokio::spawn(self.clone().pump(session.clone()));
        }
        Ok(backlog.bytes as u64 > limits.send_queue_bytes.as_u64())
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
                    Some(first) if !backlog.dead => {
                        first.queued_at + self.config.now().limits.write_deadline
                    }
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
                () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)), if !stalled => {
                    if Instant::now() >= deadline {
                        stalled = true;
                        session.stalled();
                    }
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
