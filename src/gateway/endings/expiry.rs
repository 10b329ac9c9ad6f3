//! The end of a token on a connection that lives on: a warning ahead of it, then the end. And the end of what a connection is in a
//! room by.
//!
//! One queue for all connections of the node, with one entry each: when to look at the connection again. What is to be done
//! then is decided by what its token says by that time, so a token that has been refreshed meanwhile needs no care. When the
//! clock has been set, or the machine has slept, all are looked at.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::time::{DelayQueue, delay_queue::Key};

use crate::{
    config::RunningConfig,
    connection::ConnectionId,
    ending::Ending,
    gateway::{
        connections::{LocalConnections, local::LocalConnection},
        tasks::{Tasks, contain},
    },
};

/// The longest time until a connection is looked at again: timers follow a clock that stands still while a machine sleeps.
const LONGEST: Duration = Duration::from_secs(3600);

/// How often the clock is held against one that can't be set.
const CLOCK: Duration = Duration::from_secs(5);

/// From how much on they disagree: less is what a clock is corrected by every day.
const JUMP: Duration = Duration::from_secs(1);

/// What the queue is told.
pub(crate) enum Watch {
    /// Look at a connection now.
    Look(ConnectionId),
    /// It is gone.
    Forget(ConnectionId),
    /// Look at all of them now: `auth.jwt.leeway` may be another one.
    LookAtAll,
}

/// What a look at a connection finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Nothing yet; look again after this.
    Later(Duration),
    /// The client is to be warned, and looked at again after this.
    Warn(Duration),
    /// The token is over.
    Over,
}

/// Watches over the tokens of this node's connections.
pub(crate) struct ExpiryWatch {
    config: RunningConfig,
    connections: Arc<LocalConnections>,
    watches: mpsc::UnboundedSender<Watch>,
}

impl ExpiryWatch {
    /// Watches over these connections until the node stops. `watches`, `watching`: the two ends of the queue of what it is told.
    pub(crate) fn start(
        config: RunningConfig,
        connections: Arc<LocalConnections>,
        (watches, watching): (mpsc::UnboundedSender<Watch>, mpsc::UnboundedReceiver<Watch>),
        tasks: &Tasks,
    ) -> Arc<Self> {
        let watch = Arc::new(Self {
            config,
            connections,
            watches,
        });
        tasks.spawn(watch.clone().run(watching));
        watch
    }

    /// Looks at all tokens now: how long they are good may have changed.
    pub(crate) fn look_at_all(&self) {
        // Fails only when the node's tasks have stopped.
        self.watches.send(Watch::LookAtAll).ok();
    }

    /// Watches over the end of a connection's token, and of its user's memberships in rooms, by what they say now.
    pub(crate) fn watch(&self, connection: &LocalConnection) {
        if connection.expires_at().is_some() || connection.has_until() {
            self.look_at(connection);
        }
    }

    /// Looks at a connection now: it has a new time at which something of it is over.
    pub(crate) fn look_at(&self, connection: &LocalConnection) {
        // Fails only when the node's tasks have stopped.
        self.watches.send(Watch::Look(connection.id.clone())).ok();
    }

    /// Watches over tokens, until the node is gone.
    async fn run(self: Arc<Self>, mut watches: mpsc::UnboundedReceiver<Watch>) {
        let mut queue = DelayQueue::new();
        let mut keys: HashMap<ConnectionId, Key> = HashMap::new();
        let mut clock = Clock::now();
        let mut ticks = interval(CLOCK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                watch = watches.recv() => match watch {
                    Some(Watch::Look(id)) => vec![id],
                    Some(Watch::Forget(id)) => {
                        if let Some(key) = keys.remove(&id) {
                            queue.remove(&key);
                        }
                        continue;
                    }
                    Some(Watch::LookAtAll) => keys.keys().cloned().collect(),
                    None => return,
                },
                Some(due) = queue.next(), if !queue.is_empty() => {
                    let id = due.into_inner();
                    keys.remove(&id);
                    vec![id]
                }
                _ = ticks.tick() => match clock.was_set(Clock::now()) {
                    true => {
                        tracing::warn!(connections = keys.len(), "the clock was set; tokens are looked at");
                        keys.keys().cloned().collect()
                    }
                    false => continue,
                },
            };
            for id in due {
                if let Some(key) = keys.remove(&id) {
                    queue.remove(&key);
                }
                let Some(connection) = self.connections.table.get(&id) else {
                    continue;
                };
                // A panic takes this look, not the watch over all tokens.
                let looked = contain("a look at a token", &id, || self.look(&connection));
                let wait = looked.unwrap_or(Some(CLOCK));
                if let Some(wait) = wait {
                    keys.insert(id.clone(), queue.insert(id, wait));
                }
            }
        }
    }

    /// Does what is due for a connection. Returns when to look again.
    fn look(&self, connection: &Arc<LocalConnection>) -> Option<Duration> {
        let (left, next) = connection.leave_those_over(Timestamp::now());
        self.connections.memberships.doubt(left);
        let rooms = next.map(|next| {
            let wait = next.duration_since(Timestamp::now());
            Duration::try_from(wait).unwrap_or_default().min(LONGEST)
        });
        let token = self.look_at_token(connection);
        rooms.into_iter().chain(token).min()
    }

    fn look_at_token(&self, connection: &Arc<LocalConnection>) -> Option<Duration> {
        let expires_at = connection.expires_at()?;
        match self.find(connection, expires_at) {
            Finding::Later(wait) => Some(wait),
            Finding::Warn(wait) => {
                connection.warn(expires_at);
                Some(wait)
            }
            Finding::Over => {
                // With those of its transport that are over too: one by one, all but the last would get a DISCONNECT packet, and their
                // clients would stay away.
                let mut over = self.connections.table.of_session(connection.session.id);
                over.retain(|other| {
                    let expires_at = other.expires_at();
                    expires_at.is_some_and(|at| self.find(other, at) == Finding::Over)
                });
                self.connections
                    .end_all(&over, &Ending::of(Ending::TOKEN_EXPIRED));
                None
            }
        }
    }

    fn find(&self, connection: &LocalConnection, expires_at: Timestamp) -> Finding {
        let left = SystemTime::from(expires_at)
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let auth = &self.config.now().auth;
        let overdue = SystemTime::now()
            .duration_since(SystemTime::from(expires_at))
            .unwrap_or_default();
        let (lead, leeway) = (auth.refresh_lead, auth.jwt.leeway);
        finding(left, overdue, lead, leeway, connection.is_warned())
    }
}

/// A moment, by the clock that tokens go by and by one that can't be set and stands still while the machine sleeps.
#[derive(Clone, Copy)]
struct Clock {
    wall: SystemTime,
    steady: Instant,
}

impl Clock {
    fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }

    /// Whether the first was set since this moment, which `now` takes the place of.
    fn was_set(&mut self, now: Self) -> bool {
        let expected = self.wall + now.steady.duration_since(self.steady);
        *self = now;
        let off = match now.wall.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        off >= JUMP
    }
}

/// A token is good for `leeway` after its `exp`, as at the door: a client that were sent away earlier would be let in again
/// with the same token.
fn finding(
    left: Duration,
    overdue: Duration,
    lead: Duration,
    leeway: Duration,
    warned: bool,
) -> Finding {
    if left.is_zero() && overdue >= leeway {
        return Finding::Over;
    }
    let to_the_end = left + leeway.saturating_sub(overdue);
    if warned || left.is_zero() {
        Finding::Later(to_the_end.min(LONGEST))
    } else if left <= lead {
        Finding::Warn(to_the_end.min(LONGEST))
    } else {
        Finding::Later((left - lead).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_once_either_way() {
        let mut clock = Clock::now();
        let later = |clock: Clock, by_wall: u64, by_steady: u64| Clock {
            wall: clock.wall + s(by_wall),
            steady: clock.steady + s(by_steady),
        };
        for (by_wall, by_steady, expected) in [
            (5, 5, false),
            (86_405, 5, true),
            (5, 5, false),
            (0, 5, true),
            (5, 5, false),
        ] {
            let now = later(clock, by_wall, by_steady);
            assert_eq!(clock.was_set(now), expected, "{by_wall} {by_steady}");
        }
    }

    #[test]
    fn a_connection_is_warned_once_and_ended_after_the_leeway() {
        let cases = [
            // left, overdue, warned
            ((600, 0, false), Finding::Later(s(570))),
            ((30, 0, false), Finding::Warn(s(35))),
            ((10, 0, false), Finding::Warn(s(15))),
            ((10, 0, true), Finding::Later(s(15))),
            ((0, 0, true), Finding::Later(s(5))),
            ((0, 3, true), Finding::Later(s(2))),
            ((0, 5, true), Finding::Over),
            ((0, 5, false), Finding::Over),
            ((0, 4000, true), Finding::Over),
            ((100_000, 0, false), Finding::Later(LONGEST)),
        ];
        for ((left, overdue, warned), expected) in cases {
            let found = finding(s(left), s(overdue), s(30), s(5), warned);
            assert_eq!(found, expected, "{left} {overdue} {warned}");
        }
    }
}
