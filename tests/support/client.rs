//! A client over a raw WebSocket, with a task of its own that reads, answers pings, and keeps what was said to it.
//!
//! It behaves unless it is told not to: [`Client::stall`] stops reading, [`Client::ignore_pings`] answers none,
//! [`Client::send_text`] sends whatever it is given, and [`Client::cut`] goes without a word. What misbehaves before
//! `ready` is done by hand, on [`dial`]'s socket or a bare `TcpStream`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

use super::bounds::{PATIENCE, bound, within};

/// A raw WebSocket.
pub(crate) type Socket = WebSocketStream<TcpStream>;

/// How a client comes.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    /// `auth.token`; none: no credentials.
    pub(crate) token: Option<String>,
    /// `auth.deviceId`.
    pub(crate) device: Option<String>,
    pub(crate) namespace: String,
    /// Size of the socket's receive buffer: small for one that is to stall soon.
    pub(crate) receive_buffer: Option<u32>,
    /// Whether it keeps the events that it gets, or only counts them.
    pub(crate) keep: bool,
}

impl Hello {
    /// With this token, into `/`.
    pub(crate) fn with(token: impl Into<String>) -> Self {
        Self {
            token: Some(token.into()),
            device: None,
            namespace: "/".into(),
            receive_buffer: None,
            keep: true,
        }
    }

    /// As a user, with the user's usual token.
    pub(crate) fn user(user: &str) -> Self {
        Self::with(super::token::token(user))
    }

    /// The CONNECT packet.
    pub(crate) fn packet(&self) -> String {
        let mut auth = json!({});
        if let Some(token) = &self.token {
            auth["token"] = json!(token);
        }
        if let Some(device) = &self.device {
            auth["deviceId"] = json!(device);
        }
        match self.namespace.as_str() {
            "/" => format!("40{auth}"),
            other => format!("40{other},{auth}"),
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// By the status of the HTTP handshake: the stock client tries again.
    Http(u16),
    /// By a `connect_error`: the stock client stops.
    Connect(String),
    /// The TCP connection was refused, or closed before `ready`: the stock client tries again.
    Closed(String),
    /// Nothing came in time.
    Late,
}

/// How a connection has ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) at: Instant,
    /// What `forceDisconnect` said, if it came.
    pub(crate) told: Option<Value>,
    /// Whether a DISCONNECT packet came: the stock client stays away then.
    pub(crate) packet: bool,
    /// How the transport went.
    pub(crate) how: String,
}

impl End {
    /// The code of `forceDisconnect`; 0 if none came.
    pub(crate) fn code(&self) -> u64 {
        let told = self.told.as_ref();
        told.and_then(|told| told["code"].as_u64()).unwrap_or(0)
    }
}

/// An event that a client got.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) name: String,
    pub(crate) data: Value,
}

enum Order {
    Text(String),
    Read(bool),
    Pong(bool),
    Cut,
}

struct Shared {
    heard: Mutex<Vec<Heard>>,
    /// How many events came, and the end: a waiting test wakes up by either.
    news: watch::Sender<(u64, Option<End>)>,
}

/// A connection that has `ready`. Goes without a word when it is dropped.
pub(crate) struct Client {
    pub(crate) user: String,
    /// `ready.connectionId`.
    pub(crate) id: String,
    /// `ready.nodeId`.
    pub(crate) node: String,
    /// When its CONNECT packet was sent.
    pub(crate) sent: Instant,
    /// When `ready` came.
    pub(crate) since: Instant,
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
}

/// A WebSocket up to the Engine.IO open packet, which is read.
pub(crate) async fn dial(to: SocketAddr, receive_buffer: Option<u32>) -> Result<Socket, Refused> {
    let closed = |error: &dyn std::fmt::Display| Refused::Closed(error.to_string());
    let socket = TcpSocket::new_v4().map_err(|error| closed(&error))?;
    if let Some(size) = receive_buffer {
        socket.set_recv_buffer_size(size).ok();
    }
    let stream = socket.connect(to).await.map_err(|error| closed(&error))?;
    stream.set_nodelay(true).ok();
    let url = format!("ws://{to}/socket.io/?EIO=4&transport=websocket");
    let mut socket = match client_async(url, stream).await {
        Ok((socket, _)) => socket,
        Err(tungstenite::Error::Http(answer)) => {
            return Err(Refused::Http(answer.status().as_u16()));
        }
        Err(error) => return Err(closed(&error)),
    };
    match next_text(&mut socket).await {
        Some(open) if open.starts_with('0') => Ok(socket),
        other => Err(Refused::Closed(format!(
            "{other:?} instead of the open packet"
        ))),
    }
}

/// The next text of a socket; none when it has ended.
pub(crate) async fn next_text(socket: &mut Socket) -> Option<String> {
    loop {
        match socket.next().await? {
            Ok(Message::Text(text)) => return Some(text.to_string()),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

impl Client {
    /// Connects, and waits for `ready`.
    pub(crate) async fn connect(to: SocketAddr, hello: &Hello) -> Result<Self, Refused> {
        match tokio::time::timeout(bound(PATIENCE), Self::arrive(to, hello)).await {
            Ok(result) => result,
            Err(_) => Err(Refused::Late),
        }
    }

    /// The same as a user, which must succeed; a refusal that asks to come again is taken at its word.
    pub(crate) async fn of(to: SocketAddr, user: &str) -> Self {
        let come = async || {
            let result = Self::connect(to, &Hello::user(user)).await;
            match result {
                Ok(client) => Ok(client),
                Err(Refused::Connect(why)) => panic!("{user} is not let in at {to}: {why}"),
                Err(other) => Err(format!("{other:?}")),
            }
        };
        within(bound(PATIENCE), &format!("{user} is let in at {to}"), come)
            .await
            .1
    }

    async fn arrive(to: SocketAddr, hello: &Hello) -> Result<Self, Refused> {
        let mut socket = dial(to, hello.receive_buffer).await?;
        let sent = Instant::now();
        let packet = Message::text(hello.packet());
        let closed = |error: tungstenite::Error| Refused::Closed(error.to_string());
        socket.send(packet).await.map_err(closed)?;
        let ready = loop {
            let Some(text) = next_text(&mut socket).await else {
                return Err(Refused::Closed("closed before ready".into()));
            };
            if text == "2" {
                socket.send(Message::text("3")).await.map_err(closed)?;
            } else if let Some(error) = text.strip_prefix("44") {
                let error: Value = serde_json::from_str(body(error)).unwrap_or_default();
                let message = error["message"].as_str().unwrap_or_default();
                return Err(Refused::Connect(message.to_owned()));
            } else if let Some(event) = text.strip_prefix("42") {
                let event: Value = serde_json::from_str(body(event)).unwrap_or_default();
                if event[0] == "ready" {
                    break event[1].clone();
                }
                return Err(Refused::Closed(format!("{event} before ready")));
            }
        };
        let field = |name: &str| ready[name].as_str().unwrap_or_default().to_owned();
        let shared = Arc::new(Shared {
            heard: Mutex::default(),
            news: watch::Sender::new((0, None)),
        });
        let (orders, ordered) = mpsc::unbounded_channel();
        let keep = hello.keep;
        tokio::spawn(live(socket, shared.clone(), ordered, keep));
        Ok(Self {
            user: field("userId"),
            id: field("connectionId"),
            node: field("nodeId"),
            sent,
            since: Instant::now(),
            shared,
            orders,
        })
    }

    /// Whether it believes that it is connected.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.news.borrow().1.is_none()
    }

    /// How it has ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.shared.news.borrow().1.clone()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self, limit: Duration) -> End {
        let mut news = self.shared.news.subscribe();
        let ended = news.wait_for(|(_, end)| end.is_some());
        match tokio::time::timeout(limit, ended).await {
            Ok(news) => news.unwrap().1.clone().unwrap(),
            Err(_) => panic!(
                "connection {} of {} has not ended within {limit:?}",
                self.id, self.user
            ),
        }
    }

    /// The events that it has got, those that it keeps.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.shared.heard.lock().unwrap().clone()
    }

    /// How many events it has got.
    pub(crate) fn count(&self) -> u64 {
        self.shared.news.borrow().0
    }

    /// Waits for an event, from the first one on.
    pub(crate) async fn event(&self, name: &str, data: &Value, limit: Duration) -> Heard {
        let mut news = self.shared.news.subscribe();
        let come = async {
            loop {
                news.borrow_and_update();
                let heard = self.heard();
                let found = heard
                    .iter()
                    .find(|heard| heard.name == name && heard.data == *data);
                if let Some(found) = found {
                    return found.clone();
                }
                news.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(limit, come).await {
            Ok(heard) => heard,
            Err(_) => panic!(
                "{} of {} has not got {name} {data} within {limit:?}",
                self.id, self.user
            ),
        }
    }

    /// Sends a text frame as it is.
    pub(crate) fn send_text(&self, text: impl Into<String>) {
        self.orders.send(Order::Text(text.into())).ok();
    }

    /// Sends an event.
    pub(crate) fn emit(&self, name: &str, data: &Value) {
        self.send_text(format!("42{}", json!([name, data])));
    }

    /// Sends an event that asks for an acknowledgement. That is heard as `ack`, with the number and its arguments.
    pub(crate) fn ask(&self, number: u64, name: &str) {
        self.send_text(format!("42{number}{}", json!([name])));
    }

    /// Stops reading. What the server does from here on is not noticed.
    pub(crate) fn stall(&self) {
        self.orders.send(Order::Read(false)).ok();
    }

    /// Reads again.
    pub(crate) fn resume(&self) {
        self.orders.send(Order::Read(true)).ok();
    }

    /// Answers no more pings.
    pub(crate) fn ignore_pings(&self) {
        self.orders.send(Order::Pong(false)).ok();
    }

    /// Closes the TCP connection without a word. To be noticed by [`Client::ended`].
    pub(crate) fn cut(&self) {
        self.orders.send(Order::Cut).ok();
    }
}

/// What comes after the type of a packet and the name of its namespace.
fn body(packet: &str) -> &str {
    match packet.strip_prefix('/') {
        Some(rest) => rest.split_once(',').map_or("", |(_, body)| body),
        None => packet,
    }
}

fn heard_ack(ack: &str) -> Heard {
    let at = ack.find('[').unwrap_or(ack.len());
    let (number, arguments) = ack.split_at(at);
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    Heard {
        at: Instant::now(),
        name: "ack".to_owned(),
        data: json!([number.parse::<u64>().ok(), arguments]),
    }
}

async fn live(
    socket: Socket,
    shared: Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    keep: bool,
) {
    let (mut out, mut incoming) = socket.split();
    let (mut reads, mut pongs) = (true, true);
    let (mut told, mut packet) = (None, false);
    let how = loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Text(text)) => {
                    if let Err(error) = send(&mut out, text).await {
                        break error;
                    }
                }
                Some(Order::Read(now)) => reads = now,
                Some(Order::Pong(now)) => pongs = now,
                Some(Order::Cut) => break "cut by itself".to_owned(),
                None => break "dropped by the test".to_owned(),
            },
            message = incoming.next(), if reads => {
                let text = match message {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Close(frame))) => break format!("close frame {frame:?}"),
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => break error.to_string(),
                    None => break "end of stream".to_owned(),
                };
                if text.as_str() == "2" {
                    if pongs && let Err(error) = send(&mut out, "3".to_owned()).await {
                        break error;
                    }
                } else if let Some(event) = text.strip_prefix("42") {
                    let mut event: Value = serde_json::from_str(body(event)).unwrap_or_default();
                    let name = event[0].as_str().unwrap_or_default().to_owned();
                    let data = event.get_mut(1).map(Value::take).unwrap_or_default();
                    if name == "forceDisconnect" {
                        told = Some(data.clone());
                    }
                    if keep {
                        let heard = Heard { at: Instant::now(), name, data };
                        shared.heard.lock().unwrap().push(heard);
                    }
                    shared.news.send_modify(|(count, _)| *count += 1);
                } else if let Some(ack) = text.strip_prefix("43") {
                    if keep {
                        shared.heard.lock().unwrap().push(heard_ack(ack));
                    }
                    shared.news.send_modify(|(count, _)| *count += 1);
                } else if text.starts_with("41") {
                    packet = true;
                }
            }
        }
    };
    let end = End {
        at: Instant::now(),
        told,
        packet,
        how,
    };
    shared.news.send_modify(|(_, ended)| *ended = Some(end));
}

async fn send(out: &mut SplitSink<Socket, Message>, text: String) -> Result<(), String> {
    out.send(Message::text(text))
        .await
        .map_err(|error| error.to_string())
}
