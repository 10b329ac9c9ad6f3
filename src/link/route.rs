//! Calls find the server of their slot, and follow where it sends them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::try_join_all;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Address, Link, LinkError, Request, Slot, probe::Probe, request::Asking};

/// Before a call is made again whose slot is on the move, or whose script is.
const AGAIN: Duration = Duration::from_millis(20);

impl Link {
    /// Asks the server of a slot, and follows where it sends the call, until the deadline.
    pub(super) async fn ask(
        &self,
        slot: Slot,
        request: Request<'_>,
        until: Instant,
    ) -> Result<Value, LinkError> {
        loop {
            let probe = self.probe_of(slot)?;
            let mut answer = self.ask_one(&probe, request, until).await;
            if let Err(LinkError::Redis(error)) = &answer
                && let Some(server) = asked_for(error)
            {
                answer = self.within(until, self.ask_once(&server, request)).await;
            }
            match answer {
                Err(error) if self.goes_on(&error, until).await => {}
                answer => return answer,
            }
        }
    }

    /// Asks for several things that change nothing. Those of one slot are answered in their order.
    pub(super) async fn ask_all(
        &self,
        commands: &[(Slot, Cmd)],
        until: Instant,
    ) -> Result<Vec<Value>, LinkError> {
        loop {
            match self.ask_each(commands, until).await {
                Err(error) if self.goes_on(&error, until).await => {}
                answer => return answer,
            }
        }
    }

    /// One message to each server that has any of the slots.
    async fn ask_each(
        &self,
        commands: &[(Slot, Cmd)],
        until: Instant,
    ) -> Result<Vec<Value>, LinkError> {
        let map = self.servers.map();
        let mut parts: BTreeMap<&Address, Vec<usize>> = BTreeMap::new();
        for (index, (slot, _)) in commands.iter().enumerate() {
            let server = map.at(*slot).ok_or_else(LinkError::nobody)?;
            parts.entry(server).or_default().push(index);
        }
        let asking = parts.into_values().map(async |part: Vec<usize>| {
            let mut pipeline = redis::Pipeline::with_capacity(part.len());
            for index in &part {
                pipeline.add_command(commands[*index].1.clone());
            }
            let request = Request::Together(&pipeline);
            let probe = self.probe_of(commands[part[0]].0)?;
            let answers = self.ask_one(&probe, request, until).await?;
            let answers = answers.into_sequence().unwrap_or_default();
            let (mut whole, mut moving) = (Vec::with_capacity(part.len()), BTreeSet::new());
            for (index, answer) in part.into_iter().zip(answers) {
                let (slot, command) = &commands[index];
                let answer = answer.extract_error();
                if let Err(error) = &answer
                    && passes(error)
                    && !is_elsewhere(error)
                {
                    moving.insert(*slot);
                }
                // Few keys, and only while they move. The commands behind them prove that what was read before them was whole, so
                // these come behind them again.
                let answer = match moving.contains(slot) {
                    true => self.ask(*slot, command.into(), until).await?,
                    false => answer?,
                };
                whole.push((index, answer));
            }
            Ok::<_, LinkError>(whole)
        });
        let mut answers = vec![Value::Nil; commands.len()];
        for (index, answer) in try_join_all(asking).await?.into_iter().flatten() {
            answers[index] = answer;
        }
        Ok(answers)
    }

    /// Waits for the next chance of a call that failed. Returns false if there is none before `until`.
    async fn goes_on(&self, error: &LinkError, until: Instant) -> bool {
        let LinkError::Redis(error) = error else {
            return false;
        };
        let waiting = async {
            if is_elsewhere(error) {
                self.servers.look().await;
            }
            sleep(AGAIN).await;
        };
        passes(error) && timeout_at(until, waiting).await.is_ok()
    }

    /// Asks one server once. The prober hears of a failure.
    async fn ask_one(
        &self,
        probe: &Probe,
        request: Request<'_>,
        until: Instant,
    ) -> Result<Value, LinkError> {
        let asking = async {
            Ok(match self.pooled {
                Some(_) => request.on(&mut self.connection_to(probe).await?).await?,
                None => request.on(&mut probe.connection().await?).await?,
            })
        };
        let answer = self
            .within(until, self.servers.runtime().enter(asking))
            .await;
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

    async fn within<T>(
        &self,
        until: Instant,
        asking: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let answer = timeout_at(until, asking).await;
        answer.unwrap_or(Err(LinkError::Late(self.deadline())))
    }
}

fn kind(error: &RedisError) -> Option<ServerErrorKind> {
    match error.kind() {
        ErrorKind::Server(kind) => Some(kind),
        _ => None,
    }
}

/// Whether another server of the cluster has what this one was asked about.
pub(crate) fn is_elsewhere(error: &RedisError) -> bool {
    kind(error) == Some(ServerErrorKind::Moved)
}

/// Whether the call is soon answered, here or by another server: its slot has moved, or its keys are on two servers and will be on
/// one; or the server forgot a script between being given it and being asked for it.
fn passes(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, Moved, NoScript, TryAgain};
    matches!(kind(error), Some(Moved | Ask | TryAgain | NoScript))
}

/// The server that is being given the slot, and may have the key.
fn asked_for(error: &RedisError) -> Option<Address> {
    let (server, _slot) = error.redirect_node()?;
    let (host, port) = server.rsplit_once(':')?;
    let server = Address {
        host: host.to_owned(),
        port: port.parse().ok()?,
    };
    (kind(error) == Some(ServerErrorKind::Ask)).then_some(server)
}

/// Whether this server has lost sight of its cluster.
fn is_down(error: &RedisError) -> bool {
    kind(error) == Some(ServerErrorKind::ClusterDown)
}

/// Whether this server has become a replica: it answers every PING, and will never take a write. Its successor is another
/// server, or behind another look-up of the name.
fn is_of_a_replica(error: &RedisError) -> bool {
    use ServerErrorKind::{MasterDown, ReadOnly};
    matches!(kind(error), Some(ReadOnly | MasterDown))
}
