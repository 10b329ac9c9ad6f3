//! What the engine has been handed for a client and has not written yet. While there is such a packet, nothing may leave
//! [past the engine](super::past): it would overtake it.
//!
//! Events and acknowledgements count, with their attachments; they are told by their first bytes when the engine writes them.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many packets of one session the engine has and has not written.
#[derive(Default)]
pub(super) struct Unwritten {
    packets: AtomicUsize,
    /// Of `packets`, those that were looked at and may not have left yet.
    leaving: AtomicUsize,
    /// Attachments that follow the packet that was last looked at.
    attachments: AtomicUsize,
}

impl Unwritten {
    /// Whether the engine has written all that it was handed.
    pub(super) fn is_none(&self) -> bool {
        self.packets.load(Ordering::Acquire) == 0
    }

    /// Counts a packet that `hand` hands to the engine. It is not to succeed without one.
    pub(super) fn count<T, E>(&self, hand: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        // Before it is handed over: the engine's writer may be faster than what follows.
        self.packets.fetch_add(1, Ordering::AcqRel);
        hand().inspect_err(|_| self.take_off(1))
    }

    /// Looks at a packet of the engine's that is about to leave: a text, or an attachment as one.
    pub(super) fn look(&self, packet: &[u8]) {
        match packet {
            [b'4', b'2' | b'3', ..] => self.leaves(0),
            [b'4', b'5' | b'6', rest @ ..] => self.leaves(announced(rest)),
            [b'b', ..] => self.look_at_attachment(),
            _ => {}
        }
    }

    /// Looks at an attachment that is about to leave.
    pub(super) fn look_at_attachment(&self) {
        match self.attachments.load(Ordering::Relaxed) {
            0 => {}
            left => self.leaves(left - 1),
        }
    }

    fn leaves(&self, attachments: usize) {
        self.attachments.store(attachments, Ordering::Relaxed);
        if attachments == 0 {
            self.leaving.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether attachments of the packet that was last looked at are still to come.
    pub(super) fn is_within_packet(&self) -> bool {
        self.attachments.load(Ordering::Relaxed) > 0
    }

    /// What was looked at has left.
    pub(super) fn settle(&self) {
        match self.leaving.swap(0, Ordering::Relaxed) {
            0 => {}
            left => self.take_off(left),
        }
    }

    fn take_off(&self, packets: usize) {
        let take = |all: usize| Some(all.saturating_sub(packets));
        self.packets
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .ok();
    }
}

/// How many attachments a packet announces in front of its first dash.
fn announced(rest: &[u8]) -> usize {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |all, digit| {
        all.saturating_mul(10)
            .saturating_add(usize::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(packets: usize) -> Unwritten {
        let unwritten = Unwritten::default();
        for _ in 0..packets {
            unwritten.count(|| Ok::<_, ()>(())).ok();
        }
        unwritten
    }

    #[test]
    fn a_packet_is_written_once_it_has_left_with_its_attachments() {
        let unwritten = handed(2);
        unwritten.look(b"42[\"a\"]");
        assert!(!unwritten.is_none(), "it has not left yet");
        unwritten.settle();
        unwritten.look(b"4512-/b,[\"a\"]");
        for _ in 0..11 {
            unwritten.look_at_attachment();
        }
        unwritten.settle();
        assert!(!unwritten.is_none() && unwritten.is_within_packet());
        unwritten.look(b"bAQID");
        unwritten.settle();
        assert!(unwritten.is_none() && !unwritten.is_within_packet());
    }

    #[test]
    fn what_was_not_handed_over_is_not_waited_for() {
        let unwritten = handed(0);
        assert_eq!(unwritten.count(|| Err::<(), _>("full")), Err("full"));
        assert!(unwritten.is_none());
    }

    #[test]
    fn the_engine_s_own_packets_do_not_count() {
        let unwritten = handed(1);
        for packet in ["", "2", "40{\"sid\":\"a\"}", "41", "44{}", "6", "bAQID"] {
            unwritten.look(packet.as_bytes());
        }
        unwritten.settle();
        assert!(!unwritten.is_none());
        unwritten.look(b"431[]");
        unwritten.settle();
        assert!(unwritten.is_none());
    }
}
