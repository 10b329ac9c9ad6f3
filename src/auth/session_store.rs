//! Where an application keeps its sessions.

use std::time::Duration;

use async_trait::async_trait;

use super::SessionId;
use crate::link::{Link, LinkError, Slot};

/// The store did not answer. Passes; its text names no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session store does not answer: {0}")]
pub struct StoreUnavailable(String);

impl From<LinkError> for StoreUnavailable {
    fn from(error: LinkError) -> Self {
        Self(error.to_string())
    }
}

/// A store of sessions, which another application writes and Switchboard only reads.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// What is stored under each id, of which there is one at least, in order; none where there is no such session.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`] if it is not known of all.
    async fn load(&self, ids: &[SessionId]) -> Result<Vec<Option<Vec<u8>>>, StoreUnavailable>;

    /// How long the store will keep each, in order; none where it has no such session, or keeps it for ever.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`] if it is not known of all.
    async fn time_left(&self, ids: &[SessionId])
    -> Result<Vec<Option<Duration>>, StoreUnavailable>;

    /// Whether the last that was heard of it was good. Never waits.
    fn is_up(&self) -> bool;
}

/// The store of `connect-redis`: one key for each session, its prefix and the id.
#[derive(Clone, Debug)]
pub struct RedisSessions {
    link: Link,
    prefix: String,
}

impl RedisSessions {
    /// The sessions under `prefix` (`auth.session.key_prefix`) in the Redis that `link` leads to.
    pub fn new(link: Link, prefix: impl Into<String>) -> Self {
        Self {
            link,
            prefix: prefix.into(),
        }
    }

    /// A command about one session.
    fn about(&self, id: &SessionId, command: &str) -> (Slot, redis::Cmd) {
        let key = format!("{}{}", self.prefix, id.expose());
        let mut command = redis::cmd(command);
        command.arg(&key);
        (Slot::of(key.as_bytes()), command)
    }
}

#[async_trait]
impl SessionStore for RedisSessions {
    async fn load(&self, ids: &[SessionId]) -> Result<Vec<Option<Vec<u8>>>, StoreUnavailable> {
        // A key that holds no string is nil to MGET, where GET would fail. One for each, as each may be on another server.
        let read = |id| self.about(id, "MGET");
        let commands: Vec<_> = ids.iter().map(read).collect();
        let found: Vec<(Option<Vec<u8>>,)> = self.link.read_all("sessions", &commands).await?;
        Ok(found.into_iter().map(|(session,)| session).collect())
    }

    async fn time_left(
        &self,
        ids: &[SessionId],
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
        ids: &[SessionId],
        see: impl Fn(&(Vec<u8>, Option<Duration>)) -> Option<T>,
    ) -> Result<Vec<Option<T>>, StoreUnavailable> {
        let memory = self.0.lock();
        if memory.away {
            return Err(StoreUnavailable("away".into()));
        }
        let find = |id: &SessionId| memory.sessions.get(id.expose()).and_then(&see);
        Ok(ids.iter().map(find).collect())
    }
}

#[cfg(test)]
#[async_trait]
impl SessionStore for MemorySessions {
    async fn load(&self, ids: &[SessionId]) -> Result<Vec<Option<Vec<u8>>>, StoreUnavailable> {
        self.0.lock().asked.push(ids.len());
        self.look(ids, |(session, _)| Some(session.clone()))
    }

    async fn time_left(
        &self,
        ids: &[SessionId],
    ) -> Result<Vec<Option<Duration>>, StoreUnavailable> {
        self.look(ids, |(_, left)| *left)
    }

    fn is_up(&self) -> bool {
        !self.0.lock().away
    }
}
