//! Delivers notifications: what has happened, to the backends that are told of it.
//!
//! The registry keeps them, in an outbox for each shard and backend. One node at a time delivers what a shard has; the others look
//! whether it still does. A [`lane`] delivers one outbox: the notifications about one user wait for each other, in [`lines`], and
//! for nobody else's.

mod lane;
mod lines;

use std::{collections::HashMap, sync::Arc, time::Duration};

use derive_more::Constructor;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use self::lane::{Depth, Goal, Lane};
use super::tasks::Tasks;
use crate::{
    backend::Backends,
    config::RunningConfig,
    connection::Instance,
    metrics::Metrics,
    registry::{Registry, keys::Shard},
};

/// How often users are looked for who are offline by now, and backends that are new.
const TICK: Duration = Duration::from_millis(250);

/// Delivers notifications.
#[derive(Constructor)]
pub(super) struct Notifications {
    instance: Instance,
    config: RunningConfig,
    metrics: Metrics,
    registry: Arc<dyn Registry>,
    backends: Arc<Backends>,
}

/// A lane that runs.
struct Running {
    goal: Goal,
    depth: Arc<Mutex<Depth>>,
    task: AbortOnDropHandle<()>,
}

/// What this node delivers.
#[derive(Default)]
struct Delivering {
    /// Until when, by shard.
    shards: HashMap<Shard, Arc<Mutex<Instant>>>,
    lanes: HashMap<(Shard, String), Running>,
    /// When it is looked anew which shards are this node's.
    renewal: Option<Instant>,
}

impl Notifications {
    /// Starts the delivery.
    pub(super) fn start(self: &Arc<Self>, tasks: &Tasks) {
        let notifications = self.clone();
        tasks.supervise("delivering notifications", move || {
            notifications.clone().run()
        });
    }

    /// Lets other nodes deliver what this one has. For its end, when nothing runs any more.
    pub(super) async fn hand_over(&self) {
        if !self
            .config
            .now()
            .backends
            .iter()
            .any(|one| one.is_notified())
        {
            return;
        }
        let shards = self.registry.shards();
        let ended = shards.all().map(|shard| async move {
            if let Err(error) = self.registry.end_delivery(shard, &self.instance).await {
                tracing::debug!(%error, "another node has to wait to deliver notifications");
            }
        });
        join_all(ended).await;
    }

    async fn run(self: Arc<Self>) {
        let mut delivering = Delivering::default();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let goals = self.goals();
            if goals.is_empty() {
                if !delivering.shards.is_empty() {
                    delivering = Delivering::default();
                    self.show(&delivering);
                }
                continue;
            }
            self.renew(&mut delivering).await;
            self.settle(&mut delivering, &goals);
            self.show(&delivering);
            let registry = &self.registry;
            let left = delivering.shards.keys().map(|shard| async move {
                if let Err(error) = registry.tell_left(*shard).await {
                    tracing::debug!(%error, "can't tell who is offline");
                }
            });
            join_all(left).await;
        }
    }

    /// Where notifications go, by the name of the backend.
    fn goals(&self) -> HashMap<String, Goal> {
        let config = self.config.now();
        let notified = config.backends.iter().filter(|one| one.is_notified());
        let goals = notified.filter_map(|one| {
            let goal = match &one.stream {
                Some(key) => Goal::Stream(key.clone()),
                None => Goal::Backend(self.backends.named(&one.name)?),
            };
            Some((one.name.clone(), goal))
        });
        goals.collect()
    }

    /// Looks which shards are this node's, three times within the time for which one is.
    async fn renew(&self, delivering: &mut Delivering) {
        let now = Instant::now();
        if delivering.renewal.is_none_or(|renewal| renewal <= now) {
            let lasts = self.config.now().registry.lease;
            delivering.renewal = Some(now + lasts / 3);
            let shards: Vec<_> = self.registry.shards().all().collect();
            let asked = shards
                .iter()
                .map(|shard| self.registry.begin_delivery(*shard, &self.instance, lasts));
            for (shard, is_own) in shards.iter().zip(join_all(asked).await) {
                match is_own {
                    Ok(true) => {
                        let until = delivering.shards.entry(*shard);
                        let until = until.or_insert_with(|| Arc::new(Mutex::new(now)));
                        *until.lock() = now + lasts;
                    }
                    Ok(false) => drop(delivering.shards.remove(shard)),
                    Err(error) => {
                        tracing::debug!(%error, "can't tell who delivers notifications");
                    }
                }
            }
        }
        let now = Instant::now();
        delivering.shards.retain(|_, until| now < *until.lock());
    }

    /// Starts the lanes that lack, and ends those that are not this node's any more.
    fn settle(&self, delivering: &mut Delivering, goals: &HashMap<String, Goal>) {
        let Delivering { shards, lanes, .. } = delivering;
        lanes.retain(|(shard, backend), lane| {
            shards.contains_key(shard)
                && goals.get(backend).is_some_and(|goal| goal.is(&lane.goal))
                && !lane.task.is_finished()
        });
        for (shard, until) in shards.iter() {
            for (backend, goal) in goals {
                let lane = lanes.entry((*shard, backend.clone()));
                lane.or_insert_with(|| {
                    let depth = Arc::default();
                    let lane = Lane {
                        shard: *shard,
                        backend: backend.clone(),
                        goal: goal.clone(),
                        config: self.config.clone(),
                        metrics: self.metrics.clone(),
                        registry: self.registry.clone(),
                        until: until.clone(),
                        depth: Arc::clone(&depth),
                    };
                    Running {
                        goal: goal.clone(),
                        depth,
                        task: AbortOnDropHandle::new(tokio::spawn(lane.run())),
                    }
                });
            }
        }
    }

    /// Shows how much waits for this node.
    fn show(&self, delivering: &Delivering) {
        let lanes = delivering.lanes.values();
        let depths: Vec<_> = lanes.map(|lane| *lane.depth.lock()).collect();
        let queued: u64 = depths.iter().map(|depth| depth.queued).sum();
        let lag = depths.iter().map(|depth| depth.lag).max();
        self.metrics.notifications_queued().set(queued as f64);
        self.metrics
            .notifications_lag()
            .set(lag.unwrap_or_default().as_secs_f64());
    }
}
