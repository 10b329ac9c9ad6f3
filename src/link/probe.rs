//! Whether a server is there: the one task that PINGs it, and the connection that it keeps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{
    Client, PushInfo, PushKind, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Address, Aside, DEADLINE, LinkError, MISSES, Role, Servers, Wanted};

/// Between PINGs while Redis answers.
const WHILE_UP: Duration = Duration::from_secs(1);

/// Between PINGs while it doesn't; also bounds how often a connection is tried.
const WHILE_AWAY: Duration = Duration::from_millis(250);

/// What is known of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Nothing yet, or something went wrong since the last PING. Calls are let through, under their deadline.
    Doubtful = 0,
    /// The last PING was answered, and nothing went wrong since.
    Up = 1,
    /// The last PING was not answered. Calls fail at once.
    Away = 2,
}

#[derive(Debug)]
pub(super) struct Probe {
    server: Address,
    client: Client,
    wanted: Wanted,
    /// Told when this one does not answer, or is the wrong one: there may be another in its place.
    servers: Servers,
    /// Swapped by the prober only; everybody else takes a clone for one call.
    manager: Mutex<ConnectionManager>,
    state: AtomicU8,
    /// Set when the connection is to be thrown away although it answers.
    replace: AtomicBool,
    /// Wakes the prober before its time.
    wake: Arc<Notify>,
}

impl Probe {
    pub(super) fn new(
        servers: &Servers,
        server: &Address,
        wanted: Wanted,
    ) -> Result<Self, LinkError> {
        let client = servers.client(server)?;
        let wake = Arc::new(Notify::new());
        // What the manager spawns, it spawns there.
        let _there = servers.aside().handle().enter();
        Ok(Self {
            manager: Mutex::new(connect(&client, &wake)?),
            server: server.clone(),
            client,
            wanted,
            servers: servers.clone(),
            state: AtomicU8::new(State::Doubtful as u8),
            replace: AtomicBool::new(false),
            wake,
        })
    }

    pub(super) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Doubtful,
            1 => State::Up,
            _ => State::Away,
        }
    }

    pub(super) fn server(&self) -> &Address {
        &self.server
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn aside(&self) -> &Aside {
        self.servers.aside()
    }

    pub(super) fn connection(&self) -> ConnectionManager {
        self.manager.lock().clone()
    }

    /// Something went wrong: the prober looks at once.
    pub(super) fn doubt(&self) {
        let _ = self.state.compare_exchange(
            State::Up as u8,
            State::Doubtful as u8,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        self.wake.notify_one();
    }

    /// This server is the wrong one: the prober opens another connection, and has everybody else do so. Not woken for it, so
    /// that a server that stays wrong is left a few times a second at most, and not once a call.
    pub(super) fn replace(&self) {
        self.replace.store(true, Ordering::Release);
        self.servers.doubt();
    }

    /// PINGs until told to stop.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut misses = 0;
        let mut was_master = false;
        let mut given_up = self.servers.given_up(&self.server);
        loop {
            let (answered, role) = tokio::select! {
                () = stop.cancelled() => return,
                heard = self.ping() => heard,
            };
            misses = if answered { 0 } else { misses + 1 };
            was_master |= role == Some(Role::Master);
            let is_replica = role == Some(Role::Replica);
            // One of a cluster says itself, with every answer, whose a slot is.
            let takes_no_writes = is_replica && !self.servers.is_cluster();
            // Where a replica will do, it may be meant, unless a master has become one.
            let demoted = takes_no_writes && (was_master || self.wanted == Wanted::Master);
            let wrong = self.replace.swap(false, Ordering::AcqRel) || demoted;
            let of_no_use = takes_no_writes && self.wanted == Wanted::Master;
            let up = answered && !of_no_use;
            self.note(if up { State::Up } else { State::Away }, is_replica);
            if !answered || is_replica {
                self.servers.doubt();
            }
            if wrong {
                self.servers.give_up(&self.server);
            }
            // Or somebody else has found it to be the wrong one.
            let now = self.servers.given_up(&self.server);
            let left = std::mem::replace(&mut given_up, now) != now;
            if left || misses == MISSES {
                misses = 0;
                // The settings were good once, and are the same.
                if let Ok(manager) = connect(&self.client, &self.wake) {
                    *self.manager.lock() = manager;
                }
            }
            let pause = if up { WHILE_UP } else { WHILE_AWAY };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                // The connection that was thrown away wakes as well, and so would a wrong one at the end of each new one.
                () = self.wake.notified(), if up && !left => {}
            }
        }
    }

    /// Whether the server answers, and what it says that it is.
    async fn ping(&self) -> (bool, Option<Role>) {
        let mut connection = self.connection();
        let answered = async {
            if self.servers.is_cluster() {
                // A server that has lost sight of the others answers a PING, and nothing else.
                let mut info = redis::cmd("CLUSTER");
                let info = info
                    .arg("INFO")
                    .query_async::<String>(&mut connection)
                    .await;
                info.is_ok_and(|info| info.contains("cluster_state:ok"))
            } else {
                let ping = redis::cmd("PING");
                ping.query_async::<()>(&mut connection).await.is_ok()
            }
        };
        match timeout(DEADLINE, answered).await {
            Ok(true) => (true, Role::of(&mut connection, DEADLINE).await),
            Ok(false) | Err(_) => (false, None),
        }
    }

    fn note(&self, state: State, is_replica: bool) {
        let before = self.state.swap(state as u8, Ordering::AcqRel);
        if before != state as u8 {
            match state {
                State::Up => {
                    tracing::info!(server = %self.server, "Redis answers")
                }
                _ if is_replica => {
                    tracing::warn!(server = %self.server, "Redis answers as a replica, which takes no writes");
                }
                _ => {
                    tracing::warn!(server = %self.server, "Redis does not answer")
                }
            }
        }
    }
}

/// A connection that is opened by its first use.
///
/// It tries once, without retries of its own: redis-rs does not end a reconnection whose manager was dropped, so with many
/// retries each connection that is thrown away during an outage would leave a task that goes on trying. The PINGs are the
/// retries.
fn connect(client: &Client, wake: &Arc<Notify>) -> RedisResult<ConnectionManager> {
    let wake = Arc::clone(wake);
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(Some(DEADLINE))
        // The default of 50 makes calls of a storm queue, at the expense of their deadline.
        .set_pipeline_buffer_size(4096)
        .set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                wake.notify_one();
            }
            Ok::<_, redis::aio::SendError>(())
        });
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}
