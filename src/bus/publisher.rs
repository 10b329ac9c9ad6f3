//! The link that publishes to one server.

use futures_util::FutureExt;
use redis::{Cmd, Pipeline, Value, aio::ConnectionLike};
use tokio::{
    task::unconstrained,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::health::Health;
use crate::link::{Address, LinkError, Probe, Servers, Wanted, is_elsewhere};

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

/// The connection, and whether it answers.
pub(super) struct Publisher(Probe);

impl Publisher {
    pub(super) fn new(servers: &Servers, server: &Address) -> Result<Self, LinkError> {
        // What is published to a replica stays there.
        let probe = Probe::new("publish", servers, server, Wanted::Master)?;
        Ok(Self(probe))
    }

    /// Whether messages go out, as far as the last PING knows.
    pub(super) fn is_up(&self) -> bool {
        self.0.is_up()
    }

    /// Publishes in one go, and waits until `until` for what becomes of each. While the link is down all are refused at once: a
    /// caller that waited would hold up what it can still do on this node.
    pub(super) async fn call(&self, publications: &Pipeline, until: Instant) -> Vec<Outcome> {
        let all = |outcome| vec![outcome; publications.len()];
        let Some(mut connection) = self.0.connected() else {
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
        let posted = self.0.connected().and_then(|mut connection| {
            unconstrained(connection.send_packed_command(&publication)).now_or_never()
        });
        matches!(posted, Some(Ok(_)))
    }

    /// Keeps a connection until told to stop.
    pub(super) async fn run(&self, health: &Health, stop: &CancellationToken) {
        let tell = self.0.tell(|up| health.publishing(self.0.server(), up));
        tokio::select! {
            () = self.0.run(stop) => {}
            () = tell => {}
        }
        health.publishing(self.0.server(), false);
    }
}

fn outcome(answer: Value) -> Outcome {
    match answer.extract_error() {
        Ok(Value::Int(heard)) => Outcome::Heard(u64::try_from(heard).unwrap_or(0)),
        Ok(other) => Outcome::Unanswered(format!("{other:?} is no answer to a publication")),
        Err(error) if is_elsewhere(&error) => Outcome::Elsewhere,
        Err(error) => Outcome::Refused(error.to_string()),
    }
}
