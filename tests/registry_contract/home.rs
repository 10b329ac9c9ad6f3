//! The two homes of a registry, and the nodes that share one.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use switchboard::{
    config::{self, Presence, RegistryTiming},
    connection::{Connection, Instance, Tally, TransportKind, UserId},
    ending::Ending,
    link::{Servers, Slot},
    metrics::Metrics,
    registry::{
        Admission, Bar, EndOrder, EndTarget, Entry, Fence, Grant, Lease, Listed, NodeReport,
        Ordered, Registry, RegistryError, Updated, UserLimit,
        keys::{Keys, Shard},
        memory::MemoryRegistry,
        redis::RedisRegistry,
    },
};

use crate::{cluster::Cluster, redis_server::program};

/// Longer than any case takes.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// Short enough to wait for, long enough to join and register within.
pub(super) const SHORT: Duration = Duration::from_millis(1500);

/// What makes registries. Both handles share one that is new.
pub(super) trait Home {
    fn open(&self, timing: [RegistryTiming; 2], presence: &Presence) -> [Arc<dyn Registry>; 2];
}

/// In process memory.
pub(super) struct Memory;

impl Home for Memory {
    fn open(&self, [a, b]: [RegistryTiming; 2], presence: &Presence) -> [Arc<dyn Registry>; 2] {
        let first = MemoryRegistry::new(&a, presence);
        let second = first.sharing(&b);
        [Arc::new(first), Arc::new(second)]
    }
}

/// In a Redis.
pub(super) struct Redis {
    url: String,
}

impl Redis {
    pub(super) fn of(server: &RedisServer) -> Self {
        Self { url: server.url() }
    }

    pub(super) fn client(&self) -> redis::Client {
        redis::Client::open(format!("{}/?protocol=resp3", self.url)).unwrap()
    }

    pub(super) fn registry(&self, timing: &RegistryTiming, presence: &Presence) -> RedisRegistry {
        let config = config::Redis {
            urls: vec![self.url.clone().into()],
            ..config::Redis::default()
        };
        let servers = Servers::new(&config).unwrap();
        let metrics = Metrics::new().unwrap();
        RedisRegistry::new(&servers, timing, presence, metrics).unwrap()
    }
}

impl Home for Redis {
    fn open(&self, timing: [RegistryTiming; 2], presence: &Presence) -> [Arc<dyn Registry>; 2] {
        timing.map(|timing| Arc::new(self.registry(&timing, presence)) as _)
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

    pub(super) fn slot_of(&self, shard: Shard) -> Slot {
        Keys::new(&self.prefix).slot_of(shard)
    }
}

impl Home for InCluster {
    fn open(&self, timing: [RegistryTiming; 2], presence: &Presence) -> [Arc<dyn Registry>; 2] {
        timing.map(|timing| {
            let timing = RegistryTiming {
                prefix: self.prefix.clone(),
                ..timing
            };
            let servers = Servers::new(&self.config).unwrap();
            let metrics = Metrics::new().unwrap();
            Arc::new(RedisRegistry::new(&servers, &timing, presence, metrics).unwrap()) as _
        })
    }
}

/// A `redis-server` that ends with this value.
pub(super) struct RedisServer {
    port: u16,
    process: Child,
    _dir: tempfile::TempDir,
}

impl RedisServer {
    pub(super) async fn start() -> Self {
        loop {
            // Somebody else may take the port before Redis does; then Redis ends, and another is tried.
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            if let Some(server) = Self::start_on(port) {
                return server;
            }
        }
    }

    /// One on the port of another that has ended. Waits for the port, which may serve as somebody's end meanwhile.
    pub(super) async fn start_again_on(port: u16) -> Self {
        for _ in 0..600 {
            if let Some(server) = Self::start_on(port) {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("port {port} is taken for a minute");
    }

    /// None if the port is taken.
    fn start_on(port: u16) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Command::new(program())
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &port.to_string()])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is installed");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines
            .map_while(Result::ok)
            .any(|line| line.contains("Ready to accept connections"));
        if !ready {
            process.wait().unwrap();
            return None;
        }
        Some(Self {
            port,
            process,
            _dir: dir,
        })
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// It keeps its connections and takes new ones, and answers none.
    pub(super) fn hang(&self) {
        self.signal("-STOP");
    }

    pub(super) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn timing(lease: Duration) -> RegistryTiming {
    RegistryTiming {
        lease,
        ..RegistryTiming::default()
    }
}

/// A node's view of the registry.
pub(super) struct Peer {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) lease: Lease,
    pub(super) report: NodeReport,
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
    let [a, b] = home.open([timing(a), timing(b)], presence);
    // The longer lease first: the shorter one is to be as fresh as can be.
    let b = Peer::join(b, "b").await;
    let a = Peer::join(a, "a").await;
    [a, b]
}

impl Peer {
    pub(super) async fn join(registry: Arc<dyn Registry>, name: &str) -> Self {
        let peer = Self {
            registry,
            lease: Lease {
                instance: Instance::random(),
                epoch: 1,
            },
            report: NodeReport {
                node_id: name.into(),
                version: "1.2.3".into(),
                started_at: Timestamp::from_second(1_790_000_000).unwrap(),
                connections: 0,
                users: 0,
                draining: false,
                settled: true,
            },
        };
        // A cluster has to be found first.
        eventually("the registry is there", async || {
            let joined = peer.registry.join(&peer.lease, &peer.report).await;
            joined.is_ok()
        })
        .await;
        peer
    }

    /// The same node once it has lost its lease. Its new one is kept as long as `by`'s.
    pub(super) async fn rejoin_with(&self, by: &Self) -> Self {
        let next = Self {
            registry: Arc::clone(&by.registry),
            lease: Lease {
                epoch: self.lease.epoch + 1,
                ..self.lease.clone()
            },
            report: self.report.clone(),
        };
        next.registry.join(&next.lease, &next.report).await.unwrap();
        next
    }

    /// Says that the node lives; whether its lease held.
    pub(super) async fn beat(&self) -> bool {
        self.registry
            .heartbeat(&self.lease, &self.report)
            .await
            .unwrap()
            .held
    }

    /// A connection of this node that is not registered yet.
    pub(super) fn guest(&self) -> Connection {
        self.new_connection(None)
    }

    pub(super) fn connection(&self, user: &str) -> Connection {
        self.new_connection(Some(user.into()))
    }

    fn new_connection(&self, user: Option<UserId>) -> Connection {
        Connection {
            id: self.registry.new_id(user.as_ref()),
            user_id: user,
            namespace: "/".into(),
            node_id: self.report.node_id.clone(),
            transport: TransportKind::Websocket,
            connected_at: Timestamp::from_millisecond(1_790_000_000_123).unwrap(),
            expires_at: Some(Timestamp::from_second(1_790_000_900).unwrap()),
            device_id: None,
            remote_addr: Some("203.0.113.7".into()),
            user_agent: Some("test/1".into()),
        }
    }

    pub(super) async fn register(&self, connection: &Connection) -> Tally {
        self.try_register(connection).await.unwrap()
    }

    pub(super) async fn try_register(
        &self,
        connection: &Connection,
    ) -> Result<Tally, RegistryError> {
        match self.admit(connection, &Grant::default(), None).await? {
            Admission::Admitted { tally, .. } => Ok(tally),
            Admission::Refused(bar) => panic!("{bar:?}"),
        }
    }

    pub(super) async fn admit(
        &self,
        connection: &Connection,
        grant: &Grant,
        limit: Option<UserLimit>,
    ) -> Result<Admission, RegistryError> {
        self.registry
            .register(&self.lease, connection, grant, limit)
            .await
    }

    /// What keeps a new connection of a user out; if nothing does, it is gone again.
    pub(super) async fn bar(&self, user: &str, grant: &Grant) -> Option<Bar> {
        let connection = self.connection(user);
        match self.admit(&connection, grant, None).await.unwrap() {
            Admission::Admitted { .. } => {
                self.unregister(&[&connection]).await;
                None
            }
            Admission::Refused(bar) => Some(bar),
        }
    }

    /// A new connection of a user that came in by a grant, registered.
    pub(super) async fn connect_by(&self, user: &str, grant: &Grant) -> Connection {
        let connection = self.connection(user);
        let admission = self.admit(&connection, grant, None).await.unwrap();
        assert!(
            matches!(admission, Admission::Admitted { .. }),
            "{admission:?}"
        );
        connection
    }

    pub(super) async fn update(&self, connection: &Connection, grant: &Grant) -> Updated {
        self.registry
            .update(&self.lease, connection, grant)
            .await
            .unwrap()
    }

    /// A connection of this node, as an order lists it.
    pub(super) fn lists(&self, connection: &Connection) -> Listed {
        Listed {
            entry: entry(connection),
            instance: self.lease.instance.clone(),
        }
    }

    /// Orders the end of connections.
    pub(super) async fn order(
        &self,
        target: &EndTarget,
        fence: Option<&Fence>,
        ending: &Ending,
    ) -> Ordered {
        let order = EndOrder {
            target,
            fence,
            ending,
        };
        self.registry.order_end(order).await.unwrap()
    }

    /// A new connection of a user, registered.
    pub(super) async fn connect(&self, user: &str) -> Connection {
        let connection = self.connection(user);
        self.register(&connection).await;
        connection
    }

    pub(super) async fn unregister(&self, connections: &[&Connection]) {
        let entries: Vec<_> = connections.iter().map(|it| entry(it)).collect();
        self.registry
            .unregister(&self.lease, &entries)
            .await
            .unwrap();
    }

    /// The ids of a user's connections.
    pub(super) async fn ids(&self, user: &str) -> Vec<String> {
        let entry = self.registry.user(&user.into()).await.unwrap();
        entry
            .connections
            .iter()
            .map(|it| it.id.to_string())
            .collect()
    }

    /// Waits until a lease, of which nobody says any more that its node lives, has run out.
    pub(super) async fn sees_lapse_of(&self, lease: &Lease) {
        eventually("the lease runs out", async || {
            let heartbeat = self
                .registry
                .heartbeat(&self.lease, &self.report)
                .await
                .unwrap();
            assert!(heartbeat.held, "the long lease holds");
            heartbeat.lapsed.contains(lease)
        })
        .await;
    }
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
