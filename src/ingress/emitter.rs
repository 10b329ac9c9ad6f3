//! What `@socket.io/redis-emitter` publishes, and what its PHP port does; Socket.IO servers with the Redis adapter write the same.
//!
//! | channel | payload |
//! |---|---|
//! | `KEY#/ns#`, `KEY#/ns#room#` | MessagePack: `[uid, packet, {rooms, except, flags}]` |
//! | `KEY#emitter` | MessagePack: `[packet, {rooms, flags}]`, of older PHP; or three as above |
//! | `KEY-request#/ns#` | JSON: `{type, opts: {rooms, except}, …}` |
//!
//! A packet is `{type, data: [event, …arguments], nsp}`. The rooms are those of the payload; the one in the channel lets a server that
//! has nobody in it leave the payload unread.

use serde_json::Value;

use super::{
    Format, Order, Refused, msgpack,
    order::{Action, changed, selection},
    texts::{namespace, texts},
};
use crate::gateway::{Json, Message};

/// Packets that are events, without binary and with it, as socket.io-parser numbers them.
const EVENTS: [u64; 2] = [2, 5];

/// Reads what emitters publish.
pub(crate) struct EmitterFormat {
    key: String,
}

impl EmitterFormat {
    /// Of emitters with this `key`.
    pub(crate) fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
        }
    }
}

impl Format for EmitterFormat {
    fn source(&self) -> &'static str {
        "emitter"
    }

    /// Patterns, for requests too: `PUBSUB NUMSUB` does not count those, and so Socket.IO servers beside this fleet don't take its nodes
    /// for servers whose answers they have to wait for.
    fn subscriptions(&self) -> Vec<(&'static str, String)> {
        let key = literal(&self.key);
        vec![
            ("PSUBSCRIBE", format!("{key}#*")),
            ("PSUBSCRIBE", format!("{key}-request#*")),
        ]
    }

    fn room<'a>(&self, channel: &'a str) -> Option<(&'a str, &'a str)> {
        let place = channel.strip_prefix(&self.key)?.strip_prefix('#')?;
        let (namespace, room) = place.split_once('#')?;
        Some((namespace, room.strip_suffix('#')?))
    }

    fn read(&self, channel: &str, payload: &[u8]) -> Result<Order, Refused> {
        let behind = channel.strip_prefix(&self.key).ok_or(Refused::Unreadable)?;
        if let Some(place) = behind.strip_prefix("-request#") {
            return request(named(place)?, payload);
        }
        let place = behind.strip_prefix('#').ok_or(Refused::Unreadable)?;
        let order = event(payload)?;
        // Older PHP has one channel for all namespaces.
        match place == "emitter" || named(place)? == order.namespace {
            true => Ok(order),
            false => Err(Refused::Unreadable),
        }
    }
}

/// The namespace that a channel names, up to its `#`.
fn named(place: &str) -> Result<&str, Refused> {
    let path = place.split_once('#').map(|(path, _)| path);
    path.filter(|path| path.starts_with('/'))
        .ok_or(Refused::Unreadable)
}

fn event(payload: &[u8]) -> Result<Order, Refused> {
    let Value::Array(parts) = msgpack::read(payload)? else {
        return Err(Refused::Unreadable);
    };
    let (packet, options) = match &*parts {
        [packet, options] | [_, packet, options] => (packet, options),
        _ => return Err(Refused::Unreadable),
    };
    match packet["type"].as_u64() {
        Some(kind) if EVENTS.contains(&kind) => {}
        Some(_) => return Err(Refused::Unsupported),
        None => return Err(Refused::Unreadable),
    }
    let namespace = namespace(packet.get("nsp"))?;
    let Some((Value::String(event), args)) =
        packet["data"].as_array().and_then(|it| it.split_first())
    else {
        return Err(Refused::Unreadable);
    };
    let message = Message {
        args: args.iter().map(Json::of).collect::<Result<_, _>>()?,
        volatile: options["flags"]["volatile"] == true,
        ..Message::new(&*namespace, event)
    };
    Ok(Order {
        namespace,
        selection: selection(texts(options.get("rooms"))?, texts(options.get("except"))?)?,
        action: Action::Emit(message),
    })
}

/// What is asked of all servers. Of the requests that emitters make, `serverSideEmit` (6) is for servers' own code, of which there is
/// none; the others are servers' questions to each other.
fn request(namespace: &str, payload: &[u8]) -> Result<Order, Refused> {
    // Servers write requests with binary in MessagePack.
    if payload.first() != Some(&b'{') {
        return Err(Refused::Unsupported);
    }
    let request: Value = serde_json::from_slice(payload)?;
    let rooms = || changed(texts(request.get("rooms"))?);
    let action = match request["type"].as_u64() {
        Some(2) => Action::Join(rooms()?),
        Some(3) => Action::Leave(rooms()?),
        Some(4) => Action::End {
            transports: request["close"] == true,
        },
        Some(_) => return Err(Refused::Unsupported),
        None => return Err(Refused::Unreadable),
    };
    let options = &request["opts"];
    if !options.is_object() {
        // Without it everybody would be meant.
        return Err(Refused::Unreadable);
    }
    Ok(Order {
        namespace: namespace.to_owned(),
        selection: selection(texts(options.get("rooms"))?, texts(options.get("except"))?)?,
        action,
    })
}

/// A text as a pattern that means nothing but itself.
fn literal(text: &str) -> String {
    let is_special = |c: char| "*?[]^\\".contains(c);
    let escaped = text.chars().flat_map(|c| {
        let escape = is_special(c).then_some('\\');
        escape.into_iter().chain([c])
    });
    escaped.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "emitter/tests.rs"]
mod tests;
