//! From a slot to its server, and on from there when that one says that it is another's.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::try_join_all;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Address, Link, LinkError, Request, Slot, probe::Probe, request::Asking};

/// Before a call is made again whose slot is on the move, or whose script is.
const AGAIN: Duration = Duration::from_millis(20);

/// How a request gets to a server.
pub(super) trait Carrier: Sync {
    fn carry(
        &self,
        probe: &Probe,
        request: Request<'_>,
    ) -> impl Future<Output = Result<Value, LinkError>> + Send;
}

/// What becomes of a call that failed.
enum Next {
    /// It has failed.
    Fail,
    /// Another server has the slot by now.
    Elsewhere,
    /// Another server is being given the slot, and may have the key.
    Ask(Address),
    /// The keys of the call are on two servers, and soon on one; or the server forgot a script between being given it and being
    /// asked for it.
    Again,
}

impl Next {
    fn after(error: &LinkError) -> Self {
        let LinkError::Redis(error) = error else {
            return Self::Fail;
        };
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => Self::Elsewhere,
            ErrorKind::Server(ServerErrorKind::Ask) => match asked_for(error) {
                Some(server) => Self::Ask(server),
                None => Self::Fail,
            },
            ErrorKind::Server(ServerErrorKind::TryAgain | ServerErrorKind::NoScript) => Self::Again,
            _ => Self::Fail,
        }
    }
}

fn asked_for(error: &RedisError) -> Option<Address> {
    let (server, _slot) = error.redirect_node()?;
    let (host, port) = server.rsplit_once(':')?;
    Some(Address {
        host: host.to_owned(),
        port: port.parse().ok()?,
    })
}

impl Link {
    /// Asks the server of a slot; follows where it points to, until the deadline.
    pub(super) async fn ask(
        &self,
        carrier: &impl Carrier,
        slot: Slot,
        request: Request<'_>,
        deadline: Duration,
    ) -> Result<Value, LinkError> {
        let until = Instant::now() + deadline;
        loop {
            let probe = self.probe_of(slot)?;
            let mut answer = self.carry(carrier, &probe, request, until, deadline).await;
            if let Err(error) = &answer
                && let Next::Ask(server) = Next::after(error)
            {
                let asking = self.ask_once(&server, request);
                answer = timeout_at(until, asking)
                    .await
                    .unwrap_or(Err(LinkError::Late(deadline)));
            }
            match answer {
                Err(error) if self.may_go_on(&error, until).await => {}
                answer => return answer,
            }
        }
    }

    /// Asks for several things that change nothing.
    pub(super) async fn ask_all(
        &self,
        carrier: &impl Carrier,
        commands: &[(Slot, Cmd)],
        deadline: Duration,
    ) -> Result<Vec<Value>, LinkError> {
        let until = Instant::now() + deadline;
        loop {
            match self.ask_each(carrier, commands, until, deadline).await {
                Err(error) if self.may_go_on(&error, until).await => {}
                answer => return answer,
            }
        }
    }

    /// One message to each server that has any of the slots.
    async fn ask_each(
        &self,
        carrier: &impl Carrier,
        commands: &[(Slot, Cmd)],
        until: Instant,
        deadline: Duration,
    ) -> Result<Vec<Value>, LinkError> {
        let map = self.servers.map();
        let mut parts: BTreeMap<&Address, Vec<usize>> = BTreeMap::new();
        for (index, (slot, _)) in commands.iter().enumerate() {
            let server = map.at(*slot).ok_or(LinkError::Away)?;
            parts.entry(server).or_default().push(index);
        }
        let asking = parts.into_values().map(async |part: Vec<usize>| {
            let probe = self.probe_of(commands[part[0]].0)?;
            let mut pipeline = redis::Pipeline::with_capacity(part.len());
            for index in &part {
                pipeline.add_command(commands[*index].1.clone());
            }
            let request = Request::Together(&pipeline);
            let answers = self
                .carry(carrier, &probe, request, until, deadline)
                .await?;
            let Value::Array(answers) = answers else {
                return Ok::<_, LinkError>(Vec::new());
            };
            let mut whole = Vec::with_capacity(part.len());
            for (index, answer) in part.into_iter().zip(answers) {
                let (slot, command) = &commands[index];
                let answer = match answer.extract_error().map_err(LinkError::from) {
                    // Of few keys at a time, and only while they move.
                    Err(error) if matches!(Next::after(&error), Next::Ask(_) | Next::Again) => {
                        self.ask(carrier, *slot, command.into(), deadline).await?
                    }
                    answer => answer?,
                };
                whole.push((index, answer));
            }
            Ok(whole)
        });
        let mut answers = vec![Value::Nil; commands.len()];
        for (index, answer) in try_join_all(asking).await?.into_iter().flatten() {
            answers[index] = answer;
        }
        Ok(answers)
    }

    /// One try on one server; what comes of it is told to the prober.
    async fn carry(
        &self,
        carrier: &impl Carrier,
        probe: &Probe,
        request: Request<'_>,
        until: Instant,
        deadline: Duration,
    ) -> Result<Value, LinkError> {
        let answer = timeout_at(until, carrier.carry(probe, request))
            .await
            .unwrap_or(Err(LinkError::Late(deadline)));
        match &answer {
            Err(LinkError::Redis(error)) if is_of_a_replica(error) => probe.replace(),
            Err(LinkError::Redis(error)) if error.is_io_error() || is_down(error) => probe.doubt(),
            Err(LinkError::Late(_) | LinkError::Pool(_)) => probe.doubt(),
            _ => {}
        }
        answer
    }

    async fn ask_once(&self, server: &Address, request: Request<'_>) -> Result<Value, LinkError> {
        let client = self.servers.client(server)?;
        let connection = client.get_multiplexed_async_connection().await?;
        Ok(request.on(&mut Asking(connection)).await?)
    }

    /// Whether a call that failed has another chance before `until`. Waits for it.
    async fn may_go_on(&self, error: &LinkError, until: Instant) -> bool {
        let waiting = async {
            match Next::after(error) {
                Next::Fail => return false,
                Next::Elsewhere => self.servers.look().await,
                Next::Ask(_) | Next::Again => {}
            }
            sleep(AGAIN).await;
            true
        };
        timeout_at(until, waiting).await.unwrap_or(false)
    }
}

/// Whether this server has lost sight of its cluster.
fn is_down(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ClusterDown)
}

/// Whether this server has become a replica: it answers every PING, and will never take a write. Its successor is another
/// server, or behind another look-up of the name.
fn is_of_a_replica(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
    )
}
