//! What python-socketio's `RedisManager` publishes, from 5.14 on: JSON on one channel, `{method, namespace, …}`.
//!
//! Before 5.14 it published pickles. Reading one is running what it says (CVE-2025-61765), so these are refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::Value;

use super::{
    Format, Order, Refused,
    order::{Action, selection},
    texts::{namespace, text, texts},
};
use crate::gateway::{Json, Message, handlers::Arg};

/// Reads what the manager publishes.
pub(crate) struct PythonFormat {
    channel: String,
}

impl PythonFormat {
    /// Of managers with this `channel`.
    pub(crate) fn new(channel: &str) -> Self {
        Self {
            channel: channel.to_owned(),
        }
    }
}

impl Format for PythonFormat {
    fn source(&self) -> &'static str {
        "python"
    }

    fn subscriptions(&self) -> Vec<(&'static str, String)> {
        vec![("SUBSCRIBE", self.channel.clone())]
    }

    fn read(&self, _: &str, payload: &[u8]) -> Result<Order, Refused> {
        let said: Value = serde_json::from_slice(payload)?;
        let namespace = namespace(said.get("namespace"))?;
        let one = |key: &str| Ok::<_, Refused>(vec![text(&said[key])?]);
        let (rooms, except, action) = match said["method"].as_str().ok_or(Refused::Unreadable)? {
            "emit" => {
                let message = message(&said, &namespace)?;
                let rooms = texts(said.get("room"))?;
                let except = texts(said.get("skip_sid"))?;
                (rooms, except, Action::Emit(message))
            }
            "disconnect" => (one("sid")?, Vec::new(), Action::End { transports: false }),
            "enter_room" => (one("sid")?, Vec::new(), Action::Join(one("room")?)),
            "leave_room" => (one("sid")?, Vec::new(), Action::Leave(one("room")?)),
            "close_room" => (one("room")?, Vec::new(), Action::Leave(one("room")?)),
            _ => return Err(Refused::Unsupported),
        };
        Ok(Order {
            selection: selection(rooms, except)?,
            namespace,
            action,
        })
    }
}

fn message(said: &Value, namespace: &str) -> Result<Message, Refused> {
    // Nobody would hear the answer: a manager that only writes asks for none.
    if !said["callback"].is_null() {
        return Err(Refused::Unsupported);
    }
    let event = said["event"].as_str().ok_or(Refused::Unreadable)?;
    let args = match (&said["data"], said["binary"] == true) {
        (Value::Array(parts), true) => with_attachments(parts)?,
        // What Python calls None is no argument, as its servers have it.
        (Value::Array(args), false) if **args == [Value::Null] => Vec::new(),
        (Value::Array(args), false) => args.iter().map(Json::of).collect::<Result<_, _>>()?,
        (Value::Null, _) => Vec::new(),
        (one, false) => vec![Json::of(one)?],
        _ => return Err(Refused::Unreadable),
    };
    Ok(Message {
        args,
        ..Message::new(namespace, event)
    })
}

/// Arguments with binary: a list of them, with a placeholder for each attachment, and behind it the attachments in base64.
fn with_attachments(parts: &[Value]) -> Result<Vec<Json>, Refused> {
    let Some((Value::Array(args), attachments)) = parts.split_first() else {
        return Err(Refused::Unreadable);
    };
    let attachments = attachments.iter().map(|one| {
        let bytes = one.as_str().map(|text| STANDARD.decode(text));
        Some(Bytes::from(bytes?.ok()?))
    });
    let attachments = attachments.collect::<Option<_>>();
    let attachments = attachments.ok_or(Refused::Unreadable)?;
    let args = args.iter().map(|arg| {
        let mut arg = Arg::from(arg.clone());
        match arg.attach(&attachments) {
            true => Ok(Json::of(&arg.to_json())?),
            false => Err(Refused::Unreadable),
        }
    });
    args.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "python/tests.rs"]
mod tests;
