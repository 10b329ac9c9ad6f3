//! Connections that watch other users: whether those are online.
//!
//! ```text
//!  a user's first connection, or the last one on its node  ─▶  the nodes that watch the user  ─▶  look: presence in the registry
//!                                                                                                  │ other than last told?
//!                                                                                                  ▼
//!                                                                                                `presence` to the watchers
//! ```
//!
//! A watching connection is a member of a room of its own kind ([`LocalConnection::watched_room`]), so the registry knows which nodes
//! watch a user, loses none of it with a node or with its data, and a change costs those nodes. What they are sent is a hint and no
//! news: what is told is what the registry says then, so a hint may come late, twice or not at all. Nodes that die send none; what is
//! watched is looked at when a node is gone, when messages may have been lost, and now and then.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    connections::{LocalConnections, local::LocalConnection},
    lease::OwnLease,
    peers::{Peers, wire::Command},
    tasks::Tasks,
};
use crate::{
    config::{RunningConfig, WatchRule},
    connection::{Instance, UserId},
    registry::{Presence, Recipient, Registry, RegistryError},
};

/// How many users one read of the registry asks for.
const AT_ONCE: usize = 1000;

/// How often all that is watched is looked at, for hints that were lost without a sign.
const ROUND: Duration = Duration::from_secs(30);

/// How many changes of users are told on together.
const TOGETHER: usize = 256;

/// Why a client may not watch. `Display` is what its acknowledgement says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotWatched {
    #[error("Not allowed to watch: {0}")]
    Forbidden(UserId),
    #[error("Too many users")]
    TooMany,
    #[error("Service unavailable")]
    Registry(#[from] RegistryError),
}

/// A user that connections of this node watch.
#[derive(Default)]
struct Watched {
    watchers: Vec<Arc<LocalConnection>>,
    /// How often something may have changed: what was read before a change says nothing of it.
    changes: u64,
    /// While the user is offline: `lastSeen`, and when the watchers are told. Another `lastSeen` means that the user was back between two
    /// looks, and the delay begins anew. None while the user is online.
    offline: Option<(Option<Timestamp>, Instant)>,
}

/// Tells connections of this node about the users that they watch.
pub(crate) struct Watching {
    config: RunningConfig,
    registry: Arc<dyn Registry>,
    lease: Arc<OwnLease>,
    peers: Arc<Peers>,
    connections: Arc<LocalConnections>,
    tasks: Tasks,
    users: Mutex<HashMap<UserId, Watched>>,
}

impl Watching {
    /// Watches until the node stops. `changes`: users with a connection that has come or gone on this node.
    pub(crate) fn start(
        config: RunningConfig,
        registry: Arc<dyn Registry>,
        lease: Arc<OwnLease>,
        peers: Arc<Peers>,
        connections: Arc<LocalConnections>,
        changes: mpsc::UnboundedReceiver<UserId>,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let watching = Arc::new(Self {
            config,
            registry,
            lease,
            peers,
            connections,
            tasks: tasks.clone(),
            users: Mutex::default(),
        });
        tasks.spawn(watching.clone().pass_on(changes));
        let looking = watching.clone();
        tasks.supervise("a look at watched users", move || {
            looking.clone().look_at_all()
        });
        watching
    }

    /// Watches users for a connection. Returns their presence, by user.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        connection: &Arc<LocalConnection>,
        users: &[UserId],
    ) -> Result<Map<String, Value>, NotWatched> {
        let config = self.config.now();
        if config.presence.watch == WatchRule::Claim {
            let identity = connection.identity();
            let claimed = identity.as_deref().map(|identity| &identity.watch);
            let is_claimed = |user: &&UserId| claimed.is_some_and(|claimed| claimed.contains(user));
            if let Some(user) = users.iter().find(|user| !is_claimed(user)) {
                return Err(NotWatched::Forbidden(user.clone()));
            }
        }
        let most = config.presence.watch_limit as usize;
        drop(config);
        let Some(members) = connection.watch(users, most) else {
            return Err(NotWatched::TooMany);
        };
        let before = users
            .iter()
            .map(|user| self.among_watchers(user, connection));
        let before: Vec<u64> = before.collect();
        // The registry has this node among those that watch before it says how the users are.
        let told = async {
            self.connections.memberships.settle(members).await?;
            self.read(users).await
        };
        let presence = match told.await {
            Ok(presence) => presence,
            Err(error) => {
                self.unwatch(connection, users);
                return Err(error.into());
            }
        };
        let mut answer = Map::new();
        for ((user, presence), before) in users.iter().zip(presence).zip(before) {
            connection.has_told(user, presence.tally.connections > 0);
            answer.insert(user.as_str().to_owned(), shown(presence));
            let changes = self.users.lock().get(user).map_or(0, |it| it.changes);
            if changes != before {
                self.look_soon(user.clone());
            }
        }
        Ok(answer)
    }

    /// A connection has taken over what a guest watched.
    pub(crate) fn go_on(self: &Arc<Self>, connection: &Arc<LocalConnection>) {
        for user in connection.watched() {
            self.among_watchers(&user, connection);
            self.look_soon(user);
        }
        self.follow_claim(connection);
    }

    /// Takes a connection among those who watch a user. Returns how often something of the user may have changed.
    fn among_watchers(&self, user: &UserId, connection: &Arc<LocalConnection>) -> u64 {
        let mut users = self.users.lock();
        let watched = users.entry(user.clone()).or_default();
        if !watched.watchers.iter().any(|it| it.id == connection.id) {
            watched.watchers.push(connection.clone());
        }
        watched.changes
    }

    /// What a token says that its bearer watches, and nothing else that was watched by the one before: each is told of as it is.
    pub(crate) fn follow_claim(self: &Arc<Self>, connection: &Arc<LocalConnection>) {
        if self.config.now().presence.watch != WatchRule::Claim {
            return;
        }
        let identity = connection.identity();
        let claimed: &[UserId] = identity.as_deref().map_or(&[], |identity| &identity.watch);
        let mut gone = connection.watched();
        gone.retain(|user| !claimed.contains(user));
        self.unwatch(connection, &gone);
        let watched = connection.watched();
        let mut new = claimed.to_vec();
        new.retain(|user| !watched.contains(user));
        let most = self.config.now().presence.watch_limit as usize;
        new.truncate(most.saturating_sub(watched.len()));
        if new.is_empty() {
            return;
        }
        let (watching, connection) = (self.clone(), connection.clone());
        self.tasks.spawn(async move {
            // Until it is gone: nobody asks again for what a token says.
            while !connection.is_gone() {
                match watching.watch(&connection, &new).await {
                    Ok(users) => {
                        for (user, presence) in users {
                            connection.tell_presence(&user, presence);
                        }
                        return;
                    }
                    Err(NotWatched::Registry(error)) => {
                        tracing::debug!(%error, connection = %connection.id, "can't watch yet");
                        tokio::time::sleep(watching.config.now().registry.heartbeat).await;
                    }
                    Err(_) => return,
                }
            }
        });
    }

    /// Watches users no more.
    pub(crate) fn unwatch(&self, connection: &LocalConnection, users: &[UserId]) {
        self.connections
            .memberships
            .doubt(connection.unwatch(users));
        let mut watched = self.users.lock();
        for user in users {
            if let Some(one) = watched.get_mut(user) {
                one.watchers.retain(|it| it.id != connection.id);
                if one.watchers.is_empty() {
                    watched.remove(user);
                }
            }
        }
    }

    /// Something of a user may have changed: tells those that watch, if it has.
    pub(crate) fn look_soon(self: &Arc<Self>, user: UserId) {
        if let Some(watched) = self.users.lock().get_mut(&user) {
            watched.changes += 1;
        } else {
            return;
        }
        let watching = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = watching.look(&[user]).await {
                tracing::debug!(%error, "can't look at a user that is watched");
            }
        });
    }

    async fn read(&self, users: &[UserId]) -> Result<Vec<Presence>, RegistryError> {
        let mut found = Vec::with_capacity(users.len());
        for some in users.chunks(AT_ONCE) {
            let read = self.registry.presence(some);
            found.extend(self.lease.vouched(None, read).await?);
        }
        Ok(found)
    }

    /// Tells the watchers of users what they have not been told. That a user is offline is told once it has been so for
    /// `presence.offline_delay`, by a later look.
    async fn look(self: &Arc<Self>, users: &[UserId]) -> Result<(), RegistryError> {
        for (user, presence) in users.iter().zip(self.read(users).await?) {
            let is_online = presence.tally.connections > 0;
            let mut watched = self.users.lock();
            let Some(one) = watched.get_mut(user) else {
                continue;
            };
            one.watchers.retain(|it| !it.is_gone());
            if one.watchers.is_empty() {
                watched.remove(user);
                continue;
            }
            if is_online {
                one.offline = None;
            }
            let lacks =
                |it: &Arc<LocalConnection>| it.was_told(user).is_some_and(|told| told != is_online);
            let mut lacking = one.watchers.clone();
            lacking.retain(lacks);
            if lacking.is_empty() {
                continue;
            }
            if !is_online {
                let (now, last_seen) = (Instant::now(), presence.last_seen);
                let known = one.offline.filter(|(seen, _)| *seen == last_seen);
                let (_, from) = *one.offline.insert(known.unwrap_or_else(|| {
                    let from = now + self.config.now().presence.offline_delay;
                    self.look_at(from, user.clone());
                    (last_seen, from)
                }));
                if now < from {
                    continue;
                }
            }
            drop(watched);
            let shown = shown(presence);
            for watcher in lacking {
                watcher.has_told(user, is_online);
                watcher.tell_presence(user.as_str(), shown.clone());
            }
        }
        Ok(())
    }

    fn look_at(self: &Arc<Self>, time: Instant, user: UserId) {
        let watching = self.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep_until(time).await;
            let users = [user];
            while let Err(error) = watching.look(&users).await {
                tracing::debug!(%error, "can't look at a user that is watched");
                tokio::time::sleep(watching.config.now().registry.heartbeat).await;
            }
        });
    }

    /// Looks at all that is watched when a node is gone, when messages may have been lost, and once in each [`ROUND`].
    async fn look_at_all(self: Arc<Self>) {
        let mut gaps = self.peers.gaps();
        let mut known: HashSet<Instance> = HashSet::new();
        let mut looked = Instant::now();
        let mut ticks = interval(self.config.now().registry.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now_known = self.registry.known();
            let is_gone = known.difference(&now_known).next().is_some();
            let has_missed = gaps.has_changed().unwrap_or(false);
            if !is_gone && !has_missed && looked.elapsed() < ROUND {
                known = now_known;
                continue;
            }
            let users: Vec<_> = self.users.lock().keys().cloned().collect();
            match self.look(&users).await {
                Ok(()) => {
                    known = now_known;
                    looked = Instant::now();
                    gaps.mark_unchanged();
                }
                Err(error) => tracing::debug!(%error, "can't look at the users that are watched"),
            }
        }
    }

    /// Hints the nodes that watch them about users of this node.
    async fn pass_on(self: Arc<Self>, mut changes: mpsc::UnboundedReceiver<UserId>) {
        let mut come = Vec::new();
        while changes.recv_many(&mut come, TOGETHER).await > 0 {
            if self.config.now().presence.watch == WatchRule::Off {
                come.clear();
                continue;
            }
            let users: HashSet<_> = come.drain(..).collect();
            let hinted = users.into_iter().map(|user| self.hint(user));
            futures_util::future::join_all(hinted).await;
        }
    }

    async fn hint(self: &Arc<Self>, user: UserId) {
        let recipient = Recipient::Room(LocalConnection::watched_room(&user));
        let command = Command::Look {
            user: Cow::Borrowed(user.as_str()),
        };
        let hinted = self.peers.hint_holders(&recipient, &command).await;
        match hinted {
            Ok(true) => self.look_soon(user),
            Ok(false) => {}
            // Those who watch look by themselves, in time.
            Err(error) => tracing::debug!(%error, "can't hint those who watch a user"),
        }
    }
}

/// A presence, as clients are told.
fn shown(presence: Presence) -> Value {
    json!({
        "online": presence.tally.connections > 0,
        "lastSeen": presence.last_seen,
    })
}
