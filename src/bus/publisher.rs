//! The link that publishes to one server.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use parking_lot::Mutex;
use redis::{
    Client, Cmd, Pipeline, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::{
    task::unconstrained,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    health::Health,
    link::{self, Ended, Link, Retry},
};
use crate::link::{Address, Servers};

/// What has become of one publication.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It was published, and so many were listening.
    Heard(u64),
    /// Another server has the channel; this one has published nothing.
    Elsewhere,
    /// It was not published, and will not be.
    Refused(String),
    /// It was written, or may have been, and Redis has not answered: it may have been published.
    Unanswered(String),
}

/// The current connection, if there is one.
#[derive(Default)]
pub(super) struct Publisher {
    connection: Mutex<Option<MultiplexedConnection>>,
    /// Whether the last PING was answered.
    answers: AtomicBool,
}

impl Publisher {
    /// Whether messages go out, as far as the last PING knows.
    pub(super) fn is_up(&self) -> bool {
        self.answers.load(Ordering::Acquire)
    }

    /// Publishes in one go, and waits until `until` for what becomes of each. While the link is down all are refused at once: a
    /// caller that waited would hold up what it can still do on this node.
    pub(super) async fn call(&self, publications: &Pipeline, until: Instant) -> Vec<Outcome> {
        let all = |outcome| vec![outcome; publications.len()];
        let Some(mut connection) = self.connected() else {
            return all(Outcome::Refused("no link to Redis".into()));
        };
        let answers = connection.req_packed_commands(publications, 0, publications.len());
        match timeout_at(until, answers).await {
            Ok(Ok(answers)) => answers.into_iter().map(outcome).collect(),
            Ok(Err(error)) => all(Outcome::Unanswered(error.to_string())),
            Err(_) => all(Outcome::Unanswered("no answer in time".into())),
        }
    }

    /// Publishes without an answer: nobody is woken when it comes. Returns false if the link is down, or too much waits for it.
    pub(super) fn post(&self, mut publication: Cmd) -> bool {
        publication.set_no_response(true);
        // What can't be queued at once is dropped with the future, and was not sent. Unconstrained: that the task has used up its
        // budget is no reason to lose it.
        let posted = self.connected().and_then(|mut connection| {
            unconstrained(connection.send_packed_command(&publication)).now_or_never()
        });
        matches!(posted, Some(Ok(_)))
    }

    fn connected(&self) -> Option<MultiplexedConnection> {
        let connection = self.is_up().then(|| self.connection.lock().clone());
        connection.flatten()
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

fn outcome(answer: Value) -> Outcome {
    match answer.extract_error() {
        Ok(Value::Int(heard)) => Outcome::Heard(u64::try_from(heard).unwrap_or(0)),
        Ok(other) => Outcome::Unanswered(format!("{other:?} is no answer to a publication")),
        Err(error) if link::is_elsewhere(&error) => Outcome::Elsewhere,
        Err(error) => Outcome::Refused(error.to_string()),
    }
}
