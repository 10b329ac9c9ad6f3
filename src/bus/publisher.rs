//! The link that publishes.

use parking_lot::Mutex;
use redis::{Client, aio::MultiplexedConnection};
use tokio_util::sync::CancellationToken;

use super::{
    BusError,
    health::Health,
    link::{self, Ended, Link, Retry, within},
};

/// The current connection, if there is one.
#[derive(Default)]
pub(super) struct Publisher {
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Publisher {
    /// Sends a command and awaits the answer, for at most a second. While the link is down this fails at once: a caller
    /// that waited would hold up what it can still do on this node.
    pub(super) async fn call<T: redis::FromRedisValue>(
        &self,
        health: &Health,
        command: &redis::Cmd,
    ) -> Result<T, BusError> {
        let connection = self.connection.lock().clone();
        let mut connection = connection
            .filter(|_| health.is_publishing())
            .ok_or_else(|| BusError::Unavailable("no link to Redis".into()))?;
        within(link::CALL, command.query_async(&mut connection))
            .await
            .map_err(BusError::Unavailable)
    }

    /// Keeps a connection until the bus is closed.
    pub(super) async fn run(&self, client: &Client, health: &Health, closed: &CancellationToken) {
        let mut retry = Retry::new("publish", client);
        let keep = async {
            loop {
                let ended = match link::connect(client, |_push| ()).await {
                    Ok(link) => {
                        retry.connected();
                        self.live(link, health).await
                    }
                    Err(why) => Ended {
                        connected: false,
                        why,
                    },
                };
                retry.pause(&ended).await;
            }
        };
        closed.run_until_cancelled(keep).await;
        *self.connection.lock() = None;
        health.publishing(false);
    }

    async fn live(&self, link: Link, health: &Health) -> Ended {
        *self.connection.lock() = Some(link.connection.clone());
        let why = tokio::select! {
            () = link.ended.cancelled() => "the connection ended".into(),
            why = link::watch(link.connection, |answers| health.publishing(answers)) => why,
        };
        health.publishing(false);
        *self.connection.lock() = None;
        Ended {
            connected: true,
            why,
        }
    }
}
