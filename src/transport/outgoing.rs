//! What the engine writes: CONNECT packets leave with the connection's id in place of the session's, and in what never leaves
//! the messages are counted.
//!
//! tungstenite hands on whole frames, as nothing is ever left of a write to a [`Wire`](super::wire::Wire).

use std::borrow::Cow;

use bytes::Bytes;
use tungstenite::protocol::{
    CloseFrame,
    frame::{
        Frame as NewFrame,
        coding::{CloseCode, Data, OpCode},
    },
};

use super::{
    frames::{BINARY, CLOSE, CONTINUATION, TEXT},
    gate::{Gate, Outgoing},
    packets::{NOOP, SEPARATOR, attachment_as_text},
};
use crate::ending::Breach;

/// The event that goes with the end itself.
const FAREWELL: &[u8] = b"[\"forceDisconnect\"";

/// The end of a frame whose beginning has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// How many bytes are left of it.
    pub(super) bytes: usize,
    /// Whether it is a message.
    pub(super) message: bool,
}

impl Rest {
    /// What is left of the frame in which `data` is cut when `sent` bytes of it leave; `self` is what it begins with.
    pub(super) fn after(self, data: &[u8], sent: usize) -> Self {
        let (mut end, mut message) = (self.bytes, self.message);
        while end < sent {
            let frame = Frame::first(&data[end.min(data.len())..]);
            (end, message) = (end + frame.length.max(1), frame.is_message());
        }
        match end - sent {
            0 => Self::default(),
            bytes => Self { bytes, message },
        }
    }

    /// How many messages are in `data`, which begins with this; one of which a part has left counts.
    pub(super) fn messages(self, data: &[u8]) -> u64 {
        let mut at = self.bytes;
        let mut messages = u64::from(self.message);
        while at < data.len() {
            let frame = Frame::first(&data[at..]);
            at += frame.length.max(1);
            messages += u64::from(frame.is_message());
        }
        messages
    }
}

/// Frames that the engine writes, as they are to leave. `ends` says whether the session is ended from this side: the close frame
/// with which the engine answers that then stays here, see [`last_frame`].
pub(super) fn outgoing_frames<'a>(gate: &Gate, frames: &'a [u8], ends: bool) -> Cow<'a, [u8]> {
    let mut leaving = Cow::Borrowed(frames);
    let (mut at, mut copied) = (0, 0);
    while at < frames.len() {
        let frame = Frame::first(&frames[at..]);
        let end = at + frame.length.max(1);
        if frame.opcode == BINARY {
            gate.unwritten().look_at_attachment();
        }
        let outgoing = match frame.opcode {
            CLOSE if ends => Outgoing::Nothing,
            BINARY if gate.is_base64() => Outgoing::Instead(attachment_as_text(frame.payload)),
            _ => gate.outgoing(frame.text()),
        };
        let instead = match outgoing {
            Outgoing::AsItIs => {
                at = end;
                continue;
            }
            Outgoing::Instead(packet) => {
                Some(NewFrame::message(packet, OpCode::Data(Data::Text), true))
            }
            Outgoing::Nothing if frame.opcode == CLOSE => last_frame(gate),
            Outgoing::Nothing => None,
        };
        if copied == 0 {
            leaving = Cow::Owned(Vec::with_capacity(frames.len()));
        }
        let leaving = leaving.to_mut();
        leaving.extend_from_slice(&frames[copied..at]);
        if let Some(Err(error)) = instead.map(|frame| frame.format(leaving)) {
            tracing::error!(%error, "a frame");
        }
        (at, copied) = (end, end);
    }
    if let Cow::Owned(leaving) = &mut leaving {
        leaving.extend_from_slice(&frames[copied.min(frames.len())..]);
    }
    leaving
}

/// The close frame of a session that is ended from this side. A client whose message was too large is told so, with 1009, and
/// one whose frame was none with 1002 (RFC 6455 section 7.4.1). Any other gets none: the end of the TCP stream is enough to every client, and the one for Java and
/// Android (io.socket:socket.io-client 2.1.2, on OkHttp) stops reading at a close frame and waits 45 s before it comes back.
fn last_frame(gate: &Gate) -> Option<NewFrame> {
    let (code, reason) = match gate.breach()? {
        Breach::TooLarge => (CloseCode::Size, "message too large"),
        Breach::NoFrame => (CloseCode::Protocol, "invalid frame"),
        _ => return None,
    };
    let reason = reason.into();
    Some(NewFrame::close(Some(CloseFrame { code, reason })))
}

/// The body of an answer to a poll, as it is to leave.
pub(super) fn outgoing_body(gate: &Gate, body: Bytes) -> Bytes {
    let packets = body.split(|byte| *byte == SEPARATOR);
    let outgoing = packets.clone().map(|packet| gate.outgoing(packet));
    let outgoing = Vec::from_iter(outgoing);
    gate.unwritten().settle();
    if outgoing.iter().all(|it| *it == Outgoing::AsItIs) {
        return body;
    }
    let mut leaving = Vec::with_capacity(body.len());
    for (packet, outgoing) in packets.zip(outgoing) {
        let packet = match outgoing {
            Outgoing::AsItIs => Cow::Borrowed(packet),
            Outgoing::Instead(packet) => Cow::Owned(packet.into_bytes()),
            Outgoing::Nothing => continue,
        };
        if !leaving.is_empty() {
            leaving.push(SEPARATOR);
        }
        leaving.extend_from_slice(&packet);
    }
    if leaving.is_empty() {
        // An empty answer is none to the stock client.
        return Bytes::from_static(NOOP.as_bytes());
    }
    leaving.into()
}

/// A frame of a server's (RFC 6455 section 5.2): no mask.
struct Frame<'a> {
    length: usize,
    opcode: u8,
    /// As far as it is there.
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn is_message(&self) -> bool {
        is_message(self.text())
    }

    /// Its payload, if it is a text frame.
    fn text(&self) -> &'a [u8] {
        match self.opcode {
            TEXT => self.payload,
            _ => &[],
        }
    }

    /// The one that `data` begins with; all of it if that is not to be read.
    fn first(data: &'a [u8]) -> Self {
        let Some((&[first, second], _)) = data.split_first_chunk::<2>() else {
            return Self {
                length: data.len(),
                opcode: CONTINUATION,
                payload: &[],
            };
        };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let header = 2 + extended;
        let payload = match data.get(2..header) {
            Some([]) => usize::from(second & 0x7f),
            Some(bytes) => bytes
                .iter()
                .fold(0_usize, |length, byte| length << 8 | usize::from(*byte)),
            None => 0,
        };
        let length = header.saturating_add(payload).min(data.len());
        let payload = data.get(header..length).unwrap_or_default();
        Self {
            length,
            opcode: first & 0x0f,
            payload,
        }
    }
}

/// Whether an Engine.IO packet is an event, other than the one that goes with the end. The attachments of an event are
/// packets of their own, and not counted.
pub(super) fn is_message(packet: &[u8]) -> bool {
    if !packet.starts_with(b"42") && !packet.starts_with(b"45") {
        return false;
    }
    let name = packet.iter().position(|byte| *byte == b'[');
    name.is_some_and(|name| !packet[name..].starts_with(FAREWELL))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::transport::{gate::MessageSizes, namespaces::Namespaces};

    fn text(payload: &str) -> Vec<u8> {
        let mut frame = vec![0x81];
        match payload.len() {
            short @ 0..126 => frame.push(short as u8),
            long @ 126..65536 => {
                frame.push(126);
                frame.extend((long as u16).to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload.as_bytes());
        frame
    }

    #[test]
    fn events_are_messages_and_nothing_else_is() {
        for packet in ["42[\"a\"]", "42/b,7[\"a\",1]", "451-[\"file\",{}]"] {
            assert!(is_message(packet.as_bytes()), "{packet}");
        }
        for packet in [
            "",
            "2",
            "41",
            "40{}",
            "431[]",
            "42",
            "44/x,{\"message\":\"[\"}",
            "42[\"forceDisconnect\",{}]",
            "42/b,[\"forceDisconnect\",{}]",
        ] {
            assert!(!is_message(packet.as_bytes()), "{packet}");
        }
    }

    #[test]
    fn wherever_a_write_is_cut_the_messages_that_have_not_left_wholly_are_counted() {
        let long = format!("42[\"{}\"]", "x".repeat(300));
        let larger = format!("42[\"{}\"]", "x".repeat(70_000));
        let packets = ["42[\"a\"]", "2", &long, "41", &larger, "42[\"b\"]"];
        let mut data = Vec::new();
        let mut ends = Vec::new();
        for packet in packets {
            data.extend(text(packet));
            if is_message(packet.as_bytes()) {
                ends.push(data.len());
            }
        }
        assert_eq!(Rest::default().messages(&data), 4);
        for piece in [1, 7, 100, 65_000] {
            let (mut rest, mut left) = (Rest::default(), &data[..]);
            while !left.is_empty() {
                let sent = piece.min(left.len());
                rest = rest.after(left, sent);
                left = &left[sent..];
                let gone = data.len() - left.len();
                let expected = ends.iter().filter(|end| **end > gone).count();
                assert_eq!(
                    rest.messages(left),
                    expected as u64,
                    "{gone} of {}",
                    data.len()
                );
            }
        }
    }

    #[test]
    fn only_a_message_that_is_too_large_ends_with_a_close_frame() {
        let sizes = MessageSizes {
            guest: 100,
            user: 1000,
        };
        let gate = Gate::new(Arc::new(Namespaces::new(["/".to_owned()])), sizes);
        let frames = [&text("42[1]")[..], &[0x88, 0]].concat();
        assert_eq!(outgoing_frames(&gate, &frames, false), &frames[..]);
        assert_eq!(outgoing_frames(&gate, &frames, true), &text("42[1]")[..]);
        gate.set_breach(Breach::TooLarge);
        let left = outgoing_frames(&gate, &frames, true);
        let close = &left[text("42[1]").len()..];
        assert_eq!(close[..4], [0x88, 19, 0x03, 0xf1], "1009");
    }

    #[test]
    fn attachments_leave_as_texts_where_that_was_asked_for() {
        let sizes = MessageSizes {
            guest: 100,
            user: 1000,
        };
        let gate = Gate::new(Arc::new(Namespaces::new(["/".to_owned()])), sizes);
        let event = text("451-[{}]");
        let frames = [&event[..], &[0x82, 3, 1, 2, 3]].concat();
        assert_eq!(outgoing_frames(&gate, &frames, false), &frames[..]);
        gate.set_base64();
        let left = outgoing_frames(&gate, &frames, false);
        assert_eq!(left, [event, text("bAQID")].concat());
    }

    #[test]
    fn what_is_no_frame_is_gone_over() {
        for data in [
            &[][..],
            &[0x81],
            &[0x81, 126, 0],
            &[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert_eq!(Rest::default().messages(data), 0, "{data:?}");
            Rest::default().after(data, data.len());
        }
    }
}
