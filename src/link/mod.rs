//! The link to Redis: which servers there are, and one shared connection to each that is quick to say when it can't.
//!
//! [`Servers`] knows which servers there are, as `redis.mode` has it: one, the master that Sentinel names, or the masters of a
//! cluster, each with its slots. A call names its slot and goes to the server that has it; so all else is the same in every mode.
//!
//! Each connection has a task that makes it, PINGs, and gives it up after [`MISSES`] PINGs without an answer in a row
//! (`keeper.rs`); the bus keeps its connections in the same way. A [`Link`] adds:
//!
//! - a deadline on every call, [`DEADLINE`], the wait for a connection included;
//! - for each server a breaker: while it is known to be away, calls that need it fail at once, and the others go on;
//! - the way on for a call that a server of a cluster sends elsewhere, within its deadline;
//! - a thread for the connections and their tasks ([`RedisRuntime`]), so that a node that is late does not take Redis for late.
//!
//! A server that is demoted keeps its connections, and its name may lead to another one by then. So when one call or PING finds
//! that a server takes no writes, every connection to it is opened anew: the shared ones, the pool's, and the bus's.
//!
//! A call that hit the deadline may still be carried out by Redis. So callers make only calls that can be repeated.

mod ask;
mod finder;
mod keeper;
mod login;
mod map;
mod memory;
mod pool;
mod probe;
mod request;
mod route;
mod runtime;
mod servers;
mod slot;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, RedisError, Value};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use keeper::{Keeper, Kept, Wanted, within};
pub use map::{Address, Map};
pub use pool::Alone;
pub(crate) use probe::Probe;
pub use request::Request;
pub(crate) use request::time;
pub(crate) use route::is_elsewhere;
pub use runtime::RedisRuntime;
pub use servers::Servers;
pub use slot::Slot;

use crate::metrics::Metrics;
use keeper::Role;
use pool::Pools;
use probe::State;

/// How long a call may take, the wait for a connection included.
pub const DEADLINE: Duration = Duration::from_millis(800);

/// After how many PINGs without an answer in a row the connection is thrown away.
pub const MISSES: u32 = 3;

/// Why Redis did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// `redis.urls` names no server that can be connected to.
    #[error("redis.urls: {0}")]
    Config(String),
    /// Redis is known to be away, for this reason; it was not asked.
    #[error("Redis is away: {0}")]
    Away(String),
    /// No answer within the deadline. It may have been carried out.
    #[error("Redis did not answer within {0:?}")]
    Late(Duration),
    /// The pool has no connection to give.
    #[error("no connection to Redis: {0}")]
    Pool(String),
    /// Redis, or the way there, says no.
    #[error("{0}")]
    Redis(#[from] RedisError),
}

/// The shared connections, one to each server. Clones share them; with the last one their probers end.
#[derive(Clone, Debug)]
pub struct Link {
    servers: Servers,
    probes: Probes,
    pools: Pools,
    /// Calls go on connections of the pools, under this deadline; none for the shared connections.
    pooled: Option<Duration>,
    metrics: Metrics,
    _probers: Arc<DropGuard>,
}

/// The servers that are probed.
type Probes = Arc<Mutex<HashMap<Address, (Arc<Probe>, CancellationToken)>>>;

impl Link {
    /// A link to `servers`, which need not be there yet. It runs on their thread, [`Servers::runtime`]. A replica will do: what only
    /// reads may be pointed at one.
    ///
    /// # Errors
    ///
    /// [`LinkError::Redis`] if the servers' settings contradict themselves.
    pub fn new(servers: &Servers, metrics: Metrics) -> Result<Self, LinkError> {
        Self::to(servers, Wanted::Undemoted, metrics)
    }

    /// A link to `servers` for which a replica counts as away: what it has may be of any age, and what is published there stays
    /// there, with no error that says so.
    ///
    /// # Errors
    ///
    /// As [`Link::new`].
    pub fn to_masters(servers: &Servers, metrics: Metrics) -> Result<Self, LinkError> {
        Self::to(servers, Wanted::Master, metrics)
    }

    fn to(servers: &Servers, wanted: Wanted, metrics: Metrics) -> Result<Self, LinkError> {
        let wanted = match servers.is_cluster() {
            true => Wanted::Member,
            false => wanted,
        };
        let stop = CancellationToken::new();
        let link = Self {
            servers: servers.clone(),
            probes: Probes::default(),
            pools: Pools::default(),
            pooled: None,
            metrics,
            _probers: Arc::new(stop.clone().drop_guard()),
        };
        follow(&link.probes, servers, wanted, &servers.map(), &stop)?;
        if servers.may_change() {
            let (probes, servers) = (Arc::clone(&link.probes), servers.clone());
            let token = stop.clone();
            let following = async move {
                let mut maps = servers.maps();
                maps.mark_changed();
                while maps.changed().await.is_ok() {
                    let map = Arc::clone(&maps.borrow_and_update());
                    if let Err(error) = follow(&probes, &servers, wanted, &map, &token) {
                        tracing::error!(%error, "a server can't be connected to");
                    }
                }
            };
            let follow = stop.clone().run_until_cancelled_owned(following);
            link.servers.runtime().handle().spawn(follow);
        }
        Ok(link)
    }

    /// Returns true if every slot has a server, and every server has answered its last PING. Never waits.
    pub fn is_up(&self) -> bool {
        let map = self.servers.map();
        map.is_whole() && map.servers().into_iter().all(|server| self.hears(server))
    }

    /// Returns true if each of these slots has a server, and that has answered its last PING. Never waits.
    pub fn is_up_for(&self, mut slots: impl Iterator<Item = Slot>) -> bool {
        let map = self.servers.map();
        slots.all(|slot| map.at(slot).is_some_and(|server| self.hears(server)))
    }

    fn hears(&self, server: &Address) -> bool {
        let probes = self.probes.lock();
        probes
            .get(server)
            .is_some_and(|(probe, _)| probe.state() == State::Up)
    }

    /// Asks the server that has `slot`, and counts it as `operation`. All keys of the request are in that slot.
    ///
    /// # Errors
    ///
    /// [`LinkError::Away`] at once while that server is known to be away, or not known; else [`LinkError::Late`] after
    /// [`DEADLINE`], or what Redis says.
    pub async fn query<'a, T: FromRedisValue>(
        &self,
        operation: &'static str,
        slot: Slot,
        request: impl Into<Request<'a>>,
    ) -> Result<T, LinkError> {
        let asking = self.ask(slot, request.into(), self.until());
        read(self.counted(operation, asking).await?)
    }

    /// Asks for several things that change nothing: all at once, each of the server that has its slot. The answers are in the
    /// order of the commands.
    ///
    /// # Errors
    ///
    /// As for [`Link::query`], if any of them can't be had.
    pub async fn read_all<T: FromRedisValue>(
        &self,
        operation: &'static str,
        commands: &[(Slot, Cmd)],
    ) -> Result<Vec<T>, LinkError> {
        let asking = self.ask_all(commands, self.until());
        let answers = self.counted(operation, asking).await?;
        answers.into_iter().map(read).collect()
    }

    /// How long a call may take, the wait for a connection included.
    fn deadline(&self) -> Duration {
        self.pooled.unwrap_or(DEADLINE)
    }

    /// When a call that begins now must have ended.
    fn until(&self) -> Instant {
        Instant::now() + self.deadline()
    }

    /// The server that has a slot, as far as is known: what is asked of one server at once can go together.
    pub fn server_of(&self, slot: Slot) -> Option<Address> {
        self.servers.map().at(slot).cloned()
    }

    /// Runs `work` and counts it.
    async fn counted<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let start = Instant::now();
        let result = work.await;
        self.metrics
            .registry(operation, start.elapsed(), result.is_err());
        result
    }

    /// The prober of the server that has a slot; an error if that server is known to be away.
    fn probe_of(&self, slot: Slot) -> Result<Arc<Probe>, LinkError> {
        let map = self.servers.map();
        let server = map.at(slot).ok_or_else(LinkError::nobody)?;
        let probes = self.probes.lock();
        let (probe, _) = probes.get(server).ok_or_else(LinkError::nobody)?;
        probe.ensure()?;
        Ok(Arc::clone(probe))
    }
}

impl LinkError {
    fn nobody() -> Self {
        Self::Away("no server is known to have the slot".into())
    }
}

/// Starts probers for the servers of a map, and ends all others.
fn follow(
    probes: &Probes,
    servers: &Servers,
    wanted: Wanted,
    map: &Map,
    stop: &CancellationToken,
) -> Result<(), LinkError> {
    let there = map.servers();
    let mut probes = probes.lock();
    probes.retain(|server, (_, stop)| {
        let stays = there.contains(server);
        if !stays {
            stop.cancel();
        }
        stays
    });
    for server in there {
        if !probes.contains_key(server) {
            let probe = Arc::new(Probe::new("commands", servers, server, wanted)?);
            let stop = stop.child_token();
            let (kept, stopped) = (Arc::clone(&probe), stop.clone());
            let run = async move { kept.run(&stopped).await };
            servers.runtime().handle().spawn(run);
            probes.insert(server.clone(), (probe, stop));
        }
    }
    Ok(())
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, LinkError> {
    T::from_redis_value(value).map_err(|error| RedisError::from(error).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test]
    async fn the_prober_ends_with_the_last_clone() {
        // Nobody listens on port 1.
        let redis = config::Redis {
            urls: vec!["redis://127.0.0.1:1".into()],
            ..config::Redis::default()
        };
        let servers = Servers::new(&redis).unwrap();
        let link = Link::new(&servers, Metrics::new().unwrap()).unwrap();
        let slot = Slot::of(b"");
        // Known to be away by now, or not yet: it is probed on another thread.
        let probe = link
            .probes
            .lock()
            .values()
            .next()
            .map(|(probe, _)| Arc::downgrade(probe));
        let probe = probe.unwrap();
        drop(link.clone());
        let asked = link.query::<()>("ping", slot, &redis::cmd("PING")).await;
        assert!(matches!(asked, Err(LinkError::Away(_))), "{asked:?}");
        assert!(!link.is_up());
        drop(link);
        let ended = async {
            while probe.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended)
            .await
            .unwrap();
    }
}
