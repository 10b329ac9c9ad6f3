//! Real node processes around one Redis.
//!
//! [`Fleet::start`] starts them with settings of the test's own; each is behind a [`Proxy`] to Redis if the test asks for it.
//! When a test fails, the fleet prints the run's history and the end of every node's log.
//!
//! A run ends with [`Fleet::finish`]: exact, then empty, then exit code 0 and nothing left over (see `oracle`).

use std::{net::SocketAddr, ops::Index, process::Command, time::Duration};

use super::{
    api::Api,
    bounds::{bound, seconds, within},
    client::Client,
    oracle,
    process::Process,
    proxy::Proxy,
    redis_server::Server,
    run::Run,
    stored::Stored,
    token::{KEY, SECRET},
};

/// How many lines of each node's log a failure shows.
const SHOWN: usize = 60;

/// What a fleet is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) size: usize,
    /// `registry.heartbeat` and `registry.lease`.
    pub(crate) heartbeat: Duration,
    pub(crate) lease: Duration,
    /// Whether each node has a proxy to Redis.
    pub(crate) proxied: bool,
    /// Further settings: names after `SWITCHBOARD_`, and values.
    pub(crate) settings: Vec<(String, String)>,
    /// The program before the binary, with its arguments, as of `faketime`; empty: none.
    pub(crate) wrapper: Vec<String>,
}

impl Plan {
    /// Nodes with the defaults of the product, but that they drain at once.
    pub(crate) fn of(size: usize) -> Self {
        Self {
            size,
            heartbeat: Duration::from_secs(3),
            lease: Duration::from_secs(10),
            proxied: false,
            settings: Vec::new(),
            wrapper: Vec::new(),
        }
        .with("DRAIN__WINDOW", "0s")
    }

    /// Nodes whose lease is 2 s, for tests that wait for it to run out; longer on a machine that is slow, where a node may not
    /// get to its heartbeat in time.
    pub(crate) fn brisk(size: usize) -> Self {
        Self {
            heartbeat: bound(Duration::from_millis(500)),
            lease: bound(Duration::from_secs(2)),
            ..Self::of(size)
        }
    }

    /// The same, each node behind a proxy.
    pub(crate) fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// The same with a setting.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A fleet. Nodes are looked up by number: `fleet[0]`.
pub(crate) struct Fleet {
    pub(crate) run: Run,
    pub(crate) redis: Server,
    pub(crate) plan: Plan,
    pub(crate) nodes: Vec<Node>,
    started: usize,
}

/// A node process.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    pub(crate) api: Api,
    pub(crate) process: Process,
    /// Between it and Redis.
    pub(crate) proxy: Option<Proxy>,
    base: usize,
    /// Killed or stopped by the test: it answers nobody, and the oracle does not ask it.
    pub(crate) silent: bool,
}

impl Fleet {
    /// Starts Redis and nodes, and waits until all are ready.
    pub(crate) async fn start(run: &Run, plan: Plan) -> Self {
        let redis = Server::start().await;
        Self::around(run, plan, redis).await
    }

    /// The same around a Redis that is there.
    pub(crate) async fn around(run: &Run, plan: Plan, redis: Server) -> Self {
        let mut fleet = Self {
            run: run.clone(),
            redis,
            nodes: Vec::new(),
            started: 0,
            plan,
        };
        let starting = (0..fleet.plan.size).map(|number| fleet.launch(number));
        fleet.nodes = futures_util::future::join_all(starting).await;
        fleet.started = fleet.plan.size;
        fleet
    }

    /// Adds a node; returns its number.
    pub(crate) async fn add(&mut self) -> usize {
        let node = self.launch(self.started).await;
        self.started += 1;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    async fn launch(&self, number: usize) -> Node {
        let name = format!("node-{number}");
        let redis = redis_addr(&self.redis);
        let proxy = match self.plan.proxied {
            true => Some(Proxy::start(redis).await),
            false => None,
        };
        let redis = proxy.as_ref().map_or(redis, Proxy::addr);
        Node::start(&self.plan, name, redis, proxy).await
    }

    /// The nodes that are to answer.
    pub(crate) fn up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.silent)
    }

    /// A node by name.
    pub(crate) fn named(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, number: usize) {
        self.run
            .note(format!("kill -9 {}", self.nodes[number].name));
        self.nodes[number].silent = true;
        self.nodes[number].process.kill();
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&mut self, number: usize) {
        self.run
            .note(format!("SIGSTOP {}", self.nodes[number].name));
        self.nodes[number].silent = true;
        self.nodes[number].process.stop();
    }

    /// SIGCONT.
    pub(crate) fn wake(&mut self, number: usize) {
        self.run
            .note(format!("SIGCONT {}", self.nodes[number].name));
        self.nodes[number].silent = false;
        self.nodes[number].process.signal("CONT");
    }

    /// Connects clients of the users `prefix-0`, `prefix-1`, … in turn to the nodes that are up; eight at a time.
    pub(crate) async fn crowd(&self, prefix: &str, count: usize) -> Vec<Client> {
        use futures_util::StreamExt;
        let doors: Vec<_> = self.up().map(|node| node.addr).collect();
        let coming = (0..count).map(|number| {
            let (door, user) = (doors[number % doors.len()], format!("{prefix}-{number}"));
            async move { Client::of(door, &user).await }
        });
        futures_util::stream::iter(coming)
            .buffered(8)
            .collect()
            .await
    }

    /// Awaits that the registry, and every node's answers, are exactly the open ones of `clients`; what nodes report with their
    /// heartbeats gets one heartbeat more. Returns how long the first took.
    pub(crate) async fn exact<'a>(
        &self,
        clients: impl IntoIterator<Item = &'a Client>,
        limit: Duration,
    ) -> Duration {
        let clients: Vec<_> = clients.into_iter().collect();
        let look = async || oracle::exact(self, &clients).await;
        let (took, ()) = within(limit, "the registry is exact", look).await;
        self.run.note(format!("exact after {took:?}"));
        let look = async || oracle::reported(self, &clients).await;
        let next = limit + bound(self.plan.heartbeat);
        within(next, "what nodes report with each heartbeat is exact", look).await;
        took
    }

    /// The end of every run: exact within `limit`; then all clients go, and nothing of them is left in the registry, in Redis
    /// or in a node; then the nodes are told to end, and do, with exit code 0 and nothing of theirs left in Redis.
    pub(crate) async fn finish(mut self, clients: Vec<Client>, limit: Duration) {
        self.exact(&clients, limit).await;
        drop(clients);
        self.run.note("all clients go");
        let look = async || oracle::empty(&self).await;
        within(
            seconds(15.0),
            "nothing is left of clients that are gone",
            look,
        )
        .await;
        for node in &mut self.nodes {
            if !node.silent {
                node.process.signal("TERM");
            }
        }
        for node in &mut self.nodes {
            if !node.silent {
                let status = node.process.ends(bound(Duration::from_secs(15))).await;
                assert_eq!(status.code(), Some(0), "exit code of {}", node.name);
            }
            node.silent = true;
        }
        let left = Stored::read(&self.redis, "switchboard").await.unwrap();
        assert_eq!(
            left.leftovers(true),
            Vec::<String>::new(),
            "left by nodes that have left"
        );
        oracle::no_panic(&self).unwrap();
    }
}

impl Index<usize> for Fleet {
    type Output = Node;

    fn index(&self, number: usize) -> &Node {
        &self.nodes[number]
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.run.show();
        for node in &self.nodes {
            let log = node.process.log();
            let from = log.len().saturating_sub(SHOWN);
            eprintln!(
                "--- the end of the log of {} ---\n{}",
                node.name,
                log[from..].join("\n")
            );
        }
    }
}

/// Where a Redis of the tests listens.
pub(crate) fn redis_addr(redis: &Server) -> SocketAddr {
    let url = redis.url();
    let addr = url.trim_start_matches("redis://").trim_end_matches('/');
    addr.parse().unwrap()
}

impl Node {
    async fn start(plan: &Plan, name: String, redis: SocketAddr, proxy: Option<Proxy>) -> Self {
        let binary = env!("CARGO_BIN_EXE_switchboard");
        let mut words = plan.wrapper.iter().map(String::as_str).chain([binary]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(["serve", "--listen", "127.0.0.1:0"]);
        command.args(["--node-id", &name]);
        command
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| name == "PATH"));
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        let own = [
            ("JWT_SECRET", SECRET.to_owned()),
            ("API_KEY", KEY.to_owned()),
            ("REDIS_URL", format!("redis://{redis}/")),
            ("REGISTRY__HEARTBEAT", millis(plan.heartbeat)),
            ("REGISTRY__LEASE", millis(plan.lease)),
            ("LIMITS__CONNECTIONS_PER_USER", "0".to_owned()),
            ("LIMITS__CONNECTS_PER_SECOND_PER_USER", "0".to_owned()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        for (name, value) in own.into_iter().chain(plan.settings.iter().cloned()) {
            command.env(format!("SWITCHBOARD_{name}"), value);
        }
        let process = Process::spawn(&mut command);
        let address = |line: &str| {
            let (before, after) = line.split_once("listening on http://")?;
            (!before.ends_with("internal "))
                .then(|| after.split_whitespace().next()?.parse().ok())?
        };
        let addr: SocketAddr = process
            .line("the node says where it listens", address)
            .await;
        let mut node = Self {
            name,
            addr,
            api: Api::new(addr),
            process,
            proxy,
            base: 0,
            silent: false,
        };
        node.ready(seconds(60.0)).await;
        node.base = node.process.descriptors();
        node
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self, limit: Duration) -> Duration {
        let what = format!("{} is ready", self.name);
        within(limit, &what, async || self.api.ready().await)
            .await
            .0
    }

    /// Waits until it says that it is not.
    pub(crate) async fn unready(&self, limit: Duration) -> Duration {
        let what = format!("{} says that it is not ready", self.name);
        let look = async || match self.api.ready().await {
            Err(_) => Ok(()),
            Ok(()) => Err("ready".to_owned()),
        };
        within(limit, &what, look).await.0
    }

    /// How many file descriptors it had when it was ready, before its first client.
    pub(crate) fn base(&self) -> usize {
        self.base
    }

    /// How many lines of its log have each of the words.
    pub(crate) fn logged(&self, words: &[&str]) -> Vec<String> {
        let mut log = self.process.log();
        log.retain(|line| words.iter().all(|word| line.contains(word)));
        log
    }
}
