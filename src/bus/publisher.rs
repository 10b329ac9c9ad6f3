//! The link that publishes to one server.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use metrics::Counter;
use redis::{
    Client, Cmd, Pipeline, RedisError, Value, aio::ConnectionLike, aio::MultiplexedConnection,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    health::Health,
    link::{self, Ended, Link, Retry},
};
use crate::link::{Address, Servers};

/// How many publications wait to be written. One that finds no place is refused.
const QUEUE: usize = 4096;
/// How many are written together at the most.
const TOGETHER: usize = 256;

/// What has become of one publication.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was published, and so many were listening.
    Heard(u64),
    /// Another server has the channel; this one has published nothing.
    Elsewhere,
    /// It was not published, and will not be.
    Refused(String),
    /// It was written, and Redis has not answered: it may have been published.
    Unanswered(String),
}

/// Publications that are written together and in order.
struct Outgoing {
    commands: Vec<Cmd>,
    /// Not written any more from then on.
    until: Instant,
    /// Who waits to hear what became of them; none: nobody.
    answer: Option<oneshot::Sender<Vec<Outcome>>>,
}

/// Publications that wait for the link.
pub(super) struct Queue(mpsc::Receiver<Outgoing>);

/// What others have of the link.
pub(super) struct Publisher {
    queue: mpsc::Sender<Outgoing>,
    /// Whether the last PING was answered.
    answers: AtomicBool,
    /// Counts what nobody waits for and Redis did not take.
    lost: Counter,
}

impl Publisher {
    /// A link that is down, and what [`Publisher::run`] works on.
    pub(super) fn new(lost: Counter) -> (Self, Queue) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let publisher = Self {
            queue,
            answers: AtomicBool::new(false),
            lost,
        };
        (publisher, Queue(waiting))
    }

    /// Whether messages go out, as far as the last PING knows.
    pub(super) fn is_up(&self) -> bool {
        self.answers.load(Ordering::Acquire)
    }

    /// Publishes, and waits until `until` for what becomes of each. While the link is down they are refused at once: a caller that
    /// waited would hold up what it can still do on this node.
    pub(super) async fn call(&self, commands: Vec<Cmd>, until: Instant) -> Vec<Outcome> {
        let count = commands.len();
        let all = |outcome: fn(String) -> Outcome, why: &str| {
            (0..count).map(|_| outcome(why.to_owned())).collect()
        };
        let (answer, answered) = oneshot::channel();
        if let Err(why) = self.enqueue(commands, until, Some(answer)) {
            return all(Outcome::Refused, why);
        }
        match timeout_at(until, answered).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(_)) => all(Outcome::Unanswered, "the link broke"),
            Err(_) => all(Outcome::Unanswered, "no answer in time"),
        }
    }

    /// Publishes without waiting. What Redis does not take is counted.
    pub(super) fn post(&self, command: Cmd, until: Instant) {
        if let Err(why) = self.enqueue(vec![command], until, None) {
            self.note_lost(why);
        }
    }

    fn enqueue(
        &self,
        commands: Vec<Cmd>,
        until: Instant,
        answer: Option<oneshot::Sender<Vec<Outcome>>>,
    ) -> Result<(), &'static str> {
        if !self.is_up() {
            return Err("no link to Redis");
        }
        let outgoing = Outgoing {
            commands,
            until,
            answer,
        };
        self.queue
            .try_send(outgoing)
            .map_err(|_| "too much waits for Redis")
    }

    fn note_lost(&self, why: &str) {
        self.lost.increment(1);
        tracing::debug!(why, "a message that nobody waits for is not published");
    }

    /// Keeps a connection until told to stop.
    pub(super) async fn run(
        &self,
        mut queue: Queue,
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
                        let why = self.live(&mut queue, server, link, health, given_up).await;
                        self.note(server, health, false);
                        self.refuse_all(&mut queue);
                        Ended {
                            connected: true,
                            why,
                        }
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
        self.refuse_all(&mut queue);
    }

    async fn live(
        &self,
        queue: &mut Queue,
        server: &Address,
        link: Link,
        health: &Health,
        given_up: impl Future<Output = ()>,
    ) -> String {
        let answers = |answers| self.note(server, health, answers);
        tokio::select! {
            () = link.ended.cancelled() => "the connection ended".into(),
            () = given_up => link::GIVEN_UP.into(),
            why = link::watch(link.connection.clone(), answers) => why,
            never = self.write(queue, link.connection) => match never {},
        }
    }

    /// Writes what waits, all of it together, and goes on while Redis answers.
    async fn write(&self, queue: &mut Queue, connection: MultiplexedConnection) -> Infallible {
        let mut written = FuturesUnordered::new();
        let mut next = Vec::new();
        loop {
            tokio::select! {
                _ = queue.0.recv_many(&mut next, TOGETHER) => {
                    written.push(self.publish(connection.clone(), std::mem::take(&mut next)));
                }
                Some(()) = written.next() => {}
            }
        }
    }

    async fn publish(&self, mut connection: MultiplexedConnection, mut all: Vec<Outgoing>) {
        let now = Instant::now();
        let late = all.extract_if(.., |outgoing| outgoing.until <= now);
        for outgoing in late {
            self.refuse(outgoing, "it has waited for too long");
        }
        let mut pipeline = Pipeline::new();
        let parts = all.into_iter().map(|outgoing| {
            let count = outgoing.commands.len();
            for command in outgoing.commands {
                pipeline.add_command(command);
            }
            (count, outgoing.answer)
        });
        let parts: Vec<_> = parts.collect();
        if pipeline.is_empty() {
            return;
        }
        let answers = connection.req_packed_commands(&pipeline, 0, pipeline.len());
        let mut outcomes = match timeout(link::CALL, answers).await {
            Ok(Ok(answers)) => Ok(answers.into_iter().map(outcome)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", link::CALL)),
        };
        for (count, answer) in parts {
            let mut next = || match &mut outcomes {
                Ok(outcomes) => outcomes.next().unwrap_or_else(missing),
                Err(why) => Outcome::Unanswered(why.clone()),
            };
            let outcomes: Vec<_> = (0..count).map(|_| next()).collect();
            match answer {
                Some(answer) => drop(answer.send(outcomes)),
                None => outcomes.into_iter().for_each(|it| self.note_outcome(it)),
            }
        }
    }

    fn note_outcome(&self, outcome: Outcome) {
        match outcome {
            Outcome::Heard(_) => {}
            Outcome::Elsewhere => self.note_lost("another server has the channel"),
            Outcome::Refused(why) | Outcome::Unanswered(why) => self.note_lost(&why),
        }
    }

    fn refuse_all(&self, queue: &mut Queue) {
        while let Ok(outgoing) = queue.0.try_recv() {
            self.refuse(outgoing, "the link broke before it was written");
        }
    }

    fn refuse(&self, outgoing: Outgoing, why: &str) {
        let outcomes = outgoing.commands.iter();
        let outcomes = outcomes.map(|_| Outcome::Refused(why.to_owned()));
        match outgoing.answer {
            Some(answer) => drop(answer.send(outcomes.collect())),
            None => outcomes.for_each(|it| self.note_outcome(it)),
        }
    }

    fn note(&self, server: &Address, health: &Health, answers: bool) {
        self.answers.store(answers, Ordering::Release);
        health.publishing(server, answers);
    }
}

fn missing() -> Outcome {
    Outcome::Unanswered("an answer is missing".into())
}

fn outcome(answer: Value) -> Outcome {
    match answer.extract_error() {
        Ok(Value::Int(heard)) => Outcome::Heard(u64::try_from(heard).unwrap_or(0)),
        Ok(_) => missing(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &RedisError) -> Outcome {
    match link::is_elsewhere(error) {
        true => Outcome::Elsewhere,
        false => Outcome::Refused(error.to_string()),
    }
}
