//! A node in this process, and a client that speaks the protocol by hand.

#![allow(dead_code)]

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use switchboard::{
    Builder, auth,
    auth::token::{NewToken, mint},
    config::{self, Config},
    registry::keys::Shards,
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue},
};

use super::redis_server::{PATIENCE, Server, until};

pub(crate) const SECRET: &str = "a-secret-of-the-tests-0123456789abcdef";
const KEY: &str = "a-key-of-the-tests";
/// That of the vector in cookie-signature's own tests.
const COOKIE_SECRET: &str = "tobiiscool";

/// A node; drains when it is dropped.
pub(crate) struct Node {
    base: String,
    config: Config,
    http: reqwest::Client,
    shutdown: oneshot::Sender<()>,
    run: JoinHandle<()>,
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
    pub(crate) async fn start(redis: &config::Redis, number: usize) -> Self {
        Self::start_as(redis, number, |_| ()).await
    }

    /// One that divides the registry into these shards.
    pub(crate) async fn start_with(redis: &config::Redis, number: usize, shards: Shards) -> Self {
        Self::start_as(redis, number, |config| config.registry.shards = shards).await
    }

    /// One whose configuration is `changed`.
    pub(crate) async fn start_as(
        redis: &config::Redis,
        number: usize,
        changed: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            node_id: Some(format!("node-{number}")),
            ..Config::default()
        };
        config.redis = redis.clone();
        config.auth.jwt.secret = Some(SecretString::from(SECRET));
        config.api.key = Some(KEY.into());
        config.drain.window = Duration::ZERO;
        config.auth.session.secrets = vec![COOKIE_SECRET.into()];
        changed(&mut config);
        let app = Builder::new(config.clone()).bind().await.unwrap();
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
            shutdown,
            run,
        }
    }

    pub(crate) async fn ready(&self) {
        until("the node is ready", async || self.is_ready().await).await;
    }

    /// Drains it, and waits until it is gone.
    pub(crate) async fn stop(self) {
        let Self { shutdown, run, .. } = self;
        drop(shutdown);
        timeout(PATIENCE, run).await.expect("it ends").unwrap();
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

    /// Calls the API, whatever it answers.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Value) -> reqwest::Response {
        let call = self
            .http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(KEY)
            .json(&body);
        call.send().await.unwrap()
    }

    /// Reads from the API.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path, Value::Null).await;
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap()
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/readyz", self.base)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
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
        let mut client = self.knock(user).await.expect("an upgrade");
        assert_eq!(client.next_event().await[0], "ready");
        client
    }

    /// Connects a user; the error is that of the upgrade.
    pub(crate) async fn knock(&self, user: &str) -> Result<Client, tungstenite::Error> {
        self.knock_by(&NewToken::new(user, Duration::from_secs(600)))
            .await
    }

    /// Connects by a token; the error is that of the upgrade.
    pub(crate) async fn knock_by(&self, token: &NewToken) -> Result<Client, tungstenite::Error> {
        let token = mint(&self.config.auth.jwt, token).unwrap();
        let credentials = json!({ "token": token.token.expose_secret() });
        Client::open(&self.base, None, &credentials.to_string()).await
    }

    /// Connects with a cookie, and waits for `ready`.
    pub(crate) async fn connect_by_cookie(&self, cookie: &str) -> Client {
        let mut client = Client::open(&self.base, Some(cookie), "").await.unwrap();
        assert_eq!(client.next_event().await[0], "ready");
        client
    }
}

/// A client over a raw WebSocket.
pub(crate) struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn open(
        base: &str,
        cookie: Option<&str>,
        credentials: &str,
    ) -> Result<Self, tungstenite::Error> {
        let url = format!(
            "{}/socket.io/?EIO=4&transport=websocket",
            base.replace("http", "ws")
        );
        let mut request = url.into_client_request()?;
        if let Some(cookie) = cookie {
            let headers = request.headers_mut();
            headers.insert("cookie", HeaderValue::from_str(cookie).unwrap());
            headers.insert("origin", HeaderValue::from_str(base).unwrap());
        }
        let (mut socket, _) = connect_async(request).await?;
        socket
            .send(Message::text(format!("40{credentials}")))
            .await?;
        Ok(Self(socket))
    }

    /// The next packet of Socket.IO, pings answered meanwhile; none once the connection is closed.
    pub(crate) async fn next_packet(&mut self) -> Option<String> {
        loop {
            let text = self.0.next().await?.ok()?.into_text().ok()?;
            if text.as_str() == "2" {
                self.0.send(Message::text("3")).await.ok()?;
            } else if text.starts_with('4') {
                return Some(text.as_str().to_owned());
            }
        }
    }

    /// Reads on by itself. What comes are its events; they end with the connection.
    pub(crate) fn read_on(mut self) -> mpsc::UnboundedReceiver<Value> {
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(packet) = self.next_packet().await {
                if let Some(event) = packet.strip_prefix("42")
                    && sender.send(serde_json::from_str(event).unwrap()).is_err()
                {
                    break;
                }
            }
        });
        events
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
