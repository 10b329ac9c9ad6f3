//! How a connection is written down: one member of its shard's `conns`.
//!
//! `user \0 id \0 lease \0 device \0 start \0 issued \0 session \0 version \0 rest`. What scripts and counting look at comes first
//! and is text; the rest is a map in MessagePack with names of one letter, which a later version may add to: names that this one
//! does not know are skipped. Packed tightly, as memory is what a registry of a million connections costs.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    connection::{Connection, ConnectionId, NodeId, TransportKind, UserId},
    registry::{
        Assertion, Entry, Grant, Lease, LoginId, RegistryError,
        keys::{escape, unescape},
    },
};

/// In front of a device's name, so that an empty name is not the same as none.
const NAMED: u8 = b'+';

/// What no script needs to know.
#[derive(Default, Serialize, Deserialize)]
struct Rest {
    /// When its CONNECT packet was accepted, by its node's clock, in ms.
    #[serde(rename = "c")]
    connected: i64,
    /// The namespace, unless it is `/`.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    /// Whether it is polling.
    #[serde(rename = "p", default, skip_serializing_if = "std::ops::Not::not")]
    polling: bool,
    /// Seconds from that of [`Rest::connected`] to its expiry, if that is on a whole second.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    lives: Option<i64>,
    /// Ms from [`Rest::connected`] to any other expiry.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    expires: Option<i64>,
    /// The client's address as a number, if it is one of IPv4 in the usual spelling.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    ipv4: Option<u32>,
    /// Any other address.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The user agent.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    /// The rooms that it is in by itself.
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    rooms: Vec<String>,
    /// What a backend has noted, as JSON.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    meta: Option<String>,
}

impl Rest {
    fn of(connection: &Connection) -> Self {
        let connected = connection.connected_at.as_millisecond();
        let ends = connection.expires_at.map(|end| end.as_millisecond());
        let lives = ends
            .filter(|end| end % 1000 == 0)
            .map(|end| end / 1000 - connected.div_euclid(1000));
        let address = connection.remote_addr.as_deref();
        let ipv4 = address
            .and_then(|text| text.parse::<Ipv4Addr>().ok())
            .map(Ipv4Addr::to_bits);
        Self {
            connected,
            namespace: (connection.namespace != "/").then(|| connection.namespace.clone()),
            polling: connection.transport == TransportKind::Polling,
            lives,
            expires: ends
                .filter(|_| lives.is_none())
                .map(|end| end.saturating_sub(connected)),
            ipv4,
            address: address.filter(|_| ipv4.is_none()).map(str::to_owned),
            user_agent: connection.user_agent.clone(),
            rooms: connection.rooms.clone(),
            meta: connection.meta.as_ref().map(|meta| meta.to_string()),
        }
    }
}

/// The user of an entry as it is written down; empty for a guest.
pub(super) fn user_field(user: Option<&UserId>) -> Vec<u8> {
    user.map(|user| escape(user.as_str())).unwrap_or_default()
}

/// Reads what [`user_field`] wrote.
pub(super) fn user_of(field: &[u8]) -> Result<Option<UserId>, RegistryError> {
    if field.is_empty() {
        return Ok(None);
    }
    unescape(field)
        .map(|user| Some(user.into()))
        .ok_or_else(|| corrupt(field))
}

/// How many bytes of an entry an error shows at the most.
const SHOWN: usize = 256;

fn corrupt(what: &[u8]) -> RegistryError {
    let shown = &what[..what.len().min(SHOWN)];
    RegistryError::Corrupt(format!("entry {:?}", String::from_utf8_lossy(shown)))
}

/// The member that stands for a connection, as a script puts it together: what comes before its start, and what comes after the
/// time at which its grant was issued.
pub(super) fn encode(
    lease: &Lease,
    assertion: &Assertion<'_>,
) -> Result<(Vec<u8>, Vec<u8>), RegistryError> {
    let connection = assertion.connection;
    let device = match &connection.device_id {
        Some(device) => [&[NAMED], escape(device).as_slice()].concat(),
        None => Vec::new(),
    };
    let mut head = Vec::with_capacity(128);
    for field in [
        user_field(connection.user_id.as_ref()),
        connection.id.as_str().into(),
        lease.to_string().into(),
        device,
    ] {
        head.extend(field);
        head.push(0);
    }
    let mut tail = Vec::with_capacity(192);
    for field in [
        session_field(assertion.grant),
        match assertion.version {
            0 => String::new(),
            version => version.to_string(),
        },
    ] {
        tail.extend(field.bytes());
        tail.push(0);
    }
    Rest::of(connection)
        .serialize(&mut rmp_serde::Serializer::new(&mut tail).with_struct_map())
        .map_err(|error| RegistryError::Corrupt(format!("entry {}: {error}", connection.id)))?;
    Ok((head, tail))
}

/// The session of an entry as it is written down; empty for none.
pub(super) fn session_field(grant: &Grant) -> String {
    grant
        .session
        .as_ref()
        .map(LoginId::digest)
        .unwrap_or_default()
}

/// A member taken apart, and not yet decoded: all that counting and choosing need.
#[derive(Debug)]
pub(super) struct Member<'a> {
    /// As [`user_field`] wrote it.
    pub(super) user: &'a [u8],
    pub(super) id: &'a str,
    pub(super) lease: &'a str,
    device: &'a str,
    rest: &'a [u8],
}

impl<'a> Member<'a> {
    pub(super) fn parse(member: &'a [u8]) -> Result<Self, RegistryError> {
        let text = |field: &'a [u8]| std::str::from_utf8(field).ok();
        let fields: Vec<_> = member.splitn(9, |byte| *byte == 0).collect();
        let &[
            user,
            id,
            lease,
            device,
            _start,
            _issued,
            _session,
            _version,
            rest,
        ] = fields.as_slice()
        else {
            return Err(corrupt(member));
        };
        (|| {
            Some(Self {
                user,
                id: text(id)?,
                lease: text(lease)?,
                device: text(device)?,
                rest,
            })
        })()
        .ok_or_else(|| corrupt(member))
    }

    /// The device, escaped: enough to tell devices apart.
    pub(super) fn device(&self) -> Option<&'a str> {
        self.device.strip_prefix(char::from(NAMED))
    }

    /// What names the entry.
    pub(super) fn entry(&self) -> Result<Entry, RegistryError> {
        Ok(Entry {
            user: user_of(self.user)?,
            id: self.id.into(),
        })
    }

    /// The connection, which the node `node_id` holds.
    pub(super) fn connection(&self, node_id: &NodeId) -> Result<Connection, RegistryError> {
        self.decode(node_id)
            .ok_or_else(|| corrupt(format!("of connection {}", self.id).as_bytes()))
    }

    fn decode(&self, node_id: &NodeId) -> Option<Connection> {
        let Entry { user, id } = self.entry().ok()?;
        let rest: Rest = rmp_serde::from_slice(self.rest).ok()?;
        let time = |ms: i64| Timestamp::from_millisecond(ms).ok();
        Some(Connection {
            id: ConnectionId::clone(&id),
            user_id: user,
            namespace: rest.namespace.unwrap_or_else(|| "/".to_owned()),
            node_id: node_id.clone(),
            transport: match rest.polling {
                true => TransportKind::Polling,
                false => TransportKind::Websocket,
            },
            connected_at: time(rest.connected)?,
            expires_at: match (rest.lives, rest.expires) {
                (Some(lives), _) => {
                    let second = rest.connected.div_euclid(1000).checked_add(lives)?;
                    Some(time(second.checked_mul(1000)?)?)
                }
                (None, Some(after)) => Some(time(rest.connected.checked_add(after)?)?),
                (None, None) => None,
            },
            device_id: match self.device() {
                Some(device) => Some(unescape(device.as_bytes())?),
                None => None,
            },
            remote_addr: match rest.ipv4 {
                Some(bits) => Some(Ipv4Addr::from_bits(bits).to_string()),
                None => rest.address,
            },
            user_agent: rest.user_agent,
            rooms: rest.rooms,
            meta: match rest.meta {
                Some(text) => Some(serde_json::from_str(&text).ok()?),
                None => None,
            },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn connection(id: &str) -> Connection {
        Connection {
            id: id.into(),
            user_id: Some("42".into()),
            namespace: "/".into(),
            node_id: "n".into(),
            transport: TransportKind::Websocket,
            connected_at: Timestamp::from_millisecond(1_790_000_000_123).unwrap(),
            expires_at: Some(Timestamp::from_millisecond(1_790_000_900_000).unwrap()),
            device_id: None,
            remote_addr: Some("203.0.113.7".into()),
            user_agent: Some("curl/8".into()),
            rooms: Vec::new(),
            meta: None,
        }
    }

    /// The member, as the script puts it together.
    fn written(lease: &Lease, connection: &Connection, grant: &Grant) -> Vec<u8> {
        let assertion = Assertion {
            connection,
            grant,
            version: 3,
            start: None,
            limit: None,
            again: false,
        };
        let (head, tail) = encode(lease, &assertion).unwrap();
        // As the script writes the start of all these, and the one time of issue.
        let issued = grant.issued_at.map_or("", |_| "mubbs7i8");
        let middle = format!("mubbs7ln\0{issued}\0");
        [head, middle.into_bytes(), tail].concat()
    }

    #[test]
    fn every_field_round_trips() {
        let lease = Lease {
            instance: "abc".into(),
            epoch: 2,
        };
        let plain = connection("0aaa");
        let cases = [
            plain.clone(),
            Connection {
                user_id: None,
                expires_at: None,
                remote_addr: None,
                user_agent: None,
                ..plain.clone()
            },
            Connection {
                user_id: Some("a\0b\u{1}é".into()),
                namespace: "/\0é".into(),
                ..plain.clone()
            },
            Connection {
                device_id: Some(String::new()),
                ..plain.clone()
            },
            Connection {
                device_id: Some("\0+\u{1}".into()),
                transport: TransportKind::Polling,
                ..plain.clone()
            },
            Connection {
                remote_addr: Some("2001:db8::1".into()),
                ..plain.clone()
            },
            Connection {
                remote_addr: Some("2001:DB8::1".into()),
                ..plain.clone()
            },
            Connection {
                remote_addr: Some("unknown".into()),
                user_agent: Some(String::new()),
                ..plain.clone()
            },
            Connection {
                rooms: vec!["chat:1".into(), "a\0b".into()],
                ..plain.clone()
            },
            Connection {
                meta: Some(serde_json::json!({"tenant": [1, null, "\0é"]}).into()),
                ..plain.clone()
            },
            Connection {
                expires_at: Some(Timestamp::from_millisecond(1_790_000_900_123).unwrap()),
                ..plain.clone()
            },
            Connection {
                expires_at: Some(Timestamp::from_millisecond(1_690_000_000_000).unwrap()),
                ..plain
            },
        ];
        for case in cases {
            let bytes = written(&lease, &case, &Grant::default());
            let member = Member::parse(&bytes).unwrap();
            assert_eq!(member.lease, "abc.2");
            assert_eq!(member.connection(&"n".into()).unwrap(), case);
        }
    }

    #[test]
    fn scripts_find_what_a_grant_says_before_the_rest() {
        let lease = Lease {
            instance: "abc".into(),
            epoch: 2,
        };
        let grant = Grant {
            issued_at: Some(Timestamp::from_second(1_790_000_000).unwrap()),
            token_id: Some("t".into()),
            session: Some("s3cr3t".into()),
            ahead: None,
        };
        let bytes = written(&lease, &connection("0aaa"), &grant);
        let fields: Vec<_> = bytes.splitn(9, |byte| *byte == 0).collect();
        assert_eq!(fields[4], b"mubbs7ln");
        assert_eq!(fields[5], b"mubbs7i8");
        assert_eq!(fields[6], LoginId::from("s3cr3t").digest().as_bytes());
        assert_eq!(fields[7], b"3");
    }

    /// As the first node of this layout wrote it, and as one of a later version may.
    #[test]
    fn entries_of_other_versions_are_read() {
        for file in [
            &include_bytes!("fixtures/entry.1")[..],
            include_bytes!("fixtures/entry.later"),
        ] {
            let member = Member::parse(file).unwrap();
            assert_eq!(member.lease, "abc.2");
            assert_eq!(member.connection(&"n".into()).unwrap(), connection("0aaa"));
        }
    }

    #[test]
    fn what_nobody_wrote_is_corrupt() {
        let lease = Lease {
            instance: "abc".into(),
            epoch: 2,
        };
        let good = written(&lease, &connection("0aaa"), &Grant::default());
        for end in 0..good.len() {
            let read =
                Member::parse(&good[..end]).and_then(|member| member.connection(&"n".into()));
            assert!(matches!(read, Err(RegistryError::Corrupt(_))), "{end}");
        }
    }
}
