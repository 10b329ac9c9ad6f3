//! What a client may send on one transport, judged before the engine acts on it.
//!
//! The engine spawns a task for each CONNECT packet before it looks whether the namespace is joined (socketioxide 0.18.9,
//! `client.rs`), answers pings and takes acknowledgements as fast as they come, and knows one size for all: 8 MB of `40`
//! took 1.7 GB. Events of namespaces that exist are the gateway's to count; all else is counted here.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;

use super::{
    namespaces::Namespaces,
    packets::{self, Packet},
};
use crate::{connection::ConnectionId, ending::Breach};

/// How many CONNECT packets a transport may send at once, and how many a second from then on. Each costs a look at its
/// credentials, two scripts in Redis and a line in the log; DISCONNECT makes room for the next.
const CONNECT_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();
const CONNECTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2).unwrap();

/// How many packets and frames that are no event a transport may send at once, and how many a second from then on:
/// heartbeats, acknowledgements, stray attachments, control frames, fragments, events of namespaces that do not exist. A stock
/// client sends a heartbeat in [`ping.interval`](crate::config::Ping), and an acknowledgement for each event that asks for one.
const OTHERS_BURST: NonZeroU32 = NonZeroU32::new(4_000).unwrap();
const OTHERS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2_000).unwrap();

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
    /// Where the client is, by the place of the namespace among the [`Namespaces`]; as many as it has asked for.
    standings: Mutex<Vec<(usize, Standing)>>,
    breach: OnceLock<Breach>,
}

/// What the last event has announced and what of it has not come: with its attachments it is one message.
#[derive(Default)]
struct Announced {
    /// Attachments that have not come.
    attachments: usize,
    /// Bytes of the event and of those that have; 0 when all have.
    bytes: u64,
}

/// How a client stands to a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// It has not asked for it, or was refused.
    #[default]
    Out,
    /// Its credentials are looked at.
    Joining,
    /// It is connected there.
    Joined(ConnectionId),
    /// That connection is over. The answer to its CONNECT packet may still be on its way out.
    Left(ConnectionId),
}

/// The standing in one namespace.
fn standing_in(standings: &mut Vec<(usize, Standing)>, namespace: usize) -> &mut Standing {
    let found = standings.iter().position(|(at, _)| *at == namespace);
    let found = found.unwrap_or_else(|| {
        standings.push((namespace, Standing::default()));
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
            standings: Mutex::default(),
            breach: OnceLock::new(),
        }
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

    /// How many bytes the next message may have: an attachment shares the size of its event's.
    pub(super) fn room(&self) -> u64 {
        let taken = self.announced.lock().bytes;
        self.max_message().saturating_sub(taken)
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
                    Standing::Joined(id) => Standing::Left(id),
                    other => other,
                });
                self.other()
            }
            Packet::Event(namespace, attachments) => {
                let before = std::mem::replace(
                    &mut *self.announced.lock(),
                    Announced {
                        attachments,
                        bytes: if attachments > 0 { length } else { 0 },
                    },
                );
                match self.namespaces.index_of(namespace) {
                    Some(_) if before.attachments == 0 => Ok(Judged::Passes),
                    // The gateway never counts the one before: its attachments have not followed it.
                    _ => self.other(),
                }
            }
            Packet::Attachment => self.attachment(length),
            Packet::Other => self.other(),
        }
    }

    /// Judges an attachment of `length` bytes, which belongs to the last event.
    pub(super) fn attachment(&self, length: u64) -> Result<Judged, Breach> {
        let mut announced = self.announced.lock();
        if announced.attachments == 0 {
            return self.other();
        }
        announced.attachments -= 1;
        announced.bytes += length;
        if announced.bytes > self.max_message() {
            return Err(Breach::TooLarge);
        }
        if announced.attachments == 0 {
            announced.bytes = 0;
        }
        Ok(Judged::Passes)
    }

    /// Judges a frame that ends no message: a control frame, or a fragment.
    pub(super) fn frame(&self) -> Result<Judged, Breach> {
        self.other()
    }

    fn other(&self) -> Result<Judged, Breach> {
        let allowed = self.others.check().is_ok();
        allowed.then_some(Judged::Passes).ok_or(Breach::PacketFlood)
    }

    fn connect(&self, namespace: &[u8]) -> Result<Judged, Breach> {
        let namespace = self.namespaces.index_of(namespace);
        let mut standings = self.standings.lock();
        let standing = namespace.map(|namespace| standing_in(&mut standings, namespace));
        match &standing {
            Some(Standing::Joined(_)) => return Err(Breach::SecondConnect),
            // The stock client says CONNECT twice where `connect()` is called on a socket that connects by itself.
            Some(Standing::Joining) => return self.other().map(|_| Judged::Repeated),
            _ => {}
        }
        if self.connects.check().is_err() {
            return Err(Breach::ConnectFlood);
        }
        match standing {
            Some(standing) => {
                *standing = Standing::Joining;
                Ok(Judged::Passes)
            }
            None => Ok(Judged::NoNamespace),
        }
    }

    /// Changes how the client stands to a namespace that exists.
    fn stand(&self, namespace: &[u8], change: impl FnOnce(Standing) -> Standing) {
        if let Some(namespace) = self.namespaces.index_of(namespace) {
            let mut standings = self.standings.lock();
            let standing = standing_in(&mut standings, namespace);
            *standing = change(std::mem::take(standing));
        }
    }

    /// The client's connection in a namespace is `id`.
    pub(super) fn name(&self, namespace: &str, id: &ConnectionId) {
        self.stand(namespace.as_bytes(), |_| Standing::Joined(id.clone()));
    }

    /// The client's CONNECT packet for a namespace is refused: it may ask again.
    pub(super) fn refuse(&self, namespace: &str) {
        self.stand(namespace.as_bytes(), |standing| match standing {
            Standing::Joining => Standing::Out,
            other => other,
        });
    }

    /// The client's connection `id` in a namespace is over: it may ask again.
    pub(super) fn leave(&self, namespace: &str, id: &ConnectionId) {
        self.stand(namespace.as_bytes(), |standing| match standing {
            Standing::Joined(joined) if joined == *id => Standing::Left(joined),
            other => other,
        });
    }

    /// What leaves in place of a packet that the engine has for the client: a CONNECT packet tells the id of the connection, and
    /// not the session's, which is a credential.
    pub(super) fn outgoing(&self, packet: &[u8]) -> Outgoing {
        let Some(namespace) = packets::connected(packet) else {
            return Outgoing::AsItIs;
        };
        let Some(namespace) = self.namespaces.index_of(namespace) else {
            return Outgoing::Nothing;
        };
        let mut standings = self.standings.lock();
        match standing_in(&mut standings, namespace) {
            Standing::Joined(id) | Standing::Left(id) => Outgoing::Instead(
                packets::connect_packet(self.namespaces.path(namespace), id.as_str()),
            ),
            Standing::Out | Standing::Joining => Outgoing::Nothing,
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
mod tests {
    use super::*;

    fn gate() -> Gate {
        let namespaces = Namespaces::new(["/", "/public"].map(str::to_owned));
        Gate::new(
            Arc::new(namespaces),
            MessageSizes {
                guest: 100,
                user: 1_000,
            },
        )
    }

    fn judge(gate: &Gate, packet: &str) -> Result<Judged, Breach> {
        gate.packet(packet.as_bytes(), packet.len() as u64)
    }

    #[test]
    fn a_namespace_is_joined_once_until_it_is_left_or_refused() {
        let gate = gate();
        let id = ConnectionId::from("a");
        assert_eq!(judge(&gate, "40/public,{}"), Ok(Judged::Passes));
        assert_eq!(judge(&gate, "40"), Ok(Judged::Passes));
        assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Repeated));
        gate.name("/", &"root".into());
        gate.name("/public", &id);
        assert_eq!(judge(&gate, "40/public,"), Err(Breach::SecondConnect));
        gate.refuse("/public");
        gate.leave("/public", &"another".into());
        assert_eq!(judge(&gate, "40/public,"), Err(Breach::SecondConnect));
        gate.leave("/public", &id);
        assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Passes));
        gate.refuse("/public");
        assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Passes));
        gate.name("/public", &id);
        assert_eq!(judge(&gate, "41/public,"), Ok(Judged::Passes));
        assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Passes));
        assert_eq!(judge(&gate, "40"), Err(Breach::SecondConnect), "the root");
        assert_eq!(judge(&gate, "40/nowhere,"), Ok(Judged::NoNamespace));
    }

    #[test]
    fn connect_packets_are_bounded_also_for_namespaces_that_do_not_exist() {
        let gate = gate();
        let allowed = (0..100).take_while(|_| judge(&gate, "40/nowhere,").is_ok());
        assert_eq!(allowed.count(), 50);
        assert_eq!(judge(&gate, "40"), Err(Breach::ConnectFlood));
    }

    #[test]
    fn all_but_events_of_namespaces_that_exist_is_counted() {
        for packet in [
            "3",
            "2",
            "6",
            "431[]",
            "41",
            "42/nowhere,[\"a\"]",
            "",
            "451-[]",
            "bAAAA",
        ] {
            let gate = gate();
            let allowed = (0..10_000).take_while(|_| judge(&gate, packet).is_ok());
            assert!((4_000..5_000).contains(&allowed.count()), "{packet}");
        }
        let gate = gate();
        for _ in 0..10_000 {
            assert_eq!(judge(&gate, "42/public,[\"a\"]"), Ok(Judged::Passes));
            assert_eq!(judge(&gate, "452-[\"a\"]"), Ok(Judged::Passes));
            assert_eq!(gate.attachment(1), Ok(Judged::Passes));
            assert_eq!(judge(&gate, "bAAAA"), Ok(Judged::Passes));
        }
        assert_eq!(
            (0..10_000).take_while(|_| gate.frame().is_ok()).count() / 1_000,
            4
        );
    }

    #[test]
    fn a_guest_may_send_less_than_a_user_and_nobody_a_large_connect_packet() {
        let gate = gate();
        assert_eq!(gate.max_message(), 100);
        gate.set_identified();
        assert_eq!(gate.max_message(), 1_000);
        assert_eq!(gate.packet(b"40", 101), Err(Breach::TooLarge));
        assert_eq!(gate.packet(b"40", 100), Ok(Judged::Passes));
    }

    #[test]
    fn an_event_with_its_attachments_is_one_message() {
        let gate = gate();
        assert_eq!(gate.packet(b"452-[]", 40), Ok(Judged::Passes));
        assert_eq!((gate.room(), gate.max_message()), (60, 100));
        assert_eq!(gate.attachment(50), Ok(Judged::Passes));
        assert_eq!(gate.room(), 10);
        assert_eq!(gate.attachment(11), Err(Breach::TooLarge));
        assert_eq!(gate.packet(b"451-[]", 40), Ok(Judged::Passes));
        assert_eq!(gate.attachment(60), Ok(Judged::Passes));
        assert_eq!(gate.room(), 100);
    }

    #[test]
    fn a_client_is_told_its_connection_and_never_the_session() {
        let gate = gate();
        let engine = br#"40/public,{"sid":"credential"}"#;
        assert_eq!(gate.outgoing(engine), Outgoing::Nothing);
        assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Passes));
        assert_eq!(gate.outgoing(engine), Outgoing::Nothing);
        gate.name("/public", &"mine".into());
        let told = r#"40/public,{"sid":"mine"}"#.to_owned();
        assert_eq!(gate.outgoing(engine), Outgoing::Instead(told.clone()));
        gate.leave("/public", &"mine".into());
        assert_eq!(gate.outgoing(engine), Outgoing::Instead(told), "late");
        for packet in [
            "42[\"40\"]",
            "41/public,",
            "44{\"message\":\"x\"}",
            "0{\"sid\":\"a\"}",
            "2",
        ] {
            assert_eq!(
                gate.outgoing(packet.as_bytes()),
                Outgoing::AsItIs,
                "{packet}"
            );
        }
    }
}
