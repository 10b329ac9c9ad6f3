//! What this node tells pages, its own and those of other nodes: its numbers, its connections, and what happens to these.
//!
//! A node with pages says so every two seconds, and is told for a few seconds more. Without a page in the fleet it costs nothing: the
//! task here sleeps, and does not follow the tail.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    sync::{Notify, broadcast},
    time::{Instant, MissedTickBehavior},
};

use super::{
    shown::{Sample, share},
    stats::{Aggregate, NamespaceStats, ServerStats},
};
use crate::{
    config::RunningConfig,
    connection::{ConnectionId, Instance, NodeId, TransportKind},
    gateway::{
        connections::LocalConnections,
        message::PageEvent,
        peers::{Peers, wire::Command},
        tail::{Follower, Told},
    },
    metrics::Metrics,
};

/// How often pages are told of a node, which they take for ill after 10 s.
pub(super) const PERIOD: Duration = Duration::from_secs(2);

/// How long a node with pages is told what happens, after it has said that it has some.
const WATCHED: Duration = Duration::from_secs(7);

/// How many changes of connections and rooms this node tells in a second, and at once. The others are told later.
const CHANGES: NonZeroU32 = NonZeroU32::new(200).unwrap();
const CHANGES_AT_ONCE: NonZeroU32 = NonZeroU32::new(2_000).unwrap();

/// How many events of and for clients this node tells in a second, and at once. The others are counted, and shown by nobody.
const EVENTS: NonZeroU32 = NonZeroU32::new(100).unwrap();
const EVENTS_AT_ONCE: NonZeroU32 = NonZeroU32::new(200).unwrap();

/// Tells pages of this node.
pub(super) struct Source {
    pub(super) node_id: NodeId,
    pub(super) config: RunningConfig,
    metrics: Metrics,
    pub(super) connections: Arc<LocalConnections>,
    peers: Arc<Peers>,
    /// To the pages of this node.
    pages: broadcast::Sender<Arc<PageEvent>>,
    /// The nodes that have pages, and until when they are told.
    pub(super) watchers: Mutex<HashMap<Instance, Instant>>,
    /// A node has pages that had none.
    watched: Notify,
    pub(super) sample: Mutex<Sample>,
    pub(super) aggregate: Mutex<Aggregate>,
    changes: DefaultDirectRateLimiter,
    events: DefaultDirectRateLimiter,
    hostname: String,
    started: Instant,
}

impl Source {
    pub(super) fn new(
        node_id: NodeId,
        config: RunningConfig,
        metrics: Metrics,
        connections: Arc<LocalConnections>,
        peers: Arc<Peers>,
        pages: broadcast::Sender<Arc<PageEvent>>,
    ) -> Self {
        let limiter =
            |rate, at_once| RateLimiter::direct(Quota::per_second(rate).allow_burst(at_once));
        Self {
            node_id,
            config,
            metrics,
            connections,
            peers,
            pages,
            watchers: Mutex::default(),
            watched: Notify::new(),
            sample: Mutex::default(),
            aggregate: Mutex::default(),
            changes: limiter(CHANGES, CHANGES_AT_ONCE),
            events: limiter(EVENTS, EVENTS_AT_ONCE),
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
            started: Instant::now(),
        }
    }

    /// A node of a fleet with so many connections has pages.
    pub(super) fn watch(&self, node: &Instance, connections: u32) {
        let most = share(connections as usize, self.connections.table.len());
        self.sample.lock().most = most;
        let until = Instant::now() + WATCHED;
        if self.watchers.lock().insert(node.clone(), until).is_none() {
            self.watched.notify_one();
        }
    }

    fn is_watched(&self) -> bool {
        let (mut watchers, now) = (self.watchers.lock(), Instant::now());
        watchers.retain(|_, until| *until > now);
        !watchers.is_empty()
    }

    /// Tells what happens here while anybody has a page, until the node is gone.
    pub(super) async fn run(&self) {
        loop {
            self.watched.notified().await;
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut follower = None;
            while self.is_watched() {
                if follower.is_none() {
                    // None while others take all places of the tail. What it would have told is told with the next tick.
                    follower = self.connections.tail.follow();
                }
                tokio::select! {
                    _ = ticks.tick() => self.tell_stats(),
                    () = self.watched.notified() => self.tell_stats(),
                    told = next(&mut follower) => match told {
                        Some(Told::Happened(text)) => self.happened(&text),
                        Some(Told::Dropped(dropped)) => {
                            self.metrics.messages_dropped("operator").increment(dropped);
                        }
                        // It may stay for five minutes.
                        None => follower = None,
                    },
                }
            }
            *self.sample.lock() = Sample::default();
            self.aggregate.lock().take();
        }
    }

    fn tell_stats(&self) {
        let connections = self.ready();
        if self.sample.lock().is_due() {
            self.reconcile(&connections);
        }
        let config = self.config.now();
        let mut namespaces: HashMap<&str, usize> = HashMap::new();
        for connection in &connections {
            *namespaces.entry(&connection.namespace).or_default() += 1;
        }
        let namespaces = config.namespaces.iter().map(|it| NamespaceStats {
            name: it.path.clone(),
            sockets_count: namespaces.get(&*it.path).copied().unwrap_or_default(),
        });
        let mut sessions = HashSet::new();
        let polling = connections.iter().filter(|one| {
            sessions.insert(one.session.id) && one.session.kind() == TransportKind::Polling
        });
        let polling_clients_count = polling.count();
        let stats = ServerStats {
            server_id: self.node_id.to_string(),
            hostname: self.hostname.clone(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs_f64(),
            clients_count: sessions.len(),
            polling_clients_count,
            aggregated_events: self.aggregate.lock().take(),
            namespaces: namespaces.collect(),
        };
        self.tell(PageEvent::new(None, "server_stats", &[stats]));
    }

    /// Whether a change of a connection may be told now. What may not is told with a later [`Source::reconcile`].
    pub(super) fn may_tell(&self) -> bool {
        self.changes.check().is_ok()
    }

    pub(super) fn tell_of(&self, about: &ConnectionId, event: &'static str, args: &[Value]) {
        self.tell(PageEvent::new(Some(about.clone()), event, args));
    }

    pub(super) fn tell_event(
        &self,
        about: Option<ConnectionId>,
        event: &'static str,
        args: &[Value],
    ) {
        if self.events.check().is_ok() {
            self.tell(PageEvent::new(about, event, args));
        } else {
            self.metrics.messages_dropped("operator").increment(1);
        }
    }

    /// Tells all that watch.
    fn tell(&self, event: PageEvent) {
        let mut watchers: Vec<_> = self.watchers.lock().keys().cloned().collect();
        let all = watchers.len();
        watchers.retain(|node| *node != self.peers.instance);
        if !watchers.is_empty() {
            let command = Command::TellPages {
                event: Cow::Borrowed(&event),
            };
            self.peers.post(&watchers, &command);
        }
        if watchers.len() < all {
            // Fails when the last page has just gone.
            self.pages.send(Arc::new(event)).ok();
        }
    }
}

/// What happens next; never without a follower.
async fn next(follower: &mut Option<Follower>) -> Option<Told> {
    match follower {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}
