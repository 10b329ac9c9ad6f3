//! Bytes by hand: requests, WebSocket frames and Engine.IO sessions that cost the attacker as little as they can.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long a single answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between the packets of a POST.
pub(crate) const SEPARATOR: char = '\x1e';

/// The first byte of a frame: a whole text or binary message, the beginning of a text, more of it, and the control frames.
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const TEXT_BEGINS: u8 = 0x01;
pub(crate) const MORE: u8 = 0x00;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// The head of a client's frame (RFC 6455 section 5.2) that announces `length` bytes; the mask is zeroes.
pub(crate) fn frame_head(first: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..126 => head.push(0x80 | length as u8),
        126..65_536 => {
            head.push(0x80 | 126);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head.extend([0; 4]);
    head
}

/// A client's frame.
pub(crate) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let mut frame = frame_head(first, payload.as_ref().len());
    frame.extend(payload.as_ref());
    frame
}

/// A text message as one frame.
pub(crate) fn text(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(TEXT, payload)
}

/// A WebSocket with an Engine.IO session.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    /// A WebSocket up to the Engine.IO open packet. `headers` are further lines of the request, each with its line end. An error
    /// is the status that refused it; 0: none came.
    pub(crate) async fn open(door: SocketAddr, headers: &str) -> Result<Self, u16> {
        let stream = TcpStream::connect(door).await.map_err(|_| 0_u16)?;
        Self::over(stream, door, headers).await
    }

    /// As [`Wire::open`], over a TCP connection to the door that is open already.
    pub(crate) async fn over(
        stream: TcpStream,
        door: SocketAddr,
        headers: &str,
    ) -> Result<Self, u16> {
        let path = "/socket.io/?EIO=4&transport=websocket";
        let mut wire = Self::upgrade(stream, door, path, headers).await?;
        match wire.next().await {
            Some(open) if open.starts_with(b"0") => Ok(wire),
            _ => Err(0),
        }
    }

    /// A WebSocket of any protocol, over a TCP connection to the door that is open already.
    pub(crate) async fn upgrade(
        mut stream: TcpStream,
        door: SocketAddr,
        path: &str,
        headers: &str,
    ) -> Result<Self, u16> {
        stream.set_nodelay(true).ok();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {door}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await.map_err(|_| 0_u16)?;
        let mut wire = Self {
            stream,
            buffer: BytesMut::new(),
        };
        match timeout(PATIENCE, wire.accepted()).await {
            Ok(101) => Ok(wire),
            Ok(status) => Err(status),
            Err(_) => Err(0),
        }
    }

    /// A guest of `/public` that has its `ready`.
    pub(crate) async fn guest(door: SocketAddr, headers: &str) -> Result<Self, u16> {
        let mut wire = Self::open(door, headers).await?;
        wire.send(&text("40/public,")).await.map_err(|_| 0_u16)?;
        wire.until("42/public,[\"ready\"").await.ok_or(0_u16)?;
        Ok(wire)
    }

    /// The status of the answer to the upgrade; what came after its head stays in the buffer. 0: none came.
    async fn accepted(&mut self) -> u16 {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                return status_of(&head);
            }
            if !self.read_more().await {
                return 0;
            }
        }
    }

    async fn read_more(&mut self) -> bool {
        self.buffer.reserve(1024);
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    /// Writes bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The payload of the next message; none when the node has ended it, or is silent for too long. Engine.IO pings are answered.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let (first, payload) = timeout(PATIENCE, self.next_frame()).await.ok()??;
            match first & 0x0f {
                1 if payload == "2" => self.send(&text("3")).await.ok()?,
                1 | 2 => return Some(payload),
                8 => return None,
                _ => {}
            }
        }
    }

    async fn next_frame(&mut self) -> Option<(u8, Bytes)> {
        loop {
            let said = *self.buffer.get(1).unwrap_or(&0);
            let (head, length) = match said {
                126 if self.buffer.len() >= 4 => {
                    let length = u16::from_be_bytes(self.buffer[2..4].try_into().unwrap());
                    (4, usize::from(length))
                }
                127 if self.buffer.len() >= 10 => {
                    let length = u64::from_be_bytes(self.buffer[2..10].try_into().unwrap());
                    (10, length as usize)
                }
                126 | 127 => (10, 0),
                length => (2, usize::from(length)),
            };
            if self.buffer.len() >= head + length {
                let first = self.buffer[0];
                self.buffer.advance(head);
                return Some((first, self.buffer.split_to(length).freeze()));
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// The first message that begins so; none if the node ends it before.
    pub(crate) async fn until(&mut self, beginning: &str) -> Option<Bytes> {
        loop {
            let message = self.next().await?;
            if message.starts_with(beginning.as_bytes()) {
                return Some(message);
            }
        }
    }

    /// Writes `bytes` again and again, `total` bytes in all, while what the node says is thrown away. Returns whether the node
    /// ended it, at the latest `limit` after the last byte.
    pub(crate) async fn flood(&mut self, bytes: &[u8], total: usize, limit: Duration) -> Flood {
        let (mut incoming, mut out) = self.stream.split();
        let mut written = 0;
        let flood = async {
            while written < total {
                match out.write(bytes).await {
                    Ok(count) if count == bytes.len() => written += count,
                    // The rest of what was begun, so that frames stay whole.
                    Ok(count) => match out.write_all(&bytes[count..]).await {
                        Ok(()) => written += bytes.len(),
                        Err(_) => return,
                    },
                    Err(_) => return,
                }
            }
            tokio::time::sleep(limit).await;
        };
        let ended = tokio::select! {
            () = drain(&mut incoming) => true,
            () = flood => false,
        };
        // A write that failed is an end too: of a reset, the reader may not have heard yet.
        let ended = ended || written < total;
        Flood { written, ended }
    }

    /// Whether the node answers with a `connect_error`, or ends it, within `limit`.
    pub(crate) async fn refused(&mut self, limit: Duration) -> bool {
        let refused = async {
            // None: it has ended.
            while let Some(message) = self.next().await {
                if message.starts_with(b"44") {
                    return;
                }
            }
        };
        timeout(limit, refused).await.is_ok()
    }

    /// Whether the node ends it within `limit`, with whatever said before.
    pub(crate) async fn ended(&mut self, limit: Duration) -> bool {
        timeout(limit, drain(&mut self.stream)).await.is_ok()
    }
}

/// What became of a flood.
pub(crate) struct Flood {
    /// Bytes that the node's side has taken, the kernels' buffers included.
    pub(crate) written: usize,
    pub(crate) ended: bool,
}

/// Reads to the end, and keeps nothing.
pub(crate) async fn drain(from: &mut (impl AsyncReadExt + Unpin)) {
    let mut into = [0_u8; 16 * 1024];
    while matches!(from.read(&mut into).await, Ok(1..)) {}
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// The status in the head of an answer; 0 if it is none.
fn status_of(head: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(&head[..head.len().min(64)]).into_owned();
    let status = text.split_whitespace().nth(1);
    status.and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// An HTTP request on a connection of its own. Returns the status and the body; status 0: no answer came before the end. The
/// answer is read beside the writing: a body that is refused need not be taken to its end.
pub(crate) async fn request(
    door: SocketAddr,
    line: &str,
    headers: &str,
    body: &[u8],
) -> (u16, Vec<u8>) {
    let asked = async {
        let mut stream = TcpStream::connect(door).await.ok()?;
        stream.set_nodelay(true).ok();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: {door}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        let (mut incoming, mut out) = stream.split();
        let write = async {
            out.write_all(head.as_bytes()).await?;
            out.write_all(body).await
        };
        let mut answer = Vec::new();
        let read = incoming.read_to_end(&mut answer);
        let _ = tokio::join!(write, read);
        Some(answer)
    };
    let answer = timeout(PATIENCE, asked)
        .await
        .ok()
        .flatten()
        .unwrap_or_default();
    let at = find(&answer, b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    (status_of(&answer), answer[at..].to_vec())
}

/// An HTTP long-polling session.
#[derive(Clone)]
pub(crate) struct Session {
    door: SocketAddr,
    path: String,
    headers: String,
}

impl Session {
    /// The Engine.IO handshake; an error is the status.
    pub(crate) async fn open(door: SocketAddr, headers: &str) -> Result<Self, u16> {
        let path = "/socket.io/?EIO=4&transport=polling";
        let (status, body) = request(door, &format!("GET {path}"), headers, &[]).await;
        // The body is chunked or not, as the node likes: the session's id is found either way.
        let text = String::from_utf8_lossy(&body).into_owned();
        let open = text.find('{').and_then(|from| {
            let till = text.rfind('}')?;
            serde_json::from_str::<Value>(text.get(from..=till)?).ok()
        });
        match (status, open) {
            (200, Some(open)) => Ok(Self {
                door,
                path: format!("{path}&sid={}", open["sid"].as_str().unwrap_or_default()),
                headers: headers.to_owned(),
            }),
            (status, _) => Err(status),
        }
    }

    /// Sends a body; returns the status, 0 if no answer came.
    pub(crate) async fn post(&self, body: impl AsRef<[u8]>) -> u16 {
        let line = format!("POST {}", self.path);
        request(self.door, &line, &self.headers, body.as_ref())
            .await
            .0
    }

    /// The head of a POST whose body is so long.
    pub(crate) fn post_head(&self, length: usize) -> String {
        let Self {
            door,
            path,
            headers,
        } = self;
        format!("POST {path} HTTP/1.1\r\nHost: {door}\r\nContent-Length: {length}\r\n{headers}\r\n")
    }

    /// Polls once; returns the status, 0 if no answer came, and the body.
    pub(crate) async fn poll(&self) -> (u16, String) {
        let line = format!("GET {}", self.path);
        let (status, body) = request(self.door, &line, &self.headers, &[]).await;
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// Polls until a body has these words; false if the session ends before.
    pub(crate) async fn until(&self, words: &str) -> bool {
        loop {
            match self.poll().await {
                (200, body) if body.contains(words) => return true,
                (200, _) => {}
                _ => return false,
            }
        }
    }

    /// Polls until the session is unknown to the node. Returns whether that came within `limit`.
    pub(crate) async fn ended(&self, limit: Duration) -> bool {
        let look = async {
            loop {
                match self.poll().await {
                    (200, _) => {}
                    (400 | 0, _) => return,
                    (_, _) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(limit, look).await.is_ok()
    }
}
