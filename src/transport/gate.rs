//! What a client may send on one transport, judged before the engine acts on it.
//!
//! The engine spawns a task for each CONNECT packet before it looks whether the namespace is joined (socketioxide 0.18.9,
//! `client.rs`), answers pings and takes acknowledgements as fast as they come, and knows one size for all: 8 MB of `40`
//! took 1.7 GB. Events of joined namespaces are the gateway's to count; all else is counted here.

use std::{
    borrow::Cow,
    num::NonZeroU32,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;

use super::{
    namespaces::Namespaces,
    packets::{self, Packet, attachment_of_text, refusal_of_msgpack},
    unwritten::Unwritten,
};
use crate::{connection::ConnectionId, ending::Breach};

/// How many CONNECT packets a transport may send at once, and how many a second from then on. Each costs a look at its
/// credentials, two scripts in Redis and a line in the log; DISCONNECT makes room for the next.
const CONNECT_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();
const CONNECTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2).unwrap();

/// How many packets and frames that are no event a transport may send at once, and how many a second from then on:
/// heartbeats, acknowledgements, stray attachments, control frames, fragments, events of namespaces that are not joined. A stock
/// client sends a heartbeat in [`ping.interval`](crate::config::Ping), and an acknowledgement for each event that asks for one.
const OTHERS_BURST: NonZeroU32 = NonZeroU32::new(4_000).unwrap();
const OTHERS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2_000).unwrap();

/// What such a packet or frame costs a transport without an identity, in those of one with: 2,000 guests that each stay just
/// below the rate took 1.8 cores.
const COST_OF_OTHERS: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// How long attachments may take to follow their event, and a CONNECT packet to be answered before another one counts. Longer
/// than a client that uploads goes without answering a ping.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long events may come of a namespace whose connection is over: until its client has been told. They are dropped uncounted.
const LATE_EVENTS: Duration = Duration::from_secs(5);

/// How many packets one POST may hold: about as many small events with attachments as fit into 1 MB, which a stock client sends
/// at once when its last POST took long.
pub(super) const MAX_PACKETS_IN_POST: usize = 20_000;

/// The largest message of a client's, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct MessageSizes {
    /// Before a transport's first identity, and of guests; also of a CONNECT packet.
    pub guest: u64,
    /// Of a transport that has carried a user's connection.
    pub user: u64,
}

/// What an allowed packet means for its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// Nothing.
    Passes,
    /// It asks for a namespace that does not exist; the engine answers it.
    NoNamespace,
    /// It asks for a namespace that is being joined: it is left out. The engine would pass over it, after a task for it.
    Repeated,
}

/// The bounds of one transport, and the namespaces that its client has asked for.
pub(super) struct Gate {
    namespaces: Arc<Namespaces>,
    sizes: MessageSizes,
    identified: AtomicBool,
    connects: DefaultDirectRateLimiter,
    others: DefaultDirectRateLimiter,
    announced: Mutex<Announced>,
    /// Bytes of a message that has begun and not ended.
    unfinished: AtomicU64,
    /// Where the client is, by the place of the namespace among the [`Namespaces`]; as many as it has asked for.
    standings: Mutex<Vec<(usize, NamespaceStanding)>>,
    breach: OnceLock<Breach>,
    /// Whether the engine's next ping is kept from the client, see [`Gate::withhold_ping`].
    withholds_ping: AtomicBool,
    /// Whether a ping was kept from the client, and the engine waits for its answer.
    owes_pong: AtomicBool,
    base64: AtomicBool,
    unwritten: Unwritten,
}

/// What the last event has announced and what of it has not come: with its attachments it is one message.
#[derive(Default)]
struct Announced {
    /// Attachments that have not come.
    attachments: usize,
    /// Bytes of the event and of those that have; 0 when all have.
    bytes: u64,
    /// When the event came.
    since: Option<Instant>,
}

impl Announced {
    fn is_overdue(&self, now: Instant) -> bool {
        self.since
            .is_some_and(|since| now.duration_since(since) > PATIENCE)
    }
}

/// How a client stands to a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum NamespaceStanding {
    /// It has not asked for it, or was refused.
    #[default]
    Out,
    /// Its credentials are looked at, since then.
    Joining(Instant),
    /// It is connected there.
    Joined(ConnectionId),
    /// That connection is over, since then. The answer to its CONNECT packet may still be on its way out.
    Left(ConnectionId, Instant),
}

/// The standing in one namespace.
fn standing_in(
    standings: &mut Vec<(usize, NamespaceStanding)>,
    namespace: usize,
) -> &mut NamespaceStanding {
    let found = standings.iter().position(|(at, _)| *at == namespace);
    let found = found.unwrap_or_else(|| {
        // Most clients ask for one: `push` alone would take room for four.
        standings.reserve_exact(1);
        standings.push((namespace, NamespaceStanding::default()));
        standings.len() - 1
    });
    &mut standings[found].1
}

impl Gate {
    pub(super) fn new(namespaces: Arc<Namespaces>, sizes: MessageSizes) -> Self {
        Self {
            namespaces,
            sizes,
            identified: AtomicBool::new(false),
            connects: RateLimiter::direct(
                Quota::per_second(CONNECTS_PER_SECOND).allow_burst(CONNECT_BURST),
            ),
            others: RateLimiter::direct(
                Quota::per_second(OTHERS_PER_SECOND).allow_burst(OTHERS_BURST),
            ),
            announced: Mutex::default(),
            unfinished: AtomicU64::new(0),
            standings: Mutex::default(),
            breach: OnceLock::new(),
            withholds_ping: AtomicBool::new(false),
            owes_pong: AtomicBool::new(false),
            base64: AtomicBool::new(false),
            unwritten: Unwritten::default(),
        }
    }

    /// What the engine has not written yet.
    pub(super) fn unwritten(&self) -> &Unwritten {
        &self.unwritten
    }

    /// Keeps the engine's next ping from the client. The engine sends the first at once (engineioxide 0.17.9, `socket.rs`: the
    /// first tick of tokio's interval), where clients expect it after `ping.interval`, and its pong would be due from then on.
    pub(super) fn withhold_ping(&self) {
        self.withholds_ping.store(true, Ordering::Release);
    }

    /// Returns true, once, when a ping was kept from the client: the engine has to be given its pong.
    pub(super) fn takes_pong(&self) -> bool {
        self.owes_pong.swap(false, Ordering::AcqRel)
    }

    /// How many bytes of a packet [`Gate::packet`] needs.
    pub(super) fn look(&self) -> usize {
        self.namespaces.reach()
    }

    /// The size of the largest message that the client may send now, in bytes.
    pub(super) fn max_message(&self) -> u64 {
        match self.identified.load(Ordering::Acquire) {
            true => self.sizes.user,
            false => self.sizes.guest.min(self.sizes.user),
        }
    }

    /// How many bytes the body of a POST may have, a guest's as a user's.
    pub(super) fn max_body(&self) -> u64 {
        self.sizes.user.max(self.sizes.guest)
    }

    /// How long the body of a POST may take: of a guest, or before the first identity, `handshake_timeout`.
    pub(super) fn patience(&self, handshake_timeout: Duration) -> Duration {
        match self.identified.load(Ordering::Acquire) {
            true => handshake_timeout.max(PATIENCE),
            false => handshake_timeout,
        }
    }

    /// How many bytes the next message may have, as an attachment shares the size of its event's; and how many of it
    /// [`Gate::attachment`] needs if it is binary.
    pub(super) fn next_message(&self) -> (u64, usize) {
        let announced = self.announced.lock();
        let room = self.max_message().saturating_sub(announced.bytes);
        let look = match announced.attachments {
            0 => self.sizes.guest as usize,
            _ => 0,
        };
        (room, look)
    }

    /// Attachments leave as texts: the client has asked for it.
    pub(super) fn set_base64(&self) {
        self.base64.store(true, Ordering::Release);
    }

    /// Whether attachments leave as texts.
    pub(super) fn is_base64(&self) -> bool {
        self.base64.load(Ordering::Acquire)
    }

    /// The transport carries a user's connection: it may send what users may from now on.
    pub(super) fn set_identified(&self) {
        self.identified.store(true, Ordering::Release);
    }

    /// Judges a packet of `length` bytes that begins with `opening`.
    pub(super) fn packet(&self, opening: &[u8], length: u64) -> Result<Judged, Breach> {
        match Packet::of(opening) {
            Packet::Connect(_) if length > self.sizes.guest => Err(Breach::TooLarge),
            Packet::Connect(namespace) => self.connect(namespace),
            Packet::Disconnect(namespace) => {
                self.stand(namespace, |standing| match standing {
                    NamespaceStanding::Joined(id) => NamespaceStanding::Left(id, Instant::now()),
                    other => other,
                });
                self.other()
            }
            Packet::Event(namespace, attachments) => {
                // The gateway never counts one whose attachments have not followed it.
                let forsaken = self.announce(attachments, length);
                match self.is_counted_elsewhere(namespace) && !forsaken {
                    true => Ok(Judged::Passes),
                    false => self.other(),
                }
            }
            Packet::Ack(attachments) => {
                self.announce(attachments, length);
                self.other()
            }
            Packet::Attachment => self.attachment(length, || {
                attachment_of_text(opening).unwrap_or_default().into()
            }),
            Packet::Malformed => Err(Breach::Malformed),
            Packet::Other => self.other(),
        }
    }

    /// An event or acknowledgement of `length` bytes that attachments follow. Returns whether those of the one before have not
    /// come.
    fn announce(&self, attachments: usize, length: u64) -> bool {
        let follow = attachments > 0;
        let now = Announced {
            attachments,
            bytes: if follow { length } else { 0 },
            since: follow.then(Instant::now),
        };
        let before = std::mem::replace(&mut *self.announced.lock(), now);
        before.attachments > 0
    }

    /// Whether an event of a namespace is the gateway's to count, or is late.
    fn is_counted_elsewhere(&self, namespace: &[u8]) -> bool {
        let Some(namespace) = self.namespaces.index_of(namespace) else {
            return false;
        };
        let mut standings = self.standings.lock();
        match standing_in(&mut standings, namespace) {
            NamespaceStanding::Joined(_) => true,
            NamespaceStanding::Left(_, since) => since.elapsed() < LATE_EVENTS,
            NamespaceStanding::Out | NamespaceStanding::Joining(_) => false,
        }
    }

    /// Judges an attachment of `length` bytes, which belongs to the last event or acknowledgement; if there is none, by its `content`.
    pub(super) fn attachment<'a>(
        &self,
        length: u64,
        content: impl FnOnce() -> Cow<'a, [u8]>,
    ) -> Result<Judged, Breach> {
        let mut announced = self.announced.lock();
        if announced.attachments == 0 {
            return match refusal_of_msgpack(&content()) {
                Some(_) => Err(Breach::OtherParser),
                None => self.other(),
            };
        }
        if announced.is_overdue(Instant::now()) {
            return Err(Breach::Unfinished);
        }
        announced.attachments -= 1;
        announced.bytes += length;
        if announced.bytes > self.max_message() {
            return Err(Breach::TooLarge);
        }
        if announced.attachments == 0 {
            *announced = Announced::default();
        }
        Ok(Judged::Passes)
    }

    /// The client has sent `bytes` of a message that has not ended.
    pub(super) fn set_unfinished(&self, bytes: u64) {
        self.unfinished.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of the client's that the engine holds: of a message that has not ended, or whose attachments have not come.
    pub(super) fn held(&self) -> u64 {
        self.announced.lock().bytes + self.unfinished.load(Ordering::Relaxed)
    }

    /// Judges a frame that ends no message: a control frame, or a fragment.
    pub(super) fn frame(&self) -> Result<Judged, Breach> {
        self.other()
    }

    fn other(&self) -> Result<Judged, Breach> {
        let cost = match self.identified.load(Ordering::Acquire) {
            true => NonZeroU32::MIN,
            false => COST_OF_OTHERS,
        };
        // The inner error is for a cost above the burst, which this never is.
        let allowed = matches!(self.others.check_n(cost), Ok(Ok(())));
        allowed.then_some(Judged::Passes).ok_or(Breach::PacketFlood)
    }

    /// Whether attachments have not followed their event in time: the engine would hold it for as long as the client stays.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.announced.lock().is_overdue(now)
    }

    fn connect(&self, namespace: &[u8]) -> Result<Judged, Breach> {
        let namespace = self.namespaces.index_of(namespace);
        let mut standings = self.standings.lock();
        let standing = namespace.map(|namespace| standing_in(&mut standings, namespace));
        match &standing {
            Some(NamespaceStanding::Joined(_)) => return Err(Breach::SecondConnect),
            // The stock client says CONNECT twice where `connect()` is called on a socket that connects by itself.
            Some(NamespaceStanding::Joining(since)) if since.elapsed() < PATIENCE => {
                return self.other().map(|_| Judged::Repeated);
            }
            _ => {}
        }
        if self.connects.check().is_err() {
            return Err(Breach::ConnectFlood);
        }
        match standing {
            Some(standing) => {
                *standing = NamespaceStanding::Joining(Instant::now());
                Ok(Judged::Passes)
            }
            None => Ok(Judged::NoNamespace),
        }
    }

    /// Changes how the client stands to a namespace that exists.
    fn stand(&self, namespace: &[u8], change: impl FnOnce(NamespaceStanding) -> NamespaceStanding) {
        if let Some(namespace) = self.namespaces.index_of(namespace) {
            let mut standings = self.standings.lock();
            let standing = standing_in(&mut standings, namespace);
            *standing = change(std::mem::take(standing));
        }
    }

    /// The client's connection in a namespace is `id`.
    pub(super) fn name(&self, namespace: &str, id: &ConnectionId) {
        self.stand(namespace.as_bytes(), |_| {
            NamespaceStanding::Joined(id.clone())
        });
    }

    /// The client's CONNECT packet for a namespace is refused: it may ask again.
    pub(super) fn refuse(&self, namespace: &str) {
        self.stand(namespace.as_bytes(), |standing| match standing {
            NamespaceStanding::Joining(_) => NamespaceStanding::Out,
            other => other,
        });
    }

    /// The client's connection `id` in a namespace is over: it may ask again.
    pub(super) fn leave(&self, namespace: &str, id: &ConnectionId) {
        self.stand(namespace.as_bytes(), |standing| match standing {
            NamespaceStanding::Joined(joined) if joined == *id => {
                NamespaceStanding::Left(joined, Instant::now())
            }
            other => other,
        });
    }

    /// Whether the client is in a namespace.
    pub(super) fn has_joined(&self) -> bool {
        let standings = self.standings.lock();
        let mut standings = standings.iter();
        standings.any(|(_, standing)| matches!(standing, NamespaceStanding::Joined(_)))
    }

    /// What leaves in place of a packet that the engine has for the client: a CONNECT packet tells the id of the connection, and
    /// not the session's, which is a credential; a CONNECT_ERROR packet has a code beside its message; the open packet tells the
    /// size that this session is held to, and not the engine's, which is that of all. The first ping may be withheld.
    pub(super) fn outgoing(&self, packet: &[u8]) -> Outgoing {
        self.unwritten.look(packet);
        if packet == b"2" && self.withholds_ping.swap(false, Ordering::AcqRel) {
            self.owes_pong.store(true, Ordering::Release);
            return Outgoing::Nothing;
        }
        let instead = match packet {
            [b'0', ..] => packets::open_packet(packet, self.sizes.user),
            [b'4', b'4', ..] => packets::coded_connect_error(packet),
            _ => None,
        };
        if let Some(instead) = instead {
            return Outgoing::Instead(instead);
        }
        let Packet::Connect(namespace) = Packet::of(packet) else {
            return Outgoing::AsItIs;
        };
        let Some(namespace) = self.namespaces.index_of(namespace) else {
            return Outgoing::Nothing;
        };
        let mut standings = self.standings.lock();
        match standing_in(&mut standings, namespace) {
            NamespaceStanding::Joined(id) | NamespaceStanding::Left(id, _) => Outgoing::Instead(
                packets::connect_packet(self.namespaces.path(namespace), id.as_str()),
            ),
            NamespaceStanding::Out | NamespaceStanding::Joining(_) => Outgoing::Nothing,
        }
    }

    /// The transport is ended for a breach. Returns whether it is the first.
    pub(super) fn set_breach(&self, breach: Breach) -> bool {
        self.breach.set(breach).is_ok()
    }

    /// What the transport is ended for.
    pub(super) fn breach(&self) -> Option<Breach> {
        self.breach.get().copied()
    }
}

/// What leaves in place of a packet of the engine's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// The packet.
    AsItIs,
    /// This text.
    Instead(String),
    /// Nothing.
    Nothing,
}

#[cfg(test)]
mod tests;
