//! Notifications, in process memory: they are gone with the process. The readable definition of what the scripts do.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{MemoryRegistry, fences::now, store::Store};
use crate::{
    config::{self, Fact, RunningConfig},
    connection::{Connection, Instance, UserId},
    registry::{
        Closing, Entry, Notification, NotificationId, Outbox, Pruned, RegistryError, Room,
        keys::{Shard, Shards},
        outbox::{CLIENT_EVENT, excess, of_connection, of_user},
    },
};

/// What is kept for backends.
#[derive(Debug, Default)]
pub(super) struct Outboxes {
    /// By backend and shard.
    kept: HashMap<(String, usize), BTreeMap<NotificationId, Notification>>,
    last: NotificationId,
    /// When each user counts as offline whose last connection is gone.
    leaving: HashMap<UserId, Instant>,
    /// Which node delivers a shard's, and until when.
    deliverers: HashMap<usize, (Instance, Instant)>,
}

/// Who is told of what.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(pub(super) Option<RunningConfig>);

impl Told {
    fn of(&self, fact: Fact, namespace: Option<&str>) -> Vec<String> {
        let Some(config) = &self.0 else {
            return Vec::new();
        };
        let is_told = |one: &&config::Backend| {
            one.notify.contains(&fact) && namespace.is_none_or(|namespace| one.hears(namespace))
        };
        let config = config.now();
        let told = config.backends.iter().filter(is_told);
        told.map(|one| one.name.clone()).collect()
    }
}

/// The user, or the id of a guest's connection, that a notification of a connection is about.
fn about(entry: &Entry) -> Vec<u8> {
    match &entry.user {
        Some(user) => [b"u", user.as_str().as_bytes()].concat(),
        None => [b"c", entry.id.as_str().as_bytes()].concat(),
    }
}

impl Outboxes {
    fn add(
        &mut self,
        backends: &[String],
        shard: Shard,
        kind: &'static str,
        about: &[u8],
        data: &RawValue,
    ) {
        for backend in backends {
            let ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
            self.last = match ms > self.last.ms {
                true => NotificationId { ms, number: 0 },
                false => NotificationId {
                    number: self.last.number + 1,
                    ..self.last
                },
            };
            let notification = Notification {
                id: self.last,
                kind,
                about: about.to_vec(),
                data: data.to_owned(),
            };
            let outbox = self.kept.entry((backend.clone(), shard.index()));
            outbox.or_default().insert(self.last, notification);
        }
    }

    fn add_fact(
        &mut self,
        told: &Told,
        (fact, namespace): (Fact, Option<&str>),
        shard: Shard,
        about: &[u8],
        data: impl FnOnce() -> Result<Box<RawValue>, RegistryError>,
    ) {
        let backends = told.of(fact, namespace);
        if backends.is_empty() {
            return;
        }
        match data() {
            Ok(data) => self.add(&backends, shard, fact.as_str(), about, &data),
            Err(error) => tracing::error!(%error, "can't tell of what has happened"),
        }
    }
}

fn raw(text: Result<String, RegistryError>) -> Result<Box<RawValue>, RegistryError> {
    RawValue::from_string(text?).map_err(|error| RegistryError::Corrupt(error.to_string()))
}

impl Store {
    /// A connection is there that was not. `again`: it was let in before.
    pub(super) fn tell_opened(
        &mut self,
        told: &Told,
        entry: &Entry,
        connection: &Connection,
        again: bool,
    ) {
        let Some(shard) = Shards::default().of_entry(entry) else {
            return;
        };
        let is_news = !again
            || entry
                .user
                .as_ref()
                .is_some_and(|it| self.seen.contains_key(it));
        let is_first = |user| self.all_of(user).count() == 1;
        let first = entry.user.as_ref().filter(|user| is_first(user));
        let comes = first.filter(|user| self.outboxes.leaving.remove(*user).is_none());
        if !is_news {
            return;
        }
        let about = about(entry);
        let opened = (Fact::Opened, Some(connection.namespace.as_str()));
        self.outboxes.add_fact(told, opened, shard, &about, || {
            raw(of_connection(connection, None))
        });
        if let Some(user) = comes {
            self.outboxes
                .add_fact(told, (Fact::Online, None), shard, &about, || {
                    of_user(user, now())
                });
        }
    }

    /// A connection is gone.
    pub(super) fn tell_closed(
        &mut self,
        told: &Told,
        entry: &Entry,
        connection: &Connection,
        closing: &Closing,
    ) {
        let Some(shard) = Shards::default().of_entry(entry) else {
            return;
        };
        let closed = (Fact::Closed, Some(connection.namespace.as_str()));
        self.outboxes
            .add_fact(told, closed, shard, &about(entry), || {
                raw(of_connection(connection, Some(closing)))
            });
        let Some(config) = &told.0 else { return };
        if let Some(user) = &entry.user
            && self.all_of(user).next().is_none()
            && [Fact::Online, Fact::Offline]
                .iter()
                .any(|it| !told.of(*it, None).is_empty())
        {
            let due = Instant::now() + config.now().presence.offline_delay;
            self.outboxes.leaving.insert(user.clone(), due);
        }
    }

    /// A room has its first member, or has none any more.
    pub(super) fn tell_of_room(&mut self, told: &Told, room: &Room, fact: Fact) {
        // What is in no namespace is Switchboard's own.
        if !room.namespace.starts_with('/') {
            return;
        }
        let about = [b"r", room.namespace.as_bytes(), b"\0", room.name.as_bytes()].concat();
        let shard = Shards::default().of_room(room);
        let of = (fact, Some(&*room.namespace));
        self.outboxes.add_fact(told, of, shard, &about, || {
            let data = serde_json::json!({ "room": room.name, "namespace": room.namespace });
            raw(Ok(data.to_string()))
        });
    }
}

#[async_trait]
impl Outbox for MemoryRegistry {
    async fn begin_delivery(
        &self,
        shard: Shard,
        node: &Instance,
        lasts: Duration,
    ) -> Result<bool, RegistryError> {
        let deliverers = &mut self.store.lock().outboxes.deliverers;
        let now = Instant::now();
        match deliverers.get(&shard.index()) {
            Some((other, until)) if other != node && now < *until => Ok(false),
            _ => {
                deliverers.insert(shard.index(), (node.clone(), now + lasts));
                Ok(true)
            }
        }
    }

    async fn end_delivery(&self, shard: Shard, node: &Instance) -> Result<(), RegistryError> {
        self.begin_delivery(shard, node, Duration::ZERO)
            .await
            .map(drop)
    }

    async fn tell_left(&self, shard: Shard) -> Result<(), RegistryError> {
        let store = &mut *self.store.lock();
        let now = Instant::now();
        let of_shard = |user: &UserId| Shards::default().of_user(user) == shard;
        let due = store.outboxes.leaving.iter();
        let due = due.filter(|(user, due)| **due <= now && of_shard(user));
        let due: Vec<_> = due.map(|(user, _)| user.clone()).collect();
        for user in due {
            store.outboxes.leaving.remove(&user);
            if store.all_of(&user).next().is_some() {
                continue;
            }
            let at = store.last_seen(&user).unwrap_or_else(super::fences::now);
            let about = [b"u", user.as_str().as_bytes()].concat();
            store
                .outboxes
                .add_fact(&self.told, (Fact::Offline, None), shard, &about, || {
                    of_user(&user, at)
                });
        }
        Ok(())
    }

    async fn keep_event(
        &self,
        from: &Entry,
        backends: &[String],
        data: &RawValue,
    ) -> Result<(), RegistryError> {
        let Some(shard) = Shards::default().of_entry(from) else {
            return Err(RegistryError::Corrupt(format!("id {} is no id", from.id)));
        };
        let outboxes = &mut self.store.lock().outboxes;
        outboxes.add(backends, shard, CLIENT_EVENT, &about(from), data);
        Ok(())
    }

    async fn kept(
        &self,
        shard: Shard,
        backend: &str,
        after: NotificationId,
        limit: usize,
    ) -> Result<Vec<Notification>, RegistryError> {
        let kept = &self.store.lock().outboxes.kept;
        let outbox = kept.get(&(backend.to_owned(), shard.index()));
        let behind = outbox.into_iter().flatten().filter(|(id, _)| **id > after);
        Ok(behind.map(|(_, it)| it.clone()).take(limit).collect())
    }

    async fn delivered(
        &self,
        shard: Shard,
        backend: &str,
        id: NotificationId,
    ) -> Result<(), RegistryError> {
        let kept = &mut self.store.lock().outboxes.kept;
        if let Some(outbox) = kept.get_mut(&(backend.to_owned(), shard.index())) {
            outbox.remove(&id);
        }
        Ok(())
    }

    async fn prune(
        &self,
        shard: Shard,
        backend: &str,
        retention: Duration,
        most: u64,
    ) -> Result<Pruned, RegistryError> {
        let kept = &mut self.store.lock().outboxes.kept;
        let now = Timestamp::now();
        let age = |id: &NotificationId| {
            let past = now.duration_since(crate::registry::outbox::time_of(id.ms));
            Duration::try_from(past).unwrap_or_default()
        };
        let of_backend = kept.iter().filter(|((name, _), _)| name == backend);
        let all: usize = of_backend.map(|(_, outbox)| outbox.len()).sum();
        let Some(outbox) = kept.get_mut(&(backend.to_owned(), shard.index())) else {
            return Ok(Pruned::default());
        };
        let mut pruned = Pruned::default();
        while let Some(oldest) = outbox.first_entry()
            && age(oldest.key()) > retention
        {
            oldest.remove();
            pruned.expired += 1;
        }
        let all = all as u64 - pruned.expired;
        pruned.excess = excess(outbox.len() as u64, all, most, Shards::default().count());
        for _ in 0..pruned.excess {
            outbox.pop_first();
        }
        pruned.left = outbox.len() as u64;
        pruned.age = outbox.keys().next().map(age).unwrap_or_default();
        Ok(pruned)
    }

    async fn add_to_stream(&self, key: &str, _id: &str, _event: &str) -> Result<(), RegistryError> {
        Err(RegistryError::Unavailable(format!(
            "there is no Redis that could have the stream {key:?}"
        )))
    }
}
