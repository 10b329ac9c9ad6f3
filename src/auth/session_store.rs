//! Where an application keeps its sessions.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoredSessionId;
use crate::link::{Link, LinkError, Slot, time};

/// The store did not answer. Passes; its text names no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session store does not answer: {0}")]
pub struct StoreUnavailable(String);

impl From<LinkError> for StoreUnavailable {
    fn from(error: LinkError) -> Self {
        Self(error.to_string())
    }
}

/// What was found under an id, and when it was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is stored there, if anything.
    pub session: Option<Vec<u8>>,
    /// A moment before it was read, by the clock that revocations go by as far as there is one clock for both.
    pub since: Timestamp,
}

/// A store of sessions, which another application writes and Switchboard only reads.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Returns what is stored under a session id; none if there is nothing.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`] if it is not known.
    async fn find(&self, id: &StoredSessionId) -> Result<Found, StoreUnavailable>;

    /// What is stored under each id, of which there is one at least, in order; none where there is no such session.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`] if it is not known of all.
    async fn load(&self, ids: &[StoredSessionId])
    -> Result<Vec<Option<Vec<u8>>>, StoreUnavailable>;

    /// How long the store will keep each, in order; none where it has no such session, or keeps it for ever.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`] if it is not known of all.
    async fn time_left(
        &self,
        ids: &[StoredSessionId],
    ) -> Result<Vec<Option<Duration>>, StoreUnavailable>;

    /// Whether the last that was heard of it was good. Never waits.
    fn is_up(&self) -> bool;
}

/// Whose clock says when a session was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    Store,
    Node,
}

/// The store of `connect-redis`: one key for each session, its prefix and the id.
///
/// When a session was read is said by the server that holds it, as the clocks of nodes may be minutes apart. Where the store is
/// the registry's Redis, that is the clock that revocations are made by. Where the two are different servers, or different
/// shards of a cluster, they are as far apart as NTP leaves them: by so much a handshake that began before a revocation may
/// pass for a later one (until the session is looked at again), or one that began after it for an earlier one.
#[derive(Clone, Debug)]
pub struct RedisSessions {
    link: Link,
    prefix: String,
    clock: Clock,
}

impl RedisSessions {
    /// The sessions under `prefix` (`auth.session.key_prefix`) in the Redis that `link` leads to.
    pub fn new(link: Link, prefix: impl Into<String>) -> Self {
        Self {
            link,
            prefix: prefix.into(),
            clock: Clock::Store,
        }
    }

    /// Takes the time of answers from the node's clock instead of Redis'. For a node with the embedded registry, whose revocations
    /// are made by that clock.
    #[must_use]
    pub fn by_the_nodes_clock(self) -> Self {
        Self {
            clock: Clock::Node,
            ..self
        }
    }

    /// A command about one session.
    fn about(&self, id: &StoredSessionId, command: &str) -> (Slot, redis::Cmd) {
        let key = format!("{}{}", self.prefix, id.expose());
        let mut command = redis::cmd(command);
        command.arg(&key);
        (Slot::of(key.as_bytes()), command)
    }
}

#[async_trait]
impl SessionStore for RedisSessions {
    async fn find(&self, id: &StoredSessionId) -> Result<Found, StoreUnavailable> {
        let now = Timestamp::now();
        let read = self.about(id, "MGET");
        // TIME goes first and to the same server, in one message.
        let ask_time = (self.clock == Clock::Store).then(|| (read.0, redis::cmd("TIME")));
        let commands: Vec<_> = ask_time.into_iter().chain([read]).collect();
        let mut answers: Vec<Vec<Option<Vec<u8>>>> =
            self.link.read_all("sessions", &commands).await?;
        let session = answers.pop().and_then(|mut found| found.pop()).flatten();
        let since = match answers.pop() {
            None => now,
            Some(answer) => {
                time(&answer).ok_or_else(|| StoreUnavailable("TIME says no time".into()))?
            }
        };
        Ok(Found { session, since })
    }

    async fn load(
        &self,
        ids: &[StoredSessionId],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreUnavailable> {
        // A key that holds no string is nil to MGET, where GET would fail. One for each, as each may be on another server.
        let read = |id| self.about(id, "MGET");
        let commands: Vec<_> = ids.iter().map(read).collect();
        let found: Vec<(Option<Vec<u8>>,)> = self.link.read_all("sessions", &commands).await?;
        Ok(found.into_iter().map(|(session,)| session).collect())
    }

    async fn time_left(
        &self,
        ids: &[StoredSessionId],
    ) -> Result<Vec<Option<Duration>>, StoreUnavailable> {
        let ask = |id| self.about(id, "PTTL");
        let commands: Vec<_> = ids.iter().map(ask).collect();
        let millis: Vec<i64> = self.link.read_all("sessions_ttl", &commands).await?;
        // -1 stands for no end, -2 for no key.
        let time = |millis: i64| u64::try_from(millis).ok().map(Duration::from_millis);
        Ok(millis.into_iter().map(time).collect())
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }
}

/// A store in memory, for tests. Clones are the same one.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct MemorySessions(std::sync::Arc<parking_lot::Mutex<Memory>>);

#[cfg(test)]
#[derive(Default)]
struct Memory {
    sessions: std::collections::HashMap<String, (Vec<u8>, Option<Duration>)>,
    away: bool,
    asked: Vec<usize>,
    now: Timestamp,
}

#[cfg(test)]
impl MemorySessions {
    /// Stores a session for ever.
    pub(crate) fn set(&self, id: &str, session: impl Into<Vec<u8>>) {
        self.0
            .lock()
            .sessions
            .insert(id.into(), (session.into(), None));
    }

    /// Stores a session that has so long to go, by the store's clock; it stays all the same.
    pub(crate) fn set_with_time_left(&self, id: &str, session: impl Into<Vec<u8>>, left: Duration) {
        let mut memory = self.0.lock();
        memory
            .sessions
            .insert(id.into(), (session.into(), Some(left)));
    }

    /// Takes a session out.
    pub(crate) fn remove(&self, id: &str) {
        self.0.lock().sessions.remove(id);
    }

    /// Sets the store's clock, which stands still; 1970 by default.
    pub(crate) fn set_clock(&self, now: Timestamp) {
        self.0.lock().now = now;
    }

    /// Makes it answer no more, or again.
    pub(crate) fn set_away(&self, away: bool) {
        self.0.lock().away = away;
    }

    /// How many sessions each call of `load` has asked for, since this was last asked.
    pub(crate) fn take_asked(&self) -> Vec<usize> {
        std::mem::take(&mut self.0.lock().asked)
    }

    fn look<T>(
        &self,
        ids: &[StoredSessionId],
        see: impl Fn(&(Vec<u8>, Option<Duration>)) -> Option<T>,
    ) -> Result<Vec<Option<T>>, StoreUnavailable> {
        let memory = self.0.lock();
        if memory.away {
            return Err(StoreUnavailable("away".into()));
        }
        let find = |id: &StoredSessionId| memory.sessions.get(id.expose()).and_then(&see);
        Ok(ids.iter().map(find).collect())
    }
}

#[cfg(test)]
#[async_trait]
impl SessionStore for MemorySessions {
    async fn find(&self, id: &StoredSessionId) -> Result<Found, StoreUnavailable> {
        let since = self.0.lock().now;
        let mut found = self.load(std::slice::from_ref(id)).await?;
        Ok(Found {
            session: found.pop().flatten(),
            since,
        })
    }

    async fn load(
        &self,
        ids: &[StoredSessionId],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreUnavailable> {
        self.0.lock().asked.push(ids.len());
        self.look(ids, |(session, _)| Some(session.clone()))
    }

    async fn time_left(
        &self,
        ids: &[StoredSessionId],
    ) -> Result<Vec<Option<Duration>>, StoreUnavailable> {
        self.look(ids, |(_, left)| *left)
    }

    fn is_up(&self) -> bool {
        !self.0.lock().away
    }
}
