//! The engine's end of a wire: what it reads, what it writes, and what happens when it lets go.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::{
    Frame,
    coding::{Data, OpCode},
};

use super::{Inflow, Wire};
use crate::{
    ending::Breach,
    transport::{
        frames::{CLOSE_PACKET, Frames, PONG_PACKET, Step},
        outgoing::outgoing_frames,
        packets::{self, Packet},
        probe,
        session::Session,
    },
};

/// The engine's end of a [`Wire`]. When the engine drops it, the session is over.
pub struct EngineStream {
    wire: Arc<Wire>,
    session: Arc<Session>,
    /// What of the client's is to be read before anything else, such as what came with the upgrade request.
    early: BytesMut,
    /// A packet in the client's name, which is read next.
    injected: &'static [u8],
    /// A ping was kept from the client: the engine reads a pong as soon as one fits in.
    owes_pong: bool,
    /// Where the client is in its frames.
    frames: Frames,
    /// The close packet has been read, or is about to be.
    closing: bool,
    /// Nothing more of the client's is read: it has sent what ends its session.
    deaf: bool,
    /// Whether the session still polls.
    upgrading: bool,
    /// How much of what the engine writes first is dropped: the client has it already.
    muted: usize,
    /// How many flushes are left until the engine's writer runs. It is not started where the engine reads a close packet
    /// before its task has had a turn, and what was sent before is then lost (engineioxide's `forward_to_socket`).
    unstarted: u8,
}

/// Of a session that moves, the engine flushes its answer to the probe, and its writer the noop that the upgrade began with.
const FLUSHES_OF_A_MOVE: u8 = 2;

impl EngineStream {
    /// Wraps a wire for the engine. `early` is what hyper had read beyond the upgrade request.
    pub fn new(wire: Arc<Wire>, session: Arc<Session>, early: &[u8]) -> Self {
        Self {
            upgrading: session.is_upgrading(),
            wire,
            session,
            // A copy, also of nothing: a slice of hyper's read buffer, even an empty one, keeps all of that alive (measured:
            // 4.4 KB a connection).
            early: BytesMut::from(early),
            injected: &[],
            owes_pong: false,
            frames: Frames::default(),
            closing: false,
            deaf: false,
            muted: 0,
            unstarted: 0,
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
        stream.unstarted = FLUSHES_OF_A_MOVE;
        stream
    }
}

/// What becomes of bytes that were read.
struct Followed {
    /// How many of them the engine reads now; they stand in front.
    engine: usize,
    /// How many have been looked at. What is left is looked at later.
    looked_at: usize,
    /// What is wrong with what comes next.
    breach: Option<Breach>,
}

/// Judges what the engine is about to read, and leaves out what it is not to. All of it is read at once, unless the session
/// has ended namespaces: then one message at a time, for when a read is asked for all before it has been handled. Of a
/// message that is wrong, or left out, nothing is read if it begins here.
fn follow(frames: &mut Frames, session: &Arc<Session>, bytes: &mut [u8]) -> Followed {
    let gate = session.gate();
    let parted = session.parted().look();
    let look = parted.max(gate.look());
    // Where the last message ends: of what was looked at, and of what the engine reads.
    let mut boundary = frames.between_messages().then_some(0);
    let (mut engine, mut looked_at) = (0, 0);
    while looked_at < bytes.len() {
        let step = frames.take(&bytes[looked_at..], look, gate.room());
        let judged = match step {
            Err(_) => Err(Breach::TooLarge),
            Ok((_, Step::Within)) => Ok(true),
            Ok((_, Step::Control | Step::Fragment)) => gate.frame().map(|_| true),
            Ok((_, Step::Message)) if frames.is_text() => {
                session.judge(frames.opening(), frames.message_length())
            }
            Ok((_, Step::Message)) => gate.attachment(frames.message_length()).map(|_| true),
        };
        let passes = match judged {
            Ok(passes) => passes,
            Err(breach) => {
                return Followed {
                    engine: boundary.unwrap_or(0),
                    looked_at,
                    breach: Some(breach),
                };
            }
        };
        let taken = step.map_or(0, |(taken, _)| taken);
        bytes.copy_within(looked_at..looked_at + taken, engine);
        looked_at += taken;
        engine += taken;
        if let (false, Some(before)) = (passes, boundary) {
            engine = before;
        }
        if frames.between_messages() {
            boundary = Some(engine);
            if parted > 0 {
                session.parted().let_go(frames.opening());
                break;
            }
        }
    }
    Followed {
        engine,
        looked_at,
        breach: None,
    }
}

impl EngineStream {
    /// Judges what was read. Returns how much of it the engine reads now, and keeps what it reads later.
    fn judge(&mut self, read: &mut [u8]) -> usize {
        let began_between = self.frames.between_messages();
        let followed = follow(&mut self.frames, &self.session, read);
        let Some(breach) = followed.breach else {
            self.session.gate().set_unfinished(self.frames.unfinished());
            self.early = BytesMut::from(&read[followed.looked_at..]);
            return followed.engine;
        };
        self.deaf = true;
        if let Packet::Connect(namespace) = Packet::of(self.frames.opening())
            && breach == Breach::TooLarge
        {
            self.say(packets::too_large(namespace));
        }
        if followed.engine > 0 || began_between {
            // The engine has read whole messages only: its end may begin with a close packet.
            self.frames = Frames::default();
        }
        self.session.breached(breach);
        followed.engine
    }

    /// Sends the client a packet that is not the engine's.
    fn say(&self, packet: String) {
        let mut frame = Vec::new();
        let message = Frame::message(packet, OpCode::Data(Data::Text), true);
        let formatted = message.format(&mut frame).map_err(io::Error::other);
        if let Err(error) = formatted.and_then(|()| self.wire.accept(&frame, &self.session)) {
            tracing::debug!(%error, "a client can't be told");
        }
    }
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
            if !this.injected.is_empty() {
                let (read, rest) = this
                    .injected
                    .split_at(this.injected.len().min(buf.remaining()));
                buf.put_slice(read);
                this.injected = rest;
                return Poll::Ready(Ok(()));
            }
            if this.owes_pong && this.frames.between_messages() {
                this.owes_pong = false;
                this.injected = PONG_PACKET;
                continue;
            }
            if !this.early.is_empty() {
                let mut early = std::mem::take(&mut this.early);
                let mut read = early.split_to(early.len().min(buf.remaining()));
                let taken = this.judge(&mut read);
                if !this.deaf {
                    this.early.unsplit(early);
                }
                if taken == 0 {
                    continue;
                }
                buf.put_slice(&read[..taken]);
                return Poll::Ready(Ok(()));
            }
            if inflow == Inflow::Closing as u8 && this.frames.between_messages() {
                if this.unstarted > 0 {
                    return Poll::Pending;
                }
                if this.closing {
                    // The engine did not want the packet, in the middle of an upgrade.
                    return Poll::Ready(Ok(()));
                }
                this.closing = true;
                this.injected = CLOSE_PACKET;
                continue;
            }
            if this.deaf {
                return Poll::Pending;
            }
            if let Err(error) = ready!(this.wire.tcp.poll_read_ready(cx)) {
                this.wire.failed(&error, &this.session);
                return Poll::Ready(Err(error));
            }
            match this.wire.tcp.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    let before = buf.filled().len();
                    buf.advance(n);
                    this.wire.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
                    let taken = this.judge(&mut buf.filled_mut()[before..]);
                    buf.set_filled(before + taken);
                    if n > 0 && taken == 0 {
                        continue;
                    }
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
        let heard = outgoing_frames(self.session.gate(), &buf[muted..], self.closing);
        if self.session.gate().takes_pong() {
            self.owes_pong = true;
            self.wire.reader.wake();
        }
        if !heard.is_empty() && self.wire.accept(&heard, &self.session)? {
            self.session.stalled();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unstarted > 0 {
            self.unstarted -= 1;
            self.wire.reader.wake();
        }
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
