//! Connections for answers that are long: on the shared one, whatever comes after them would wait.

use std::time::Duration;

use deadpool_redis::{Manager, Runtime, Timeouts};
use redis::{AsyncConnectionConfig, Client, FromRedisValue};

use super::{Link, LinkError, Request};

/// How long a call may take, the wait for a connection included.
const DEADLINE: Duration = Duration::from_secs(2);

/// How many connections. Each serves one call at a time, and none is opened before it is needed.
const SIZE: usize = 4;

/// A pool of connections; clones share it, and the breaker and the metrics of a [`Link`].
#[derive(Clone, Debug)]
pub struct Pool {
    pool: deadpool_redis::Pool,
    link: Link,
}

impl Pool {
    /// A pool to `client`'s server, which need not be there yet.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the client's settings contradict themselves.
    pub fn new(client: &Client, link: Link) -> Result<Self, LinkError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_millis(500)))
            .set_response_timeout(Some(Duration::from_secs(1)));
        let manager = Manager::new_with_config(client.get_connection_info().clone(), config)?;
        // A silent Redis costs one idle connection after the other its recycling time, so the wait for all is bounded by
        // the deadline as well.
        let timeouts = Timeouts {
            wait: Some(Duration::from_millis(250)),
            create: Some(Duration::from_millis(500)),
            recycle: Some(Duration::from_millis(250)),
        };
        let pool = deadpool_redis::Pool::builder(manager)
            .max_size(SIZE)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| LinkError::Pool(error.to_string()))?;
        Ok(Self { pool, link })
    }

    /// As [`Link::query`], on a connection of its own.
    ///
    /// # Errors
    ///
    /// As there, and [`LinkError::Pool`] if there is no connection to be had.
    pub async fn query<'a, T: FromRedisValue>(
        &self,
        operation: &'static str,
        request: impl Into<Request<'a>>,
    ) -> Result<T, LinkError> {
        let request = request.into();
        self.link
            .call(operation, DEADLINE, async {
                let mut connection = self
                    .pool
                    .get()
                    .await
                    .map_err(|error| LinkError::Pool(error.to_string()))?;
                Ok(request.on(&mut connection).await?)
            })
            .await
    }
}
