//! A master, two replicas and three sentinels of a test's own, on loopback.

#![allow(dead_code)]

use std::{
    collections::HashMap,
    path::Path,
    process::{Child, Command, Stdio},
};

use redis::FromRedisValue;
use switchboard::config::{self, RedisMode};
use tempfile::TempDir;

use super::redis_server::{free_port, patient, program, signal, until};

/// What the sentinels know the master by.
const MASTER: &str = "the-master";

/// How long the master may be silent before a sentinel calls it down.
const DOWN_AFTER_MS: u64 = 1_500;

/// Three servers that hold data, the first of which is the master at first, and three sentinels.
pub(crate) struct Sentinels {
    data: [Server; 3],
    sentinels: [Server; 3],
    _directory: TempDir,
}

struct Server {
    port: u16,
    process: Child,
}

impl Server {
    fn launch(directory: &Path, port: u16, arguments: &[&str]) -> Self {
        let process = Command::new(program())
            .args(arguments)
            .current_dir(directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { port, process }
    }

    async fn run<T: FromRedisValue>(&self, words: &str) -> redis::RedisResult<T> {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = patient(&client).await?;
        command.query_async(&mut connection).await
    }
}

impl Sentinels {
    /// All of them well, and known to each other.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let master = ports[0];
        let data = ports.map(|port| {
            let (port_text, master_text) = (port.to_string(), master.to_string());
            let mut arguments = vec!["--bind", "127.0.0.1", "--port", &port_text];
            arguments.extend(["--save", "", "--appendonly", "no"]);
            arguments.extend(["--repl-diskless-sync-delay", "0"]);
            if port != master {
                arguments.extend(["--replicaof", "127.0.0.1", &master_text]);
            }
            Server::launch(directory.path(), port, &arguments)
        });
        let sentinels = [(); 3].map(|()| {
            let port = free_port();
            let file = format!("sentinel-{port}.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\n\
                 sentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n\
                 sentinel failover-timeout {MASTER} 6000\n\
                 sentinel parallel-syncs {MASTER} 2\n"
            );
            std::fs::write(directory.path().join(&file), text).unwrap();
            Server::launch(directory.path(), port, &[&file, "--sentinel"])
        });
        let all = Self {
            data,
            sentinels,
            _directory: directory,
        };
        for sentinel in &all.sentinels {
            until("a sentinel knows all", async || {
                let known: Result<HashMap<String, String>, _> =
                    sentinel.run(&format!("SENTINEL MASTER {MASTER}")).await;
                known.is_ok_and(|known| {
                    known.get("num-slaves").is_some_and(|it| it == "2")
                        && known.get("num-other-sentinels").is_some_and(|it| it == "2")
                })
            })
            .await;
        }
        for replica in &all.data[1..] {
            until("a replica is in step", async || {
                let info: Result<String, _> = replica.run("INFO replication").await;
                info.is_ok_and(|info| info.contains("master_link_status:up"))
            })
            .await;
        }
        all
    }

    /// As a node is configured to connect to it.
    pub(crate) fn config(&self) -> config::Redis {
        let urls = self.sentinels.iter();
        config::Redis {
            urls: urls
                .map(|sentinel| format!("redis://127.0.0.1:{}", sentinel.port).into())
                .collect(),
            mode: RedisMode::Sentinel,
            master_name: Some(MASTER.into()),
            ..config::Redis::default()
        }
    }

    /// Which of the servers all sentinels call the master.
    pub(crate) async fn master(&self) -> Option<usize> {
        let ask = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {MASTER}");
        let mut agreed = None;
        for sentinel in &self.sentinels {
            let (_host, port): (String, u16) = sentinel.run(&ask).await.ok()?;
            if agreed.is_some_and(|agreed| agreed != port) {
                return None;
            }
            agreed = Some(port);
        }
        self.data.iter().position(|it| Some(it.port) == agreed)
    }

    /// Whether a server takes writes.
    pub(crate) async fn is_master(&self, server: usize) -> bool {
        let info: Result<String, _> = self.data[server].run("INFO replication").await;
        info.is_ok_and(|info| info.contains("role:master"))
    }

    pub(crate) async fn run<T: FromRedisValue>(&self, server: usize, words: &str) -> T {
        self.data[server].run(words).await.unwrap()
    }

    pub(crate) fn kill(&mut self, server: usize) {
        let process = &mut self.data[server].process;
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn signal(&self, server: usize, name: &str) {
        signal(&self.data[server].process, name);
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for Server { process, .. } in self.sentinels.iter_mut().chain(&mut self.data) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
