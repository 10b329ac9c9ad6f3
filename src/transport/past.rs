//! Messages for many clients, which leave past the engine.
//!
//! The engine has a queue and a task for each session. To wake all of these for one message, and to make it into as many frames,
//! costs a third of a delivery (26.8 µs through the engine and 17.3 past it, in one run with 10,000 clients). So a message for many is
//! made into frames once, and put behind what waits on the [wire](super::wire) of each session; then a few tasks write to some wires
//! each. Messages that come before that share the write.
//!
//! It is done only where the engine has nothing for the client that would be overtaken, see [`Unwritten`](super::unwritten::Unwritten).

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use socketioxide_core::{Value, packet::Packet, parser::Parse};
use socketioxide_parser_common::CommonParser;
use tungstenite::protocol::frame::{
    Frame,
    coding::{Data, OpCode},
};

use super::{
    session::Session,
    wire::{Queued, Wire},
};
use crate::connection::TransportKind;

/// To how many wires one task writes. A write takes some microseconds: nothing else of the task's thread waits for longer than a
/// fraction of a millisecond.
const WIRES: usize = 64;

/// An event as it goes over a WebSocket: a frame, and one for each attachment.
pub struct EventFrames {
    pub(super) bytes: Bytes,
    has_attachments: bool,
}

impl EventFrames {
    /// An event of a namespace, as the engine would write it. None if it can't be written.
    pub fn of(namespace: &str, event: &str, args: &impl Serialize) -> Option<Self> {
        let data = CommonParser.encode_value(args, Some(event)).ok()?;
        let Value::Str(text, attachments) =
            CommonParser.encode(Packet::event(namespace.to_owned(), data))
        else {
            return None;
        };
        let attachments = attachments.unwrap_or_default();
        let has_attachments = !attachments.is_empty();
        let mut frames = Vec::new();
        let text = (Data::Text, format!("4{text}").into());
        let attachments = attachments.into_iter().map(|bytes| (Data::Binary, bytes));
        for (kind, payload) in std::iter::once(text).chain(attachments) {
            let frame = Frame::message(payload, OpCode::Data(kind), true);
            frame.format(&mut frames).ok()?;
        }
        Some(Self {
            bytes: frames.into(),
            has_attachments,
        })
    }
}

impl Session {
    /// Puts an event behind what waits for the client, if nothing that the engine has for it is overtaken. Returns whether it did.
    /// What is put into `writes` is written later, by [`Writes`].
    pub fn send_past_engine(self: &Arc<Self>, event: &EventFrames, writes: &mut Writes) -> bool {
        if self.kind() != TransportKind::Websocket
            || event.has_attachments && self.gate().is_base64()
            || !self.gate().unwritten().is_none()
        {
            return false;
        }
        let Some(wire) = self.wire() else {
            return false;
        };
        match wire.queue(&event.bytes) {
            Queued::Due => writes.add(wire, self.clone()),
            Queued::Behind => {}
            Queued::Refused => return false,
        }
        true
    }

    /// Hands the engine a packet for the client, an event or an acknowledgement. `hand` does it, or fails.
    pub fn send_by_engine<T, E>(&self, hand: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.gate().unwritten().count(hand)
    }
}

/// Wires to which something is to be written. Tasks do that, the last when this goes.
#[derive(Default)]
pub struct Writes(Vec<(Arc<Wire>, Arc<Session>)>);

impl Writes {
    fn add(&mut self, wire: Arc<Wire>, session: Arc<Session>) {
        if self.0.capacity() == 0 {
            self.0.reserve_exact(WIRES);
        }
        self.0.push((wire, session));
        if self.0.len() == WIRES {
            self.begin();
        }
    }

    fn begin(&mut self) {
        let wires = std::mem::take(&mut self.0);
        if !wires.is_empty() {
            tokio::spawn(async move {
                for (wire, session) in wires {
                    wire.write_queued(&session);
                }
            });
        }
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        self.begin();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_frame_and_one_for_each_attachment() {
        let event = EventFrames::of("/", "a", &json!({"b": 1})).map(|event| event.bytes);
        assert_eq!(event.as_deref(), Some(&b"\x81\x0f42[\"a\",{\"b\":1}]"[..]));
        let event = EventFrames::of("/b", "a", &(1, Bytes::from_static(&[7, 8])));
        let frames = event.map(|event| (event.bytes, event.has_attachments));
        let text = "451-/b,[\"a\",1,{\"_placeholder\":true,\"num\":0}]";
        let text = [&[0x81, text.len() as u8], text.as_bytes()].concat();
        let expected = [&text[..], &[0x82, 2, 7, 8]].concat();
        assert_eq!(frames, Some((expected.into(), true)));
    }
}
