//! The bus of a fleet around Redis: to each server one link that publishes and one that listens, so that a flood of messages in
//! delays none out.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use metrics::Counter;
use parking_lot::Mutex;
use redis::{Cmd, Pipeline};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    BusError, INBOX_CAPACITY, Inbox,
    health::Health,
    publisher::{Outcome, Publisher},
    seal::Seal,
    subscriber::Subscriber,
    subscriptions::Subscriptions,
};
use crate::{
    connection::Instance,
    link::{Address, DEADLINE, Map, Servers, Slot},
    metrics::Metrics,
    registry::keys::{Keys, Shard, Shards},
};

/// How long [`RedisBus::close`] waits for the links' tasks; each of their steps has a deadline below this.
const CLOSING: Duration = Duration::from_secs(3);

/// A handle; clones share the links.
#[derive(Clone)]
pub struct RedisBus {
    links: Arc<Links>,
    keys: Keys,
    shards: Shards,
    sent: Counter,
    /// Counts posts that could not go out.
    unpublished: Counter,
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

    /// Keeps links to the servers, whichever they are, until the bus is closed; then ends the inbox.
    async fn run(self: Arc<Self>, closed: CancellationToken) {
        let mut maps = self.servers.maps();
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
        let channels = self.subscriptions.channels();
        self.health.follow(map, channels);
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
        let opened = Publisher::new(&self.servers, server).and_then(|publisher| {
            let subscriptions = Arc::clone(&self.subscriptions);
            let subscriber = Subscriber::new(&self.servers, server, subscriptions)?;
            Ok(Arc::new(Pair {
                publisher,
                subscriber,
                stop: closed.child_token(),
            }))
        });
        let pair = match opened {
            Ok(pair) => pair,
            Err(error) => {
                tracing::error!(%server, %error, "a server can't be connected to");
                return None;
            }
        };
        let (links, health) = (Arc::clone(&pair), Arc::clone(&self.health));
        tasks.spawn(async move {
            let Pair {
                publisher,
                subscriber,
                stop,
            } = &*links;
            tokio::join!(publisher.run(&health, stop), subscriber.run(&health, stop),);
        });
        Some(pair)
    }
}

impl RedisBus {
    pub(super) fn start(
        servers: Servers,
        prefix: &str,
        shards: Shards,
        instance: &Instance,
        seal: Seal,
        metrics: &Metrics,
    ) -> (Self, Inbox) {
        let keys = Keys::new(prefix);
        let (sender, inbox) = mpsc::channel(INBOX_CAPACITY);
        let own = shards.all().map(|shard| keys.node_channel(shard, instance));
        let channels = own.chain([keys.all_channel()]).collect();
        let subscriptions = Subscriptions::new(channels, sender, seal, metrics);
        let links = Arc::new(Links {
            servers,
            health: Arc::new(Health::new(metrics)),
            subscriptions: Arc::new(subscriptions),
            of: Mutex::default(),
        });
        let closed = CancellationToken::new();
        let tasks = TaskTracker::new();
        let run = Arc::clone(&links).run(closed.clone());
        let runtime = links.servers.runtime().handle();
        tasks.spawn_on(run, runtime);
        tasks.close();
        let bus = Self {
            links,
            keys,
            shards,
            sent: metrics.bus_messages("out"),
            unpublished: metrics.messages_dropped("unpublished"),
            tasks,
            closed: closed.clone(),
            _last: Arc::new(closed.drop_guard()),
        };
        (bus, inbox)
    }

    pub(super) fn seal(&self) -> &Seal {
        self.links.subscriptions.seal()
    }

    pub(super) async fn publish(
        &self,
        shard: Shard,
        nodes: &[Instance],
        payload: &[u8],
    ) -> Result<Vec<bool>, BusError> {
        let channels = nodes.iter().map(|node| self.keys.node_channel(shard, node));
        let heard = self.call(&channels.collect::<Vec<_>>(), payload).await?;
        Ok(heard.into_iter().map(|heard| heard > 0).collect())
    }

    /// A node listens in every shard, so this is for the first of its channels whose server can be reached; of different nodes,
    /// in different shards.
    pub(super) fn post(&self, node: &Instance, payload: &[u8]) {
        let first = node.as_str().bytes().map(usize::from).sum::<usize>();
        let mut shards: Vec<_> = self.shards.all().collect();
        let shards_count = shards.len();
        shards.rotate_left(first % shards_count);
        let channels = shards
            .into_iter()
            .map(|shard| self.keys.node_channel(shard, node));
        let up = channels
            .filter_map(|channel| Some((self.links.at(&channel)?, channel)))
            .find(|(pair, _)| pair.publisher.is_up());
        let posted = up.is_some_and(|(pair, channel)| {
            let publication = self.sealed(&channel, payload);
            pair.publisher.post(publication)
        });
        match posted {
            true => self.sent.increment(1),
            false => self.unpublished.increment(1),
        }
    }

    pub(super) async fn publish_all(&self, payload: &[u8]) -> Result<u64, BusError> {
        let heard = self.call(&[self.keys.all_channel()], payload).await?;
        Ok(heard.into_iter().sum())
    }

    /// The command that publishes a message.
    fn sealed(&self, channel: &str, payload: &[u8]) -> Cmd {
        let mut publish = redis::cmd("SPUBLISH");
        publish.arg(channel).arg(self.seal().seal(channel, payload));
        publish
    }

    /// Publishes to channels of one slot, by the server that has it; when that one says that another has it, by that one. Returns
    /// how many listened on each.
    async fn call(&self, channels: &[String], payload: &[u8]) -> Result<Vec<u64>, BusError> {
        let until = Instant::now() + DEADLINE;
        let mut heard: Vec<Option<u64>> = vec![None; channels.len()];
        let mut why = "no link to Redis".to_owned();
        loop {
            let open: Vec<_> = (0..channels.len())
                .filter(|at| heard[*at].is_none())
                .collect();
            let (Some(first), true) = (open.first(), Instant::now() < until) else {
                break;
            };
            let Some(pair) = self.links.at(&channels[*first]) else {
                break;
            };
            let mut publications = Pipeline::with_capacity(open.len());
            for at in &open {
                publications.add_command(self.sealed(&channels[*at], payload));
            }
            let outcomes = pair.publisher.call(&publications, until).await;
            let mut moved = false;
            for (at, outcome) in open.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Heard(count) => heard[at] = Some(count),
                    Outcome::Elsewhere => moved = true,
                    Outcome::Refused(error) => why = error,
                    Outcome::Unanswered(error) => return Err(BusError::Unanswered(error)),
                }
            }
            if !moved {
                break;
            }
            why = "the server of the channel has changed".to_owned();
            if timeout_at(until, self.links.servers.look()).await.is_err() {
                break;
            }
        }
        if heard.iter().all(Option::is_none) {
            return Err(BusError::NotSent(why));
        }
        self.sent.increment(heard.iter().flatten().count() as u64);
        // Refused where others were not: of those channels alone Redis has something to say.
        Ok(heard.into_iter().map(Option::unwrap_or_default).collect())
    }

    pub(super) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.links.servers.runtime().spawn(work)
    }

    pub(super) fn is_up(&self) -> bool {
        self.links.health.is_up()
    }

    pub(super) fn is_mostly_up(&self) -> bool {
        self.links.health.is_mostly_up()
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.links.health.gaps()
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        if timeout(CLOSING, self.tasks.wait()).await.is_err() {
            tracing::warn!("the bus's links are still closing");
        }
        self.links.subscriptions.close();
    }
}
