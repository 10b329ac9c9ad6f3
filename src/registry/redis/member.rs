//! How a connection is written down: one member of its shard's `conns`.
//!
//! `user \0 id \0 lease \0 namespace \0 device \0 rest`. What scripts and counting look at comes first and is text; the rest
//! is MessagePack, packed tightly, as memory is what a registry of a million connections costs.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    connection::{Connection, ConnectionId, NodeId, TransportKind, UserId},
    registry::{
        Entry, Lease, RegistryError,
        keys::{escape, unescape},
    },
};

/// In front of a device's name, so that an empty name is not the same as none.
const NAMED: u8 = b'+';

/// What no script needs to know: transport; ms since 1970 of the start; ms from there to the expiry; address; user agent.
#[derive(Serialize, Deserialize)]
struct Rest(u8, i64, Option<i64>, Option<Address>, Option<String>);

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

fn corrupt(what: &[u8]) -> RegistryError {
    RegistryError::Corrupt(format!("entry {:?}", String::from_utf8_lossy(what)))
}

/// The member that stands for a connection.
pub(super) fn encode(lease: &Lease, connection: &Connection) -> Result<Vec<u8>, RegistryError> {
    let transport = match connection.transport {
        TransportKind::Polling => 0,
        TransportKind::Websocket => 1,
    };
    let start = connection.connected_at.as_millisecond();
    let rest = Rest(
        transport,
        start,
        connection
            .expires_at
            .map(|end| end.as_millisecond() - start),
        connection.remote_addr.as_deref().map(Address::from),
        connection.user_agent.clone(),
    );
    let mut member = user_field(connection.user_id.as_ref());
    member.push(0);
    member.extend(connection.id.as_str().bytes());
    member.push(0);
    member.extend(lease.to_string().bytes());
    member.push(0);
    member.extend(escape(&connection.namespace));
    member.push(0);
    if let Some(device) = &connection.device_id {
        member.push(NAMED);
        member.extend(escape(device));
    }
    member.push(0);
    rmp_serde::encode::write(&mut member, &rest)
        .map_err(|error| RegistryError::Corrupt(format!("entry {}: {error}", connection.id)))?;
    Ok(member)
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
    rest: &'a [u8],
}

impl<'a> Member<'a> {
    pub(super) fn parse(member: &'a [u8]) -> Result<Self, RegistryError> {
        let text = |field: &'a [u8]| std::str::from_utf8(field).ok();
        let mut fields = member.splitn(6, |byte| *byte == 0);
        let mut next = || fields.next();
        (|| {
            Some(Self {
                user: next()?,
                id: text(next()?)?,
                lease: text(next()?)?,
                namespace: next()?,
                device: text(next()?)?,
                rest: next()?,
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
        let Rest(transport, start, expiry, address, user_agent) =
            rmp_serde::from_slice(self.rest).ok()?;
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
            let bytes = encode(&lease, &case).unwrap();
            let member = Member::parse(&bytes).unwrap();
            assert_eq!(member.lease, "abc.2");
            assert_eq!(member.connection(&"n".into()).unwrap(), case);
        }
    }

    #[test]
    fn what_nobody_wrote_is_corrupt() {
        let lease = Lease {
            instance: "abc".into(),
            epoch: 2,
        };
        let good = encode(&lease, &connection("0aaa")).unwrap();
        for end in 0..good.len() {
            let read =
                Member::parse(&good[..end]).and_then(|member| member.connection(&"n".into()));
            assert!(matches!(read, Err(RegistryError::Corrupt(_))), "{end}");
        }
    }
}
