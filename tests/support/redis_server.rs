//! A redis-server of a test's own, and the waiting that goes with it. Each test binary uses its part of it.

#![allow(dead_code)]

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use switchboard::{config, link::Servers};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// No wait in these tests takes longer; one that does has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits a condition by asking for it.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The server under test: `redis-server`, or what takes its place.
pub(crate) fn program() -> String {
    std::env::var("SWITCHBOARD_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into())
}

/// The ports that [`free_port`] has given: a server may not listen yet on its own, or just now be away.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nobody listens on, and a different one each time. It is below the ports that the system hands out to
/// outgoing connections, one of which could take it before, or while a server is away.
pub(crate) fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| rand::random_range(10_000..30_000));
    ports
        .find(|port| free(port) && GIVEN.lock().insert(*port))
        .unwrap()
}

/// Sends a process a signal by name.
pub(crate) fn signal(process: &Child, name: &str) {
    let id = process.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status();
    assert!(sent.unwrap().success());
}

/// A connection that waits for its answers, also on a machine that is busy with other things.
pub(crate) async fn patient(client: &redis::Client) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Redis on a port that stays the same over restarts.
pub(crate) struct Server {
    port: u16,
    directory: TempDir,
    process: Option<Child>,
}

impl Server {
    /// Picks a port without starting anything.
    pub(crate) fn absent() -> Self {
        Self {
            port: free_port(),
            directory: tempfile::tempdir().unwrap(),
            process: None,
        }
    }

    pub(crate) async fn start() -> Self {
        let mut server = Self::absent();
        server.launch().await;
        server
    }

    /// Starts it, empty, and waits until it answers.
    pub(crate) async fn launch(&mut self) {
        let process = Command::new(program())
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(&self.directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.process = Some(process);
        let client = self.client();
        until("redis-server answers", async || {
            client.get_multiplexed_async_connection().await.is_ok()
        })
        .await;
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.process.as_ref().unwrap(), name);
    }

    pub(crate) fn client(&self) -> redis::Client {
        self.client_of("")
    }

    /// `login` is empty, or `user:password@`.
    pub(crate) fn client_of(&self, login: &str) -> redis::Client {
        let port = self.port;
        redis::Client::open(format!("redis://{login}127.0.0.1:{port}/?protocol=resp3")).unwrap()
    }

    /// As a node is configured to connect to it. `login` as for `client_of`.
    pub(crate) fn config_of(&self, login: &str) -> config::Redis {
        config::Redis {
            urls: vec![format!("redis://{login}127.0.0.1:{}", self.port).into()],
            ..config::Redis::default()
        }
    }

    pub(crate) fn config(&self) -> config::Redis {
        self.config_of("")
    }

    pub(crate) fn servers_of(&self, login: &str) -> Servers {
        Servers::new(&self.config_of(login)).unwrap()
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        patient(&self.client()).await.unwrap()
    }

    /// Runs a command given as words.
    pub(crate) async fn run<T: redis::FromRedisValue>(&self, words: &str) -> T {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        let mut connection = self.connection().await;
        command.query_async(&mut connection).await.unwrap()
    }

    pub(crate) async fn subscribers(&self, channel: &str) -> u64 {
        let (_, count): (String, u64) = self.run(&format!("PUBSUB SHARDNUMSUB {channel}")).await;
        count
    }

    /// A section of what Redis says of itself.
    pub(crate) async fn info(&self, section: &str) -> String {
        self.run(&format!("INFO {section}")).await
    }

    /// Publishes bytes; returns how many heard them.
    pub(crate) async fn publish(&self, channel: &str, payload: &[u8]) -> u64 {
        let mut connection = self.connection().await;
        let mut command = redis::cmd("SPUBLISH");
        command.arg(channel).arg(payload);
        command.query_async(&mut connection).await.unwrap()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
