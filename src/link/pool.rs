//! Connections for long answers, which would hold up the calls behind them on the shared connection.

use std::{collections::HashMap, sync::Arc, time::Duration};

use deadpool_redis::{Connection, Hook, HookError, Manager, Runtime, Timeouts};
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue};

use super::{Address, Link, LinkError, Probe, RedisRuntime, Role, Slot};

/// How long a call on a pooled connection may take, the wait for the connection included.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_millis(500);

/// How many connections to each server. Each serves one call at a time, and none is opened before it is needed.
const SIZE: usize = 4;

/// A pool of connections to each server; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pools(Arc<Mutex<HashMap<Address, Opened>>>);

/// The connections to one server.
#[derive(Debug)]
struct Opened {
    pool: deadpool_redis::Pool,
    /// [`super::Servers::given_up`] as it was before the pool was opened.
    given_up: u64,
}

/// A connection to one master, for calls that must go to one server, such as those of a SCAN with its cursor. Once it breaks, all
/// further calls fail, and its owner takes another one.
pub struct Alone {
    connection: Connection,
    server: Address,
    runtime: RedisRuntime,
    link: Link,
}

impl Link {
    /// Makes a link whose calls go on pooled connections, of a call each, within 2 s. It shares the breakers and the metrics with
    /// this one, and fails with [`LinkError::Pool`] where there is no connection to be had.
    #[must_use]
    pub fn pooled(&self) -> Self {
        Self {
            pooled: Some(DEADLINE),
            ..self.clone()
        }
    }

    /// Takes a pooled connection to the master that has `slot`.
    ///
    /// # Errors
    ///
    /// [`LinkError::Away`] at once while that server is known to be away; [`LinkError::Pool`] if it is a replica, or there is no
    /// connection to be had.
    pub async fn alone(&self, slot: Slot) -> Result<Alone, LinkError> {
        let probe = self.probe_of(slot)?;
        let runtime = self.servers.runtime();
        Ok(Alone {
            connection: runtime.enter(self.connection_to(&probe)).await?,
            server: probe.server().clone(),
            runtime: runtime.clone(),
            link: self.clone(),
        })
    }

    /// Boxed, as the futures around it would be too deep for rustc's recursion limit.
    pub(super) fn connection_to<'a>(
        &'a self,
        probe: &'a Probe,
    ) -> BoxFuture<'a, Result<Connection, LinkError>> {
        let taking = async {
            let taken = self.pool_of(probe)?.get().await;
            taken.map_err(|error| LinkError::Pool(error.to_string()))
        };
        taking.boxed()
    }

    fn pool_of(&self, probe: &Probe) -> Result<deadpool_redis::Pool, LinkError> {
        let given_up = self.servers.given_up(probe.server());
        let mut pools = self.pools.0.lock();
        if let Some(opened) = pools.get(probe.server())
            && opened.given_up == given_up
        {
            return Ok(opened.pool.clone());
        }
        // Pools of servers that have left the map go now.
        let map = self.servers.map();
        let there = map.servers();
        pools.retain(|server, _| there.contains(server));
        let pool = open(&self.servers.client(probe.server())?)?;
        let opened = Opened {
            pool: pool.clone(),
            given_up,
        };
        pools.insert(probe.server().clone(), opened);
        Ok(pool)
    }
}

impl Alone {
    /// Sends one command, and counts it as `operation`.
    ///
    /// # Errors
    ///
    /// What Redis says, or that it says nothing within a second.
    pub async fn query<T: FromRedisValue>(
        &mut self,
        operation: &'static str,
        command: &Cmd,
    ) -> Result<T, LinkError> {
        let asking = command.query_async(&mut self.connection);
        let asking = async { Ok(self.runtime.enter(asking).await?) };
        self.link.counted(operation, asking).await
    }

    /// Returns true if its server has `slot`, as far as is known.
    pub fn has(&self, slot: Slot) -> bool {
        self.link.servers.map().at(slot) == Some(&self.server)
    }
}

fn open(client: &Client) -> Result<deadpool_redis::Pool, LinkError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(Duration::from_secs(1)));
    let manager = Manager::new_with_config(client.get_connection_info().clone(), config)?;
    // A silent Redis costs one idle connection after the other its recycling time, so the wait for all is bounded by the
    // deadline as well.
    let timeouts = Timeouts {
        wait: Some(Duration::from_millis(250)),
        create: Some(CONNECT),
        recycle: Some(Duration::from_millis(250)),
    };
    deadpool_redis::Pool::builder(manager)
        .max_size(SIZE)
        .timeouts(timeouts)
        // What is read of a replica, behind a name that will soon lead elsewhere, may be of any age.
        .post_create(Hook::async_fn(|connection, _| {
            Box::pin(async {
                match Role::of(connection, CONNECT).await {
                    Some(Role::Replica) => Err(HookError::message("it is a replica")),
                    Some(Role::Master) | None => Ok(()),
                }
            })
        }))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| LinkError::Pool(error.to_string()))
}
