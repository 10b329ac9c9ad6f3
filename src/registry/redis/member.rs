//! How a connection is written down: one member of its shard's `conns`.
//!
//! `user \0 id \0 lease \0 namespace \0 device \0 start \0 issued \0 session \0 rest`. What scripts and counting look at comes
//! first and is text; the rest is MessagePack. Packed tightly, as memory is what a registry of a million connections costs.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    connection::{Connection, ConnectionId, NodeId, TransportKind, UserId},
    registry::{
        Entry, Grant, Lease, RegistryError, SessionId,
        keys::{escape, unescape},
    },
};

/// In front of a device's name, so that an empty name is not the same as none.
const NAMED: u8 = b'+';

/// What no script needs to know: transport; ms from the start to the expiry; address; user agent.
#[derive(Serialize, Deserialize)]
struct Rest(u8, Option<i64>, Option<Address>, Option<String>);

/// An address as numbers if it is the usual spelling of one.
#[derive(Serialize, Deserialize)]
enum Address {
    V4(u32),
    V6(u64, u64),
    Text(String),
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        match text.parse::<IpAddr>() {
            Ok(address) if address.to_string() != text => Self::Text(text.into()),
            Ok(IpAddr::V4(address)) => Self::V4(address.to_bits()),
            Ok(IpAddr::V6(address)) => {
                let bits = address.to_bits();
                Self::V6((bits >> 64) as u64, bits as u64)
            }
            Err(_) => Self::Text(text.into()),
        }
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        match address {
            Address::V4(bits) => std::net::Ipv4Addr::from_bits(bits).to_string(),
            Address::V6(high, low) => {
                std::net::Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).to_string()
            }
            Address::Text(text) => text,
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

/// A time as ms since 1970 to the base of 36, in 8 characters for the next decades. What is before 1970 is 1970.
fn compact(time: Timestamp) -> String {
    let mut left = u64::try_from(time.as_millisecond()).unwrap_or(0);
    let mut digits = Vec::with_capacity(8);
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(left % 36) as usize]);
        left /= 36;
        if left == 0 {
            return digits
                .iter()
                .rev()
                .map(|&digit| char::from(digit))
                .collect();
        }
    }
}

/// How many bytes of an entry an error shows at the most.
const SHOWN: usize = 256;

fn corrupt(what: &[u8]) -> RegistryError {
    let shown = &what[..what.len().min(SHOWN)];
    RegistryError::Corrupt(format!("entry {:?}", String::from_utf8_lossy(shown)))
}

/// The member that stands for a connection.
pub(super) fn encode(
    lease: &Lease,
    connection: &Connection,
    grant: &Grant,
) -> Result<Vec<u8>, RegistryError> {
    let transport = match connection.transport {
        TransportKind::Polling => 0,
        TransportKind::Websocket => 1,
    };
    let start = connection.connected_at.as_millisecond();
    let rest = Rest(
        transport,
        connection
            .expires_at
            .map(|end| end.as_millisecond() - start),
        connection.remote_addr.as_deref().map(Address::from),
        connection.user_agent.clone(),
    );
    let device = match &connection.device_id {
        Some(device) => [&[NAMED], escape(device).as_slice()].concat(),
        None => Vec::new(),
    };
    let mut member = Vec::with_capacity(256);
    for field in [
        user_field(connection.user_id.as_ref()),
        connection.id.as_str().into(),
        lease.to_string().into(),
        escape(&connection.namespace),
        device,
        compact(connection.connected_at).into(),
        grant.issued_at.map(compact).unwrap_or_default().into(),
        session_field(grant).into(),
    ] {
        member.extend(field);
        member.push(0);
    }
    rmp_serde::encode::write(&mut member, &rest)
        .map_err(|error| RegistryError::Corrupt(format!("entry {}: {error}", connection.id)))?;
    Ok(member)
}

/// The session of an entry as it is written down; empty for none.
pub(super) fn session_field(grant: &Grant) -> String {
    grant
        .session
        .as_ref()
        .map(SessionId::digest)
        .unwrap_or_default()
}

/// A member taken apart, and not yet decoded: all that counting and choosing need.
#[derive(Debug)]
pub(super) struct Member<'a> {
    /// As [`user_field`] wrote it.
    pub(super) user: &'a [u8],
    pub(super) id: &'a str,
    pub(super) lease: &'a str,
    namespace: &'a [u8],
    device: &'a str,
    start: &'a str,
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
            namespace,
            device,
            start,
            _issued,
            _session,
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
                namespace,
                device: text(device)?,
                start: text(start)?,
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
        let start = i64::from_str_radix(self.start, 36).ok()?;
        let Rest(transport, expiry, address, user_agent) = rmp_serde::from_slice(self.rest).ok()?;
        let time = |ms: i64| Timestamp::from_millisecond(ms).ok();
        Some(Connection {
            id: ConnectionId::clone(&id),
            user_id: user,
            namespace: unescape(self.namespace)?,
            node_id: node_id.clone(),
            transport: match transport {
                0 => TransportKind::Polling,
                1 => TransportKind::Websocket,
                _ => return None,
            },
            connected_at: time(start)?,
            expires_at: match expiry {
                Some(after) => Some(time(start.checked_add(after)?)?),
                None => None,
            },
            device_id: match self.device() {
                Some(device) => Some(unescape(device.as_bytes())?),
                None => None,
            },
            remote_addr: address.map(String::from),
            user_agent,
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
        }
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
                expires_at: Some(Timestamp::from_millisecond(1_690_000_000_000).unwrap()),
                ..plain
            },
        ];
        for case in cases {
            let bytes = encode(&lease, &case, &Grant::default()).unwrap();
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
        };
        let bytes = encode(&lease, &connection("0aaa"), &grant).unwrap();
        let fields: Vec<_> = bytes.splitn(9, |byte| *byte == 0).collect();
        assert_eq!(fields[5], b"mubbs7ln");
        assert_eq!(fields[6], b"mubbs7i8");
        assert_eq!(fields[7], SessionId::from("s3cr3t").digest().as_bytes());
        assert_eq!(compact(Timestamp::UNIX_EPOCH), "0");
        let before = Timestamp::from_second(-1).unwrap();
        assert_eq!(compact(before), "0", "and not a number that wraps around");
    }

    #[test]
    fn what_nobody_wrote_is_corrupt() {
        let lease = Lease {
            instance: "abc".into(),
            epoch: 2,
        };
        let good = encode(&lease, &connection("0aaa"), &Grant::default()).unwrap();
        for end in 0..good.len() {
            let read =
                Member::parse(&good[..end]).and_then(|member| member.connection(&"n".into()));
            assert!(matches!(read, Err(RegistryError::Corrupt(_))), "{end}");
        }
    }
}
