//! What a packet is, told by its first bytes (Engine.IO protocol 4, Socket.IO protocol 5).
//!
//! Nothing here parses a packet: socketioxide does. What passes is looked at for what has to be known before the engine
//! acts on it, or after it has written it: which packets a client may send how often, and which name its client is told. What is
//! written in another way than the engine reads or writes it is made here, too.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What divides the packets in the body of a poll and of a POST.
pub(super) const SEPARATOR: u8 = 0x1e;

/// Engine.IO's close packet.
pub(super) const CLOSE: &str = "1";

/// Engine.IO's packet that says nothing.
pub(super) const NOOP: &str = "6";

/// How many bytes of an event's packet stand between its namespace and its name at the most, with the first of that: the number of
/// its acknowledgement, and a bracket.
pub(super) const BEFORE_NAME: usize = 22;

/// How many bytes of a packet stand before its namespace at the most: the types of both protocols, and up to two digits and a
/// dash that say how many attachments follow.
const BEFORE_NAMESPACE: usize = 5;

/// A packet of a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// CONNECT to this namespace.
    Connect(&'a [u8]),
    /// DISCONNECT from this namespace.
    Disconnect(&'a [u8]),
    /// EVENT or BINARY_EVENT in this namespace, which so many attachments follow.
    Event(&'a [u8], usize),
    /// BINARY_ACK, which so many attachments follow.
    Ack(usize),
    /// An attachment, as a text.
    Attachment,
    /// One that says in a way how many attachments follow that no client does. The engine reads more of these numbers than are
    /// looked at here: with zeros in front, and of any length.
    Malformed,
    /// Any other: a heartbeat, an acknowledgement without attachments, or no packet at all.
    Other,
}

impl<'a> Packet<'a> {
    /// The packet that begins with `opening`, of which as many bytes are needed as [`reach`] says of the longest namespace that is
    /// told apart.
    pub(super) fn of(opening: &'a [u8]) -> Self {
        match opening {
            [b'4', b'0', rest @ ..] => Self::Connect(namespace(rest)),
            [b'4', b'1', rest @ ..] => Self::Disconnect(namespace(rest)),
            [b'4', b'2', rest @ ..] => Self::Event(namespace(rest), 0),
            [b'4', b'5', rest @ ..] => match attachments(rest) {
                Some((number, rest)) => Self::Event(namespace(rest), number),
                None => Self::Malformed,
            },
            [b'4', b'6', rest @ ..] => match attachments(rest) {
                Some((number, _)) => Self::Ack(number),
                None => Self::Malformed,
            },
            [b'b', ..] => Self::Attachment,
            _ => Self::Other,
        }
    }
}

/// How many bytes of a packet tell that it is one of this namespace: up to the comma.
pub(super) fn reach(namespace: &str) -> usize {
    BEFORE_NAMESPACE + namespace.len() + 1
}

/// How many attachments are announced at the beginning of `rest`, by one or two digits and a dash, and what stands behind that.
fn attachments(rest: &[u8]) -> Option<(usize, &[u8])> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| usize::from(byte - b'0'));
    match rest {
        [ones, b'-', rest @ ..] => Some((digit(*ones)?, rest)),
        [tens @ b'1'..=b'9', ones, b'-', rest @ ..] => {
            Some((digit(*tens)? * 10 + digit(*ones)?, rest))
        }
        _ => None,
    }
}

/// The namespace at the beginning of `rest`, as socketioxide reads it: up to a comma, and the root if none is named.
fn namespace(rest: &[u8]) -> &[u8] {
    match rest {
        [b'/', ..] => rest.split(|byte| *byte == b',').next().unwrap_or_default(),
        _ => b"/",
    }
}

/// The open packet `packet` with another `maxPayload`. None if it is no open packet.
pub(super) fn open_packet(packet: &[u8], max_payload: u64) -> Option<String> {
    let json = packet.strip_prefix(b"0")?;
    let mut open: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).ok()?;
    open.insert("maxPayload".into(), max_payload.into());
    Some(format!("0{}", serde_json::Value::Object(open)))
}

/// The CONNECT_ERROR packet that refuses credentials which are too large to be read.
pub(super) fn too_large(namespace: &[u8]) -> String {
    // The text of the contract for a token that can't be parsed.
    let data = ConnectError::of("Invalid token");
    match namespace {
        b"/" => format!("44{data}"),
        named => format!("44{},{data}", String::from_utf8_lossy(named)),
    }
}

/// The CONNECT_ERROR packet `packet` of the engine's with the code of its message in `data`, which clients can tell errors
/// apart by. None if it is no such packet.
pub(super) fn coded_connect_error(packet: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Error {
        message: String,
    }
    let text = std::str::from_utf8(packet).ok()?;
    let at = text.strip_prefix("44")?.find('{')? + 2;
    let Error { message } = serde_json::from_str(&text[at..]).ok()?;
    Some(format!("{}{}", &text[..at], ConnectError::of(&message)))
}

/// What a CONNECT_ERROR packet says.
#[derive(serde::Serialize)]
struct ConnectError<'a> {
    message: &'a str,
    data: Code,
}

/// The message in snake case without its "or".
#[derive(serde::Serialize)]
struct Code {
    code: String,
}

impl<'a> ConnectError<'a> {
    fn of(message: &'a str) -> Self {
        let code = match message {
            "Invalid or expired token" => "token_expired".to_owned(),
            _ => message
                .replace(" or ", " ")
                .to_lowercase()
                .replace(' ', "_"),
        };
        Self {
            message,
            data: Code { code },
        }
    }
}

impl fmt::Display for ConnectError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// The CONNECT_ERROR packet that refuses a client with the parser of the npm package `socket.io-msgpack-parser`, as that reads it.
/// None if `message` is no CONNECT packet of such a client's.
pub(super) fn refusal_of_msgpack(message: &[u8]) -> Option<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Connect {
        #[serde(rename = "type")]
        kind: u8,
        nsp: String,
    }
    #[derive(serde::Serialize)]
    struct Refused<'a> {
        #[serde(rename = "type")]
        kind: u8,
        nsp: &'a str,
        data: ConnectError<'a>,
    }
    let connect: Connect = rmp_serde::from_slice(message).ok()?;
    let refused = Refused {
        kind: 4,
        nsp: &connect.nsp,
        data: ConnectError::of("Unsupported parser"),
    };
    (connect.kind == 0)
        .then(|| rmp_serde::to_vec_named(&refused).ok())
        .flatten()
}

/// An attachment, as a packet of text.
pub(super) fn attachment_as_text(attachment: &[u8]) -> String {
    format!("b{}", STANDARD.encode(attachment))
}

/// The attachment that a packet of text is. None if it is none.
pub(super) fn attachment_of_text(packet: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(packet.strip_prefix(b"b")?).ok()
}

/// Whether the engine can't read the packet that begins with `opening` as it is: on a WebSocket an attachment as a text, which
/// `forceBase64` makes, or an event whose name is a number.
pub(super) fn is_foreign(opening: &[u8]) -> bool {
    opening.starts_with(b"b") || numeric_name(opening).is_some()
}

/// An event's packet with its name as a text, if that is a number: the JavaScript server has one handler for both.
pub(super) fn with_text_for_name(packet: &[u8]) -> Option<Vec<u8>> {
    let name = numeric_name(packet)?;
    let (before, rest) = packet.split_at(name);
    let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let digits = rest.iter().take_while(|byte| is_number(byte)).count();
    let (name, rest) = rest.split_at(digits);
    Some([before, b"\"", name, b"\"", rest].concat())
}

/// Where in an event's packet its name stands, if that is a number.
fn numeric_name(packet: &[u8]) -> Option<usize> {
    let rest = match packet {
        [b'4', b'2', rest @ ..] => rest,
        [b'4', b'5', rest @ ..] => attachments(rest)?.1,
        _ => return None,
    };
    let rest = match rest {
        [b'/', ..] => &rest[rest.iter().position(|byte| *byte == b',')? + 1..],
        _ => rest,
    };
    let ack = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_number = matches!(rest[ack..], [b'[', b'0'..=b'9' | b'-', ..]);
    is_number.then(|| packet.len() - rest.len() + ack + 1)
}

/// The CONNECT packet that tells a client that it is connected to `namespace` as `id`.
pub(super) fn connect_packet(namespace: &str, id: &str) -> String {
    let data = serde_json::json!({ "sid": id });
    match namespace {
        "/" => format!("40{data}"),
        named => format!("40{named},{data}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_namespace_is_what_stands_before_the_comma() {
        for (packet, expected) in [
            ("40", Packet::Connect(b"/")),
            ("40{\"token\":\"/x,\"}", Packet::Connect(b"/")),
            ("40/", Packet::Connect(b"/")),
            ("40/,{}", Packet::Connect(b"/")),
            ("40/public", Packet::Connect(b"/public")),
            ("40/public,", Packet::Connect(b"/public")),
            ("40/public,{\"a\":1}", Packet::Connect(b"/public")),
            ("41/public,", Packet::Disconnect(b"/public")),
            ("41", Packet::Disconnect(b"/")),
            ("42[\"40/public,\"]", Packet::Event(b"/", 0)),
            ("42/public,7[\"a\"]", Packet::Event(b"/public", 0)),
            ("451-/public,[\"a\"]", Packet::Event(b"/public", 1)),
            ("4510-[\"a\"]", Packet::Event(b"/", 10)),
            ("461-/public,7[]", Packet::Ack(1)),
            ("4610-7[]", Packet::Ack(10)),
            ("45100-[\"a\"]", Packet::Malformed),
            ("45010-[\"a\"]", Packet::Malformed),
            ("4501-[\"a\"]", Packet::Malformed),
            ("4601-7[]", Packet::Malformed),
            ("45-[\"a\"]", Packet::Malformed),
            ("45", Packet::Malformed),
            ("bAAAA", Packet::Attachment),
            ("43/public,7[]", Packet::Other),
            ("3", Packet::Other),
            ("4", Packet::Other),
            ("", Packet::Other),
        ] {
            assert_eq!(Packet::of(packet.as_bytes()), expected, "{packet}");
        }
    }

    #[test]
    fn as_many_bytes_as_its_reach_tell_a_namespace_from_longer_ones() {
        let cut = |packet: &'static str| &packet.as_bytes()[..reach("/a").min(packet.len())];
        assert_eq!(Packet::of(cut("40/a,{}")), Packet::Connect(b"/a"));
        assert_ne!(Packet::of(cut("40/ab,{}")), Packet::Connect(b"/a"));
    }

    #[test]
    fn a_connect_packet_says_the_name_that_it_is_given() {
        assert_eq!(connect_packet("/", "a-b"), r#"40{"sid":"a-b"}"#);
        assert_eq!(connect_packet("/x", "a"), r#"40/x,{"sid":"a"}"#);
    }

    #[test]
    fn a_number_for_an_events_name_is_made_a_text() {
        for (packet, text) in [
            ("42[1]", "42[\"1\"]"),
            ("42[1,2]", "42[\"1\",2]"),
            ("427[-1.5e+21,[1]]", "427[\"-1.5e+21\",[1]]"),
            (
                "42/public,18446744073709551615[0]",
                "42/public,18446744073709551615[\"0\"]",
            ),
            ("451-/public,7[1,{}]", "451-/public,7[\"1\",{}]"),
            ("4510-[1]", "4510-[\"1\"]"),
        ] {
            let made = with_text_for_name(packet.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(made).unwrap(), text);
            let reach = reach("/public") + BEFORE_NAME;
            assert!(is_foreign(&packet.as_bytes()[..packet.len().min(reach)]));
        }
        for packet in [
            "",
            "42",
            "42[",
            "42[]",
            "42[null]",
            "42[\"1\"]",
            "427[\"a\",1]",
            "42/x",
            "42/x,",
            "42/1[1]",
            "45[1]",
            "45010-[1]",
            "437[1]",
            "401[1]",
            "42{}",
            "2",
            "421",
        ] {
            assert_eq!(with_text_for_name(packet.as_bytes()), None, "{packet}");
        }
    }

    #[test]
    fn a_client_with_the_parser_of_msgpack_is_refused_in_its_own_words() {
        let connect = |kind: u8| {
            let packet = json!({ "type": kind, "data": { "token": "x" }, "nsp": "/x" });
            rmp_serde::to_vec_named(&packet).unwrap()
        };
        let refusal = refusal_of_msgpack(&connect(0)).unwrap();
        let refusal: serde_json::Value = rmp_serde::from_slice(&refusal).unwrap();
        let data =
            json!({ "message": "Unsupported parser", "data": { "code": "unsupported_parser" } });
        assert_eq!(refusal, json!({ "type": 4, "nsp": "/x", "data": data }));
        for other in [&connect(2)[..], &connect(0)[..8], b"", b"40", &[0xc0]] {
            assert_eq!(refusal_of_msgpack(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_connect_error_has_the_code_of_its_message() {
        let invalid = r#"{"message":"Invalid token","data":{"code":"invalid_token"}}"#;
        assert_eq!(too_large(b"/"), format!("44{invalid}"));
        assert_eq!(too_large(b"/x"), format!("44/x,{invalid}"));
        for (message, code) in [
            (
                "Authentication token required",
                "authentication_token_required",
            ),
            ("Invalid or expired token", "token_expired"),
            ("Admin access required", "admin_access_required"),
            ("Invalid namespace", "invalid_namespace"),
            ("For members or guests", "for_members_guests"),
        ] {
            let said = json!({ "message": message });
            let coded = format!(r#"{{"message":"{message}","data":{{"code":"{code}"}}}}"#);
            for beginning in ["44", "44/x,"] {
                let packet = format!("{beginning}{said}");
                let expected = format!("{beginning}{coded}");
                assert_eq!(coded_connect_error(packet.as_bytes()), Some(expected));
            }
        }
        for packet in ["44", "44/x,", "44{", "40{\"message\":\"\"}", "44[]"] {
            assert_eq!(coded_connect_error(packet.as_bytes()), None, "{packet}");
        }
    }
}
