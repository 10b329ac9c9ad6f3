//! A node in this process, and a client that speaks the protocol by hand.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use secrecy::SecretString;
use serde_json::{Value, json};
use switchboard::{
    App, auth,
    auth::token::{NewToken, mint},
    config::{self, Config},
};
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::redis_server::{PATIENCE, Server, until};

const SECRET: &str = "a-secret-of-the-tests-0123456789abcdef";
const KEY: &str = "a-key-of-the-tests";

/// A node; drains when it is dropped.
pub(crate) struct Node {
    base: String,
    config: Config,
    http: reqwest::Client,
    _shutdown: oneshot::Sender<()>,
    _run: JoinHandle<()>,
}

/// Nodes around one Redis, all of them ready.
pub(crate) async fn fleet(redis: &Server, size: usize) -> Vec<Node> {
    fleet_of(&redis.config(), size).await
}

/// The same around a Redis of whatever mode.
pub(crate) async fn fleet_of(redis: &config::Redis, size: usize) -> Vec<Node> {
    auth::install_crypto().unwrap();
    let mut nodes = Vec::new();
    for number in 0..size {
        nodes.push(Node::start(redis, number).await);
    }
    for node in &nodes {
        node.ready().await;
    }
    nodes
}

impl Node {
    async fn start(redis: &config::Redis, number: usize) -> Self {
        let mut config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            node_id: Some(format!("node-{number}")),
            ..Config::default()
        };
        config.redis = redis.clone();
        config.auth.jwt.secret = Some(SecretString::from(SECRET));
        config.api.key = Some(KEY.into());
        config.drain.window = Duration::ZERO;
        let app = App::bind(config.clone()).await.unwrap();
        let base = format!("http://{}", app.addr().unwrap());
        let (shutdown, told) = oneshot::channel::<()>();
        let run = tokio::spawn(app.run(
            async {
                told.await.ok();
            },
            std::future::pending(),
        ));
        Self {
            base,
            config,
            http: reqwest::Client::new(),
            _shutdown: shutdown,
            _run: run,
        }
    }

    async fn ready(&self) {
        until("the node is ready", async || {
            let answer = self.http.get(format!("{}/readyz", self.base)).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self
            .http
            .post(format!("{}{path}", self.base))
            .bearer_auth(KEY)
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        let answer = self
            .http
            .get(format!("{}/metrics", self.base))
            .bearer_auth(KEY)
            .send()
            .await
            .unwrap();
        answer.text().await.unwrap()
    }

    /// Connects a user, and waits for its `ready`.
    pub(crate) async fn connect(&self, user: &str) -> Client {
        let token = mint(
            &self.config.auth.jwt,
            &NewToken::new(user, Duration::from_secs(600)),
        )
        .unwrap();
        Client::connect(&self.base, &token.token).await
    }
}

/// A client over a raw WebSocket.
pub(crate) struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn connect(base: &str, token: &SecretString) -> Self {
        use secrecy::ExposeSecret;
        let url = format!(
            "{}/socket.io/?EIO=4&transport=websocket",
            base.replace("http", "ws")
        );
        let (socket, _) = connect_async(url).await.unwrap();
        let mut client = Self(socket);
        let credentials = json!({ "token": token.expose_secret() });
        client
            .0
            .send(Message::text(format!("40{credentials}")))
            .await
            .unwrap();
        assert_eq!(client.next_event().await[0], "ready");
        client
    }

    /// The next event, pings answered meanwhile.
    pub(crate) async fn next_event(&mut self) -> Value {
        loop {
            let message = timeout(PATIENCE, self.0.next())
                .await
                .expect("an event in time");
            let message = message.expect("a connection that is open").unwrap();
            let text = message.into_text().unwrap();
            if text.as_str() == "2" {
                self.0.send(Message::text("3")).await.unwrap();
            } else if let Some(event) = text.strip_prefix("42") {
                return serde_json::from_str(event).unwrap();
            }
        }
    }
}
