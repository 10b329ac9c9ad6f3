//! What Redis and the nodes spent on something.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;

use crate::support::{fleet::Node, process::Process, redis_server::Server};

/// Reads the counters of one Redis and of nodes.
pub(crate) struct Meter<'a> {
    redis: MultiplexedConnection,
    processes: Vec<&'a Process>,
}

struct Reading {
    at: Instant,
    cost: Cost,
}

/// What was spent, in microseconds of CPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// By Redis, all told.
    pub(crate) redis: f64,
    /// By all nodes.
    pub(crate) nodes: f64,
    /// By name, without the meter's own: calls, and microseconds. What a script calls counts, and is in the script's time too.
    pub(crate) commands: BTreeMap<String, (f64, f64)>,
}

impl<'a> Meter<'a> {
    pub(crate) async fn new(redis: &Server, nodes: &'a [Node]) -> Self {
        Self::of(redis, nodes.iter().map(|node| &node.process).collect()).await
    }

    /// Of any servers' processes.
    pub(crate) async fn of(redis: &Server, processes: Vec<&'a Process>) -> Self {
        Self {
            redis: redis.connection().await,
            processes,
        }
    }

    async fn read(&mut self) -> Reading {
        let (cpu, commands): (String, String) = redis::pipe()
            .cmd("INFO")
            .arg("cpu")
            .cmd("INFO")
            .arg("commandstats")
            .query_async(&mut self.redis)
            .await
            .unwrap();
        let nodes = self.processes.iter().map(|process| process.cpu());
        let cost = Cost {
            seconds: 0.0,
            redis: 1e6 * (field(&cpu, "used_cpu_sys:") + field(&cpu, "used_cpu_user:")),
            nodes: nodes.sum::<Duration>().as_micros() as f64,
            commands: commands.lines().filter_map(command).collect(),
        };
        let at = Instant::now();
        Reading { at, cost }
    }

    /// Does something, and tells what was spent meanwhile.
    pub(crate) async fn cost<T>(&mut self, work: impl Future<Output = T>) -> (T, Cost) {
        let before = self.read().await;
        let done = work.await;
        let after = self.read().await;
        let mut cost = after.cost.less(&before.cost, 1.0);
        cost.seconds = (after.at - before.at).as_secs_f64();
        (done, cost)
    }

    /// What is spent while nothing is asked.
    pub(crate) async fn idle(&mut self, seconds: f64) -> Cost {
        let pause = tokio::time::sleep(Duration::from_secs_f64(seconds));
        self.cost(pause).await.1
    }
}

impl Cost {
    /// Without what an idle fleet spends in that time.
    pub(crate) fn beyond(&self, idle: &Self) -> Self {
        self.less(idle, self.seconds / idle.seconds)
    }

    fn less(&self, other: &Self, factor: f64) -> Self {
        let commands = self.commands.iter().map(|(name, (calls, micros))| {
            let (less, fewer) = other.commands.get(name).copied().unwrap_or_default();
            let rest = (calls - factor * less, micros - factor * fewer);
            (name.clone(), rest)
        });
        Self {
            seconds: self.seconds,
            redis: self.redis - factor * other.redis,
            nodes: self.nodes - factor * other.nodes,
            commands: commands.collect(),
        }
    }

    /// The share of each of `count`.
    pub(crate) fn per(&self, count: f64) -> Self {
        let commands = self.commands.iter();
        Self {
            seconds: self.seconds / count,
            redis: self.redis / count,
            nodes: self.nodes / count,
            commands: commands
                .map(|(name, (calls, micros))| (name.clone(), (calls / count, micros / count)))
                .collect(),
        }
    }

    /// How many commands there were, of those that are `meant`.
    pub(crate) fn calls(&self, meant: impl Fn(&str) -> bool) -> f64 {
        let commands = self.commands.iter().filter(|(name, _)| meant(name));
        commands.map(|(_, (calls, _))| calls).sum()
    }

    /// How long the commands took that are `meant`.
    pub(crate) fn micros(&self, meant: impl Fn(&str) -> bool) -> f64 {
        let commands = self.commands.iter().filter(|(name, _)| meant(name));
        commands.map(|(_, (_, micros))| micros).sum()
    }

    /// The commands that take most, with their calls and their time.
    pub(crate) fn dearest(&self) -> String {
        let mut commands: Vec<_> = self.commands.iter().collect();
        commands.retain(|(_, (calls, _))| *calls >= 0.01);
        commands.sort_by(|(_, (_, one)), (_, (_, other))| other.total_cmp(one));
        let told = commands
            .iter()
            .take(8)
            .map(|(name, (calls, micros))| format!("{name} {calls:.2} × {:.1} µs", micros / calls));
        told.collect::<Vec<_>>().join(", ")
    }
}

/// A message between nodes.
pub(crate) fn is_message(command: &str) -> bool {
    matches!(command, "publish" | "spublish")
}

/// A script or a function.
pub(crate) fn is_script(command: &str) -> bool {
    command.starts_with("eval") || command.starts_with("fcall")
}

fn field(info: &str, name: &str) -> f64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

/// `cmdstat_get:calls=1,usec=2,…`
fn command(line: &str) -> Option<(String, (f64, f64))> {
    let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
    let number = |name: &str| {
        let value = rest.split(',').find_map(|part| part.strip_prefix(name))?;
        value.parse::<f64>().ok()
    };
    let found = (number("calls=")?, number("usec=")?);
    (name != "info").then(|| (name.to_owned(), found))
}
