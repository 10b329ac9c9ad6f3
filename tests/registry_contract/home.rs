//! The homes of a registry, and fleets that share one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use switchboard::{
    config::{self, Presence, RegistryTiming, RunningConfig},
    connection::{Connection, ConnectionId, Tally},
    link::{Servers, Slot},
    metrics::Metrics,
    registry::{
        Admission, EndTarget, Entry, Registry,
        keys::{Keys, Shard, Shards},
        memory::MemoryRegistry,
        redis::RedisRegistry,
    },
};

pub(super) use super::{peer::Peer, redis_server::Server as RedisServer};
use crate::cluster::Cluster;

/// Longer than any case takes.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// Short enough to wait for, long enough to join and register within.
pub(super) const SHORT: Duration = Duration::from_millis(1500);

/// What makes registries. The handles share one that is new.
pub(super) trait Home {
    /// Handles of nodes that tell the backends of a configuration, if there is one.
    fn open_telling(
        &self,
        timing: &[RegistryTiming],
        presence: &Presence,
        told: Option<&RunningConfig>,
    ) -> Vec<Arc<dyn Registry>>;

    fn open(&self, timing: &[RegistryTiming], presence: &Presence) -> Vec<Arc<dyn Registry>> {
        self.open_telling(timing, presence, None)
    }
}

/// In process memory.
pub(super) struct Memory;

impl Home for Memory {
    fn open_telling(
        &self,
        timing: &[RegistryTiming],
        presence: &Presence,
        told: Option<&RunningConfig>,
    ) -> Vec<Arc<dyn Registry>> {
        let mut first = MemoryRegistry::new(&timing[0], presence);
        if let Some(told) = told {
            first = first.telling(told.clone());
        }
        let handles = timing.iter().map(|timing| first.sharing(timing));
        handles.map(|handle| Arc::new(handle) as _).collect()
    }
}

/// In a Redis.
pub(super) struct Redis {
    url: String,
    shards: Shards,
    metrics: Metrics,
}

impl Redis {
    pub(super) fn of(server: &RedisServer) -> Self {
        Self::of_shards(server, Shards::default())
    }

    pub(super) fn of_shards(server: &RedisServer, shards: Shards) -> Self {
        Self {
            url: server.url(),
            shards,
            metrics: Metrics::new().unwrap(),
        }
    }

    /// Of all of its handles.
    pub(super) fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    pub(super) fn client(&self) -> redis::Client {
        redis::Client::open(format!("{}?protocol=resp3", self.url)).unwrap()
    }

    pub(super) fn registry(&self, timing: &RegistryTiming, presence: &Presence) -> RedisRegistry {
        let config = config::Redis {
            urls: vec![self.url.clone().into()],
            ..config::Redis::default()
        };
        let servers = Servers::new(&config).unwrap();
        let timing = RegistryTiming {
            shards: self.shards,
            ..timing.clone()
        };
        RedisRegistry::new(&servers, &timing, presence, self.metrics()).unwrap()
    }
}

impl Home for Redis {
    fn open_telling(
        &self,
        timing: &[RegistryTiming],
        presence: &Presence,
        told: Option<&RunningConfig>,
    ) -> Vec<Arc<dyn Registry>> {
        let handles = timing.iter().map(|timing| self.registry(timing, presence));
        handles.map(|handle| telling(handle, told)).collect()
    }
}

/// In a cluster of three, with a prefix of its own, as others are in it too.
pub(super) struct InCluster {
    pub(super) config: config::Redis,
    prefix: String,
}

impl InCluster {
    pub(super) fn of(cluster: &Cluster) -> Self {
        Self {
            config: cluster.config(),
            prefix: format!("of-{:x}", rand::random::<u64>()),
        }
    }

    pub(super) fn keys(&self) -> Keys {
        Keys::new(&self.prefix)
    }

    pub(super) fn slot_of(&self, shard: Shard) -> Slot {
        self.keys().slot_of(shard)
    }
}

impl Home for InCluster {
    fn open_telling(
        &self,
        timing: &[RegistryTiming],
        presence: &Presence,
        told: Option<&RunningConfig>,
    ) -> Vec<Arc<dyn Registry>> {
        let handles = timing.iter().map(|timing| {
            let timing = RegistryTiming {
                prefix: self.prefix.clone(),
                ..timing.clone()
            };
            let servers = Servers::new(&self.config).unwrap();
            let metrics = Metrics::new().unwrap();
            let handle = RedisRegistry::new(&servers, &timing, presence, metrics).unwrap();
            telling(handle, told)
        });
        handles.collect()
    }
}

fn telling(handle: RedisRegistry, told: Option<&RunningConfig>) -> Arc<dyn Registry> {
    match told {
        Some(told) => Arc::new(handle.telling(told.clone())),
        None => Arc::new(handle),
    }
}

pub(super) fn timing(lease: Duration) -> RegistryTiming {
    RegistryTiming {
        lease,
        ..RegistryTiming::default()
    }
}

/// Two nodes that have joined a new registry; their leases last this long.
pub(super) async fn fleet(home: &dyn Home, a: Duration, b: Duration) -> [Peer; 2] {
    fleet_keeping(home, a, b, &Presence::default()).await
}

pub(super) async fn fleet_keeping(
    home: &dyn Home,
    a: Duration,
    b: Duration,
    presence: &Presence,
) -> [Peer; 2] {
    fleet_of(home, [timing(a), timing(b)], presence).await
}

/// Two nodes of other timings.
pub(super) async fn fleet_by(home: &dyn Home, timings: [RegistryTiming; 2]) -> [Peer; 2] {
    fleet_of(home, timings, &Presence::default()).await
}

async fn fleet_of(home: &dyn Home, timings: [RegistryTiming; 2], presence: &Presence) -> [Peer; 2] {
    fleet_telling(home, timings, presence, None).await
}

/// Two nodes that tell the backends of a configuration.
pub(super) async fn fleet_telling(
    home: &dyn Home,
    [a, b]: [RegistryTiming; 2],
    presence: &Presence,
    told: Option<&RunningConfig>,
) -> [Peer; 2] {
    let mut handles = home.open_telling(&[a, b, timing(LONG)], presence, told);
    let spare = handles.pop();
    let mut handles = handles.into_iter();
    let (a, b) = (handles.next().unwrap(), handles.next().unwrap());
    // The longer lease first: the shorter one is to be as fresh as can be.
    let b = Peer::join(b, "b").await;
    let mut a = Peer::join(a, "a").await;
    a.spare = spare;
    [a, b]
}

/// Which of these connections, which are there, have an order to end.
pub(super) async fn ordered<'a>(
    fleet: &[Peer; 2],
    connections: impl IntoIterator<Item = &'a Connection>,
) -> BTreeSet<ConnectionId> {
    let mut ordered = BTreeSet::new();
    for connection in connections {
        let holds = |peer: &&Peer| peer.report.node_id == connection.node_id;
        let holder = fleet.iter().find(holds).unwrap();
        if holder.end_of(connection).await.is_some() {
            ordered.insert(connection.id.clone());
        }
    }
    ordered
}

pub(super) fn is_in(admission: &Admission) -> bool {
    matches!(admission, Admission::Admitted { .. })
}

pub(super) fn entry(connection: &Connection) -> Entry {
    Entry {
        user: connection.user_id.clone(),
        id: connection.id.clone(),
    }
}

pub(super) fn all_of(user: &str) -> EndTarget {
    EndTarget::User {
        user: user.into(),
        except: Vec::new(),
    }
}

pub(super) fn tally(connections: u64, devices: u64) -> Tally {
    Tally {
        connections,
        devices,
    }
}

/// Asks until the answer is yes, for a minute at most.
pub(super) async fn eventually(what: &str, asked: impl AsyncFn() -> bool) {
    let asking = async {
        while !asked().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking)
        .await
        .unwrap_or_else(|_| panic!("not in a minute: {what}"));
}
