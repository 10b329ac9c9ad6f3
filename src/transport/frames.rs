//! Where in a stream of WebSocket frames one may cut in, and how large a message gets before it is read.
//!
//! The engine closes a session in order (what is queued goes out first) when its client asks for it, with Engine.IO's close
//! packet, and in no other way that is open to us: an end of file makes its WebSocket refuse every further write, and what
//! the client was to be told last is lost. So the end of a wire begins with that packet, put in between two messages of
//! the client's.
//!
//! Where that is told, what a message begins with is told too.

/// A text frame with Engine.IO's close packet, `1`, as a client would send it: masked, with a mask of zeroes (RFC 6455
/// section 5.2).
pub(super) const CLOSE_PACKET: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, b'1'];

/// A text frame with Engine.IO's pong packet, `3`, as a client would send it.
pub(super) const PONG_PACKET: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, b'3'];

/// Opcodes.
pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The bits of a frame's first byte that are for extensions.
const RESERVED: u8 = 0x70;

/// The longest payload of a control frame, in bytes.
const MAX_CONTROL: u8 = 125;

/// Where the bytes that were taken end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    /// In the middle of a frame.
    #[default]
    Within,
    /// After a control frame.
    Control,
    /// After a fragment, with more of its message to come.
    Fragment,
    /// After the last frame of a message.
    Message,
}

/// How many of a message's first bytes are kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    pub(super) text: usize,
    pub(super) binary: usize,
}

/// Why frames can't be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// A message is larger than was allowed.
    TooLarge,
    /// A header that no client may send (RFC 6455 sections 5.1 to 5.5): not masked, of an extension or a kind that was not agreed on,
    /// a control frame that is long or a fragment, or a frame that does not go on with the message that has begun.
    NoFrame,
}

/// Follows the frames of a client (RFC 6455 section 5.2), and looks at what is in them only where it is asked to.
#[derive(Default)]
pub(super) struct Frames {
    /// The header that is being read.
    header: [u8; 14],
    read: usize,
    /// Bytes of payload still to come.
    payload: u64,
    /// In the middle of a fragmented message, where only control frames may come.
    fragmented: bool,
    /// How many bytes of the message are kept.
    look: usize,
    /// The first bytes of the message, unmasked.
    opening: Vec<u8>,
    /// The mask of a frame that is no control frame, turned to the byte that comes next.
    masked: Option<[u8; 4]>,
    /// Whether the message is a text.
    text: bool,
    /// Bytes of the message, with the frame that is being read.
    message: u64,
    /// What the end of the frame that is being read is.
    ends: Step,
    /// A header was no client's.
    broken: bool,
}

impl Frames {
    /// Takes the bytes that were read.
    #[cfg(test)]
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while let (taken @ 1.., _) = self
            .take(bytes, Look::default(), u64::MAX)
            .unwrap_or_default()
        {
            bytes = &bytes[taken..];
        }
    }

    /// Takes the bytes that were read up to the end of a frame, at the most; returns how many, and where that is. The first
    /// bytes of a message that begins among them are kept as `look` says. Fails at the header with which a message becomes
    /// larger than `limit` bytes, or that is none; the frames can't be followed any further then.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        look: Look,
        limit: u64,
    ) -> Result<(usize, Step), Wrong> {
        let mut taken = 0;
        if self.broken {
            return Err(Wrong::NoFrame);
        }
        while let Some(&first) = bytes.get(taken) {
            if self.payload > 0 {
                let left = &bytes[taken..];
                let payload = self.payload.min(left.len() as u64) as usize;
                self.unmask(&left[..payload]);
                self.payload -= payload as u64;
                taken += payload;
            } else {
                self.header[self.read] = first;
                self.read += 1;
                taken += 1;
                if self.read == self.header_length() {
                    if !self.is_header() {
                        self.broken = true;
                        return Err(Wrong::NoFrame);
                    }
                    self.begin_payload(look);
                    if self.message > limit {
                        self.unmask(&bytes[taken..]);
                        return Err(Wrong::TooLarge);
                    }
                }
            }
            if self.payload == 0 && self.read == 0 {
                return Ok((taken, self.ends));
            }
        }
        Ok((taken, Step::Within))
    }

    /// What the message began with that has just ended, as far as it was kept; empty if it was no text.
    pub(super) fn opening(&self) -> &[u8] {
        match self.text {
            true => &self.opening,
            false => &[],
        }
    }

    /// What the message began with, text or not, as far as it was kept.
    pub(super) fn kept(&self) -> &[u8] {
        &self.opening
    }

    /// Whether the message is a text, which is a packet of its own; a binary one is an attachment.
    pub(super) fn is_text(&self) -> bool {
        self.text
    }

    /// How many bytes the message has, as far as its frames have begun.
    pub(super) fn message_length(&self) -> u64 {
        self.message
    }

    /// How many bytes of a message have come that has not ended.
    pub(super) fn unfinished(&self) -> u64 {
        match self.between_messages() {
            true => 0,
            false => self.message - self.payload.min(self.message),
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

    /// Whether the header that has been read is one that a client may send here.
    fn is_header(&self) -> bool {
        let [first, second, ..] = self.header;
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0f);
        let is_masked = second & 0x80 != 0;
        let fits = match opcode {
            CONTINUATION => self.fragmented,
            TEXT | BINARY => !self.fragmented,
            CLOSE | PING | PONG => is_final && second & 0x7f <= MAX_CONTROL,
            _ => false,
        };
        fits && is_masked && first & RESERVED == 0
    }

    fn begin_payload(&mut self, look: Look) {
        let [first, second, ..] = self.header;
        self.payload = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => self.header[2..10]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
            short => u64::from(short),
        };
        let is_control = first & 0x08 != 0;
        let opcode = first & 0x0f;
        if !self.fragmented {
            self.opening.clear();
            self.text = opcode == TEXT;
            self.look = if self.text { look.text } else { look.binary };
            self.message = 0;
        }
        self.masked = (!is_control).then(|| match second & 0x80 {
            0 => [0; 4],
            _ => std::array::from_fn(|byte| self.header[self.read - 4 + byte]),
        });
        if !is_control {
            self.fragmented = first & 0x80 == 0;
            self.message = self.message.saturating_add(self.payload);
        }
        self.ends = match (is_control, self.fragmented) {
            (true, _) => Step::Control,
            (false, true) => Step::Fragment,
            (false, false) => Step::Message,
        };
        self.read = 0;
    }

    /// Keeps what is to be looked at of a frame's payload, as far as it has come.
    fn unmask(&mut self, payload: &[u8]) {
        let Some(mask) = &mut self.masked else {
            return;
        };
        for byte in payload.iter().take(self.look - self.opening.len()) {
            self.opening.push(byte ^ mask[0]);
            mask.rotate_left(1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LOOK: Look = Look { text: 6, binary: 4 };

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

    fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![first, 0x80 | payload.len() as u8];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        frame
    }

    #[test]
    fn messages_are_taken_one_by_one_and_what_they_begin_with_is_told_in_whatever_pieces_they_come()
    {
        let stream = [
            masked(0x81, b"40/public,{}", [1, 2, 3, 4]),
            masked(0x89, b"ping", [5; 4]),
            masked(0x01, b"4", [9, 8, 7, 6]),
            masked(0x89, b"40/ping,", [5; 4]),
            masked(0x00, b"", [1; 4]),
            masked(0x80, b"0/admin", [6, 7, 8, 9]),
            masked(0x82, b"40/binary", [1; 4]),
            masked(0x81, b"", [0; 4]),
            masked(0x81, b"42", [3; 4]),
        ]
        .concat();
        let expected = ["40/pub", "40/adm", "", "", "42"];
        for piece in 1..=stream.len() {
            let mut frames = Frames::default();
            let mut openings = Vec::new();
            for mut bytes in stream.chunks(piece) {
                while !bytes.is_empty() {
                    let (taken, step) = frames.take(bytes, LOOK, u64::MAX).unwrap();
                    bytes = &bytes[taken..];
                    if step == Step::Message {
                        openings.push(String::from_utf8(frames.opening().to_vec()).unwrap());
                    }
                }
            }
            assert_eq!(openings, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_message_that_had_begun_before_it_was_to_be_looked_at_is_not() {
        let message = masked(0x81, b"xx40/public,", [1, 2, 3, 4]);
        let mut frames = Frames::default();
        frames.advance(&message[..8]);
        frames.take(&message[8..], LOOK, u64::MAX).unwrap();
        assert!(frames.between_messages() && frames.opening().is_empty());
    }

    #[test]
    fn a_message_is_too_large_from_the_header_on_that_makes_it_so() {
        let parts = [
            masked(0x01, b"12345", [1; 4]),
            masked(0x89, b"a ping is no part of it", [1; 4]),
            masked(0x00, b"12345", [1; 4]),
            masked(0x80, b"1", [1; 4]),
        ];
        for piece in 1..30 {
            let mut frames = Frames::default();
            let mut take = |bytes: &[u8]| {
                let mut steps = vec![];
                for mut bytes in bytes.chunks(piece) {
                    while !bytes.is_empty() {
                        let (taken, step) = frames.take(bytes, Look::default(), 10)?;
                        steps.push(step);
                        bytes = &bytes[taken..];
                    }
                }
                Ok(steps.last().copied())
            };
            assert_eq!(take(&parts[0]), Ok(Some(Step::Fragment)));
            assert_eq!(take(&parts[1]), Ok(Some(Step::Control)));
            assert_eq!(take(&parts[2]), Ok(Some(Step::Fragment)));
            assert_eq!(take(&parts[3][..5]), Ok(Some(Step::Within)));
            assert_eq!(take(&parts[3][5..6]), Err(Wrong::TooLarge));
            let mut huge = vec![0x81, 0xff];
            huge.extend(u64::MAX.to_be_bytes());
            huge.extend([0; 4]);
            let taken = Frames::default().take(&huge, Look::default(), 10);
            assert_eq!(taken, Err(Wrong::TooLarge));
        }
    }

    #[test]
    fn what_no_client_may_send_is_no_frame_in_whatever_pieces_it_comes() {
        let unmasked = vec![0x81, 1, b'2'];
        let reserved = masked(0xc1, b"2", [1; 4]);
        let unknown = masked(0x83, b"2", [1; 4]);
        let long = [vec![0x89, 0xfe, 0, 126], vec![0; 130]].concat();
        let fragment = masked(0x09, b"", [1; 4]);
        let nothing_to_go_on_with = masked(0x80, b"2", [1; 4]);
        let another = [masked(0x01, b"2", [1; 4]), masked(0x81, b"2", [1; 4])].concat();
        for bytes in [
            unmasked,
            reserved,
            unknown,
            long,
            fragment,
            nothing_to_go_on_with,
            another,
        ] {
            for piece in 1..=bytes.len() {
                let mut frames = Frames::default();
                let mut wrong = None;
                for mut chunk in bytes.chunks(piece) {
                    while !chunk.is_empty() && wrong.is_none() {
                        match frames.take(chunk, LOOK, u64::MAX) {
                            Ok((taken, _)) => chunk = &chunk[taken..],
                            Err(error) => wrong = Some(error),
                        }
                    }
                }
                assert_eq!(wrong, Some(Wrong::NoFrame), "{bytes:?} by {piece}");
            }
        }
    }

    #[test]
    fn a_binary_message_is_kept_as_far_as_it_is_asked_for_and_is_no_text() {
        let mut frames = Frames::default();
        let message = masked(0x82, b"binary", [1, 2, 3, 4]);
        frames.take(&message, LOOK, u64::MAX).unwrap();
        assert_eq!((frames.opening(), frames.kept()), (&b""[..], &b"bina"[..]));
    }

    #[test]
    fn the_close_packet_is_one_frame() {
        assert_eq!(gaps(CLOSE_PACKET, 1), vec![CLOSE_PACKET.len()]);
    }
}
