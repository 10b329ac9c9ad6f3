//! The two homes of a registry, each with three nodes, and a hand on what Redis holds.

use std::{sync::Arc, time::Duration};

use redis::aio::MultiplexedConnection;
use switchboard::{
    config::{Config, Presence, RegistryTiming},
    link,
    metrics::Metrics,
    registry::{
        Registry,
        keys::{Keys, Shard, Shards},
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
    /// A handle that no node has joined through: it is answered whatever leases hold. It never sends a heartbeat, and knows everything anew.
    pub(super) reader: Arc<dyn Registry>,
    /// A heartbeat through this handle makes a lease last.
    pub(super) lasting: Arc<dyn Registry>,
    /// A heartbeat through this handle prolongs a lease by nothing at all: it has run out. So nobody waits for a crash.
    pub(super) dying: Arc<dyn Registry>,
    pub(super) redis: Option<Inside>,
}

fn timing(lease: Duration, heartbeat: Duration) -> RegistryTiming {
    RegistryTiming {
        lease,
        heartbeat,
        ..RegistryTiming::default()
    }
}

fn in_redis(server: &Server, lease: Duration, heartbeat: Duration) -> Arc<dyn Registry> {
    let mut config = Config::default();
    config.redis.urls = vec![server.url().into()];
    let servers = link::Servers::new(&config.redis).unwrap();
    let (timing, metrics) = (timing(lease, heartbeat), Metrics::new().unwrap());
    Arc::new(RedisRegistry::new(&servers, &timing, &Presence::default(), metrics).unwrap())
}

impl Home {
    /// Whose nodes have leases that last.
    pub(super) fn memory() -> Self {
        Self::memory_with(LONG)
    }

    /// Whose nodes have leases that have run out until [`Home::lasting`] prolongs them.
    pub(super) fn model() -> Self {
        Self::memory_with(Duration::ZERO)
    }

    fn memory_with(lease: Duration) -> Self {
        let first = MemoryRegistry::new(&timing(LONG, LONG), &Presence::default());
        let sharing = |lease| Arc::new(first.sharing(&timing(lease, LONG))) as _;
        Self {
            nodes: (0..NODES).map(|_| sharing(lease)).collect(),
            reader: sharing(Duration::ZERO),
            lasting: sharing(LONG),
            dying: sharing(Duration::ZERO),
            redis: None,
        }
    }

    /// As [`Home::memory`]. Its handles have seen nothing, so nobody is waited for.
    pub(super) async fn redis(server: &Server) -> Self {
        Self::redis_with(server, LONG).await
    }

    /// As [`Home::model`]: a table of leases is believed for half a lease, so these look at it before every answer.
    pub(super) async fn compared(server: &Server) -> Self {
        Self::redis_with(server, Duration::ZERO).await
    }

    async fn redis_with(server: &Server, lease: Duration) -> Self {
        let registry = |lease, heartbeat| in_redis(server, lease, heartbeat);
        let home = Self {
            nodes: (0..NODES).map(|_| registry(lease, LONG)).collect(),
            // It takes late nodes for dead.
            reader: registry(Duration::ZERO, Duration::ZERO),
            lasting: registry(LONG, LONG),
            dying: registry(Duration::ZERO, LONG),
            redis: Some(Inside {
                raw: server.connection().await,
                keys: Keys::new(&RegistryTiming::default().prefix),
            }),
        };
        let others = [&home.reader, &home.lasting, &home.dying];
        for handle in home.nodes.iter().chain(others) {
            crate::redis_server::until("the registry answers", async || {
                handle.nodes().await.is_ok()
            })
            .await;
        }
        home
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

    /// Entries and users of each shard, as they are counted, whatever their leases. No users where nobody has counted yet.
    pub(super) async fn counted(&self) -> Vec<(u64, Option<i64>)> {
        let mut pipeline = redis::pipe();
        for shard in Shards::default().all() {
            pipeline
                .zcard(self.keys.conns(shard))
                .get(self.keys.users(shard));
        }
        let counts: Vec<Option<i64>> = pipeline.query_async(&mut self.raw.clone()).await.unwrap();
        let counts = counts.chunks(2);
        counts
            .map(|of| (u64::try_from(of[0].unwrap()).unwrap(), of[1]))
            .collect()
    }

    async fn all_keys(&self) -> Vec<Vec<u8>> {
        self.run(redis::cmd("KEYS").arg("*")).await
    }

    /// Deletes what a shard has of its connections, and leaves what is held against users: no node can put that back.
    pub(super) async fn lose(&self, shard: Shard) {
        let [conns, moved, users, generation] = [
            self.keys.conns(shard),
            self.keys.moved(shard),
            self.keys.users(shard),
            self.keys.generation(shard),
        ];
        let (in_shard, _) = conns.split_at(conns.len() - "conns".len());
        let of_leases = [format!("{in_shard}n:"), format!("{in_shard}in:")];
        for key in self.all_keys().await {
            let text = String::from_utf8_lossy(&key);
            if of_leases.iter().any(|start| text.starts_with(start)) {
                let _: i64 = self.run(redis::cmd("DEL").arg(&key)).await;
            }
        }
        let mut lost = redis::cmd("DEL");
        let _: i64 = self.run(lost.arg(&[conns, moved, users, generation])).await;
    }

    /// Deletes the table of leases.
    pub(super) async fn lose_table(&self) {
        for (_, table) in self.keys.tables(false) {
            let _: i64 = self.run(redis::cmd("DEL").arg(table)).await;
        }
    }

    /// Keys that nothing will ever remove once no node lives: those without an expiry that are not a ban, the name of a shard, what it
    /// has carried or a count of none; and leases.
    pub(super) async fn orphans(&self) -> Vec<String> {
        let mut orphans = Vec::new();
        for key in self.all_keys().await {
            let shown = String::from_utf8_lossy(&key).into_owned();
            let expires = self.run::<i64>(redis::cmd("PTTL").arg(&key)).await != -1;
            let of_shard = ["}:generation", "}:carried"].map(|end| shown.ends_with(end));
            if expires || shown.contains("}:ban:") || of_shard.contains(&true) {
                continue;
            }
            if shown.ends_with("}:leases") {
                let rows: Vec<String> = self.run(redis::cmd("HKEYS").arg(&key)).await;
                let leases = rows.into_iter().filter(|row| row.contains('.'));
                orphans.extend(leases);
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
