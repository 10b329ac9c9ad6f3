//! Keeps a node below `limits.memory`: beyond it nobody is taken in, and the connections with the longest queues end first.
//!
//! What counts is the process's resident set, since that is what the kernel's OOM killer looks at. It follows what the node frees
//! only where the allocator gives memory back: glibc's keeps most of a burst of small allocations for good (measured: 1,364 MB of
//! 1,414 a minute after 2.7 million CONNECT packets were answered and gone), and a node would take nobody in for ever. So the
//! binary runs on jemalloc, which is back at 75 MB of 1,080 after 15 s.
//!
//! `process` reads what the process holds and may hold.

mod process;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytesize::ByteSize;

use crate::{
    config::RunningConfig,
    gateway::{connections::LocalConnections, tasks::Tasks},
    transport::{Session, door::Door},
};

pub(crate) use self::process::limit;

/// How often the resident set is looked at (an idle node takes 0.25 % of a core, this included).
const LOOK: Duration = Duration::from_millis(250);

/// Shorter queues are not worth a connection.
const WORTH_CUTTING: usize = 16 * 1024;

/// How long memory that was freed may stay resident: jemalloc's `dirty_decay_ms`. So long what was cut counts as gone.
const DECAY: Duration = Duration::from_secs(10);

/// The shortest time between two lines of the log.
const LINES: Duration = Duration::from_secs(10);

/// Watches over the memory of a node.
pub(crate) struct MemoryWatch {
    config: RunningConfig,
    door: Arc<Door>,
    connections: Arc<LocalConnections>,
}

impl MemoryWatch {
    /// Keeps the process below its limit until the node stops.
    pub(crate) fn start(
        config: RunningConfig,
        door: Arc<Door>,
        connections: Arc<LocalConnections>,
        tasks: &Tasks,
    ) {
        let watch = Arc::new(Self {
            config,
            door,
            connections,
        });
        tasks.supervise("a look at the memory", move || watch.clone().run());
    }

    async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        let mut cuts = Cuts::default();
        let mut said: Option<Instant> = None;
        let mut ended = 0;
        loop {
            ticks.tick().await;
            let limit = limit(self.config.now().limits.memory);
            let held = limit.zip(process::resident());
            let Some((limit, resident)) = held.filter(|(limit, resident)| resident > limit) else {
                self.door.set_over_memory(false);
                continue;
            };
            self.door.set_over_memory(true);
            let now = Instant::now();
            let excess = (resident - limit).saturating_sub(cuts.unseen(now));
            for (queued, session) in longest_queues(self.connections.table.sessions(), excess) {
                cuts.add(now, queued as u64);
                ended += 1;
                session.stalled();
            }
            if said.is_none_or(|said| now.duration_since(said) >= LINES) {
                let (resident, limit) = (ByteSize(resident), ByteSize(limit));
                tracing::warn!(
                    %resident, %limit, ended,
                    "more memory than limits.memory: newcomers get 503, and the clients with the longest queues are ended"
                );
                said = Some(now);
                ended = 0;
            }
        }
    }
}

/// The sessions with the longest queues that together hold `excess`, as far as their queues are worth it.
fn longest_queues(sessions: Vec<Arc<Session>>, excess: u64) -> Vec<(usize, Arc<Session>)> {
    if excess == 0 {
        return Vec::new();
    }
    let mut queues: Vec<_> = sessions
        .into_iter()
        .filter(|session| !session.is_ending())
        .map(|session| (session.queued(), session))
        .filter(|(queued, _)| *queued >= WORTH_CUTTING)
        .collect();
    queues.sort_unstable_by_key(|(queued, _)| std::cmp::Reverse(*queued));
    let enough = how_many(queues.iter().map(|(queued, _)| *queued as u64), excess);
    queues.truncate(enough);
    queues
}

/// How many of the queues, the longest first, hold `excess` together; all of them if they hold less.
fn how_many(queues: impl Iterator<Item = u64>, excess: u64) -> usize {
    let mut before = 0;
    queues
        .take_while(|queued| {
            let needed = before < excess;
            before += queued;
            needed
        })
        .count()
}

/// What was cut lately, and may be resident still.
#[derive(Default)]
struct Cuts(Vec<(Instant, u64)>);

impl Cuts {
    fn add(&mut self, now: Instant, bytes: u64) {
        self.0.push((now, bytes));
    }

    /// What was cut within [`DECAY`].
    fn unseen(&mut self, now: Instant) -> u64 {
        self.0.retain(|(at, _)| now.duration_since(*at) < DECAY);
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_queues_are_cut_as_hold_the_excess_together() {
        let queues = || [500, 300, 200].into_iter();
        for (excess, cut) in [
            (0, 0),
            (1, 1),
            (500, 1),
            (501, 2),
            (800, 2),
            (801, 3),
            (9_999, 3),
        ] {
            assert_eq!(how_many(queues(), excess), cut, "{excess}");
        }
    }

    #[test]
    fn what_was_cut_counts_as_gone_until_the_allocator_has_given_it_back() {
        let start = Instant::now();
        let mut cuts = Cuts::default();
        cuts.add(start, 100);
        cuts.add(start + DECAY / 2, 50);
        assert_eq!(cuts.unseen(start + DECAY / 2), 150);
        assert_eq!(cuts.unseen(start + DECAY), 50);
        assert_eq!(cuts.unseen(start + DECAY * 2), 0);
    }
}
