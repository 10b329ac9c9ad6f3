//! Tells followers what happens on this node: connects, refusals, disconnects, rooms, messages, and clients' events. Names, ids and
//! sizes, never a payload or a token.
//!
//! A follower holds nothing up: what it does not take in time is dropped for it alone, and counted. Without a follower, a happening costs
//! one load of an atomic number.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, broadcast::error::RecvError, watch},
    time::Instant,
};

use crate::connection::{ConnectionId, UserId};

/// Followers that a node has at the most.
const FOLLOWERS: usize = 16;

/// Happenings that wait for a follower at the most.
pub const QUEUE: usize = 1_024;

/// The longest name of an event that is told whole, in bytes. Clients may make them as long as a payload.
const LONGEST_NAME: usize = 256;

/// How long a follower may stay before its right is looked at anew.
const STAY: Duration = Duration::from_secs(5 * 60);

/// Something that happened on this node.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum Happening<'a> {
    /// A connection has got `ready`.
    Connected {
        #[serde(flatten)]
        who: Who<'a>,
        transport: &'static str,
    },
    /// A CONNECT packet was refused; `reason` as in the metric of connect errors.
    Refused {
        namespace: &'a str,
        reason: &'static str,
    },
    /// A connection is gone; `reason` as in the metric of disconnects.
    Disconnected {
        #[serde(flatten)]
        who: Who<'a>,
        reason: &'static str,
        seconds: u64,
    },
    /// A connection has gone from polling to a WebSocket.
    Upgraded {
        #[serde(flatten)]
        who: Who<'a>,
        transport: &'static str,
    },
    /// A connection is in a room now.
    Joined {
        #[serde(flatten)]
        who: Who<'a>,
        room: &'a str,
    },
    /// A connection is not in a room any more.
    Left {
        #[serde(flatten)]
        who: Who<'a>,
        room: &'a str,
    },
    /// A message was handed to this many connections of this node.
    Message {
        kind: &'static str,
        /// The user, the connection or the room that it is for; none of a broadcast.
        to: Option<&'a str>,
        namespace: &'a str,
        #[serde(serialize_with = "cut")]
        event: &'a str,
        bytes: usize,
        connections: u64,
    },
    /// A client has sent an event.
    Event {
        #[serde(flatten)]
        who: Who<'a>,
        #[serde(serialize_with = "cut")]
        event: &'a str,
        bytes: usize,
    },
}

/// The connection that something happened to.
#[derive(Serialize)]
pub(crate) struct Who<'a> {
    pub(crate) connection: &'a ConnectionId,
    pub(crate) user: Option<&'a UserId>,
    pub(crate) namespace: &'a str,
}

#[derive(Serialize)]
struct Stamped<'a> {
    at: Timestamp,
    #[serde(flatten)]
    happening: Happening<'a>,
}

fn cut<S: Serializer>(name: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&name[..name.floor_char_boundary(LONGEST_NAME)])
}

/// Tells followers what happens.
pub(crate) struct Tail {
    happenings: broadcast::Sender<Arc<str>>,
    places: Arc<Semaphore>,
    /// Changes when all followers are to come again.
    ends: watch::Sender<()>,
}

impl Tail {
    pub(crate) fn new() -> Self {
        Self {
            happenings: broadcast::Sender::new(QUEUE),
            places: Arc::new(Semaphore::new(FOLLOWERS)),
            ends: watch::Sender::new(()),
        }
    }

    /// Tells followers what has happened, if there are any. Never waits.
    pub(crate) fn tell<'a>(&self, happening: impl FnOnce() -> Happening<'a>) {
        if self.places.available_permits() == FOLLOWERS {
            return;
        }
        let stamped = Stamped {
            at: Timestamp::now(),
            happening: happening(),
        };
        if let Ok(text) = serde_json::to_string(&stamped) {
            // Fails when the last follower has just gone.
            self.happenings.send(text.into()).ok();
        }
    }

    /// Sends all followers away.
    pub(crate) fn end_all(&self) {
        self.ends.send_replace(());
    }

    /// Follows what happens. None while there are as many followers as there may be.
    pub(crate) fn follow(&self) -> Option<Follower> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some(Follower {
            happenings: self.happenings.subscribe(),
            ends: self.ends.subscribe(),
            until: Instant::now() + STAY,
            _place: place,
        })
    }
}

/// Follows what happens on this node.
pub struct Follower {
    happenings: broadcast::Receiver<Arc<str>>,
    ends: watch::Receiver<()>,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

/// What a follower is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Something that happened, as JSON.
    Happened(Arc<str>),
    /// How many happenings were dropped here because the follower did not take them in time.
    Dropped(u64),
}

impl Follower {
    /// What happens next. None when the follower has to go: after five minutes, when the configuration is reloaded, and when the node
    /// ends.
    pub async fn next(&mut self) -> Option<Told> {
        tokio::select! {
            biased;
            _ = self.ends.changed() => None,
            () = tokio::time::sleep_until(self.until) => None,
            happening = self.happenings.recv() => match happening {
                Ok(text) => Some(Told::Happened(text)),
                Err(RecvError::Lagged(dropped)) => Some(Told::Dropped(dropped)),
                Err(RecvError::Closed) => None,
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn event(name: &str) -> Happening<'_> {
        Happening::Message {
            kind: "broadcast",
            to: None,
            namespace: "/",
            event: name,
            bytes: 7,
            connections: 2,
        }
    }

    async fn name(follower: &mut Follower) -> String {
        match follower.next().await {
            Some(Told::Happened(text)) => {
                let told: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(told["type"], "message");
                told["event"].as_str().unwrap().to_owned()
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_slow_follower_misses_the_oldest_and_is_told_how_many() {
        let tail = Tail::new();
        tail.tell(|| event("unseen"));
        let (mut slow, mut fast) = (tail.follow().unwrap(), tail.follow().unwrap());
        for n in 0..QUEUE + 3 {
            let nth = n.to_string();
            tail.tell(|| event(&nth));
            assert!(n > 5 || name(&mut fast).await == nth);
        }
        assert_eq!(slow.next().await, Some(Told::Dropped(3)));
        assert_eq!(name(&mut slow).await, "3");
        assert_eq!(name(&mut fast).await, "6");
    }

    #[tokio::test]
    async fn a_name_of_any_length_is_told_short() {
        let tail = Tail::new();
        let mut follower = tail.follow().unwrap();
        let long = format!("x{}", "ä".repeat(1_000_000));
        tail.tell(|| event(&long));
        assert_eq!(name(&mut follower).await, format!("x{}", "ä".repeat(127)));
    }

    #[tokio::test]
    async fn followers_are_bounded_in_number_and_time() {
        let tail = Tail::new();
        let mut followers: Vec<_> = (0..FOLLOWERS).map(|_| tail.follow().unwrap()).collect();
        assert!(tail.follow().is_none());
        drop(followers.pop());
        let mut last = tail.follow().unwrap();
        tail.end_all();
        assert_eq!(last.next().await, None);
        for mut follower in followers {
            assert_eq!(follower.next().await, None);
        }
        let mut old = tail.follow().unwrap();
        assert!(old.until > Instant::now() && old.until <= Instant::now() + STAY);
        old.until = Instant::now();
        assert_eq!(old.next().await, None);
    }
}
