//! Listens to what is published: keeps a connection to Redis and the subscriptions on it.
//!
//! Channels are those of `SUBSCRIBE`: any server of a cluster passes on what is published on any other.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc::UnboundedSender},
    time::{sleep, timeout},
};

use super::{Refused, desk::refuse};
use crate::{
    config::RunningConfig,
    link::{Address, Keeper, Kept, RedisRuntime, Servers, Wanted},
    metrics::Metrics,
};

/// How long Redis may take to confirm a subscription, before the connection is given up.
const CONFIRM: Duration = Duration::from_secs(2);

/// The pause before a subscription that Redis refused is tried again: permissions may be granted at any time.
const REFUSED: Duration = Duration::from_millis(500);

/// How many bytes may wait to be carried out.
const INBOX: usize = 16 << 20;

/// What a message costs of these beside its own bytes.
const OVERHEAD: usize = 256;

/// A message that has come.
pub(super) struct Heard {
    pub(super) channel: String,
    pub(super) payload: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// Listens to one kind of program.
pub(super) struct Listener {
    servers: Servers,
    source: &'static str,
    subscriptions: Vec<(&'static str, String)>,
    ear: Arc<Ear>,
}

/// What becomes of a message when it comes.
struct Ear {
    source: &'static str,
    config: RunningConfig,
    inbox: UnboundedSender<Heard>,
    room: Arc<Semaphore>,
    metrics: Metrics,
}

impl Listener {
    /// On these channels of `servers`, into `inbox`. Not connected yet.
    pub(super) fn new(
        servers: Servers,
        source: &'static str,
        subscriptions: Vec<(&'static str, String)>,
        config: RunningConfig,
        inbox: UnboundedSender<Heard>,
        metrics: Metrics,
    ) -> Self {
        metrics.ingress_up(source).set(0);
        Self {
            servers,
            source,
            subscriptions,
            ear: Arc::new(Ear {
                source,
                config,
                inbox,
                room: Arc::new(Semaphore::new(INBOX)),
                metrics,
            }),
        }
    }

    /// The thread of the links to its Redis.
    pub(super) fn runtime(&self) -> RedisRuntime {
        self.servers.runtime().clone()
    }

    /// Listens for ever. After a break it connects again, to the next server if there are several.
    pub(super) async fn run(self) {
        let wanted = match self.servers.is_cluster() {
            true => Wanted::Member,
            false => Wanted::Master,
        };
        let mut maps = self.servers.maps();
        let mut keepers: HashMap<Address, Keeper> = HashMap::new();
        // In a cluster the nodes of a fleet begin with different servers.
        let mut turn: usize = rand::random_range(0..1024);
        loop {
            let map = maps.borrow_and_update().clone();
            let there: Vec<_> = map.servers().into_iter().cloned().collect();
            keepers.retain(|server, _| there.contains(server));
            let Some(server) = there.get(turn % there.len().max(1)) else {
                if maps.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if !keepers.contains_key(server) {
                match Keeper::new(self.source, &self.servers, server, wanted) {
                    Ok(keeper) => drop(keepers.insert(server.clone(), keeper)),
                    Err(error) => {
                        return tracing::error!(%server, %error, "a server can't be connected to");
                    }
                }
            }
            if let Some(keeper) = keepers.get(server) {
                let why = self.listen(keeper).await;
                keeper.pause(&why).await;
            }
            turn += 1;
        }
    }

    /// Listens on one connection. Returns why it has ended.
    async fn listen(&self, keeper: &Keeper) -> String {
        let ear = self.ear.clone();
        let kept = match keeper.connect(move |push| ear.hear(push)).await {
            Ok(kept) => kept,
            Err(why) => return why,
        };
        let (wake, hears) = (Notify::new(), AtomicBool::new(false));
        let why = tokio::select! {
            why = keeper.watch(&kept, &wake, |_| ()) => why,
            why = self.subscribe(&kept, &hears) => why,
            () = self.has_left(&keeper.server) => "it has left the cluster".into(),
        };
        kept.ended.cancel();
        if hears.into_inner() {
            let metrics = &self.ear.metrics;
            metrics.ingress_up(self.source).set(0);
            metrics.ingress_gaps(self.source).increment(1);
            let source = self.source;
            tracing::warn!(
                source,
                why,
                "what emitters publish is lost until Redis is back"
            );
        }
        why
    }

    /// Subscribes, says in `hears` that it has, and then waits for ever. Returns why the connection is to be given up.
    async fn subscribe(&self, kept: &Kept, hears: &AtomicBool) -> String {
        let mut told = false;
        loop {
            match timeout(CONFIRM, self.ask(kept.connection.clone())).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) if !told => {
                    told = true;
                    tracing::warn!(source = self.source, %error, "Redis refuses a subscription to emitters");
                }
                Ok(Err(_)) => {}
                Err(_) => return format!("subscriptions not confirmed within {CONFIRM:?}"),
            }
            sleep(REFUSED).await;
        }
        hears.store(true, Ordering::Relaxed);
        self.ear.metrics.ingress_up(self.source).set(1);
        tracing::info!(source = self.source, "what emitters publish is heard");
        std::future::pending().await
    }

    async fn ask(&self, mut connection: MultiplexedConnection) -> Result<(), redis::RedisError> {
        for (command, channel) in &self.subscriptions {
            let mut subscribe = redis::cmd(command);
            subscribe.arg(channel);
            subscribe.query_async::<()>(&mut connection).await?;
        }
        Ok(())
    }

    /// Waits until a server is none of the cluster's any more.
    async fn has_left(&self, server: &Address) {
        let mut maps = self.servers.maps();
        if maps
            .wait_for(|map| !map.servers().contains(server))
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }
}

impl Ear {
    /// Puts a message into the inbox. Runs on the connection's task, so it never waits: what is too large, or more than the inbox
    /// takes, is dropped and counted. Returns true: the connection goes on.
    fn hear(&self, push: PushInfo) -> bool {
        let Some((channel, payload)) = message(push) else {
            return true;
        };
        self.metrics.ingress_messages(self.source).increment(1);
        let max_payload = self.config.now().limits.max_payload.as_u64() as usize;
        let cost = (payload.len() + channel.len() + OVERHEAD).min(INBOX);
        let room = self.room.clone().try_acquire_many_owned(cost as u32);
        let refused = match room {
            _ if payload.len() > max_payload => Refused::TooLarge,
            Err(_) => Refused::InboxFull,
            Ok(room) => {
                let heard = Heard {
                    channel,
                    payload,
                    _room: room,
                };
                // Fails only when the node has stopped.
                self.inbox.send(heard).ok();
                return true;
            }
        };
        refuse(&self.metrics, self.source, &channel, refused);
        true
    }
}

/// The channel and the payload of a message; none if it is another push of Redis.
fn message(push: PushInfo) -> Option<(String, Vec<u8>)> {
    let before = match push.kind {
        PushKind::Message => 0,
        // The pattern.
        PushKind::PMessage => 1,
        _ => return None,
    };
    let mut parts = push.data.into_iter().skip(before);
    match (parts.next()?, parts.next()?) {
        (Value::BulkString(channel), Value::BulkString(payload)) => Some((
            // What is no UTF-8 is a channel of nobody's, and is refused as such.
            String::from_utf8_lossy(&channel).into_owned(),
            payload,
        )),
        _ => None,
    }
}
