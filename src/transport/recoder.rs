//! Messages on a WebSocket that the engine can't read, made into ones that it can: attachments as texts in base64, which the
//! JavaScript client's `forceBase64` makes, and events whose name is a number.
//!
//! A message becomes longer or shorter by that, so it is held until it is whole. Only the streams of clients that have sent such
//! a message pass through here, from that message on.

use std::io::Cursor;

use bytes::{Buf, BufMut, BytesMut};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

use super::packets::{attachment_of_text, with_text_for_name};

/// What base64 adds to a message, in bytes for each three, and to its end.
const OF_THREE: u64 = 4;
const END: u64 = 8;

/// The stream of one client.
#[derive(Default)]
pub(super) struct Recoder {
    /// A frame that has not come whole.
    frame: BytesMut,
    /// A text that has not come whole, of several frames.
    text: Option<BytesMut>,
    /// What comes is no frame, or too large: it is passed on as it is, for the gate to judge.
    gives_up: bool,
}

impl Recoder {
    /// Takes bytes of the client's, and gives those that the engine is to read now. Of a message larger than `max_message` bytes
    /// nothing is held.
    pub(super) fn recode(&mut self, bytes: &[u8], max_message: u64) -> BytesMut {
        let largest = max_message / 3 * OF_THREE + END;
        self.frame.extend_from_slice(bytes);
        let mut recoded = BytesMut::new();
        while !self.gives_up && self.take_frame(largest, &mut recoded).is_some() {}
        if self.gives_up {
            recoded.unsplit(self.frame.split());
        }
        recoded
    }

    /// How many bytes are held.
    pub(super) fn held(&self) -> u64 {
        (self.frame.len() + self.text.as_ref().map_or(0, BytesMut::len)) as u64
    }

    /// Takes a frame. None if it has not come whole.
    fn take_frame(&mut self, largest: u64, recoded: &mut BytesMut) -> Option<()> {
        let mut cursor = Cursor::new(&self.frame[..]);
        let header = FrameHeader::parse(&mut cursor);
        let Ok(header) = header else {
            self.gives_up = true;
            return None;
        };
        let (header, length) = header?;
        let head = cursor.position() as usize;
        let held = self.text.as_ref().map_or(0, BytesMut::len) as u64;
        let Some(mask) = header
            .mask
            .filter(|_| held.saturating_add(length) <= largest)
        else {
            self.gives_up = true;
            return None;
        };
        let whole = head + length as usize;
        if self.frame.len() < whole {
            return None;
        }
        let mut frame = self.frame.split_to(whole);
        let text = match (header.opcode, self.text.take()) {
            (OpCode::Data(Data::Text), None) => BytesMut::new(),
            (OpCode::Data(Data::Continue), Some(text)) => text,
            (_, text) => {
                self.text = text;
                recoded.unsplit(frame);
                return Some(());
            }
        };
        frame.advance(head);
        for (byte, mask) in frame.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        let text = match text.is_empty() {
            true => frame,
            false => {
                let mut text = text;
                text.extend_from_slice(&frame);
                text
            }
        };
        match header.is_final {
            true => put_message(&text, recoded),
            false => self.text = Some(text),
        }
        Some(())
    }
}

/// Puts a text of the client's, in the way in which the engine reads it.
fn put_message(text: &[u8], recoded: &mut BytesMut) {
    if let Some(attachment) = attachment_of_text(text) {
        put_frame(Data::Binary, &attachment, recoded);
    } else if let Some(event) = with_text_for_name(text) {
        put_frame(Data::Text, &event, recoded);
    } else {
        put_frame(Data::Text, text, recoded);
    }
}

/// Puts a frame as a client sends it, masked with zeroes.
fn put_frame(kind: Data, payload: &[u8], recoded: &mut BytesMut) {
    let header = FrameHeader {
        opcode: OpCode::Data(kind),
        mask: Some([0; 4]),
        ..FrameHeader::default()
    };
    let length = payload.len() as u64;
    if let Err(error) = header.format(length, &mut recoded.writer()) {
        tracing::error!(%error, "a frame");
        return;
    }
    recoded.extend_from_slice(payload);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LARGEST: u64 = 1000;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 11, 13, 17];
        let mut frame = vec![first, 0x80 | payload.len() as u8];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        frame
    }

    fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn what_the_engine_reads_is_the_same_however_the_stream_is_cut() {
        let (ping, binary) = (masked(0x89, b"ping"), masked(0x82, b"\x01b42[1]"));
        let stream = [
            masked(0x81, b"bAQID"),
            ping.clone(),
            masked(0x01, b"42["),
            ping.clone(),
            masked(0x00, b""),
            masked(0x80, b"-1,2]"),
            binary.clone(),
            masked(0x81, b"42[\"a\"]"),
            masked(0x81, b"b!"),
            masked(0x81, b""),
            masked(0x81, b"3"),
        ]
        .concat();
        let expected = [
            plain(0x82, &[1, 2, 3]),
            ping.clone(),
            ping,
            plain(0x81, b"42[\"-1\",2]"),
            binary,
            plain(0x81, b"42[\"a\"]"),
            plain(0x81, b"b!"),
            plain(0x81, b""),
            plain(0x81, b"3"),
        ]
        .concat();
        for piece in 1..=stream.len() {
            let mut recoder = Recoder::default();
            let pieces = stream.chunks(piece);
            let recoded: Vec<_> = pieces
                .flat_map(|piece| recoder.recode(piece, LARGEST))
                .collect();
            assert_eq!(recoded, expected, "by {piece}");
            assert_eq!(recoder.held(), 0);
        }
    }

    #[test]
    fn what_is_too_large_or_no_frame_is_passed_on_and_not_held() {
        let large = [&[0x81, 0xfe, 0xff, 0xff, 0, 0, 0, 0], &b"b"[..]].concat();
        let huge = [&[0x81, 0xff][..], &[0xff; 8], &[0; 4]].concat();
        let unmasked = vec![0x81, 1, b'b'];
        let unknown = masked(0x83, b"b");
        for wrong in [large, huge, unmasked] {
            let mut recoder = Recoder::default();
            let bytes = [masked(0x81, b"bAQID"), wrong.clone(), unknown.clone()].concat();
            let expected = [plain(0x82, &[1, 2, 3]), wrong, unknown.clone()].concat();
            assert_eq!(recoder.recode(&bytes, LARGEST), expected);
            assert_eq!(recoder.recode(&unknown, LARGEST), unknown);
            assert_eq!(recoder.held(), 0);
        }
        let mut recoder = Recoder::default();
        assert!(recoder.recode(&masked(0x01, b"b"), LARGEST).is_empty());
        let fragment = masked(0x00, &[b'A'; 100]);
        let passed = (0..50).find(|_| !recoder.recode(&fragment, LARGEST).is_empty());
        assert!(passed.is_some_and(|passed| passed < 20));
    }
}
