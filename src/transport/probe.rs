//! The probe of a WebSocket that a polling session may move to.
//!
//! A client that polls opens a WebSocket beside it and sends `2probe`; when it gets `3probe` it lets its last poll come back
//! and sends `5`, and from then on the session is the WebSocket's. Until then it may as well stay where it is: behind a proxy
//! that lets upgrades through and then drops them, or their frames, it has to. engineioxide counts a session as moving
//! from the first byte and closes it when the probe fails, so the probe is answered here, and the engine hears of it only
//! once the client has said `5`: it is then given the same packets once more, and its own `3probe` is dropped.

use std::{io, io::Cursor, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::MissedTickBehavior,
};
use tungstenite::protocol::frame::{
    Frame, FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::{packets::attachment_of_text, session::Session};

/// How often a poll that waits is answered with a noop from the probe on: the client sends nothing else before it has come
/// back. The JavaScript server's own interval.
const NOOPS: Duration = Duration::from_millis(100);

/// The longest payload of a frame here; those that are meant have six bytes at the most.
const MAX_PAYLOAD: u64 = 125;

/// How many frames a client may send before `5`; a stock one sends `2probe`.
const MAX_FRAMES: usize = 16;

/// `2probe` and `5` as the client has sent them: text frames, masked with zeroes.
pub(super) const REPLAY: &[u8] = &[
    0x81, 0x86, 0, 0, 0, 0, b'2', b'p', b'r', b'o', b'b', b'e', 0x81, 0x81, 0, 0, 0, 0, b'5',
];

/// The engine's answer to it: one text frame, `3probe`.
pub(super) const ANSWER: usize = 8;

/// Answers the probe. Returns what came after `5`; none if the peer goes, or sends anything else.
pub(super) async fn answer(
    tcp: &mut TcpStream,
    early: &[u8],
    session: &Session,
) -> io::Result<Option<BytesMut>> {
    let mut read = BytesMut::from(early);
    let (mut probed, mut frames) = (false, 0);
    let mut noops = tokio::time::interval(NOOPS);
    noops.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while let Some((opcode, payload)) = take_frame(&mut read)? {
            frames += 1;
            if frames > MAX_FRAMES {
                return Ok(None);
            }
            let reply = match (opcode, &payload[..]) {
                (OpCode::Data(Data::Text), b"2probe") => {
                    probed = true;
                    Frame::message("3probe", OpCode::Data(Data::Text), true)
                }
                (OpCode::Data(Data::Text), b"5") if probed => return Ok(Some(read)),
                (OpCode::Control(Control::Ping), payload) => Frame::pong(payload.to_vec()),
                (OpCode::Control(Control::Pong), _) => continue,
                _ => return Ok(None),
            };
            let mut frame = Vec::new();
            reply.format(&mut frame).map_err(io::Error::other)?;
            tcp.write_all(&frame).await?;
        }
        tokio::select! {
            count = tcp.read_buf(&mut read) => {
                if count? == 0 {
                    return Ok(None);
                }
            }
            _ = noops.tick(), if probed => session.release_polls(),
        }
    }
}

/// Takes a whole frame off `read`; none if it is not all there yet.
fn take_frame(read: &mut BytesMut) -> io::Result<Option<(OpCode, BytesMut)>> {
    let mut cursor = Cursor::new(&read[..]);
    let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let head = cursor.position() as usize;
    if length > MAX_PAYLOAD || !header.is_final {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if read.len() - head < length as usize {
        return Ok(None);
    }
    read.advance(head);
    let mut payload = read.split_to(length as usize);
    // RFC 6455 section 5.1: a server takes no frame that is not masked.
    let mask = header.mask.ok_or(io::ErrorKind::InvalidData)?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Some((header.opcode, payload)))
}

/// A packet of a polling client's body, as the frame that it is on a WebSocket, on which attachments are texts too if `base64`. None
/// for a noop, and for what is no packet.
pub(super) fn frame_of(packet: &[u8], base64: bool) -> Option<Frame> {
    match packet {
        [] | b"6" => None,
        [b'b', ..] if !base64 => {
            let data = attachment_of_text(packet)?;
            Some(Frame::message(data, OpCode::Data(Data::Binary), true))
        }
        text => {
            let text = text.to_vec();
            Some(Frame::message(text, OpCode::Data(Data::Text), true))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_and_unmasked_in_whatever_pieces_they_came() {
        let stream: Vec<u8> = [&[0x81, 0x86, 1, 2, 3, 4], &b"3rqkcg"[..], &REPLAY[12..]].concat();
        for piece in 1..stream.len() {
            let mut read = BytesMut::new();
            let mut frames = Vec::new();
            for bytes in stream.chunks(piece) {
                read.extend_from_slice(bytes);
                while let Some((_, payload)) = take_frame(&mut read).unwrap() {
                    frames.push(payload.to_vec());
                }
            }
            assert_eq!(frames, [b"2probe".to_vec(), b"5".to_vec()], "{piece}");
        }
    }

    #[test]
    fn what_no_probe_is_made_of_is_an_error() {
        let unmasked = [0x81, 1, b'5'];
        let long = [0x81, 0xfe, 1, 0, 0, 0, 0, 0];
        let fragment = [0x01, 0x81, 0, 0, 0, 0, b'5'];
        for bytes in [&unmasked[..], &long, &fragment] {
            assert!(take_frame(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_replay_is_what_a_client_sends_and_the_answer_as_long_as_is_said() {
        let mut read = BytesMut::from(REPLAY);
        let mut next = || take_frame(&mut read).unwrap().unwrap().1;
        assert_eq!((&next()[..], &next()[..]), (&b"2probe"[..], &b"5"[..]));
        let mut answer = Vec::new();
        let frame = Frame::message("3probe", OpCode::Data(Data::Text), true);
        frame.format(&mut answer).unwrap();
        assert_eq!(answer.len(), ANSWER);
    }

    #[test]
    fn packets_of_a_body_become_frames() {
        let payload = |packet: &[u8]| frame_of(packet, false).map(|frame| frame.payload().to_vec());
        assert_eq!(payload(b"42[1]"), Some(b"42[1]".to_vec()));
        assert_eq!(payload(b"bAQID"), Some(vec![1, 2, 3]));
        assert_eq!(payload(b"6"), None);
        let text = frame_of(b"bAQID", true).unwrap();
        assert_eq!(text.payload(), b"bAQID");
    }
}
