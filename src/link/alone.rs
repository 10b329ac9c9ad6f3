//! A connection that stays with one server, for questions that follow from each other, such as a SCAN: a cursor says nothing to
//! another server, nor to the same one after a restart.

use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, aio::MultiplexedConnection};

use super::{Address, Aside, DEADLINE, Link, LinkError, Role, Slot};

/// A connection to one master. Once it breaks, all further calls fail, and its owner opens another one.
pub struct Alone {
    connection: MultiplexedConnection,
    server: Address,
    aside: Aside,
    link: Link,
}

impl Link {
    /// Opens a connection to the master that has `slot`.
    ///
    /// # Errors
    ///
    /// [`LinkError::Away`] at once while that server is known to be away, or is a replica; else what Redis says.
    pub async fn alone(&self, slot: Slot) -> Result<Alone, LinkError> {
        let probe = self.probe_of(slot)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let client = probe.client();
        let opening = async {
            let mut connection = client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            match Role::of(&mut connection, DEADLINE).await {
                Some(Role::Replica) => Err(LinkError::Away),
                Some(Role::Master) | None => Ok(connection),
            }
        };
        Ok(Alone {
            connection: probe.aside().around(opening).await?,
            server: probe.server().clone(),
            aside: probe.aside().clone(),
            link: self.clone(),
        })
    }
}

impl Alone {
    /// Sends one command, and counts it as `operation`.
    ///
    /// # Errors
    ///
    /// What Redis says, or that it says nothing within [`DEADLINE`].
    pub async fn query<T: FromRedisValue>(
        &mut self,
        operation: &'static str,
        command: &Cmd,
    ) -> Result<T, LinkError> {
        let asking = command.query_async(&mut self.connection);
        let asking = async { Ok(self.aside.around(asking).await?) };
        self.link.counted(operation, asking).await
    }

    /// Whether its server has `slot`, as far as is known.
    pub fn has(&self, slot: Slot) -> bool {
        self.link.servers.map().at(slot) == Some(&self.server)
    }
}
