//! A node as a process of its own, and a neighbour on it who wants nothing but to be served.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use switchboard::{
    auth,
    auth::token::{NewToken, mint},
    config::Config,
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::redis_server::{PATIENCE, Server, until};

pub(crate) const SECRET: &str = "a-secret-of-the-tests-0123456789abcdef";
pub(crate) const KEY: &str = "a-key-of-the-tests";

/// Ends with this value.
pub(crate) struct Node {
    process: Child,
    /// `127.0.0.1:port`
    pub(crate) address: String,
    log: Arc<Mutex<String>>,
    pub(crate) http: reqwest::Client,
}

/// Keeps all that a stream says; the address is sent when it comes by.
fn keep(
    stream: impl Read + Send + 'static,
    log: Arc<Mutex<String>>,
    address: mpsc::UnboundedSender<String>,
) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("listening on http://") {
                let end = rest.find(|it: char| !(it.is_ascii_digit() || ".:".contains(it)));
                address
                    .send(rest[..end.unwrap_or(rest.len())].to_owned())
                    .ok();
            }
            let mut log = log.lock();
            log.push_str(&line);
            log.push('\n');
        }
    });
}

impl Node {
    pub(crate) async fn start(redis: Option<&Server>) -> Self {
        auth::install_crypto().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SWITCHBOARD_") {
                command.env_remove(name);
            }
        }
        command
            .args(["--listen", "127.0.0.1:0"])
            .env("SWITCHBOARD_JWT_SECRET", SECRET)
            .env("SWITCHBOARD_API_KEY", KEY)
            .env("SWITCHBOARD_PING__INTERVAL", "1s")
            .env("SWITCHBOARD_PING__TIMEOUT", "10s")
            .env("SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT", "3s")
            .env("SWITCHBOARD_LIMITS__EVENTS_PER_SECOND", "100000")
            .env("SWITCHBOARD_LIMITS__EVENTS_BURST", "100000")
            .env("SWITCHBOARD_LIMITS__CONNECTS_PER_SECOND_PER_USER", "0")
            .env("SWITCHBOARD_LIMITS__MAX_PAYLOAD", "100KB")
            .env("SWITCHBOARD_TRUSTED_PROXIES", "127.0.0.0/8")
            .env("SWITCHBOARD_AUTH__SESSION__SECRETS", "tobiiscool")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(redis) = redis {
            command.env("SWITCHBOARD_REDIS_URL", redis.url());
        } else {
            // Sessions are kept in Redis alone.
            command.env_remove("SWITCHBOARD_AUTH__SESSION__SECRETS");
        }
        let mut process = command.spawn().unwrap();
        let log = Arc::default();
        let (address, mut said) = mpsc::unbounded_channel();
        keep(
            process.stdout.take().unwrap(),
            Arc::clone(&log),
            address.clone(),
        );
        keep(process.stderr.take().unwrap(), Arc::clone(&log), address);
        let Ok(Some(address)) = timeout(PATIENCE, said.recv()).await else {
            panic!("it does not listen: {}", log.lock());
        };
        let node = Self {
            process,
            address,
            log,
            // A node closes a connection whose request's body it did not want; a client that keeps connections would trip over it.
            http: reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
        };
        until("the node is ready", async || {
            let answer = node.http.get(node.url("/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        node
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn token(user: &str) -> String {
        let mut config = Config::default();
        config.auth.jwt.secret = Some(SecretString::from(SECRET));
        let minted = mint(
            &config.auth.jwt,
            &NewToken::new(user, Duration::from_secs(3600)),
        )
        .unwrap();
        minted.token.expose_secret().to_owned()
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        let asked = self.http.get(self.url(path)).bearer_auth(KEY).send().await;
        asked.unwrap().text().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await).unwrap()
    }

    pub(crate) async fn series(&self, series: &str) -> u64 {
        let metrics = self.get("/metrics").await;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kilobytes.unwrap().parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.process.id());
        std::fs::read_dir(path).unwrap().count()
    }

    /// Nothing has panicked so far, and the process is there.
    pub(crate) fn is_sound(&mut self) {
        assert_eq!(
            self.process.try_wait().unwrap(),
            None,
            "{}",
            self.log.lock()
        );
        let log = self.log.lock();
        let panicked = log.lines().position(|line| line.contains("panicked"));
        if let Some(at) = panicked {
            let around: Vec<_> = log.lines().skip(at).take(4).collect();
            panic!("{}", around.join("\n"));
        }
    }

    /// In the end the registry is exactly the neighbour.
    pub(crate) async fn has_only(&self, user: &str) {
        until("the registry has the neighbour alone", async || {
            let stats = self.json("/v1/stats").await;
            let users = self.json("/v1/users").await;
            let alone = json!([{ "userId": user, "connections": 1, "devices": 1 }]);
            stats == json!({ "nodes": 1, "connections": 1, "users": 1 }) && users["users"] == alone
        })
        .await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Connected all along.
pub(crate) struct Neighbour {
    pub(crate) user: &'static str,
    events: mpsc::UnboundedReceiver<Value>,
    sent: u64,
    others: u64,
    _reading: JoinHandle<()>,
}

impl Neighbour {
    pub(crate) async fn move_in(node: &Node) -> Self {
        let user = "neighbour";
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", node.address);
        let (mut socket, _) = connect_async(url).await.unwrap();
        let credentials = json!({ "token": Node::token(user) });
        socket
            .send(Message::text(format!("40{credentials}")))
            .await
            .unwrap();
        let (told, events) = mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                let Ok(text) = message.into_text() else { break };
                if text.as_str() == "2" {
                    socket.send(Message::text("3")).await.ok();
                } else if let Some(event) = text.strip_prefix("42") {
                    told.send(serde_json::from_str(event).unwrap()).ok();
                }
            }
        });
        let mut neighbour = Self {
            user,
            events,
            sent: 0,
            others: 0,
            _reading: reading,
        };
        assert_eq!(neighbour.next().await[0], "ready");
        neighbour
    }

    async fn next(&mut self) -> Value {
        let event = timeout(PATIENCE, self.events.recv()).await;
        event
            .expect("an event in time")
            .expect("a connection that is open")
    }

    /// Whether no event but its own came.
    pub(crate) fn heard_nothing_else(&self) -> bool {
        self.others == 0
    }

    /// A send reaches it.
    pub(crate) async fn is_well(&mut self, node: &Node) {
        self.sent += 1;
        let path = format!("/v1/users/{}/events", self.user);
        let body = json!({ "event": "echo", "data": self.sent });
        let send = node.http.post(node.url(&path)).bearer_auth(KEY).json(&body);
        let answer = timeout(PATIENCE, send.send())
            .await
            .expect("an answer in time")
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(
            answer,
            json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 })
        );
        loop {
            let event = self.next().await;
            if event[0] == "echo" {
                assert_eq!(event[1], self.sent);
                break;
            }
            self.others += 1;
        }
    }
}
