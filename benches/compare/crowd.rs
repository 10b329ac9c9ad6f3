//! Clients of any of the servers, over raw WebSockets: they do nothing but listen, answer pings, and time what comes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    pace::Record,
    peers::Peer,
    support::bounds::{seconds, within},
    wire::{Wire, text},
};

/// How many come at once.
const AT_ONCE: usize = 32;
/// How long messages may take to come after the last was sent.
const LAST: Duration = Duration::from_secs(10);
/// What the data of a message begins with, and how many digits follow: the microsecond when it was due.
const MARK: &[u8] = b"\"@";
const DIGITS: usize = 16;

/// Connections that are open until this is dropped.
pub(crate) struct Crowd {
    pub(crate) ears: Ears,
    pub(crate) size: usize,
    _tasks: JoinSet<()>,
}

/// What all clients hear. Clones share it.
#[derive(Clone)]
pub(crate) struct Ears {
    pub(crate) record: Record,
    epoch: Instant,
    heard: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
}

impl Crowd {
    /// Connects two devices of each user, to the next nodes in turn: see `holders_of`.
    pub(crate) async fn come(peer: Peer, nodes: &[SocketAddr], users: usize) -> Self {
        let ears = Ears {
            record: Record::default(),
            epoch: Instant::now(),
            heard: Arc::default(),
            gone: Arc::default(),
        };
        let coming = (0..users).flat_map(|user| {
            let devices = holders_of(user, nodes.len()).into_iter().enumerate();
            devices.map(move |(device, node)| async move {
                let hello = peer.hello(user, device);
                let what = format!("{peer} lets user {user} in");
                let come = async || arrive(peer, nodes[node], &hello).await;
                within(seconds(60.0), &what, come).await.1
            })
        });
        let mut coming = stream::iter(coming).buffer_unordered(AT_ONCE);
        let mut tasks = JoinSet::new();
        while let Some(wire) = coming.next().await {
            tasks.spawn(ears.clone().listen(wire, peer));
        }
        drop(coming);
        Self {
            ears,
            size: tasks.len(),
            _tasks: tasks,
        }
    }

    /// Waits until so many messages have come to all of it together since the beginning. Those that don't come are recorded as failures.
    pub(crate) async fn wait(&self, expected: usize) {
        let until = Instant::now() + LAST;
        while self.ears.heard() < expected && Instant::now() < until {
            sleep(Duration::from_millis(2)).await;
        }
        let missing = expected.saturating_sub(self.ears.heard());
        self.ears
            .record
            .failed("a delivery that did not come", missing as u64);
    }
}

impl Ears {
    /// How many messages have come to all clients together.
    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }

    /// How many connections the servers have ended.
    pub(crate) fn gone(&self) -> usize {
        self.gone.load(Ordering::Relaxed)
    }

    /// The data of a message that is due at this time: so many bytes.
    pub(crate) fn data(&self, due: Instant, size: usize) -> String {
        let micros = due.duration_since(self.epoch).as_micros();
        let stamp = format!("@{micros:0DIGITS$}");
        let pad = "x".repeat(size.saturating_sub(stamp.len()));
        stamp + &pad
    }

    async fn listen(self, mut wire: Wire, peer: Peer) {
        while let Some(frame) = wire.next().await {
            if peer == Peer::Centrifugo && frame == "{}" && wire.send(&text("{}")).await.is_err() {
                break;
            }
            // Several messages may come in one frame of Centrifugo's.
            let marks = frame.windows(MARK.len()).enumerate();
            for (at, _) in marks.filter(|(_, bytes)| *bytes == MARK) {
                self.hear(&frame[at + MARK.len()..]);
            }
        }
        self.gone.fetch_add(1, Ordering::Relaxed);
    }

    fn hear(&self, stamp: &[u8]) {
        let digits = stamp
            .get(..DIGITS)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(micros) = digits.and_then(|digits| digits.parse().ok()) {
            let due = self.epoch + Duration::from_micros(micros);
            self.record.time("delivered", due.elapsed());
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The nodes that hold a user.
pub(crate) fn holders_of(user: usize, nodes: usize) -> [usize; 2] {
    [user % nodes, (user + 1) % nodes]
}

/// A client that is let in.
async fn arrive(peer: Peer, door: SocketAddr, hello: &str) -> Result<Wire, String> {
    let stream = TcpStream::connect(door).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let opened = Wire::upgrade(stream, door, peer.path(), "").await;
    let mut wire = opened.map_err(|status| format!("status {status}"))?;
    if let Some(opening) = peer.opening() {
        wire.until(opening).await.ok_or("closed")?;
    }
    let sent = wire.send(&text(hello)).await;
    sent.map_err(|error| error.to_string())?;
    loop {
        let packet = wire.next().await.ok_or("closed")?;
        if packet.starts_with(peer.welcome().as_bytes()) {
            return Ok(wire);
        }
        if packet.starts_with(b"44") || packet.starts_with(b"{\"id\":1,\"error\"") {
            return Err(String::from_utf8_lossy(&packet).into_owned());
        }
    }
}
