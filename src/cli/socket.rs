//! A client of a node, for the commands that try one: Engine.IO over a WebSocket, and the CONNECT of Socket.IO.
//!
//! The WebSocket begins as a request of `reqwest`, so that it goes through TLS and the system's certificates as every other request does.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{StatusCode, header};
use reqwest::{Client, Upgraded, Url, redirect};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};

/// How long a TCP connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// The request failed on the way.
    #[error("{}", with_causes(.0))]
    Request(reqwest::Error),
    /// An HTTP answer in place of a WebSocket.
    #[error("answered {0}")]
    Status(StatusCode),
    /// The other end took the upgrade and is no WebSocket.
    #[error("answered 101 without being a WebSocket")]
    NoWebSocket,
    /// The WebSocket broke.
    #[error("{0}")]
    Broken(#[from] tungstenite::Error),
    /// The other end closed it.
    #[error("closed by the other end")]
    Closed,
    /// A packet other than the one that has to come.
    #[error("{0} did not come")]
    Unexpected(&'static str),
    /// A `connect_error`, with its message.
    #[error("refused: {0}")]
    Refused(String),
}

impl From<reqwest::Error> for SocketError {
    fn from(error: reqwest::Error) -> Self {
        // A URL may hold a password.
        Self::Request(error.without_url())
    }
}

/// The text of an error with those of its causes: only these say why a request failed.
pub(super) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Where clients connect.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) http: Client,
    base: Url,
}

/// What the server says in its first packet.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Open {
    /// The session's id: a credential, never shown.
    pub(super) sid: String,
    ping_interval: u64,
}

impl Open {
    /// Reads Engine.IO's open packet.
    pub(super) fn read(packet: &str) -> Result<Self, SocketError> {
        let open = packet.strip_prefix('0');
        open.and_then(|open| serde_json::from_str(open).ok())
            .ok_or(SocketError::Unexpected("the open packet"))
    }

    /// How often the server pings.
    pub(super) fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.ping_interval)
    }
}

impl Endpoint {
    /// The endpoint at `url`, a node's or a balancer's, under `transport.path`. Keeps no connection, so that a balancer deals each
    /// request out anew.
    pub(super) fn new(url: &Url, path: &str) -> Result<Self, SocketError> {
        let mut base = url.clone();
        base.set_path(&format!("{}{path}/", url.path().trim_end_matches('/')));
        let http = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { http, base })
    }

    /// The address of a transport, and of its session `sid` if there is one.
    pub(super) fn at(&self, transport: &str, sid: Option<&str>) -> Url {
        let mut url = self.base.clone();
        let mut query = url.query_pairs_mut();
        query
            .append_pair("EIO", "4")
            .append_pair("transport", transport);
        if let Some(sid) = sid {
            query.append_pair("sid", sid);
        }
        drop(query);
        url
    }

    /// Opens a WebSocket, up to the open packet.
    pub(super) async fn open(&self) -> Result<(Socket, Open), SocketError> {
        let key = generate_key();
        let request = self.http.get(self.at("websocket", None)).headers(
            [
                (header::CONNECTION, "Upgrade"),
                (header::UPGRADE, "websocket"),
                (header::SEC_WEBSOCKET_VERSION, "13"),
            ]
            .into_iter()
            .map(|(name, value)| (name, http::HeaderValue::from_static(value)))
            .collect(),
        );
        let answer = request
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .send()
            .await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(SocketError::Status(answer.status()));
        }
        let accepted = answer.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accepted| accepted != &derive_accept_key(key.as_bytes())) {
            return Err(SocketError::NoWebSocket);
        }
        let stream = answer.upgrade().await?;
        let mut socket = Socket(WebSocketStream::from_raw_socket(stream, Role::Client, None).await);
        let open = Open::read(&socket.next().await?)?;
        Ok((socket, open))
    }
}

/// A WebSocket with an Engine.IO session.
pub(super) struct Socket(WebSocketStream<Upgraded>);

impl Socket {
    /// The next packet of Engine.IO.
    pub(super) async fn next(&mut self) -> Result<String, SocketError> {
        loop {
            match self.0.next().await.ok_or(SocketError::Closed)?? {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Close(_) => return Err(SocketError::Closed),
                _ => {}
            }
        }
    }

    /// The next packet of Socket.IO, without Engine.IO's type. Answers pings meanwhile.
    pub(super) async fn packet(&mut self) -> Result<String, SocketError> {
        loop {
            let packet = self.next().await?;
            if packet == "2" {
                self.send("3").await?;
            } else if let Some(packet) = packet.strip_prefix('4') {
                return Ok(packet.to_owned());
            }
        }
    }

    /// Sends a packet of Engine.IO.
    pub(super) async fn send(&mut self, packet: &str) -> Result<(), SocketError> {
        Ok(self.0.send(Message::text(packet)).await?)
    }

    /// Connects to a namespace, and returns what its `ready` says.
    pub(super) async fn connect(
        &mut self,
        namespace: &str,
        token: Option<&str>,
    ) -> Result<Value, SocketError> {
        let prefix = match namespace {
            "/" => String::new(),
            other => format!("{other},"),
        };
        let auth = token.map_or_else(|| json!({}), |token| json!({ "token": token }));
        self.send(&format!("40{prefix}{auth}")).await?;
        loop {
            let packet = self.packet().await?;
            let (kind, body) = packet.split_at_checked(1).unwrap_or_default();
            let body = body.strip_prefix(prefix.as_str()).unwrap_or(body);
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            match kind {
                "4" => {
                    let message = body["message"].as_str().unwrap_or_default();
                    return Err(SocketError::Refused(message.to_owned()));
                }
                "2" if body[0] == "ready" => return Ok(body[1].clone()),
                _ => {}
            }
        }
    }
}
