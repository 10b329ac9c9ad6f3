//! Notifications: what backends are to be told, kept until they have been.
//!
//! What changes a fact writes the notification too, in one step: none is lost by a crash in between, and none is made up. Each shard
//! has an outbox for each backend. One node at a time delivers what a shard has; after a crash between a delivery and
//! [`Outbox::delivered`] a notification is delivered again, under the same name.

use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::{Entry, RegistryError, keys::Shard};
use crate::{
    config::Fact,
    connection::{Connection, Instance, UserId},
};

/// `type` of a client's event that is kept.
pub const CLIENT_EVENT: &str = "client.event";

/// How many users one step tells the offline of at the most.
pub(super) const LEFT_AT_ONCE: usize = 100;

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// In words.
    pub reason: Cow<'static, str>,
    /// The code that its client was told; none if the server did not end it.
    pub code: Option<u16>,
}

impl Closing {
    /// An end without a code.
    pub fn because(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            code: None,
        }
    }

    /// The end of a connection whose node is gone, or knows nothing of it.
    pub fn lost() -> Self {
        Self::because("node lost")
    }
}

/// A connection that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// What names its entry.
    pub entry: Entry,
    /// How it ended.
    pub closing: Closing,
}

/// Where a notification stands in its outbox: later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NotificationId {
    /// When it was written, in ms since 1970 by the registry's clock.
    pub ms: u64,
    /// Its number among those of that millisecond.
    pub number: u64,
}

impl NotificationId {
    /// Reads what Redis writes, `ms-number`.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (ms, number) = text.split_once('-')?;
        Some(Self {
            ms: ms.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    /// The last one that could stand before it.
    pub fn before(self) -> Self {
        match self.number.checked_sub(1) {
            Some(number) => Self { number, ..self },
            None => Self {
                ms: self.ms.saturating_sub(1),
                number: u64::MAX,
            },
        }
    }

    /// `webhook-id`: the same whenever it is delivered to a backend, and no other notification's.
    pub fn webhook_id(self, shard: Shard, backend: &str) -> String {
        let of = format!(
            "{backend}\0{:x}\0{}-{}",
            shard.index(),
            self.ms,
            self.number
        );
        let digest = Sha256::digest(of);
        format!("msg_{}", URL_SAFE_NO_PAD.encode(&digest[..16]))
    }
}

/// A notification as it is kept.
#[derive(Clone, Debug)]
pub struct Notification {
    /// Where it stands.
    pub id: NotificationId,
    /// Its `type`.
    pub kind: &'static str,
    /// The user, connection or room that it is about: notifications about one are delivered in order.
    pub about: Vec<u8>,
    /// Its `data`.
    pub data: Box<RawValue>,
}

impl Notification {
    /// When it was written, by the registry's clock.
    pub fn timestamp(&self) -> Timestamp {
        time_of(self.id.ms)
    }
}

/// What became of an outbox that was pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many were too old.
    pub expired: u64,
    /// How many were too many.
    pub excess: u64,
    /// How many are left.
    pub left: u64,
    /// How old the oldest of these is.
    pub age: Duration,
}

/// Where notifications are kept.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Makes a node the one that delivers a shard's notifications for so long, or prolongs that. Returns false while another one is.
    async fn begin_delivery(
        &self,
        shard: Shard,
        node: &Instance,
        lasts: Duration,
    ) -> Result<bool, RegistryError>;

    /// Lets another node deliver a shard's notifications.
    async fn end_delivery(&self, shard: Shard, node: &Instance) -> Result<(), RegistryError>;

    /// Tells which users of a shard are offline: those whose last connection has been gone for `presence.offline_delay`.
    async fn tell_left(&self, shard: Shard) -> Result<(), RegistryError>;

    /// Keeps a client's event for backends, which are given by name.
    async fn keep_event(
        &self,
        from: &Entry,
        backends: &[String],
        data: &RawValue,
    ) -> Result<(), RegistryError>;

    /// A backend's notifications of a shard that stand behind `after`, at most `limit` of them. One that can't be read is passed over.
    async fn kept(
        &self,
        shard: Shard,
        backend: &str,
        after: NotificationId,
        limit: usize,
    ) -> Result<Vec<Notification>, RegistryError>;

    /// Forgets a notification that a backend has.
    async fn delivered(
        &self,
        shard: Shard,
        backend: &str,
        id: NotificationId,
    ) -> Result<(), RegistryError>;

    /// Drops those of a backend's notifications in a shard that are older than `retention`, and the oldest ones while the backend has
    /// more than `most` in all shards and this shard more than its share.
    async fn prune(
        &self,
        shard: Shard,
        backend: &str,
        retention: Duration,
        most: u64,
    ) -> Result<Pruned, RegistryError>;

    /// Adds a notification, by its `webhook-id`, to the Redis stream with just this key. One that is added again is there twice.
    async fn add_to_stream(&self, key: &str, id: &str, event: &str) -> Result<(), RegistryError>;
}

/// `data` of a connection that is there, or is gone.
#[derive(Serialize)]
struct OfConnection<'a> {
    connection: &'a Connection,
    reason: Option<&'a str>,
    code: Option<u16>,
}

/// The `data` that tells of a connection. `closing`: it is gone.
pub(super) fn of_connection(
    connection: &Connection,
    closing: Option<&Closing>,
) -> Result<String, RegistryError> {
    let data = OfConnection {
        connection,
        reason: closing.map(|closing| &*closing.reason),
        code: closing.and_then(|closing| closing.code),
    };
    serde_json::to_string(&data).map_err(corrupt)
}

/// `data` of a user who came, or has gone.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfUser<'a> {
    user_id: &'a UserId,
    at: Timestamp,
}

/// The `data` that tells of a user: when it came, or when it was last there.
pub(super) fn of_user(user: &UserId, at: Timestamp) -> Result<Box<RawValue>, RegistryError> {
    serde_json::value::to_raw_value(&OfUser { user_id: user, at }).map_err(corrupt)
}

/// The `type` that is written so; none if there is none.
pub(super) fn kind_of(text: &str) -> Option<&'static str> {
    let kinds = Fact::ALL.iter().map(|fact| fact.as_str());
    kinds.chain([CLIENT_EVENT]).find(|kind| *kind == text)
}

/// A time of the registry's clock.
pub(super) fn time_of(ms: u64) -> Timestamp {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}

/// How many of the oldest are too many in a shard that has `own` of the `all` that a backend has, of which `most` may wait.
pub(super) fn excess(own: u64, all: u64, most: u64, shards: usize) -> u64 {
    let share = most / shards as u64;
    own.saturating_sub(share).min(all.saturating_sub(most))
}

fn corrupt(error: serde_json::Error) -> RegistryError {
    RegistryError::Corrupt(format!("a notification: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_time() {
        let id = |text| NotificationId::read(text).unwrap();
        assert!(id("5-1") < id("5-2") && id("5-2") < id("10-0"));
        assert_eq!(id("5-1").before(), id("5-0"));
        assert!(id("5-0").before() < id("5-0") && id("4-9") < id("5-0").before());
        assert_eq!(NotificationId::read("5"), None);
        let (one, other) = (Shard::FIRST, id("5-1").webhook_id(Shard::FIRST, "b"));
        assert_eq!(other, id("5-1").webhook_id(one, "b"));
        assert_ne!(other, id("5-1").webhook_id(one, "c"));
    }

    #[test]
    fn a_shard_drops_only_what_is_beyond_its_share_and_beyond_all() {
        assert_eq!(excess(10, 10, 16, 16), 0);
        assert_eq!(excess(10, 10, 5, 16), 5);
        assert_eq!(excess(1, 20, 16, 16), 0);
        assert_eq!(excess(20, 40, 32, 16), 8);
    }
}
