//! Sending an event.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Fault, Invalid, excepted,
    fields::{object, or_default, present},
    rooms::namespace,
};
use crate::{
    connection::ConnectionId,
    gateway::{Message, RESERVED_EVENTS, message::arguments},
};

/// The longest event name, in bytes.
const MAX_EVENT_BYTES: usize = 256;

/// How long a client may be waited for, in milliseconds.
const MAX_ACK_TIMEOUT_MS: i64 = 30_000;

/// An event for a user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"event": "order:shipped", "data": {"order": 7}}))]
pub struct SendRequest {
    /// Its name. Not one of Socket.IO's own (`connect`, `connect_error`, `disconnect`, `disconnecting`, `newListener`,
    /// `removeListener`) or of Switchboard's (`ready`, `tokenExpiring`, `forceDisconnect`, `presence`).
    #[schema(min_length = 1, max_length = 256)]
    pub event: String,
    /// Its one argument, any JSON. Absent: the event comes without arguments, or with `args`. `null` is an argument. An object
    /// anywhere in it whose only field is `$base64`, with a text in base64, reaches clients as binary.
    #[serde(default, deserialize_with = "present")]
    pub data: Option<Value>,
    /// Its arguments, instead of `data`.
    #[serde(default, deserialize_with = "present")]
    pub args: Option<Vec<Value>>,
    /// The namespace whose connections get it. A missing leading slash is added.
    #[schema(default = "/")]
    pub namespace: Option<String>,
    /// Connections that don't get it; at most 1,000.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(max_items = 1000)]
    pub except: Vec<ConnectionId>,
    /// Whether it is dropped for clients that have not taken yet what they were sent before.
    #[serde(default, deserialize_with = "or_default")]
    pub volatile: bool,
    /// A `deviceId` that the user's client named: only the connections of that device get it. Absent: all of the user's.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 128)]
    pub device: Option<String>,
    /// Asks the clients for an acknowledgement, and waits for it.
    #[serde(default, deserialize_with = "object")]
    pub ack: Option<AckRequest>,
}

/// How to wait for acknowledgements.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AckRequest {
    /// How long, in milliseconds.
    #[schema(minimum = 1, maximum = 30_000)]
    pub timeout_ms: i64,
}

impl AckRequest {
    /// How long to wait.
    ///
    /// # Errors
    ///
    /// A number that is not from 1 to 30,000.
    pub fn timeout(&self) -> Result<Duration, Invalid> {
        u64::try_from(self.timeout_ms)
            .ok()
            .filter(|_| (1..=MAX_ACK_TIMEOUT_MS).contains(&self.timeout_ms))
            .map(Duration::from_millis)
            .ok_or_else(|| {
                Invalid::new(
                    Fault::OutOfRange,
                    format!("ack.timeoutMs: 1 to {MAX_ACK_TIMEOUT_MS}"),
                )
            })
    }
}

/// An event for one connection, or for everybody in a namespace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"event": "maintenance", "data": {"at": "2030-01-01T00:00:00Z"}}))]
pub struct EventRequest {
    /// Its name, which is not one of Socket.IO's own.
    #[schema(min_length = 1, max_length = 256)]
    pub event: String,
    /// Its one argument, any JSON. Absent: the event comes without arguments, or with `args`. `null` is an argument. An object
    /// anywhere in it whose only field is `$base64`, with a text in base64, reaches clients as binary.
    #[serde(default, deserialize_with = "present")]
    pub data: Option<Value>,
    /// Its arguments, instead of `data`.
    #[serde(default, deserialize_with = "present")]
    pub args: Option<Vec<Value>>,
    /// A namespace of the configuration; of no matter for a connection, which is in one. A missing leading slash is added.
    #[schema(default = "/")]
    pub namespace: Option<String>,
    /// Connections that don't get it; at most 1,000.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(max_items = 1000)]
    pub except: Vec<ConnectionId>,
    /// Whether it is dropped for clients that have not taken yet what they were sent before.
    #[serde(default, deserialize_with = "or_default")]
    pub volatile: bool,
}

/// What every request that sends says of its event.
#[derive(Default)]
pub struct Content {
    /// The event's name.
    pub event: String,
    /// Its one argument.
    pub data: Option<Value>,
    /// Its arguments, instead of `data`.
    pub args: Option<Vec<Value>>,
    /// The namespace whose connections get it; `/` if none is named.
    pub namespace: Option<String>,
    /// Connections that don't get it.
    pub except: Vec<ConnectionId>,
    /// Whether it is dropped for clients that have not taken yet what they were sent before.
    pub volatile: bool,
}

impl From<EventRequest> for Content {
    fn from(request: EventRequest) -> Self {
        let EventRequest {
            event,
            data,
            args,
            namespace,
            except,
            volatile,
        } = request;
        Self {
            event,
            data,
            args,
            namespace,
            except,
            volatile,
        }
    }
}

impl SendRequest {
    /// Its event; the device whose connections get it; how to wait for acknowledgements.
    pub fn parts(self) -> (Content, Option<String>, Option<AckRequest>) {
        let content = Content {
            event: self.event,
            data: self.data,
            args: self.args,
            namespace: self.namespace,
            except: self.except,
            volatile: self.volatile,
        };
        (content, self.device, self.ack)
    }
}

/// The message that an event is. Its arguments may have `max_payload` bytes together, as JSON; `known` tells which namespaces there
/// are.
///
/// # Errors
///
/// A name that is empty, too long or not the caller's to use, an unknown namespace, arguments that are too large or said twice, what
/// stands for binary and is no base64, too many exceptions.
pub fn message(
    content: Content,
    max_payload: usize,
    known: impl Fn(&str) -> bool,
) -> Result<Message, Invalid> {
    let event = content.event;
    if !(1..=MAX_EVENT_BYTES).contains(&event.len()) {
        return Err(Invalid::new(
            Fault::InvalidEvent,
            format!("event: a name has 1 to {MAX_EVENT_BYTES} bytes"),
        ));
    }
    if RESERVED_EVENTS.contains(&event.as_str()) {
        return Err(Invalid::new(
            Fault::ReservedEvent,
            format!("event: {event:?} is Socket.IO's or Switchboard's own"),
        ));
    }
    let namespace = namespace(content.namespace, known)?;
    let args = arguments(content.data, content.args);
    let args = args.map_err(|error| Invalid::new(Fault::InvalidData, error.to_string()))?;
    let bytes: usize = args.iter().map(|arg| arg.text().len()).sum();
    if bytes > max_payload {
        return Err(Invalid::new(
            Fault::PayloadTooLarge,
            format!("data: may have {max_payload} bytes as JSON"),
        ));
    }
    Ok(Message {
        namespace,
        event,
        args,
        except: excepted(content.except)?,
        volatile: content.volatile,
        id: None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(
        event: &str,
        data: Option<Value>,
        namespace: Option<&str>,
    ) -> Result<Message, Invalid> {
        let known = |path: &str| path == "/" || path == "/news";
        let content = Content {
            event: event.into(),
            data,
            namespace: namespace.map(Into::into),
            ..Content::default()
        };
        message(content, 10, known)
    }

    #[test]
    fn arguments_are_data_or_args_and_binary_is_base64() {
        let problem = |data: Option<Value>, args: &[Value]| {
            let content = Content {
                event: "e".into(),
                data,
                args: Some(args.to_vec()),
                ..Content::default()
            };
            message(content, 10, |_| true).err()
        };
        assert_eq!(problem(None, &[]), None);
        assert_eq!(problem(None, &[json!(1), json!(null), json!("x")]), None);
        let both = Invalid::new(Fault::InvalidData, "data and args: one of them, not both");
        assert_eq!(problem(Some(json!(1)), &[]), Some(both));
        let bad = problem(None, &[json!(1), json!({"a": [0, {"$base64": "?"}]})]).unwrap();
        assert_eq!(bad.fault, Fault::InvalidData);
        assert!(bad.detail.starts_with("args[1].a[1].$base64: "), "{bad}");
        let large = problem(None, &[json!("12345"), json!("6789")]).unwrap();
        assert_eq!(large.fault, Fault::PayloadTooLarge, "all of them together");
    }

    fn code(event: &str, data: Option<Value>, namespace: Option<&str>) -> Option<Fault> {
        check(event, data, namespace).err().map(|error| error.fault)
    }

    #[test]
    fn a_namespace_gets_its_slash() {
        let namespace = |given| check("e", None, given).map(|message| message.namespace);
        assert_eq!(namespace(None).unwrap(), "/");
        assert_eq!(namespace(Some("")).unwrap(), "/");
        assert_eq!(namespace(Some("news")).unwrap(), "/news");
        assert_eq!(namespace(Some("/news")).unwrap(), "/news");
        assert_eq!(
            code("e", None, Some("//news")),
            Some(Fault::UnknownNamespace)
        );
    }

    #[test]
    fn names_of_events_are_checked() {
        for name in RESERVED_EVENTS {
            assert_eq!(code(name, None, None), Some(Fault::ReservedEvent), "{name}");
        }
        assert_eq!(code("", None, None), Some(Fault::InvalidEvent));
        assert_eq!(
            code(&"x".repeat(257), None, None),
            Some(Fault::InvalidEvent)
        );
        assert_eq!(code(&"x".repeat(256), None, None), None);
        assert_eq!(code("Connect", None, None), None);
    }

    #[test]
    fn data_may_be_as_large_as_a_payload() {
        assert_eq!(code("e", Some(json!("12345678")), None), None);
        assert_eq!(
            code("e", Some(json!("123456789")), None),
            Some(Fault::PayloadTooLarge)
        );
    }

    #[test]
    fn clients_are_waited_for_within_bounds() {
        let timeout = |timeout_ms| AckRequest { timeout_ms }.timeout();
        assert_eq!(timeout(1).unwrap(), Duration::from_millis(1));
        assert_eq!(timeout(30_000).unwrap(), Duration::from_secs(30));
        for bad in [i64::MIN, -1, 0, 30_001, i64::MAX] {
            assert_eq!(timeout(bad).unwrap_err().fault, Fault::OutOfRange);
        }
    }
}
