//! The question of a search, to one sentinel or server: who has the data.

use std::{collections::HashMap, time::Duration};

use redis::{AsyncConnectionConfig, RedisResult, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{
    Address, LinkError,
    login::Login,
    map::{Claim, claims},
};

/// What a sentinel says of a master: its address, and its other properties by name.
type Master = ((String, u16), HashMap<String, String>);

/// Who is asked.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// Sentinels, for the master of this name.
    Sentinels(String),
    /// Servers of a cluster.
    Cluster,
}

/// The answer to a question, or the lack of one.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) by: Address,
    /// None if there was none in time.
    pub(super) said: Option<(MultiplexedConnection, Vec<Claim>)>,
}

impl Ask {
    /// Asks one server, on the connection that is kept if there is one.
    pub(super) async fn put(
        self,
        login: Login,
        server: Address,
        kept: Option<MultiplexedConnection>,
        limit: Duration,
    ) -> Answer {
        let said = match timeout(limit, self.of(&login, &server, kept)).await {
            Ok(Ok(said)) => Some(said),
            Ok(Err(error)) => {
                tracing::debug!(%server, %error, "who has the data");
                None
            }
            Err(_) => None,
        };
        Answer { by: server, said }
    }

    async fn of(
        &self,
        login: &Login,
        server: &Address,
        kept: Option<MultiplexedConnection>,
    ) -> Result<(MultiplexedConnection, Vec<Claim>), LinkError> {
        let mut connection = match kept {
            Some(connection) => connection,
            None => connect(login, server).await?,
        };
        let claims = match self {
            Self::Sentinels(master) => {
                // The first names the promoted one already while the other replicas are being pointed at it; the second has
                // the epoch.
                let mut asking = redis::pipe();
                asking
                    .cmd("SENTINEL")
                    .arg("GET-MASTER-ADDR-BY-NAME")
                    .arg(master);
                asking.cmd("SENTINEL").arg("MASTER").arg(master);
                let ((host, port), more): Master = asking.query_async(&mut connection).await?;
                let epoch = more.get("config-epoch").and_then(|it| it.parse().ok());
                let claim = epoch.map(|epoch| Claim::to_all(Address { host, port }, epoch));
                claim.into_iter().collect()
            }
            Self::Cluster => {
                let mut asking = redis::cmd("CLUSTER");
                let asked: RedisResult<String> =
                    asking.arg("NODES").query_async(&mut connection).await;
                claims(&asked?, server, login.is_tls())
            }
        };
        Ok((connection, claims))
    }
}

/// A connection without bounds of its own.
pub(super) async fn connect(
    login: &Login,
    server: &Address,
) -> Result<MultiplexedConnection, LinkError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let client = login.client(server)?;
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    Ok(connecting.await?)
}
