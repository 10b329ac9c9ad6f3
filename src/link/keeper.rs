//! One connection to a server at a time: how it is made, watched and given up.
//!
//! These are bare multiplexed connections, each made and dropped by one task, rather than `redis`' `ConnectionManager` (1.8.1): that
//! one never leaves a Redis that accepts connections and does not answer, and it can't tell which connection a confirmation of a
//! subscription came from (`connection_manager.rs`, `check_for_disconnect_pushes`). Here what is confirmed belongs to one connection
//! and dies with it.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, PushInfo, PushKind, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Address, DEADLINE, LinkError, MISSES, Servers};

/// Between PINGs while Redis answers, and while it does not.
const PING_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(250));

/// The pause before the second attempt to connect, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Commands that wait to be written. The crate's 50 let those of a storm time out in the queue.
const PIPELINE: usize = 4096;

/// Why a replica is left.
const REPLICA: &str = "it is a replica";

/// What a server must be to be of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A server that sees its cluster: it says itself, with every answer, whose a slot is.
    Member,
    /// A master, or what has been a replica all along: behind the name of a demoted master there may be another server by now.
    Undemoted,
    /// One that takes writes.
    Master,
}

/// Whether a server is a master or a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It takes writes.
    Master,
    /// It has what its master has, and takes none.
    Replica,
}

impl Role {
    /// Asks the server at the end of a connection; none if it does not say, or not within `limit`.
    ///
    /// By `HELLO`, which any user may call: `ROLE` and `INFO` take permissions that Switchboard has no other use for. It says
    /// nothing of whether the server is well: it is answered while data is loaded too, and while a script runs for long.
    pub(crate) async fn of(connection: &mut impl ConnectionLike, limit: Duration) -> Option<Self> {
        let hello = redis::cmd("HELLO");
        let hello = hello.query_async(connection);
        Self::read(timeout(limit, hello).await.ok()?.ok()?)
    }

    /// Reads the answer of `HELLO`.
    fn read(hello: Value) -> Option<Self> {
        let mut said = HashMap::<String, Value>::from_redis_value(hello).ok()?;
        let role = String::from_redis_value(said.remove("role")?).ok()?;
        match role.as_str() {
            "master" => Some(Self::Master),
            "replica" | "slave" => Some(Self::Replica),
            // Such as KeyDB's active replica, which does take writes.
            _ => None,
        }
    }
}

/// Keeps a connection to one server for one purpose.
#[derive(Debug)]
pub(crate) struct Keeper {
    purpose: &'static str,
    pub(crate) server: Address,
    client: Client,
    /// Looked for again when this one does not answer, or is the wrong one.
    pub(crate) servers: Servers,
    wanted: Wanted,
    past: Mutex<Past>,
}

#[derive(Debug, Default)]
struct Past {
    /// How many attempts to connect have failed in a row.
    failed: u32,
    was_master: bool,
    /// What the log says; nothing yet.
    is_up: Option<bool>,
}

/// A connection that is kept.
pub(crate) struct Kept {
    pub(crate) connection: MultiplexedConnection,
    /// Cancelled when the connection ends. Who gives the connection up cancels it too, after which nothing that is still in its
    /// buffers is passed on.
    pub(crate) ended: CancellationToken,
    /// What the server was at first.
    role: Option<Role>,
    /// [`Servers::given_up`] as it was before.
    given_up: u64,
}

impl Keeper {
    pub(crate) fn new(
        purpose: &'static str,
        servers: &Servers,
        server: &Address,
        wanted: Wanted,
    ) -> Result<Self, LinkError> {
        Ok(Self {
            purpose,
            client: servers.client(server)?,
            server: server.clone(),
            servers: servers.clone(),
            wanted,
            past: Mutex::default(),
        })
    }

    /// Connects to a server that is well. Pushes from Redis go to `on_push`, which runs on the connection's own task and must not
    /// wait; once it returns false, the connection is over.
    pub(crate) async fn connect(
        &self,
        on_push: impl Fn(PushInfo) -> bool + Send + Sync + 'static,
    ) -> Result<Kept, String> {
        let given_up = self.servers.given_up(&self.server);
        let ended = CancellationToken::new();
        let token = ended.clone();
        let config = AsyncConnectionConfig::new()
            // The deadlines here cover the queue before the connection as well, which the crate's own don't.
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE)
            .set_push_sender(move |push: PushInfo| {
                let over = push.kind == PushKind::Disconnection;
                if over || !token.is_cancelled() && !on_push(push) {
                    token.cancel();
                }
                Ok::<(), Infallible>(())
            });
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let mut connection = within(DEADLINE, connecting).await?;
        let role = self.check(&mut connection).await?;
        if self.wanted == Wanted::Master && role == Some(Role::Replica) {
            return Err(REPLICA.into());
        }
        self.past.lock().failed = 0;
        self.note(None);
        Ok(Kept {
            connection,
            ended,
            role,
            given_up,
        })
    }

    /// Asks the server again and again whether it is well, at once when it is woken, and passes on each answer or the lack of one.
    /// Returns why the connection is to be given up.
    pub(crate) async fn watch(
        &self,
        kept: &Kept,
        wake: &Notify,
        answers: impl Fn(Result<(), &str>),
    ) -> String {
        let mut connection = kept.connection.clone();
        let asking = async {
            let (mut pause, mut misses) = (PING_EVERY.0, 0);
            loop {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = wake.notified(), if misses == 0 => {}
                }
                match self.check(&mut connection).await {
                    Ok(Some(Role::Replica)) if self.is_demoted() => {
                        // A connection that has led to a replica all along says nothing about the others.
                        if kept.role != Some(Role::Replica) {
                            self.servers.give_up(&self.server);
                        }
                        return REPLICA.into();
                    }
                    Ok(_) => {
                        (pause, misses) = (PING_EVERY.0, 0);
                        self.note(None);
                        answers(Ok(()));
                    }
                    Err(why) => {
                        (pause, misses) = (PING_EVERY.1, misses + 1);
                        self.note(Some(&why));
                        answers(Err(&why));
                        if misses == MISSES {
                            return why;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = kept.ended.cancelled() => "the connection ended".into(),
            // A server that is demoted keeps its connections.
            () = self.servers.until_given_up(&self.server, kept.given_up) => "the server takes no writes".into(),
            why = asking => why,
        }
    }

    /// Waits before the next attempt to connect, after the last one or its connection has ended.
    pub(crate) async fn pause(&self, why: &str) {
        self.note(Some(why));
        let failed = {
            let mut past = self.past.lock();
            past.failed = past.failed.saturating_add(1);
            past.failed
        };
        sleep(pause(failed - 1)).await;
    }

    /// Whether the server is well: an error says why not. Returns what it says that it is.
    async fn check(&self, connection: &mut MultiplexedConnection) -> Result<Option<Role>, String> {
        let mut asking = redis::pipe();
        let is_member = self.wanted == Wanted::Member;
        match is_member {
            // A server that has lost sight of the others answers a PING, and nothing else.
            true => asking.cmd("CLUSTER").arg("INFO"),
            false => asking.cmd("PING"),
        };
        asking.cmd("HELLO");
        let answers = within(DEADLINE, connection.req_packed_commands(&asking, 0, 2)).await?;
        let mut answers = answers.into_iter();
        let well = answers.next().unwrap_or(Value::Nil).extract_error();
        let well = well.and_then(|it| Ok(String::from_redis_value(it)?));
        let well = well.map_err(|error| error.to_string())?;
        if is_member && !well.contains("cluster_state:ok") {
            return Err("it has lost sight of its cluster".into());
        }
        let role = answers.next().and_then(Role::read);
        self.past.lock().was_master |= role == Some(Role::Master);
        Ok(role)
    }

    /// Whether a replica is the wrong server.
    fn is_demoted(&self) -> bool {
        match self.wanted {
            Wanted::Member => false,
            Wanted::Undemoted => self.past.lock().was_master,
            Wanted::Master => true,
        }
    }

    /// Logs whether the server is well when that changes, and has others looked for while it is not.
    fn note(&self, away: Option<&str>) {
        let is_up = away.is_none();
        if !is_up {
            self.servers.doubt();
        }
        if self.past.lock().is_up.replace(is_up) == Some(is_up) {
            return;
        }
        let (link, server) = (self.purpose, &self.server);
        match away {
            None => tracing::info!(link, %server, "Redis answers"),
            Some(why) => tracing::warn!(link, %server, why, "Redis is away"),
        }
    }
}

/// Awaits Redis, for so long.
pub(crate) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, String> {
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

/// Doubles up to a ceiling. A random half of it keeps a fleet from knocking on a restarted Redis in step.
fn pause(attempt: u32) -> Duration {
    let (first, longest) = PAUSE;
    let pause = first.saturating_mul(1 << attempt.min(8)).min(longest);
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_ceiling_and_stay_there() {
        for attempt in [0, 1, 2, 3, 4, 40, u32::MAX] {
            let pause = pause(attempt);
            assert!(
                pause >= PAUSE.0 / 2 && pause <= PAUSE.1,
                "{attempt}: {pause:?}"
            );
        }
        assert!(pause(0) <= PAUSE.0);
        assert!(pause(u32::MAX) >= PAUSE.1 / 2);
    }
}
