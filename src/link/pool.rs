//! Connections for answers that are long: on the shared one, whatever comes after them would wait.

use std::{collections::HashMap, sync::Arc, time::Duration};

use deadpool_redis::{Hook, HookError, Manager, Runtime, Timeouts};
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Value};

use super::{Address, Link, LinkError, Request, Role, Slot, probe::Probe, read, route::Carrier};

/// How long a call may take, the wait for a connection included.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_millis(500);

/// How many connections to each server. Each serves one call at a time, and none is opened before it is needed.
const SIZE: usize = 4;

/// A pool of connections to each server; clones share them, and the breakers and the metrics of a [`Link`].
#[derive(Clone, Debug)]
pub struct Pool {
    pools: Arc<Mutex<HashMap<Address, Opened>>>,
    link: Link,
}

/// The connections to one server.
#[derive(Debug)]
struct Opened {
    pool: deadpool_redis::Pool,
    /// [`super::Servers::given_up`] as it was before.
    given_up: u64,
}

impl Pool {
    /// Pools to the servers of `link`, which need not be there yet.
    pub fn new(link: Link) -> Self {
        Self {
            pools: Arc::default(),
            link,
        }
    }

    /// As [`Link::query`], on a connection of its own.
    ///
    /// # Errors
    ///
    /// As there, and [`LinkError::Pool`] if there is no connection to be had.
    pub async fn query<'a, T: FromRedisValue>(
        &self,
        operation: &'static str,
        slot: Slot,
        request: impl Into<Request<'a>>,
    ) -> Result<T, LinkError> {
        let request = request.into();
        let asking = self.link.ask(self, slot, request, DEADLINE);
        read(self.link.counted(operation, asking).await?)
    }

    /// As [`Link::read_all`], on connections of its own.
    ///
    /// # Errors
    ///
    /// As there, and [`LinkError::Pool`] if there is no connection to be had.
    pub async fn read_all<T: FromRedisValue>(
        &self,
        operation: &'static str,
        commands: &[(Slot, Cmd)],
    ) -> Result<Vec<T>, LinkError> {
        let asking = self.link.ask_all(self, commands, DEADLINE);
        let answers = self.link.counted(operation, asking).await?;
        answers.into_iter().map(read).collect()
    }

    fn of(&self, probe: &Probe) -> Result<deadpool_redis::Pool, LinkError> {
        let given_up = self.link.servers.given_up(probe.server());
        let mut pools = self.pools.lock();
        if let Some(Opened { pool, .. }) = pools
            .get(probe.server())
            .filter(|opened| opened.given_up == given_up)
        {
            return Ok(pool.clone());
        }
        // Those of servers that are no more go when another comes.
        let map = self.link.servers.map();
        let there = map.servers();
        pools.retain(|server, _| there.contains(server));
        let pool = open(probe.client())?;
        let opened = Opened {
            pool: pool.clone(),
            given_up,
        };
        pools.insert(probe.server().clone(), opened);
        Ok(pool)
    }
}

impl Carrier for Pool {
    async fn carry(&self, probe: &Probe, request: Request<'_>) -> Result<Value, LinkError> {
        let pool = self.of(probe)?;
        let asking = async {
            let mut connection = pool
                .get()
                .await
                .map_err(|error| LinkError::Pool(error.to_string()))?;
            Ok(request.on(&mut connection).await?)
        };
        probe.aside().around(asking).await
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
