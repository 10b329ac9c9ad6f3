//! One connection to Redis at a time: how it is made, watched and given up.
//!
//! These are bare multiplexed connections, each made and dropped by one task, rather than `redis`' `ConnectionManager`.
//! That one (1.8.1) replays all channels in one SUBSCRIBE whose further confirmations then pass for the answers of later
//! commands, so a PING proves nothing any more (`subscription_tracker.rs`, `append_subscription_command`). It also can't
//! tell which connection a confirmation came from when a failed command and the disconnection both make it reconnect
//! (`connection_manager.rs`, `check_for_disconnect_pushes`). Here what is confirmed belongs to one connection and dies with
//! it.

use std::{convert::Infallible, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, PushInfo, PushKind, RedisError, RedisResult,
    ServerErrorKind, aio::MultiplexedConnection,
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::link::Role;

/// How long a command may take: as long as a call to the registry.
pub(super) const CALL: Duration = crate::link::DEADLINE;
/// How long it may take until a connection is there, with TLS and the login.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a link is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(1);
/// So many unanswered PINGs in a row end a connection. A half-open one never ends by itself.
const MISSES: u32 = 3;
/// Commands that wait to be written. The crate's 50 let a burst of publishes time out in the queue.
const PIPELINE: usize = 4096;
/// The pause before the second attempt to connect, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Why a replica is left.
const REPLICA: &str = "it is a replica";
/// Why a connection is left whose server has refused a write on another one.
pub(super) const GIVEN_UP: &str = "the server takes no writes";

/// A connection, and the token that is cancelled when it ends. Whoever gives the connection up cancels the token too, after
/// which nothing that is still in its buffers is passed on.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    pub(super) ended: CancellationToken,
}

/// Connects; pushes from Redis go to `on_push`, which runs on the connection's own task and must not wait. Once it answers no,
/// the connection is over.
pub(super) async fn connect(
    client: &Client,
    on_push: impl Fn(PushInfo) -> bool + Send + Sync + 'static,
) -> Result<Link, String> {
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
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = within(CONNECT, connecting).await?;
    // What is published to a replica stays there.
    match Role::of(&mut connection, CALL).await {
        Some(Role::Replica) => return Err(REPLICA.into()),
        Some(Role::Master) | None => {}
    }
    Ok(Link { connection, ended })
}

/// Awaits Redis, for so long.
pub(super) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, String> {
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

/// Whether another server of the cluster has what this one was asked about.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::Moved)
}

/// Asks the connection again and again whether it lives, and passes on each answer or the lack of one. Returns why it is to
/// be given up.
pub(super) async fn watch(mut connection: MultiplexedConnection, answers: impl Fn(bool)) -> String {
    let mut ticks = interval(PING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut misses = 0;
    loop {
        ticks.tick().await;
        let ping = redis::cmd("PING");
        match within(CALL, ping.query_async::<()>(&mut connection)).await {
            Ok(()) => {
                misses = 0;
                // A server that is demoted keeps its connections.
                if Role::of(&mut connection, CALL).await == Some(Role::Replica) {
                    return REPLICA.into();
                }
                answers(true);
            }
            Err(why) => {
                misses += 1;
                answers(false);
                if misses == MISSES {
                    return format!("{MISSES} PINGs in a row failed, the last one with: {why}");
                }
            }
        }
    }
}

/// The life of one connection, looked back on.
pub(super) struct Ended {
    /// Whether it came about at all.
    pub(super) connected: bool,
    /// Why it ended.
    pub(super) why: String,
}

/// The pauses between attempts, and one line of log for each outage rather than for each attempt.
pub(super) struct Retry {
    link: &'static str,
    redis: String,
    attempt: u32,
}

impl Retry {
    pub(super) fn new(link: &'static str, client: &Client) -> Self {
        Self {
            link,
            redis: client.get_connection_info().addr().to_string(),
            attempt: 0,
        }
    }

    pub(super) fn connected(&self) {
        tracing::info!(link = self.link, redis = self.redis, "bus link connected");
    }

    pub(super) async fn pause(&mut self, ended: &Ended) {
        if ended.connected {
            self.attempt = 0;
        }
        let Ended { why, .. } = ended;
        if self.attempt == 0 {
            tracing::warn!(link = self.link, redis = self.redis, why, "bus link down");
        } else {
            tracing::debug!(link = self.link, redis = self.redis, why, "bus link down");
        }
        tokio::time::sleep(pause(self.attempt)).await;
        self.attempt = self.attempt.saturating_add(1);
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
