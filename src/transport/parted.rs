//! Namespaces that were ended from this side on a session that goes on.
//!
//! socketioxide closes a whole session at an event for a namespace that the session is not in, and passes over a CONNECT
//! packet for one that it is in. A client learns of the end of its namespace when the DISCONNECT packet has reached it: until
//! then it sends events, and it may ask to be let in again right after. So an ended namespace keeps its socket, which takes
//! and drops what comes, until the client has said CONNECT: that packet is looked for in what is read, and the socket
//! goes when all before it has been handled and it has not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::packets::{Packet, reach};

/// Takes the socket of an ended namespace out of it. Does not wait.
pub type Removal = Box<dyn FnOnce() + Send>;

/// The ended namespaces of one session.
#[derive(Default)]
pub(super) struct Parted {
    /// How many bytes of a packet tell whether it is a CONNECT packet of one of them; 0: there are none.
    look: AtomicUsize,
    ended: Mutex<Vec<(Arc<str>, Removal)>>,
}

impl Parted {
    /// Has `end` end a namespace: it sends the DISCONNECT packet, and gives what lets the namespace go. A CONNECT packet that
    /// answers it is met by that, however soon it comes.
    pub(super) fn end(&self, namespace: &Arc<str>, end: impl FnOnce() -> Option<Removal>) {
        self.look.fetch_max(reach(namespace), Ordering::AcqRel);
        let mut ended = self.ended.lock();
        if let Some(removal) = end() {
            ended.push((namespace.clone(), removal));
        }
        self.set_look(&ended);
    }

    /// How many bytes of each packet are to be looked at; 0: packets may be passed on as they are. To be asked after they
    /// have been read: the answer to a DISCONNECT packet is never read before this says so.
    pub(super) fn look(&self) -> usize {
        self.look.load(Ordering::Acquire)
    }

    /// Whether a packet, of which these are the first bytes, asks for an ended namespace.
    pub(super) fn is_asked_for(&self, packet: &[u8]) -> bool {
        let Packet::Connect(wanted) = Packet::of(packet) else {
            return false;
        };
        let ended = self.ended.lock();
        ended
            .iter()
            .any(|(namespace, _)| namespace.as_bytes() == wanted)
    }

    /// Lets the namespace go that a packet asks for, if it is an ended one. To be called when all packets before have been
    /// handled, and this one has not.
    pub(super) fn let_go(&self, packet: &[u8]) {
        let Packet::Connect(wanted) = Packet::of(packet) else {
            return;
        };
        let mut ended = self.ended.lock();
        let mut at = 0;
        while at < ended.len() {
            if ended[at].0.as_bytes() == wanted {
                let (_, removal) = ended.swap_remove(at);
                removal();
            } else {
                at += 1;
            }
        }
        self.set_look(&ended);
    }

    fn set_look(&self, ended: &[(Arc<str>, Removal)]) {
        let reaches = ended.iter().map(|(namespace, _)| reach(namespace));
        self.look
            .store(reaches.max().unwrap_or_default(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_connect_packet_lets_a_namespace_go() {
        let parted = Parted::default();
        assert_eq!(parted.look(), 0);
        let gone = Arc::new(AtomicUsize::new(0));
        for namespace in ["/public", "/"] {
            let gone = gone.clone();
            parted.end(&namespace.into(), || {
                Some(Box::new(move || {
                    gone.fetch_add(1, Ordering::Relaxed);
                }))
            });
        }
        assert_eq!(parted.look(), reach("/public"));
        for packet in ["40/publi", "40/publics", "40/admin,", "42/public,[]", "41"] {
            assert!(!parted.is_asked_for(packet.as_bytes()), "{packet}");
            parted.let_go(packet.as_bytes());
        }
        assert_eq!(gone.load(Ordering::Relaxed), 0);
        assert!(parted.is_asked_for(b"40/public,"));
        parted.let_go(b"40/public,");
        assert_eq!(
            (gone.load(Ordering::Relaxed), parted.look()),
            (1, reach("/"))
        );
        parted.let_go(b"40{}");
        parted.let_go(b"40{}");
        assert_eq!((gone.load(Ordering::Relaxed), parted.look()), (2, 0));
    }

    #[test]
    fn a_namespace_that_could_not_be_ended_is_not_looked_for() {
        let parted = Parted::default();
        parted.end(&"/".into(), || {
            assert_eq!(parted.look(), reach("/"));
            None
        });
        assert_eq!(parted.look(), 0);
    }
}
