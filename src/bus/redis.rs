//! The bus of a fleet around Redis: to each server one link that publishes and one that listens, so that a flood of messages in
//! delays none out.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use metrics::Counter;
use parking_lot::Mutex;
use redis::FromRedisValue;
use socketioxide_redis::drivers::{ChanItem, MessageStream};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    BusError, INBOX_CAPACITY, Inbox,
    health::Health,
    link,
    publisher::{Answer, Publisher},
    seal::Seal,
    subscriber::Subscriber,
    subscriptions::{Sink, Subscriptions},
};
use crate::{
    connection::Instance,
    link::{Address, Map, Servers, Slot},
    metrics::Metrics,
    registry::keys::{Keys, Shard},
};

/// How long [`RedisBus::close`] waits for the links' tasks; each of their steps has a deadline below this.
const CLOSING: Duration = Duration::from_secs(3);

/// A handle; clones share the links.
#[derive(Clone)]
pub struct RedisBus {
    links: Arc<Links>,
    keys: Keys,
    sent: Counter,
    tasks: TaskTracker,
    closed: CancellationToken,
    /// Ends the links' tasks with the last handle. The tasks hold [`Links`], and no handle.
    _last: Arc<DropGuard>,
}

/// What the handles share with the tasks.
struct Links {
    servers: Servers,
    health: Arc<Health>,
    subscriptions: Arc<Subscriptions>,
    of: Mutex<BTreeMap<Address, Arc<Pair>>>,
}

/// The two links to one server.
struct Pair {
    publisher: Publisher,
    subscriber: Subscriber,
    stop: CancellationToken,
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus")
            .field("keys", &self.keys)
            .field("up", &self.is_up())
            .finish_non_exhaustive()
    }
}

impl Links {
    /// The links to the server that has a channel, as far as is known.
    fn at(&self, channel: &str) -> Option<Arc<Pair>> {
        let map = self.servers.map();
        let server = map.at(Slot::of(channel.as_bytes()))?;
        self.of.lock().get(server).cloned()
    }

    /// Keeps links to the servers, whichever they are, until the bus is closed; then ends every stream.
    async fn run(self: Arc<Self>, closed: CancellationToken) {
        let mut maps = self.servers.maps();
        let mut changes = self.subscriptions.changes();
        let mut tasks = JoinSet::new();
        let mut known = Arc::new(Map::default());
        maps.mark_changed();
        while !closed.is_cancelled() {
            tokio::select! {
                () = closed.cancelled() => break,
                _ = maps.changed() => {
                    let map = Arc::clone(&maps.borrow_and_update());
                    self.follow(&known, &map, &closed, &mut tasks);
                    known = map;
                }
                _ = changes.changed() => self.health.follow(&known, &self.subscriptions.wanted()),
            }
        }
        while tasks.join_next().await.is_some() {}
        self.subscriptions.close();
    }

    fn follow(
        self: &Arc<Self>,
        before: &Map,
        map: &Map,
        closed: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        while tasks.try_join_next().is_some() {}
        let channels = self.subscriptions.wanted();
        self.health.follow(map, &channels);
        let wanted = map.servers();
        let mut of = self.of.lock();
        of.retain(|server, pair| {
            let stays = wanted.contains(server);
            if !stays {
                pair.stop.cancel();
            }
            stays
        });
        for server in wanted {
            if !of.contains_key(server)
                && let Some(pair) = self.open(server, closed, tasks)
            {
                of.insert(server.clone(), pair);
            }
        }
        drop(of);
        for channel in channels {
            let slot = Slot::of(channel.as_bytes());
            if let (Some(before), Some(now)) = (before.at(slot), map.at(slot))
                && before != now
            {
                self.health.given(now);
            }
        }
        self.subscriptions.changed();
    }

    fn open(
        self: &Arc<Self>,
        server: &Address,
        closed: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Option<Arc<Pair>> {
        let client = match self.servers.client(server) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%server, %error, "a server can't be connected to");
                return None;
            }
        };
        let (servers, subscriptions) = (self.servers.clone(), Arc::clone(&self.subscriptions));
        let pair = Arc::new(Pair {
            publisher: Publisher::default(),
            subscriber: Subscriber::new(server.clone(), servers, subscriptions),
            stop: closed.child_token(),
        });
        let links = Arc::clone(&pair);
        let (server, servers) = (server.clone(), self.servers.clone());
        let health = Arc::clone(&self.health);
        tasks.spawn(async move {
            let Pair {
                publisher,
                subscriber,
                stop,
            } = &*links;
            tokio::join!(
                publisher.run(&server, &servers, &client, &health, stop),
                subscriber.run(&client, &health, stop),
            );
        });
        Some(pair)
    }
}

impl RedisBus {
    pub(super) fn start(
        servers: Servers,
        prefix: &str,
        instance: &Instance,
        seal: Seal,
        metrics: &Metrics,
    ) -> (Self, Inbox) {
        let keys = Keys::new(prefix);
        let (sender, inbox) = mpsc::channel(INBOX_CAPACITY);
        let subscriptions = Subscriptions::new(seal, metrics);
        let own = Shard::all().map(|shard| keys.node_channel(shard, instance));
        for channel in own.chain([keys.all_channel()]) {
            subscriptions.insert(channel, Sink::Inbox(sender.clone()));
        }
        let links = Arc::new(Links {
            servers,
            health: Arc::new(Health::new(metrics)),
            subscriptions: Arc::new(subscriptions),
            of: Mutex::default(),
        });
        let closed = CancellationToken::new();
        let tasks = TaskTracker::new();
        let run = Arc::clone(&links).run(closed.clone());
        let aside = links.servers.aside().handle();
        tasks.spawn_on(run, aside);
        tasks.close();
        let bus = Self {
            links,
            keys,
            sent: metrics.bus_messages("out"),
            tasks,
            closed: closed.clone(),
            _last: Arc::new(closed.drop_guard()),
        };
        (bus, inbox)
    }

    pub(super) fn seal(&self) -> &Seal {
        self.links.subscriptions.seal()
    }

    /// Seals and publishes; returns how many were listening.
    pub(super) async fn publish(&self, channel: &str, payload: Vec<u8>) -> Result<u64, BusError> {
        let payload = self.seal().seal(channel, payload);
        let mut publish = redis::cmd("SPUBLISH");
        publish.arg(channel).arg(payload);
        let heard = self.call(channel, &publish).await?;
        self.sent.increment(1);
        Ok(heard)
    }

    /// A node listens in every shard, so this is for the first of its channels whose server can be reached; of different nodes,
    /// in different shards.
    pub(super) async fn publish_to(
        &self,
        node: &Instance,
        payload: Vec<u8>,
    ) -> Result<bool, BusError> {
        let first = node.as_str().bytes().map(usize::from).sum::<usize>();
        let mut shards: Vec<_> = Shard::all().collect();
        let shards_count = shards.len();
        shards.rotate_left(first % shards_count);
        let mut channels = shards
            .into_iter()
            .map(|shard| self.keys.node_channel(shard, node));
        let up = |channel: &String| {
            self.links
                .at(channel)
                .is_some_and(|pair| pair.publisher.is_up())
        };
        let channel = channels
            .find(up)
            .ok_or_else(|| BusError::Unavailable("no link to Redis".into()))?;
        self.publish(&channel, payload).await.map(|heard| heard > 0)
    }

    pub(super) async fn publish_all(&self, payload: Vec<u8>) -> Result<u64, BusError> {
        self.publish(&self.keys.all_channel(), payload).await
    }

    pub(super) async fn subscribers(&self, channel: &str) -> Result<u64, BusError> {
        let mut numsub = redis::cmd("PUBSUB");
        numsub.arg("SHARDNUMSUB").arg(channel);
        let (_channel, count): (String, u64) = self.call(channel, &numsub).await?;
        Ok(count)
    }

    /// Asks the server that has a channel, and when it says that another one has it, that one.
    async fn call<T: FromRedisValue>(
        &self,
        channel: &str,
        command: &redis::Cmd,
    ) -> Result<T, BusError> {
        let until = Instant::now() + link::CALL;
        loop {
            let pair = self.links.at(channel);
            let pair = pair.ok_or_else(|| BusError::Unavailable("no link to Redis".into()))?;
            let left = until.saturating_duration_since(Instant::now());
            match pair.publisher.call(command, left).await? {
                Answer::Given(answer) => return Ok(answer),
                Answer::Elsewhere => {
                    let looking = timeout_at(until, self.links.servers.look()).await;
                    if looking.is_err() {
                        return Err(BusError::Unavailable(format!("{channel} is elsewhere")));
                    }
                }
            }
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.links.health.is_up()
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.links.health.gaps()
    }

    pub(super) async fn subscribe(
        &self,
        channel: String,
        size: usize,
    ) -> Result<MessageStream<ChanItem>, BusError> {
        let (sender, receiver) = mpsc::channel(size.max(1));
        let sink = Sink::Stream(sender);
        if !self.links.subscriptions.insert(channel.clone(), sink) {
            return Err(BusError::Unavailable("it is closed".into()));
        }
        if let Some(pair) = self.links.at(&channel) {
            pair.subscriber.settled(&channel, true).await;
        }
        Ok(MessageStream::new(receiver))
    }

    pub(super) async fn unsubscribe(&self, channel: &str) {
        self.links.subscriptions.remove(channel);
        if let Some(pair) = self.links.at(channel) {
            pair.subscriber.settled(channel, false).await;
        }
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        if timeout(CLOSING, self.tasks.wait()).await.is_err() {
            tracing::warn!("the bus's links are still closing");
        }
        self.links.subscriptions.close();
    }
}
