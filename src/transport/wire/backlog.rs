//! What the kernel has not taken yet of a WebSocket's bytes, with its size and its age.

use std::{collections::VecDeque, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use crate::transport::outgoing::Rest;

/// Small writes share a chunk of the backlog of up to this size: a frame of a few bytes would cost ten times its size alone.
const CHUNK: usize = 16 * 1024;

/// Into how many parts the write deadline is cut: a chunk takes what comes within one of them, so that the age of its first byte
/// is, but for that much, the age of all.
const SLICES: u32 = 32;

/// What the kernel has not taken yet.
#[derive(Default)]
pub(super) struct Backlog {
    /// Frames of [`past`](crate::transport::past), which the kernel has not been offered yet. There are none while there are chunks.
    pub(super) fresh: Vec<Bytes>,
    /// The engine has written an event and not all of its attachments: nothing may come between.
    pub(super) within_packet: bool,
    pub(super) chunks: VecDeque<Chunk>,
    pub(super) bytes: usize,
    /// Whether a pump task is at work. At most one is, and only it writes while there are chunks.
    pub(super) pumping: bool,
    /// Nothing is taken or sent any more.
    pub(super) dead: bool,
    /// The engine has dropped its stream: nothing more will come.
    pub(super) sealed: bool,
    /// Messages that came and were dropped.
    pub(super) lost: u64,
    /// How long the kernel waits for the peer to acknowledge what it has taken, as far as it was told here.
    pub(super) acknowledged_within: Option<Duration>,
}

pub(super) struct Chunk {
    /// When its first byte came.
    pub(super) queued_at: Instant,
    pub(super) data: BytesMut,
    /// What it begins with of a frame whose beginning has left.
    begun: Rest,
}

impl Backlog {
    /// Queues `data`, which came at `now` and begins with `begun`.
    pub(super) fn push(
        &mut self,
        data: &[u8],
        begun: Rest,
        now: Instant,
        write_deadline: Duration,
    ) {
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
            begun,
        });
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.chunks.is_empty()
    }

    /// Takes off what has been sent of the first chunk.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(first) = self.chunks.front_mut() {
            first.begun = first.begun.after(&first.data, bytes);
            first.data.advance(bytes);
            if first.data.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

impl Backlog {
    /// Drops what waits, and takes nothing any more.
    pub(super) fn kill(&mut self) {
        self.dead = true;
        let (fresh, chunks) = (
            std::mem::take(&mut self.fresh),
            std::mem::take(&mut self.chunks),
        );
        self.bytes = 0;
        let fresh = fresh.iter().map(|data| Rest::default().messages(data));
        let chunks = chunks.iter();
        let chunks = chunks.map(|chunk| chunk.begun.messages(&chunk.data));
        self.lost += fresh.chain(chunks).sum::<u64>();
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
            backlog.push(b"\x81\x023a", Rest::default(), now, DEADLINE);
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
            backlog.push(frame, Rest::default(), now, DEADLINE);
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
    fn what_is_dropped_is_counted_in_messages_that_had_not_left_wholly() {
        let message = b"\x81\x0742[\"a\"]";
        for sent in 0..=message.len() * 50 {
            let mut backlog = Backlog::default();
            let now = Instant::now();
            for _ in 0..50 {
                backlog.push(message, Rest::default(), now, DEADLINE);
            }
            backlog.sent(sent / 2);
            backlog.sent(sent - sent / 2);
            backlog.kill();
            assert_eq!(backlog.lost, 50 - (sent / message.len()) as u64, "{sent}");
        }
    }

    #[test]
    fn a_byte_is_taken_for_older_than_it_is_by_a_slice_of_the_deadline_at_most() {
        let mut backlog = Backlog::default();
        let start = Instant::now();
        backlog.push(b"old", Rest::default(), start, DEADLINE);
        backlog.push(b"as old", Rest::default(), start + DEADLINE / 64, DEADLINE);
        backlog.push(b"young", Rest::default(), start + DEADLINE / 2, DEADLINE);
        let ages: Vec<_> = backlog.chunks.iter().map(|chunk| chunk.queued_at).collect();
        assert_eq!(ages, [start, start + DEADLINE / 2]);
    }
}
