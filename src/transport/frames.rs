//! Where in a stream of WebSocket frames one may cut in.
//!
//! The engine closes a session in order (what is queued goes out first) when its client asks for it, with Engine.IO's close
//! packet, and in no other way that is open to us: an end of file makes its WebSocket refuse every further write, and what
//! the client was to be told last is lost. So the end of a wire begins with that packet, put in between two messages of
//! the client's.

/// A text frame with Engine.IO's close packet, `1`, as a client would send it: masked, with a mask of zeroes (RFC 6455
/// section 5.2).
pub(super) const CLOSE_PACKET: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, b'1'];

/// Follows the frames of a client (RFC 6455 section 5.2) without looking at what is in them.
#[derive(Default)]
pub(super) struct Frames {
    /// The header that is being read.
    header: [u8; 14],
    read: usize,
    /// Bytes of payload still to come.
    payload: u64,
    /// In the middle of a fragmented message, where only control frames may come.
    fragmented: bool,
}

impl Frames {
    /// Takes the bytes that were read.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let skipped = self.payload.min(bytes.len() as u64);
                self.payload -= skipped;
                bytes = &bytes[skipped as usize..];
                continue;
            }
            self.header[self.read] = first;
            self.read += 1;
            bytes = rest;
            if self.read == self.header_length() {
                self.begin_payload();
            }
        }
    }

    /// Whether a message may be put in here.
    pub(super) fn between_messages(&self) -> bool {
        self.read == 0 && self.payload == 0 && !self.fragmented
    }

    /// How long the header is, as far as its first bytes tell.
    fn header_length(&self) -> usize {
        if self.read < 2 {
            return 2;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + extended + mask
    }

    fn begin_payload(&mut self) {
        let [first, second, ..] = self.header;
        self.payload = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => self.header[2..10]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
            short => u64::from(short),
        };
        let is_control = first & 0x08 != 0;
        if !is_control {
            self.fragmented = first & 0x80 == 0;
        }
        self.read = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload {
            0..126 => frame.push(0x80 | payload as u8),
            126..65536 => {
                frame.push(0x80 | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.resize(frame.len() + payload, 0xff);
        frame
    }

    /// Feeds `bytes` in pieces of `piece`; returns at which offsets a message could have been put in.
    fn gaps(bytes: &[u8], piece: usize) -> Vec<usize> {
        let mut frames = Frames::default();
        let mut at = 0;
        let mut gaps = vec![];
        for chunk in bytes.chunks(piece) {
            frames.advance(chunk);
            at += chunk.len();
            if frames.between_messages() {
                gaps.push(at);
            }
        }
        gaps
    }

    #[test]
    fn a_message_fits_between_messages_only() {
        let mut stream = Vec::new();
        let mut ends = Vec::new();
        for payload in [0, 1, 125, 126, 65535, 65536] {
            stream.extend(frame(0x81, payload));
            ends.push(stream.len());
        }
        assert_eq!(gaps(&stream, 1), ends);
        assert_eq!(gaps(&stream, stream.len()), vec![stream.len()]);
        for piece in [2, 3, 7, 512] {
            let expected: Vec<_> = ends
                .iter()
                .copied()
                .filter(|end| end % piece == 0 || *end == stream.len())
                .collect();
            assert_eq!(gaps(&stream, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_fragmented_message_is_one_message_whatever_control_frames_come_within() {
        let mut stream = frame(0x01, 3);
        stream.extend(frame(0x89, 2));
        stream.extend(frame(0x00, 3));
        stream.extend(frame(0x80, 3));
        assert_eq!(gaps(&stream, 1), vec![stream.len()]);
    }

    #[test]
    fn the_close_packet_is_one_frame() {
        assert_eq!(gaps(CLOSE_PACKET, 1), vec![CLOSE_PACKET.len()]);
    }
}
