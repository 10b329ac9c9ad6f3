//! Clients of a load: each has a task that reads, answers pings, and times what comes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    pace::{OPERATION, Record, bar},
    target::Target,
};
use crate::cli::socket::{Socket, SocketError};

/// The event of the loads.
pub(super) const EVENT: &str = "bench";

/// How many things are done at once before a load begins.
pub(super) const AT_ONCE: usize = 32;

/// What the clients of a load share.
#[derive(Clone)]
pub(super) struct Crowd {
    pub(super) target: Arc<Target>,
    pub(super) record: Record,
    namespace: Arc<str>,
    /// From which messages count when they were due.
    epoch: Instant,
    heard: Arc<AtomicU64>,
}

/// A client that has `ready`; goes when it is dropped.
pub(super) struct Client {
    pub(super) user: String,
    calls: mpsc::UnboundedSender<Call>,
    life: JoinHandle<Instant>,
}

/// An event to emit, and who waits for its acknowledgement.
struct Call {
    event: String,
    answered: oneshot::Sender<()>,
}

impl Crowd {
    pub(super) fn new(target: Arc<Target>, namespace: &str) -> Self {
        Self {
            target,
            record: Record::default(),
            namespace: namespace.into(),
            epoch: Instant::now(),
            heard: Arc::default(),
        }
    }

    /// Connects all clients that a load begins with. Nothing of it is measured.
    pub(super) async fn gather(&self, count: u64) -> anyhow::Result<Vec<Client>> {
        let bar = bar("connecting", count);
        let coming = stream::iter(0..count).map(|number| async move {
            self.connect(number)
                .await
                .with_context(|| format!("client {number} can't connect"))
        });
        let clients = coming.buffer_unordered(AT_ONCE).inspect(|_| bar.inc(1));
        let clients = clients.try_collect().await;
        bar.finish_and_clear();
        clients
    }

    /// Connects a client, up to `ready`.
    pub(super) async fn connect(&self, number: u64) -> anyhow::Result<Client> {
        let user = self.target.user(number);
        let token = self.target.token(&user)?;
        let connecting = async {
            let (mut socket, _) = self.target.endpoint(number).open().await?;
            socket.connect(&self.namespace, token.as_deref()).await?;
            Ok::<_, SocketError>(socket)
        };
        let socket = timeout(OPERATION, connecting)
            .await
            .context("no ready in time")??;
        let (calls, called) = mpsc::unbounded_channel();
        let life = tokio::spawn(self.clone().live(socket, called));
        Ok(Client { user, calls, life })
    }

    /// The data of a message that is due now or was: when, and so many bytes besides.
    pub(super) fn data(&self, due: Instant, size: u32) -> serde_json::Value {
        let at = due.duration_since(self.epoch).as_micros();
        json!({ "at": u64::try_from(at).unwrap_or_default(), "pad": "x".repeat(size as usize) })
    }

    /// Waits until so many messages have been heard, for a while, and counts those that have not.
    pub(super) async fn hear(&self, expected: u64, patience: Duration) {
        let until = Instant::now() + patience;
        while self.heard.load(Ordering::Relaxed) < expected && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let missing = expected.saturating_sub(self.heard.load(Ordering::Relaxed));
        self.record.failed("handed over, and not heard", missing);
    }

    /// Returns when the connection has ended, or the server has said so.
    async fn live(self, mut socket: Socket, mut calls: mpsc::UnboundedReceiver<Call>) -> Instant {
        let prefix = match &*self.namespace {
            "/" => String::new(),
            other => format!("{other},"),
        };
        let (mut number, mut waiting) = (0_u64, HashMap::new());
        loop {
            tokio::select! {
                call = calls.recv() => {
                    let Some(call) = call else {
                        return Instant::now();
                    };
                    number += 1;
                    waiting.insert(number, call.answered);
                    let packet = format!("42{prefix}{number}{}", json!([call.event]));
                    if socket.send(&packet).await.is_err() {
                        return Instant::now();
                    }
                }
                packet = socket.packet() => {
                    let Ok(packet) = packet else {
                        return Instant::now();
                    };
                    let (kind, body) = packet.split_at_checked(1).unwrap_or_default();
                    let body = body.strip_prefix(prefix.as_str()).unwrap_or(body);
                    match kind {
                        // As the stock client, which closes the connection itself.
                        "1" => return Instant::now(),
                        "2" => self.heard(body),
                        "3" => {
                            let number = body.split('[').next().and_then(|number| number.parse().ok());
                            if let Some(answered) = number.and_then(|number: u64| waiting.remove(&number)) {
                                // The sender may have given up waiting.
                                let _ = answered.send(());
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn heard(&self, event: &str) {
        #[derive(serde::Deserialize)]
        struct Data {
            at: u64,
        }
        let Ok((name, data)) = serde_json::from_str::<(String, Data)>(event) else {
            return;
        };
        if name == EVENT {
            let due = self.epoch + Duration::from_micros(data.at);
            self.record.time("delivered", due.elapsed());
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Client {
    /// Emits an event; what it returns ends when that is acknowledged.
    pub(super) fn call(&self, event: &str) -> oneshot::Receiver<()> {
        let (answered, answer) = oneshot::channel();
        // With a client that is gone, nobody answers.
        let _ = self.calls.send(Call {
            event: event.to_owned(),
            answered,
        });
        answer
    }

    /// Returns true while it is connected.
    pub(super) fn is_open(&self) -> bool {
        !self.life.is_finished()
    }

    /// Waits for the end of its connection, which the server brings about; returns when that was.
    pub(super) async fn ended(self) -> Result<Instant, String> {
        let Self { calls, life, .. } = self;
        let ended = life.await.map_err(|_| "a client broke".to_owned());
        drop(calls);
        ended
    }
}
