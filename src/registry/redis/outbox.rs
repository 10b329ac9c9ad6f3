//! Notifications: each outbox is a stream, and what is told of goes into the scripts that change it.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    RedisRegistry,
    member::{self, Member as Written},
    milliseconds,
    unreadable::text,
};
use crate::{
    config::{self, Fact},
    connection::{Connection, Instance, NodeId},
    link::Slot,
    registry::{
        Closing, Entry, Lease, Notification, NotificationId, Outbox, Pruned, RegistryError,
        keys::{Shard, room_of},
        outbox::{LEFT_AT_ONCE, excess, kind_of, of_connection, of_user, time_of},
    },
};

/// The backends that `assert.lua` tells.
#[derive(Serialize)]
struct Newcomer {
    opened: Vec<String>,
    online: Vec<String>,
    connection: String,
    kept: u64,
}

/// The backends that `remove.lua` tells.
#[derive(Serialize)]
struct Gone {
    closed: Vec<GoneConnection>,
    kept: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<u64>,
}

#[derive(Default, Serialize)]
struct GoneConnection {
    outboxes: Vec<String>,
    data: String,
}

/// The backends that `change_members.lua` tells.
#[derive(Serialize)]
struct Changed {
    rooms: Vec<ChangedRoom>,
    kept: u64,
}

#[derive(Serialize)]
struct ChangedRoom {
    occupied: Vec<String>,
    vacated: Vec<String>,
    data: String,
}

/// The backends that `tell_left.lua` tells.
#[derive(Serialize)]
struct Left {
    offline: Vec<String>,
    kept: u64,
}

fn written(told: &impl Serialize) -> Result<String, RegistryError> {
    serde_json::to_string(told)
        .map_err(|error| RegistryError::Corrupt(format!("backends to tell: {error}")))
}

/// A notification as a stream has it.
type Kept = (String, Vec<(Vec<u8>, Vec<u8>)>);

impl RedisRegistry {
    /// Whether anybody is told of any of these.
    fn is_told(&self, facts: &[Fact]) -> bool {
        self.config.as_ref().is_some_and(|config| {
            let config = config.now();
            let mut backends = config.backends.iter();
            backends.any(|one| one.notify.iter().any(|fact| facts.contains(fact)))
        })
    }

    /// The outboxes of those that are told of something. Of users everybody is: they are online in no namespace of their own.
    fn outboxes(&self, shard: Shard, fact: Fact, namespace: Option<&str>) -> Vec<String> {
        let Some(config) = &self.config else {
            return Vec::new();
        };
        let is_told = |one: &&config::Backend| {
            one.notify.contains(&fact) && namespace.is_none_or(|namespace| one.hears(namespace))
        };
        let config = config.now();
        let told = config.backends.iter().filter(is_told);
        told.map(|one| self.keys.outbox(shard, &one.name)).collect()
    }

    /// How long an outbox stays that nobody adds to: longer than what it holds, so that a node finds that too old, and counts it.
    fn outbox_kept(&self) -> u64 {
        let retention = self.config.as_ref().map(|it| it.now().events.retention);
        milliseconds(retention.unwrap_or_default()).saturating_mul(2)
    }

    /// The backends that `assert.lua` tells of a connection, as JSON; empty for none.
    pub(super) fn told_of_newcomer(
        &self,
        shard: Shard,
        connection: &Connection,
    ) -> Result<String, RegistryError> {
        if !self.is_told(&[Fact::Opened, Fact::Online, Fact::Offline]) {
            return Ok(String::new());
        }
        let opened = self.outboxes(shard, Fact::Opened, Some(&connection.namespace));
        let data = match opened.is_empty() {
            true => String::new(),
            false => of_connection(connection, None)?,
        };
        written(&Newcomer {
            opened,
            online: self.outboxes(shard, Fact::Online, None),
            connection: data,
            kept: self.outbox_kept(),
        })
    }

    /// The backends that `remove.lua` tells of connections, given by the ids and users of their entries; empty for none. Reads the entries if
    /// anybody is told of their ends.
    pub(super) async fn told_of_gone(
        &self,
        lease: &Lease,
        shard: Shard,
        entries: &[(&[u8], &[u8])],
        closing: impl Fn(usize) -> Closing,
    ) -> Result<String, RegistryError> {
        let is_presence_told = self.is_told(&[Fact::Online, Fact::Offline]);
        let is_closed_told = self.is_told(&[Fact::Closed]);
        if !is_presence_told && !is_closed_told {
            return Ok(String::new());
        }
        let mut closed = Vec::new();
        closed.resize_with(entries.len(), GoneConnection::default);
        if is_closed_told {
            let found = self.entries_as_written(lease, shard, entries).await?;
            let node_id = self.name_of(lease);
            for (index, entry) in found.iter().enumerate() {
                let connection = entry.first().map(|entry| {
                    Written::parse(entry).and_then(|written| written.connection(&node_id))
                });
                let Some(connection) = connection.and_then(|it| self.unreadable.skip("entry", it))
                else {
                    continue;
                };
                closed[index] = GoneConnection {
                    outboxes: self.outboxes(shard, Fact::Closed, Some(&connection.namespace)),
                    data: of_connection(&connection, Some(&closing(index)))?,
                };
            }
        }
        let delay = is_presence_told.then(|| self.offline_delay());
        written(&Gone {
            closed,
            kept: self.outbox_kept(),
            delay: delay.map(milliseconds),
        })
    }

    async fn entries_as_written(
        &self,
        lease: &Lease,
        shard: Shard,
        entries: &[(&[u8], &[u8])],
    ) -> Result<Vec<Vec<Vec<u8>>>, RegistryError> {
        let slot = self.keys.slot_of(shard);
        let ranges = entries.iter().map(|(id, user)| {
            let fields = [user, *id, lease.to_string().as_bytes()].join(&0);
            let mut range = redis::cmd("ZRANGEBYLEX");
            range
                .arg(self.keys.conns(shard))
                .arg([b"[", fields.as_slice(), b"\0"].concat())
                .arg([b"(", fields.as_slice(), b"\x01"].concat());
            (slot, range)
        });
        let ranges: Vec<_> = ranges.collect();
        Ok(self.pool.read_all("gone", &ranges).await?)
    }

    /// The name of a node by its lease, or at least the run of its process.
    fn name_of(&self, lease: &Lease) -> NodeId {
        let table = self.known.lock().table();
        let row = table.row(&lease.to_string());
        row.map_or_else(
            || lease.instance.as_str().into(),
            |row| row.report.node_id.clone(),
        )
    }

    fn offline_delay(&self) -> Duration {
        let config = self.config.as_ref();
        config.map_or(Duration::ZERO, |it| it.now().presence.offline_delay)
    }

    /// The backends that `change_members.lua` tells of rooms, given as they are written; empty for none.
    pub(super) fn told_of_rooms<'a>(
        &self,
        shard: Shard,
        rooms: impl Iterator<Item = &'a [u8]>,
    ) -> Result<String, RegistryError> {
        if !self.is_told(&[Fact::Occupied, Fact::Vacated]) {
            return Ok(String::new());
        }
        let rooms = rooms.map(|field| {
            // What is in no namespace is Switchboard's own.
            let room = room_of(field).filter(|room| room.namespace.starts_with('/'));
            let of = |fact, namespace: &str| self.outboxes(shard, fact, Some(namespace));
            match room {
                Some(room) => ChangedRoom {
                    occupied: of(Fact::Occupied, &room.namespace),
                    vacated: of(Fact::Vacated, &room.namespace),
                    data: serde_json::json!({ "room": room.name, "namespace": room.namespace })
                        .to_string(),
                },
                None => ChangedRoom {
                    occupied: Vec::new(),
                    vacated: Vec::new(),
                    data: String::new(),
                },
            }
        });
        written(&Changed {
            rooms: rooms.collect(),
            kept: self.outbox_kept(),
        })
    }

    fn notification(&self, (id, fields): Kept) -> Option<Notification> {
        let corrupt = || RegistryError::Corrupt(format!("notification {id}"));
        let read = || {
            let field = |name: &[u8]| {
                let found = fields.iter().find(|(its, _)| its == name);
                found.map(|(_, value)| value.clone())
            };
            let id = NotificationId::read(&id)?;
            let about = field(b"o")?;
            let data = match field(b"d") {
                Some(data) => RawValue::from_string(String::from_utf8(data).ok()?).ok()?,
                None => {
                    let user = member::user_of(about.strip_prefix(b"u")?).ok()??;
                    let at = match field(b"a") {
                        Some(at) => text(at).parse().ok()?,
                        None => id.ms,
                    };
                    of_user(&user, time_of(at)).ok()?
                }
            };
            Some(Notification {
                id,
                kind: kind_of(&text(field(b"t")?))?,
                about,
                data,
            })
        };
        self.unreadable
            .skip("notification", read().ok_or_else(corrupt))
    }

    async fn pruned(
        &self,
        shard: Shard,
        backend: &str,
        retention: Duration,
        excess: u64,
    ) -> Result<Pruned, RegistryError> {
        let slot = self.keys.slot_of(shard);
        let mut script = self.scripts.prune.prepare_invoke();
        script
            .key(self.keys.outbox(shard, backend))
            .arg(milliseconds(retention))
            .arg(excess);
        let (expired, excess, left, age): (u64, u64, u64, u64) =
            self.pool.query("prune", slot, &script).await?;
        Ok(Pruned {
            expired,
            excess,
            left,
            age: Duration::from_millis(age),
        })
    }
}

#[async_trait]
impl Outbox for RedisRegistry {
    async fn begin_delivery(
        &self,
        shard: Shard,
        node: &Instance,
        lasts: Duration,
    ) -> Result<bool, RegistryError> {
        let mut script = self.scripts.deliver.prepare_invoke();
        script
            .key(self.keys.deliverer(shard))
            .arg(node.as_str())
            .arg(milliseconds(lasts));
        let slot = self.keys.slot_of(shard);
        Ok(self.link.query("begin_delivery", slot, &script).await?)
    }

    async fn end_delivery(&self, shard: Shard, node: &Instance) -> Result<(), RegistryError> {
        self.begin_delivery(shard, node, Duration::ZERO)
            .await
            .map(drop)
    }

    async fn tell_left(&self, shard: Shard) -> Result<(), RegistryError> {
        if !self.is_told(&[Fact::Online, Fact::Offline]) {
            return Ok(());
        }
        let told = Left {
            offline: self.outboxes(shard, Fact::Offline, None),
            kept: self.outbox_kept(),
        };
        let mut script = self.scripts.tell_left.prepare_invoke();
        script
            .key(self.keys.leaving(shard))
            .key(self.keys.conns(shard))
            .arg(self.keys.seen(shard, b""))
            .arg(LEFT_AT_ONCE)
            .arg(written(&told)?);
        let slot = self.keys.slot_of(shard);
        while self.link.query::<usize>("tell_left", slot, &script).await? == LEFT_AT_ONCE {}
        Ok(())
    }

    async fn keep_event(
        &self,
        from: &Entry,
        backends: &[String],
        data: &RawValue,
    ) -> Result<(), RegistryError> {
        let Some(shard) = self.shards.of_entry(from) else {
            return Err(RegistryError::Corrupt(format!("id {} is no id", from.id)));
        };
        let about = match &from.user {
            Some(user) => [b"u", member::user_field(Some(user)).as_slice()].concat(),
            None => [b"c", from.id.as_str().as_bytes()].concat(),
        };
        let mut script = self.scripts.keep_event.prepare_invoke();
        for backend in backends {
            script.key(self.keys.outbox(shard, backend));
        }
        script.arg(about).arg(data.get()).arg(self.outbox_kept());
        let slot = self.keys.slot_of(shard);
        self.link.query::<i64>("keep_event", slot, &script).await?;
        Ok(())
    }

    async fn kept(
        &self,
        shard: Shard,
        backend: &str,
        after: NotificationId,
        limit: usize,
    ) -> Result<Vec<Notification>, RegistryError> {
        let slot = self.keys.slot_of(shard);
        let mut start = format!("({}-{}", after.ms, after.number);
        loop {
            let mut range = redis::cmd("XRANGE");
            range
                .arg(self.keys.outbox(shard, backend))
                .arg(&start)
                .arg("+")
                .arg("COUNT")
                .arg(limit);
            let found: Vec<Kept> = self.pool.query("kept", slot, &range).await?;
            // Where none of so many can be read, others may stand behind them.
            let is_full = found.len() == limit;
            let last = found.last().map(|(id, _)| format!("({id}"));
            let kept = found.into_iter().filter_map(|it| self.notification(it));
            let kept: Vec<_> = kept.collect();
            match last.filter(|_| is_full && kept.is_empty() && limit > 1) {
                Some(last) => start = last,
                None => return Ok(kept),
            }
        }
    }

    async fn delivered(
        &self,
        shard: Shard,
        backend: &str,
        id: NotificationId,
    ) -> Result<(), RegistryError> {
        let mut delete = redis::cmd("XDEL");
        delete
            .arg(self.keys.outbox(shard, backend))
            .arg(format!("{}-{}", id.ms, id.number));
        let slot = self.keys.slot_of(shard);
        self.link.query::<i64>("delivered", slot, &delete).await?;
        Ok(())
    }

    async fn prune(
        &self,
        shard: Shard,
        backend: &str,
        retention: Duration,
        most: u64,
    ) -> Result<Pruned, RegistryError> {
        let pruned = self.pruned(shard, backend, retention, 0).await?;
        // Most shards have no more than their share: what all have is asked for by the others.
        if excess(pruned.left, u64::MAX, most, self.shards.count()) == 0 {
            return Ok(pruned);
        }
        let lengths = self.shards.all().map(|one| {
            let mut length = redis::cmd("XLEN");
            length.arg(self.keys.outbox(one, backend));
            (self.keys.slot_of(one), length)
        });
        let lengths: Vec<_> = lengths.collect();
        let all: Vec<u64> = self.pool.read_all("prune", &lengths).await?;
        match excess(pruned.left, all.iter().sum(), most, self.shards.count()) {
            0 => Ok(pruned),
            excess => {
                let again = self.pruned(shard, backend, retention, excess).await?;
                Ok(Pruned {
                    expired: pruned.expired + again.expired,
                    ..again
                })
            }
        }
    }

    async fn add_to_stream(&self, key: &str, id: &str, event: &str) -> Result<(), RegistryError> {
        let mut add = redis::cmd("XADD");
        add.arg(key)
            .arg("*")
            .arg("event")
            .arg(event)
            .arg("id")
            .arg(id);
        let slot = Slot::of(key.as_bytes());
        self.link
            .query::<String>("add_to_stream", slot, &add)
            .await?;
        Ok(())
    }
}
