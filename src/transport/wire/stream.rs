//! The engine's end of a wire: what it reads, what it writes, and what happens when it lets go.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::{
    Frame,
    coding::{Data, OpCode},
};

use super::{Inflow, Wire};
use crate::{
    ending::Breach,
    transport::{
        frames::{CLOSE_PACKET, Frames, Look, PONG_PACKET, Step, Wrong},
        outgoing::outgoing_frames,
        packets::{self, Packet, is_foreign},
        probe,
        recoder::Recoder,
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
    /// What makes the client's messages ones that the engine can read, once it has sent one that it can't.
    recoder: Option<Box<Recoder>>,
    /// `early` is the beginning of a message, which is not read before more of it has come.
    held: bool,
    /// What the engine reads next: judged, and more than it had room for.
    judged: BytesMut,
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
            recoder: None,
            held: false,
            judged: BytesMut::new(),
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
    next: Next,
}

/// What comes after the bytes that have been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// What is to be looked at as those were.
    More,
    /// The beginning of a message, too little of it to tell whether the engine can read it.
    Beginning,
    /// A message that the engine can't read.
    Foreign,
    /// What ends the session.
    Breach(Breach),
}

/// The longest header of a frame, in bytes.
const MAX_HEADER: usize = 14;

/// Judges what the engine is about to read, and leaves out what it is not to. All of it is read at once, unless the session
/// has ended namespaces: then one message at a time, for when a read is asked for all before it has been handled. Of a
/// message that is wrong, or left out, nothing is read if it begins here; nor, if `tells_foreign`, of one that the engine can't read,
/// or that has only just begun.
fn follow(
    frames: &mut Frames,
    session: &Arc<Session>,
    bytes: &mut [u8],
    tells_foreign: bool,
) -> Followed {
    let gate = session.gate();
    let parted = session.parted().look();
    let text = parted.max(gate.look());
    // Where the last message ends, if it does here: of what the engine reads, and of what was looked at.
    let mut boundary = frames.between_messages().then_some((0, 0));
    let (mut engine, mut looked_at) = (0, 0);
    while looked_at < bytes.len() {
        let (room, binary) = gate.next_message();
        let step = frames.take(&bytes[looked_at..], Look { text, binary }, room);
        if let (true, Ok((_, step)), Some((engine, looked_at))) = (tells_foreign, step, boundary) {
            let begun = bytes.len() - looked_at;
            let next = match step {
                Step::Within if begun < MAX_HEADER + text => Next::Beginning,
                Step::Control => Next::More,
                _ if is_foreign(frames.opening()) => Next::Foreign,
                _ => Next::More,
            };
            if next != Next::More {
                return Followed {
                    engine,
                    looked_at,
                    next,
                };
            }
        }
        let judged = match step {
            Err(Wrong::TooLarge) => Err(Breach::TooLarge),
            Err(Wrong::NoFrame) => Err(Breach::NoFrame),
            Ok((_, Step::Within)) => Ok(true),
            Ok((_, Step::Control | Step::Fragment)) => gate.frame().map(|_| true),
            Ok((_, Step::Message)) if frames.is_text() => {
                session.judge(frames.opening(), frames.message_length())
            }
            Ok((_, Step::Message)) => gate
                .attachment(frames.message_length(), || frames.kept().into())
                .map(|_| true),
        };
        let passes = match judged {
            Ok(passes) => passes,
            Err(breach) => {
                return Followed {
                    engine: boundary.map_or(0, |(engine, _)| engine),
                    looked_at,
                    next: Next::Breach(breach),
                };
            }
        };
        let taken = step.map_or(0, |(taken, _)| taken);
        bytes.copy_within(looked_at..looked_at + taken, engine);
        looked_at += taken;
        engine += taken;
        if let (false, Some((before, _))) = (passes, boundary) {
            engine = before;
        }
        if frames.between_messages() {
            boundary = Some((engine, looked_at));
            if parted > 0 {
                session.parted().let_go(frames.opening());
                break;
            }
        }
    }
    Followed {
        engine,
        looked_at,
        next: Next::More,
    }
}

impl EngineStream {
    /// Judges what was read. Returns how much of it the engine reads now, and keeps what it reads later.
    fn judge(&mut self, read: &mut [u8]) -> usize {
        let began_between = self.frames.between_messages();
        let tells_foreign = self.recoder.is_none();
        let followed = follow(&mut self.frames, &self.session, read, tells_foreign);
        let later = BytesMut::from(&read[followed.looked_at..]);
        match followed.next {
            Next::Breach(breach) => return self.end_for(breach, followed.engine, began_between),
            Next::More => self.early = later,
            Next::Beginning => {
                self.frames = Frames::default();
                self.held = true;
                self.early = later;
            }
            Next::Foreign => {
                self.frames = Frames::default();
                self.recoder = Some(Box::default());
                self.recode(&later);
            }
        }
        self.count_unfinished();
        followed.engine
    }

    fn count_unfinished(&self) {
        let held = self.recoder.as_ref().map_or(0, |recoder| recoder.held());
        let unfinished = self.frames.unfinished() + held;
        self.session.gate().set_unfinished(unfinished);
    }

    /// Has the engine read what the recoder makes of `bytes`.
    fn recode(&mut self, bytes: &[u8]) {
        if let Some(recoder) = &mut self.recoder {
            let max_message = self.session.gate().max_message();
            self.early = recoder.recode(bytes, max_message);
            self.count_unfinished();
        }
    }

    /// Ends the session for what comes after `engine` bytes that the engine reads yet. Returns how many these are.
    fn end_for(&mut self, breach: Breach, engine: usize, began_between: bool) -> usize {
        self.deaf = true;
        self.early = BytesMut::new();
        if let Packet::Connect(namespace) = Packet::of(self.frames.opening())
            && breach == Breach::TooLarge
        {
            self.say(Data::Text, packets::too_large(namespace).into());
        }
        if breach == Breach::OtherParser
            && let Some(refusal) = packets::refusal_of_msgpack(self.frames.kept())
        {
            self.say(Data::Binary, refusal.into());
        }
        if engine > 0 || began_between {
            // The engine has read whole messages only: its end may begin with a close packet.
            self.frames = Frames::default();
        }
        self.session.breached(breach);
        engine
    }

    /// Sends the client a packet that is not the engine's.
    fn say(&self, kind: Data, packet: Bytes) {
        let mut frame = Vec::new();
        let message = Frame::message(packet, OpCode::Data(kind), true);
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
            if !this.judged.is_empty() {
                let room = this.judged.len().min(buf.remaining());
                buf.put_slice(&this.judged.split_to(room));
                if this.judged.is_empty() {
                    // An empty one would keep its buffer alive.
                    this.judged = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.owes_pong && this.frames.between_messages() {
                this.owes_pong = false;
                this.injected = PONG_PACKET;
                continue;
            }
            if !this.early.is_empty() && !this.held {
                // All of it, whatever room there is: of too little, nobody can tell whether the engine can read it.
                let mut early = std::mem::take(&mut this.early);
                let taken = this.judge(&mut early);
                early.truncate(taken);
                this.judged = early;
                continue;
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
                    let read = &mut buf.filled_mut()[before..];
                    let taken = if this.recoder.is_some() {
                        this.recode(read);
                        0
                    } else if std::mem::take(&mut this.held) {
                        this.early.extend_from_slice(read);
                        0
                    } else {
                        this.judge(read)
                    };
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
        let accepted = match heard.is_empty() {
            true => Ok(false),
            false => self.wire.accept(&heard, &self.session),
        };
        self.session.gate().unwritten().settle();
        if accepted? {
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
