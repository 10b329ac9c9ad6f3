//! The notifications of one shard for one backend, on their way.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::lines::{Head, Lines};
use crate::{
    backend::{Backend, Failure, envelope},
    config::RunningConfig,
    metrics::Metrics,
    registry::{Notification, Registry, RegistryError, keys::Shard},
};

/// How often a lane looks for what is new.
const LOOK: Duration = Duration::from_millis(200);

/// How often a lane drops what is too old, or too much.
const PRUNE: Duration = Duration::from_secs(1);

/// How many notifications are read at once.
const BATCH: usize = 64;

/// How many are under way at once.
const AT_ONCE: usize = 32;

/// The pause after a backend that is down, or a registry that is away.
const PAUSE: Duration = Duration::from_secs(1);

/// Where notifications go.
#[derive(Clone)]
pub(super) enum Goal {
    /// To a backend over HTTP.
    Backend(Arc<Backend>),
    /// Into a Redis stream.
    Stream(String),
}

impl Goal {
    /// Whether another one is the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Backend(one), Self::Backend(other)) => Arc::ptr_eq(one, other),
            (Self::Stream(one), Self::Stream(other)) => one == other,
            _ => false,
        }
    }
}

/// How much waits in a lane, and for how long.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Depth {
    pub(super) queued: u64,
    pub(super) lag: Duration,
}

/// What a lane shares with the deliveries that are under way, and with what started it.
#[derive(Clone)]
pub(super) struct Lane {
    pub(super) shard: Shard,
    /// The backend's name.
    pub(super) backend: String,
    pub(super) goal: Goal,
    pub(super) config: RunningConfig,
    pub(super) metrics: Metrics,
    pub(super) registry: Arc<dyn Registry>,
    /// Until when this node delivers.
    pub(super) until: Arc<Mutex<Instant>>,
    pub(super) depth: Arc<Mutex<Depth>>,
}

/// What became of a delivery.
enum Outcome {
    Delivered,
    Failed,
    /// Nothing was tried.
    NotNow,
}

impl Lane {
    /// Delivers until it is aborted.
    pub(super) async fn run(self) {
        let mut lines = Lines::default();
        let mut under_way = JoinSet::new();
        let (mut look_at, mut prune_at) = (Instant::now(), Instant::now());
        let mut rests_until = Instant::now();
        loop {
            let now = Instant::now();
            while now >= rests_until
                && under_way.len() < AT_ONCE
                && let Some((about, head)) = lines.next(now)
            {
                let lane = self.clone();
                under_way.spawn(async move { (about, lane.deliver(head).await) });
            }
            if now >= look_at && !lines.is_full() {
                match self.look(&mut lines).await {
                    Ok(BATCH) => {}
                    Ok(_) => look_at = now + LOOK,
                    Err(error) => {
                        tracing::debug!(%error, backend = self.backend, "can't read notifications");
                        look_at = now + PAUSE;
                    }
                }
                continue;
            }
            if now >= prune_at {
                self.prune().await;
                prune_at = now + PRUNE;
            }
            let mut wake = prune_at;
            if !lines.is_full() {
                wake = wake.min(look_at);
            }
            if under_way.len() < AT_ONCE
                && let Some(turn) = lines.next_turn()
            {
                wake = wake.min(turn.max(rests_until));
            }
            tokio::select! {
                Some(ended) = under_way.join_next() => {
                    let before = lines.cursor();
                    match ended {
                        Ok((about, Outcome::Delivered)) => lines.delivered(about),
                        Ok((about, Outcome::Failed)) => lines.failed(about, None),
                        Ok((about, Outcome::NotNow)) => {
                            rests_until = Instant::now() + PAUSE;
                            lines.failed(about, Some(PAUSE));
                        }
                        // It panicked, and its line with it: all is begun anew.
                        Err(error) => {
                            tracing::error!(%error, "a delivery has panicked");
                            return;
                        }
                    }
                    if lines.cursor() < before {
                        look_at = Instant::now();
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Reads on. Returns how many it found.
    async fn look(&self, lines: &mut Lines) -> Result<usize, RegistryError> {
        let found = self
            .registry
            .kept(self.shard, &self.backend, lines.cursor(), BATCH)
            .await?;
        let count = found.len();
        for one in found {
            lines.take(one);
        }
        Ok(count)
    }

    async fn deliver(&self, head: Head) -> Outcome {
        let notification = match head {
            Head::Held(notification) => notification,
            Head::At(id) => {
                let found = self
                    .registry
                    .kept(self.shard, &self.backend, id.before(), 1);
                match found.await {
                    Ok(found) => match found.into_iter().find(|found| found.id == id) {
                        Some(notification) => notification,
                        // It has been dropped.
                        None => return Outcome::Delivered,
                    },
                    Err(_) => return Outcome::NotNow,
                }
            }
        };
        // Another node may have taken over from one that was held up.
        if Instant::now() >= *self.until.lock() {
            return Outcome::NotNow;
        }
        match self.hand_over(&notification).await {
            Ok(()) => {}
            Err(outcome) => return outcome,
        }
        // What can't be forgotten is not delivered again for that, unless this node dies.
        while let Err(error) = self
            .registry
            .delivered(self.shard, &self.backend, notification.id)
            .await
        {
            tracing::debug!(%error, backend = self.backend, "can't forget a notification yet");
            sleep(PAUSE).await;
        }
        Outcome::Delivered
    }

    async fn hand_over(&self, notification: &Notification) -> Result<(), Outcome> {
        let id = notification.id.webhook_id(self.shard, &self.backend);
        let event = envelope(
            notification.kind,
            notification.timestamp(),
            &notification.data,
        );
        let event = event.map_err(|error| {
            tracing::error!(%error, kind = notification.kind, "can't write a notification");
            Outcome::Failed
        })?;
        match &self.goal {
            Goal::Backend(backend) => {
                let told = backend.notify(notification.kind, &id, event).await;
                told.map_err(|failure| match failure {
                    Failure::Down => Outcome::NotNow,
                    _ => Outcome::Failed,
                })
            }
            Goal::Stream(key) => {
                let added = self.registry.add_to_stream(key, &id, &event).await;
                added.map_err(|error| {
                    tracing::warn!(%error, stream = key, "can't add to a stream");
                    Outcome::Failed
                })
            }
        }
    }

    async fn prune(&self) {
        let (retention, most) = {
            let config = self.config.now();
            (config.events.retention, config.events.max_queued)
        };
        let pruned = self
            .registry
            .prune(self.shard, &self.backend, retention, most.into())
            .await;
        let pruned = match pruned {
            Ok(pruned) => pruned,
            Err(error) => {
                tracing::debug!(%error, backend = self.backend, "can't prune notifications");
                return;
            }
        };
        for (reason, count) in [("expired", pruned.expired), ("excess", pruned.excess)] {
            if count > 0 {
                self.metrics.notifications_dropped(reason).increment(count);
                tracing::warn!(
                    backend = self.backend,
                    reason,
                    count,
                    "dropped notifications"
                );
            }
        }
        *self.depth.lock() = Depth {
            queued: pruned.left,
            lag: pruned.age,
        };
    }
}
