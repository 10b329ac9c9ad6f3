//! The link that publishes to one server.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Client, FromRedisValue, aio::MultiplexedConnection};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    BusError,
    health::Health,
    link::{self, Ended, Link, Retry},
};
use crate::link::{Address, Servers};

/// The current connection, if there is one.
#[derive(Default)]
pub(super) struct Publisher {
    connection: Mutex<Option<MultiplexedConnection>>,
    /// Whether the last PING was answered.
    answers: AtomicBool,
}

/// What a server says.
pub(super) enum Answer<T> {
    /// That.
    Given(T),
    /// Another server has the channel.
    Elsewhere,
}

impl Publisher {
    /// Whether messages go out, as far as the last PING knows.
    pub(super) fn is_up(&self) -> bool {
        self.answers.load(Ordering::Acquire)
    }

    /// Sends a command and awaits the answer, for so long. While the link is down this fails at once: a caller that waited
    /// would hold up what it can still do on this node.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        command: &redis::Cmd,
        limit: Duration,
    ) -> Result<Answer<T>, BusError> {
        let connection = self.connection.lock().clone();
        let mut connection = connection
            .filter(|_| self.is_up())
            .ok_or_else(|| BusError::Unavailable("no link to Redis".into()))?;
        match timeout(limit, command.query_async(&mut connection)).await {
            Ok(Ok(answer)) => Ok(Answer::Given(answer)),
            Ok(Err(error)) if link::is_elsewhere(&error) => Ok(Answer::Elsewhere),
            Ok(Err(error)) => Err(BusError::Unavailable(error.to_string())),
            Err(_) => Err(BusError::Unavailable(format!("no answer within {limit:?}"))),
        }
    }

    /// Keeps a connection until told to stop.
    pub(super) async fn run(
        &self,
        server: &Address,
        servers: &Servers,
        client: &Client,
        health: &Health,
        stop: &CancellationToken,
    ) {
        let mut retry = Retry::new("publish", client);
        let keep = async {
            loop {
                let given_up = servers.given_up(server);
                let ended = match link::connect(client, |_push| true).await {
                    Ok(link) => {
                        retry.connected();
                        let given_up = servers.until_given_up(server, given_up);
                        self.live(server, link, health, given_up).await
                    }
                    Err(why) => Ended {
                        connected: false,
                        why,
                    },
                };
                servers.doubt();
                retry.pause(&ended).await;
            }
        };
        stop.run_until_cancelled(keep).await;
        self.note(server, health, false);
        *self.connection.lock() = None;
    }

    async fn live(
        &self,
        server: &Address,
        link: Link,
        health: &Health,
        given_up: impl Future<Output = ()>,
    ) -> Ended {
        *self.connection.lock() = Some(link.connection.clone());
        let answers = |answers| self.note(server, health, answers);
        let why = tokio::select! {
            () = link.ended.cancelled() => "the connection ended".into(),
            () = given_up => link::GIVEN_UP.into(),
            why = link::watch(link.connection, answers) => why,
        };
        self.note(server, health, false);
        *self.connection.lock() = None;
        Ended {
            connected: true,
            why,
        }
    }

    fn note(&self, server: &Address, health: &Health, answers: bool) {
        self.answers.store(answers, Ordering::Release);
        health.publishing(server, answers);
    }
}
