//! The two homes of a registry, each with three nodes, and a hand on what Redis holds.

use std::{sync::Arc, time::Duration};

use redis::aio::MultiplexedConnection;
use switchboard::{
    config::{Config, Presence, RegistryTiming},
    link,
    metrics::Metrics,
    registry::{
        Registry,
        keys::{Keys, Place, Shard},
        memory::MemoryRegistry,
        redis::RedisRegistry,
    },
};

use crate::redis_server::Server;

/// Longer than any case takes.
const LONG: Duration = Duration::from_secs(3600);

pub(super) const NODES: usize = 3;

/// Where a plan is carried out.
pub(super) struct Home {
    /// A handle for each node.
    pub(super) nodes: Vec<Arc<dyn Registry>>,
    /// Whom no node has joined through: it is answered whatever leases hold.
    pub(super) reader: Arc<dyn Registry>,
    /// A heartbeat through this handle prolongs a lease by nothing at all: it has run out. So nobody waits for a crash.
    pub(super) dying: Arc<dyn Registry>,
    pub(super) redis: Option<Inside>,
}

fn timing(lease: Duration) -> RegistryTiming {
    RegistryTiming {
        lease,
        ..RegistryTiming::default()
    }
}

impl Home {
    pub(super) fn memory() -> Self {
        let first = MemoryRegistry::new(&timing(LONG), &Presence::default());
        let dying = first.sharing(&timing(Duration::ZERO));
        Self {
            nodes: (0..NODES)
                .map(|_| Arc::new(first.sharing(&timing(LONG))) as _)
                .collect(),
            reader: Arc::new(first),
            dying: Arc::new(dying),
            redis: None,
        }
    }

    pub(super) async fn redis(server: &Server) -> Self {
        let registry = |lease| {
            let mut config = Config::default();
            config.redis.urls = vec![server.url().into()];
            let servers = link::Servers::new(&config.redis).unwrap();
            let metrics = Metrics::new().unwrap();
            let presence = Presence::default();
            RedisRegistry::new(&servers, &timing(lease), &presence, metrics).unwrap()
        };
        let nodes: Vec<Arc<dyn Registry>> =
            (0..NODES).map(|_| Arc::new(registry(LONG)) as _).collect();
        let reader: Arc<dyn Registry> = Arc::new(registry(LONG));
        let dying: Arc<dyn Registry> = Arc::new(registry(Duration::ZERO));
        for node in nodes.iter().chain([&reader, &dying]) {
            crate::redis_server::until("the registry answers", async || node.nodes().await.is_ok())
                .await;
        }
        Self {
            nodes,
            reader,
            dying,
            redis: Some(Inside {
                raw: server.connection().await,
                keys: Keys::new(&RegistryTiming::default().prefix),
            }),
        }
    }
}

/// What Redis holds.
#[derive(Clone)]
pub(super) struct Inside {
    raw: MultiplexedConnection,
    keys: Keys,
}

impl Inside {
    async fn run<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        command.query_async(&mut self.raw.clone()).await.unwrap()
    }

    pub(super) async fn flush_all(&self) {
        let () = self.run(&redis::cmd("FLUSHALL")).await;
    }

    pub(super) async fn flush_scripts(&self) {
        let () = self.run(redis::cmd("SCRIPT").arg("FLUSH")).await;
    }

    /// Entries and users, as they are counted, whatever their leases.
    pub(super) async fn counted(&self) -> (u64, i64) {
        let mut pipeline = redis::pipe();
        for shard in Shard::all() {
            pipeline
                .zcard(self.keys.conns(shard))
                .get(self.keys.users(shard));
        }
        let counts: Vec<Option<i64>> = pipeline.query_async(&mut self.raw.clone()).await.unwrap();
        let sum = |from: usize| counts.iter().skip(from).step_by(2).flatten().sum::<i64>();
        (u64::try_from(sum(0)).unwrap(), sum(1))
    }

    async fn all_keys(&self) -> Vec<Vec<u8>> {
        self.run(redis::cmd("KEYS").arg("*")).await
    }

    /// Deletes all keys of one hash slot: what a failover to a replica that had nothing leaves.
    pub(super) async fn lose(&self, tag: &str) {
        // What the first braces hold, as Redis Cluster reads it: a user may be called so too.
        let of_tag = |key: &Vec<u8>| {
            let key = String::from_utf8_lossy(key);
            let braces = key
                .split_once('{')
                .and_then(|(_, rest)| rest.split_once('}'));
            braces.is_some_and(|(inside, _)| inside == tag)
        };
        for key in self.all_keys().await.iter().filter(|key| of_tag(key)) {
            let _: i64 = self.run(redis::cmd("DEL").arg(key)).await;
        }
    }

    /// Has all leases run out in one place.
    pub(super) async fn lapse_all(&self, place: Place) {
        let key = self.keys.leases(place);
        let leases: Vec<String> = self
            .run(redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1))
            .await;
        for lease in leases {
            let _: i64 = self
                .run(redis::cmd("ZADD").arg(&key).arg(0).arg(lease))
                .await;
        }
    }

    /// Keys that nothing will ever remove: those without an expiry that are not a ban and not a count of none.
    pub(super) async fn orphans(&self) -> Vec<String> {
        let mut orphans = Vec::new();
        for key in self.all_keys().await {
            let shown = String::from_utf8_lossy(&key).into_owned();
            let expires = self.run::<i64>(redis::cmd("PTTL").arg(&key)).await != -1;
            if expires || shown.contains("}:ban:") {
                continue;
            }
            let count = shown.ends_with("}:users");
            if !count || self.run::<String>(redis::cmd("GET").arg(&key)).await != "0" {
                orphans.push(shown);
            }
        }
        orphans
    }
}
