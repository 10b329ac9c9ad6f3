//! A Redis Cluster of a test's own, on loopback. Each test binary uses its part of it.

#![allow(dead_code)]

use std::{
    process::{Child, Command, Stdio},
    sync::{Arc, Weak},
};

use redis::{FromRedisValue, aio::MultiplexedConnection};
use switchboard::{
    config::{self, RedisMode},
    link::{Servers, Slot},
};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::redis_server::{free_port, patient, program, signal, until};

/// How long a server may be silent before the others call it failed.
const NODE_TIMEOUT_MS: u64 = 2_000;

/// Masters, each with the same number of replicas.
pub(crate) struct Cluster {
    servers: Vec<Server>,
    _directory: TempDir,
}

struct Server {
    port: u16,
    bus_port: u16,
    process: Option<Child>,
    directory: std::path::PathBuf,
}

/// The one that is shared, as long as somebody has it: a test binary ends without dropping what is static.
static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());

impl Cluster {
    /// Three masters that others may use at the same time.
    pub(crate) async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start(0).await);
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    /// Three masters, each with so many replicas, all of them well.
    pub(crate) async fn start(replicas: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let servers = (0..3 * (1 + replicas))
            .map(|_| {
                let (port, bus_port) = (free_port(), free_port());
                let mut server = Server {
                    port,
                    bus_port,
                    process: None,
                    directory: directory.path().to_owned(),
                };
                server.launch();
                server
            })
            .collect();
        let cluster = Self {
            servers,
            _directory: directory,
        };
        for server in 0..cluster.servers.len() {
            cluster.answers(server).await;
        }
        for (master, slots) in ["0 5460", "5461 10922", "10923 16383"].iter().enumerate() {
            let () = cluster
                .run(master, &format!("CLUSTER ADDSLOTSRANGE {slots}"))
                .await;
            let () = cluster
                .run(master, &format!("CLUSTER SET-CONFIG-EPOCH {}", master + 1))
                .await;
        }
        let count = cluster.servers.len();
        for server in 1..count {
            let Server { port, bus_port, .. } = cluster.servers[0];
            let meet = format!("CLUSTER MEET 127.0.0.1 {port} {bus_port}");
            let () = cluster.run(server, &meet).await;
        }
        cluster
            .all_say(&format!("cluster_known_nodes:{count}"))
            .await;
        for replica in 3..count {
            let id: String = cluster.run(replica % 3, "CLUSTER MYID").await;
            until("a replica knows its master", async || {
                let replicate = format!("CLUSTER REPLICATE {id}");
                cluster.try_run::<()>(replica, &replicate).await.is_ok()
            })
            .await;
        }
        cluster.all_say("cluster_state:ok").await;
        for replica in 3..count {
            until("a replica is in step", async || {
                let info: String = cluster.run(replica, "INFO replication").await;
                info.contains("master_link_status:up")
            })
            .await;
        }
        cluster
    }

    /// Waits until every server that runs says this of the cluster.
    pub(crate) async fn all_say(&self, line: &str) {
        for (index, server) in self.servers.iter().enumerate() {
            if server.process.is_some() {
                until(line, async || {
                    let info = self.try_run::<String>(index, "CLUSTER INFO").await;
                    info.is_ok_and(|info| info.lines().any(|it| it == line))
                })
                .await;
            }
        }
    }

    async fn answers(&self, server: usize) {
        until("a server of the cluster answers", async || {
            self.try_run::<()>(server, "PING").await.is_ok()
        })
        .await;
    }

    /// As a node is configured to connect to it; by two of the servers.
    pub(crate) fn config(&self) -> config::Redis {
        let seeds = self.servers.iter().take(2);
        config::Redis {
            urls: seeds
                .map(|server| format!("redis://127.0.0.1:{}", server.port).into())
                .collect(),
            mode: RedisMode::Cluster,
            ..config::Redis::default()
        }
    }

    pub(crate) fn servers(&self) -> Servers {
        Servers::new(&self.config()).unwrap()
    }

    fn client(&self, server: usize) -> redis::Client {
        let port = self.servers[server].port;
        redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp3")).unwrap()
    }

    pub(crate) async fn connection(&self, server: usize) -> MultiplexedConnection {
        patient(&self.client(server)).await.unwrap()
    }

    /// Runs a command given as words on one server.
    pub(crate) async fn run<T: FromRedisValue>(&self, server: usize, words: &str) -> T {
        let answer = self.try_run(server, words).await;
        answer.unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    async fn try_run<T: FromRedisValue>(
        &self,
        server: usize,
        words: &str,
    ) -> redis::RedisResult<T> {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        let mut connection = patient(&self.client(server)).await?;
        command.query_async(&mut connection).await
    }

    /// Which of the servers that run takes writes for a slot; none if none does.
    pub(crate) async fn master_of(&self, slot: Slot) -> Option<usize> {
        let servers = self.servers();
        let mut maps = servers.maps();
        let map = maps.wait_for(|map| !map.servers().is_empty()).await;
        let port = map.unwrap().at(slot)?.port;
        self.servers.iter().position(|server| server.port == port)
    }

    pub(crate) fn kill(&mut self, server: usize) {
        if let Some(mut process) = self.servers[server].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts a server that was killed; it has lost its data, and knows the cluster.
    pub(crate) async fn launch(&mut self, server: usize) {
        self.servers[server].launch();
        self.answers(server).await;
    }

    pub(crate) fn signal(&self, server: usize, name: &str) {
        signal(self.servers[server].process.as_ref().unwrap(), name);
    }

    /// Moves a slot with all its keys from one master to another, as `redis-cli --cluster reshard` does.
    pub(crate) async fn move_slot(&self, slot: Slot, from: usize, to: usize) {
        let slot = slot.number();
        let ids: [String; 2] = [
            self.run(from, "CLUSTER MYID").await,
            self.run(to, "CLUSTER MYID").await,
        ];
        let setslot = |state: &str, id: &str| format!("CLUSTER SETSLOT {slot} {state} {id}");
        let () = self.run(to, &setslot("IMPORTING", &ids[0])).await;
        let () = self.run(from, &setslot("MIGRATING", &ids[1])).await;
        let port = self.servers[to].port;
        loop {
            let mut connection = self.connection(from).await;
            let mut some = redis::cmd("CLUSTER");
            some.arg("GETKEYSINSLOT").arg(slot).arg(100);
            let keys: Vec<Vec<u8>> = some.query_async(&mut connection).await.unwrap();
            if keys.is_empty() {
                break;
            }
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(port).arg("").arg(0).arg(5_000);
            migrate.arg("KEYS").arg(keys);
            let () = migrate.query_async(&mut connection).await.unwrap();
        }
        let () = self.run(to, &setslot("NODE", &ids[1])).await;
        let () = self.run(from, &setslot("NODE", &ids[1])).await;
    }
}

impl Server {
    fn launch(&mut self) {
        let process = Command::new(program())
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.port.to_string()])
            .args(["--cluster-enabled", "yes"])
            .args(["--cluster-port", &self.bus_port.to_string()])
            .args(["--cluster-config-file", &format!("{}.conf", self.port)])
            .args(["--cluster-node-timeout", &NODE_TIMEOUT_MS.to_string()])
            .args(["--repl-diskless-sync-delay", "0"])
            .current_dir(&self.directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.process = Some(process);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Some(mut process) = server.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}
