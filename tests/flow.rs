//! What a client that misbehaves costs the process it is connected to: a node in this process, whose tasks can be counted.
//! `library` is what an application in the same process gets of its clients.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "flow/library.rs"]
mod library;
#[path = "support/mod.rs"]
mod support;

use support::redis_server;

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt, future::join_all};
use redis_server::{PATIENCE, Server, until};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use switchboard::{
    Builder, auth,
    auth::token::{NewToken, mint},
    config::Config,
};
use tokio::{
    net::TcpStream,
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A node; drains when it is dropped.
struct Node {
    address: SocketAddr,
    config: Config,
    _shutdown: oneshot::Sender<()>,
}

impl Node {
    async fn start(config: Config) -> Self {
        Self::with(config, |builder| builder).await
    }

    /// A node with handlers.
    async fn with(mut config: Config, handlers: impl FnOnce(Builder) -> Builder) -> Self {
        auth::install_crypto().unwrap();
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.auth.jwt.secret = Some(SecretString::from("a-secret-of-the-tests-0123456789abcdef"));
        config.api.key = Some("a-key-of-the-tests".into());
        config.drain.window = Duration::ZERO;
        let builder = handlers(Builder::new(config.clone()));
        let app = builder.bind().await.unwrap();
        let address = app.addr().unwrap();
        let (shutdown, told) = oneshot::channel::<()>();
        let until_told = async {
            told.await.ok();
        };
        tokio::spawn(app.run(until_told, std::future::pending()));
        until("the node is ready", async || {
            #[expect(clippy::disallowed_methods, reason = "`until` bounds it")]
            let answer = reqwest::get(format!("http://{address}/readyz")).await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        Self {
            address,
            config,
            _shutdown: shutdown,
        }
    }

    async fn connect(&self, user: &str) -> Socket {
        let credentials = json!({ "token": self.token(user) });
        let mut socket = self.say(&format!("40{credentials}")).await;
        while !packet(&mut socket).await.starts_with("42[\"ready\"") {}
        socket
    }

    fn token(&self, user: &str) -> String {
        let wanted = NewToken::new(user, Duration::from_secs(600));
        let token = mint(&self.config.auth.jwt, &wanted).unwrap().token;
        token.expose_secret().to_owned()
    }

    /// A WebSocket that has sent this packet, and read the open packet.
    async fn say(&self, connect: &str) -> Socket {
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", self.address);
        let (mut socket, _) = connect_async(url).await.unwrap();
        assert!(packet(&mut socket).await.starts_with('0'));
        socket.send(Message::text(connect)).await.unwrap();
        socket
    }
}

async fn packet(socket: &mut Socket) -> String {
    let message = timeout(PATIENCE, socket.next()).await.expect("in time");
    message.unwrap().unwrap().into_text().unwrap().to_string()
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Calm: what connecting has started is over.
async fn resting_tasks() -> usize {
    let deadline = Instant::now() + PATIENCE;
    let mut before = tasks();
    loop {
        sleep(Duration::from_millis(100)).await;
        let last = std::mem::replace(&mut before, tasks());
        if last == before {
            return last;
        }
        assert!(Instant::now() < deadline, "tasks come and go");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_connection_take_one_task_however_many_come_and_none_when_there_are_none() {
    let redis = Server::start().await;
    let mut config = Config::default();
    config.redis.urls = vec![redis.url().into()];
    config.limits.events_per_second = 1_000_000;
    config.limits.events_burst = 1_000_000;
    let node = Node::start(config).await;
    let mut sockets = join_all((0..5).map(|n| node.connect_owned(n))).await;
    let idle = resting_tasks().await;

    // None of them is answered while Redis stands still.
    redis.signal("STOP");
    let count = 1000;
    for socket in &mut sockets {
        for id in 0..count {
            let ask = Message::text(format!("42{id}[\"devices\"]"));
            socket.feed(ask).await.unwrap();
        }
        socket.flush().await.unwrap();
    }
    let mut most = tasks();
    for _ in 0..20 {
        sleep(Duration::from_millis(10)).await;
        most = most.max(tasks());
    }
    redis.signal("CONT");
    assert!(
        most < idle + 50,
        "{idle} tasks before, {most} with {} events that wait",
        count * sockets.len()
    );

    for socket in &mut sockets {
        let mut answered = 0;
        while answered < count {
            let packet = packet(socket).await;
            if let Some(ack) = packet.strip_prefix("43") {
                let id = ack.split('[').next().unwrap();
                assert_eq!(id, answered.to_string(), "in the order they were sent");
                answered += 1;
            }
        }
    }
    until("no task is left of it", async || tasks() <= idle + 2).await;
}

impl Node {
    async fn connect_owned(&self, number: usize) -> Socket {
        self.connect(&format!("user-{number}")).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_ended_without_a_pile_of_tasks() {
    let node = Node::start(Config::default()).await;
    let mut neighbour = node.connect("neighbour").await;
    let mut flood = node.connect("flood").await;
    let idle = resting_tasks().await;
    let watch = tokio::spawn(async move {
        let mut most = 0;
        for _ in 0..400 {
            most = most.max(tasks());
            sleep(Duration::from_millis(1)).await;
        }
        most
    });
    for _ in 0..50_000 {
        let sent = flood.feed(Message::text(r#"42["chat","x"]"#)).await;
        if sent.is_err() {
            break;
        }
    }
    flood.flush().await.ok();
    let mut told = Value::Null;
    while let Ok(Some(Ok(message))) = timeout(PATIENCE, flood.next()).await {
        let text = message.into_text().unwrap_or_default();
        if let Some(goodbye) = text.strip_prefix(r#"42["forceDisconnect","#) {
            told = serde_json::from_str(goodbye.strip_suffix(']').unwrap()).unwrap();
        }
    }
    assert_eq!(told["code"], 4504);
    let most = watch.await.unwrap();
    assert!(most < idle + 50, "{idle} tasks before, {most} meanwhile");

    let ask = Message::text(r#"427["devices"]"#);
    neighbour.send(ask).await.unwrap();
    while !packet(&mut neighbour).await.starts_with("437[{") {}
}
