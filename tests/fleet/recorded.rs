//! A node of another version: it writes and says what was recorded of the format, byte for byte, and reads what nodes of this version
//! say to it as that format has it.

use std::collections::HashMap;

use redis::{AsyncCommands as _, PushInfo, PushKind, aio::MultiplexedConnection};
use serde_json::{Value, json};
use switchboard::{
    bus::seal::Seal,
    connection::{ConnectionId, Instance, UserId},
    registry::{
        Lease,
        keys::{Keys, Shard, Shards},
    },
};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    node::SECRET,
    redis_server::{PATIENCE, Server},
};

/// Messages by their names, as in `src/gateway/wire/tests.rs`.
const MESSAGES: &str = include_str!("../../src/gateway/peers/wire/recorded.txt");

/// The number of the request in all that was recorded.
const NUMBER: &[u8] = b"\xa1n\x07";

/// What another version writes.
pub(crate) struct Format {
    pub(crate) name: &'static str,
    report: &'static str,
    /// An entry of which all but user, id and lease are taken as they are.
    entry: &'static [u8],
    /// Receipts, each alone as in the recorded message: for a message that was handed to one connection, for what meant nobody, and
    /// for a connection that was ended, up to the id.
    handed: &'static str,
    nothing: &'static str,
    closed: &'static str,
    /// What the names of its messages end in.
    suffix: &'static str,
}

/// Without all that may be missing.
pub(crate) const OLDER: Format = Format {
    name: "older",
    report: r#"{"n":"older","v":"0.1.9","s":"2026-01-01T00:00:00Z","c":1,"u":1}"#,
    entry: b"42\x000aaa\0abc.2\0\0mubbs7ln\0\0\0\0\x81\xa1c\xcf\0\0\x01\xa0\xc4\x50\x6c\x7b",
    handed: "0381a1729182a16e07a16301",
    nothing: "0381a1729181a16e07",
    closed: "0381a1729182a16e07a17891b7",
    suffix: "",
};

/// With much that this version does not know.
pub(crate) const NEWER: Format = Format {
    name: "newer",
    report: r#"{"zz":{"a":[1]},"n":"newer","v":"9.0.0","s":"2026-01-01T00:00:00Z","c":1,"u":1,"d":false,"l":1}"#,
    entry: include_bytes!("../../src/registry/redis/fixtures/entry.later"),
    handed: "0382a27a7a82a1649301c0c3a16181a178a0a1729183a27a7a82a1649301c0c3a16181a178a0a16e07a16301",
    nothing: "0382a27a7a82a1649301c0c3a16181a178a0a1729182a27a7a82a1649301c0c3a16181a178a0a16e07",
    closed: "0382a27a7a82a1649301c0c3a16181a178a0a1729183a27a7a82a1649301c0c3a16181a178a0a16e07a17891b7",
    suffix: "+",
};

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
    bytes.collect::<Result<_, _>>().unwrap()
}

/// A recorded message.
pub(crate) fn message(name: &str) -> Vec<u8> {
    let mut lines = MESSAGES.lines().filter_map(|line| line.split_once(' '));
    from_hex(lines.find(|(its, _)| *its == name).unwrap().1)
}

/// What a message of this format says.
pub(crate) fn said(payload: &[u8]) -> Value {
    let (version, body) = payload.split_first().unwrap();
    assert_eq!(*version, 3);
    rmp_serde::from_slice(body).unwrap()
}

/// Recorded bytes as the answer to another request.
fn numbered(recorded: &[u8], number: &Value) -> Vec<u8> {
    let at = recorded.windows(3).rposition(|it| it == NUMBER).unwrap();
    let number = rmp_serde::to_vec(number).unwrap();
    [&recorded[..at + 2], &number, &recorded[at + 3..]].concat()
}

/// A node that has joined.
pub(crate) struct Recorded {
    pub(crate) user: UserId,
    pub(crate) id: ConnectionId,
    format: &'static Format,
    lease: Lease,
    keys: Keys,
    seal: Seal,
    raw: MultiplexedConnection,
    heard: mpsc::UnboundedReceiver<PushInfo>,
}

impl Recorded {
    /// Joins the nodes that are there, with a connection of a user of its own.
    pub(crate) async fn join(redis: &Server, format: &'static Format) -> Self {
        let instance = Instance::random();
        let (push, heard) = mpsc::unbounded_channel();
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(PATIENCE))
            .set_push_sender(push);
        let connecting = redis.client();
        let connecting = connecting.get_multiplexed_async_connection_with_config(&config);
        let user = UserId::from(format!("of-{}", format.name));
        let mut peer = Self {
            id: Shards::default().new_id(Some(&user), Some(&instance)),
            user,
            format,
            seal: Seal::new(&instance, &[SECRET.into()]),
            lease: Lease { instance, epoch: 1 },
            keys: Keys::new("switchboard"),
            raw: connecting.await.unwrap(),
            heard,
        };
        peer.subscribe().await;
        peer.enter().await;
        peer.register().await;
        peer
    }

    async fn subscribe(&mut self) {
        let own = Shards::default()
            .all()
            .map(|shard| self.keys.node_channel(shard, &self.lease.instance));
        for channel in own.chain([self.keys.all_channel()]) {
            let mut subscribe = redis::cmd("SSUBSCRIBE");
            subscribe.arg(channel);
            let () = subscribe.query_async(&mut self.raw).await.unwrap();
        }
    }

    async fn enter(&mut self) {
        let lease = self.lease.to_string();
        for shard in Shards::default().all() {
            let generation: String = self.raw.get(self.keys.generation(shard)).await.unwrap();
            let entered = self.keys.entered(shard, &generation);
            let () = self.raw.sadd(entered, &lease).await.unwrap();
        }
        let now = jiff::Timestamp::now().as_millisecond();
        let row = format!("{}:{now}:{}", now + 3_600_000, self.format.report);
        let table = self.keys.tables(false).remove(0).1;
        let () = self.raw.hset(table, lease, row).await.unwrap();
    }

    fn entry(&self) -> Vec<u8> {
        let mut fields: Vec<_> = self.format.entry.splitn(9, |byte| *byte == 0).collect();
        let lease = self.lease.to_string();
        fields[0] = self.user.as_str().as_bytes();
        fields[1] = self.id.as_str().as_bytes();
        fields[2] = lease.as_bytes();
        fields.join(&0)
    }

    async fn register(&mut self) {
        let (shard, keys) = (Shards::default().of_user(&self.user), self.keys.clone());
        let (id, user) = (self.id.as_str(), self.user.as_str());
        let entry = self.entry();
        let () = self.raw.zadd(keys.conns(shard), entry, 0).await.unwrap();
        let held = keys.held(shard, &self.lease);
        let () = self.raw.hset(held, id, user).await.unwrap();
        let () = self.raw.incr(keys.users(shard), 1).await.unwrap();
    }

    async fn unregister(&mut self) {
        let (shard, keys) = (Shards::default().of_user(&self.user), self.keys.clone());
        let id = self.id.as_str();
        let entry = self.entry();
        let removed: u64 = self.raw.zrem(keys.conns(shard), entry).await.unwrap();
        assert_eq!(removed, 1, "the entry is as it was written");
        let () = self
            .raw
            .hdel(keys.held(shard, &self.lease), id)
            .await
            .unwrap();
        let () = self.raw.decr(keys.users(shard), 1).await.unwrap();
        let () = self.raw.del(keys.end(shard, id.as_bytes())).await.unwrap();
    }

    /// Leaves as a node does that has nobody any more.
    pub(crate) async fn leaves(mut self) {
        self.says_as("farewell").await;
        let table = self.keys.tables(false).remove(0).1;
        let () = self.raw.hdel(table, self.lease.to_string()).await.unwrap();
    }

    async fn publish(&mut self, channel: &str, payload: &[u8]) {
        let sealed = self.seal.seal(channel, payload);
        let heard: u64 = self.raw.spublish(channel, sealed).await.unwrap();
        assert!(heard > 0, "nobody hears {channel}");
    }

    /// Says to all nodes what was recorded under a name, as its version writes it.
    pub(crate) async fn says(&mut self, name: &str) {
        self.says_as(&format!("{name}{}", self.format.suffix)).await;
    }

    /// Says to all nodes what was recorded under this very name.
    pub(crate) async fn says_as(&mut self, name: &str) {
        let all = self.keys.all_channel();
        self.publish(&all, &message(name)).await;
    }

    /// Waits for the next message of another node, does what it asks for, and returns what it says.
    pub(crate) async fn hears(&mut self) -> (Instance, Value) {
        loop {
            let push = timeout(PATIENCE, self.heard.recv()).await.unwrap().unwrap();
            let [
                redis::Value::BulkString(channel),
                redis::Value::BulkString(sealed),
            ] = &push.data[..]
            else {
                continue;
            };
            if push.kind != PushKind::SMessage {
                continue;
            }
            let channel = std::str::from_utf8(channel).unwrap();
            let received = self.seal.open(channel, sealed.clone()).unwrap();
            if received.from == self.lease.instance {
                continue;
            }
            let said = said(&received.payload);
            self.obey(&received.from, &said).await;
            return (received.from, said);
        }
    }

    async fn obey(&mut self, from: &Instance, said: &Value) {
        let (user, id) = (self.user.as_str(), self.id.as_str());
        let (meant, ended) = (&said["d"], &said["e"]["i"]);
        let is_meant = meant["u"] == user || meant["c"] == id || meant["a"] == true;
        let receipt = if *ended == json!([id]) {
            self.unregister().await;
            let closed = from_hex(self.format.closed);
            [closed, self.id.as_str().as_bytes().to_vec()].concat()
        } else if is_meant {
            from_hex(self.format.handed)
        } else {
            from_hex(self.format.nothing)
        };
        let number = &said["n"];
        if number.as_u64().is_some_and(|number| number > 0) {
            let channel = self.keys.node_channel(Shard::FIRST, from);
            self.publish(&channel, &numbered(&receipt, number)).await;
        }
    }

    /// Hears until each of so many nodes has answered what this one has said; returns the receipts, by node.
    pub(crate) async fn receipts(&mut self, nodes: usize) -> HashMap<String, Value> {
        let mut receipts = HashMap::new();
        while receipts.len() < nodes {
            let (from, said) = self.hears().await;
            for receipt in said["r"].as_array().into_iter().flatten() {
                assert_eq!(receipt["n"], 7);
                if receipt["m"] != true {
                    receipts.insert(from.to_string(), receipt.clone());
                }
            }
        }
        receipts
    }
}
