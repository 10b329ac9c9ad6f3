//! Whether a server is there, and the connection on which it is asked.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Address, LinkError, Servers,
    keeper::{Keeper, Wanted},
};

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing yet, or something went wrong since the last PING. Calls are let through, under their deadline.
    Doubtful,
    /// The last PING was answered, and nothing went wrong since.
    Up,
    /// The last PING was not answered, or there is no way to ask. Calls fail at once.
    Away,
}

/// A connection that its users share, and the task that keeps it.
#[derive(Debug)]
pub(crate) struct Probe {
    keeper: Keeper,
    known: watch::Sender<Known>,
    /// Set when the connection is to be left although it answers.
    replace: AtomicBool,
    /// Wakes the prober before its time.
    wake: Notify,
}

#[derive(Debug)]
struct Known {
    state: State,
    connection: Option<MultiplexedConnection>,
    /// Why it is away.
    why: String,
}

impl Probe {
    pub(crate) fn new(
        purpose: &'static str,
        servers: &Servers,
        server: &Address,
        wanted: Wanted,
    ) -> Result<Self, LinkError> {
        Ok(Self {
            keeper: Keeper::new(purpose, servers, server, wanted)?,
            known: watch::Sender::new(Known {
                state: State::Doubtful,
                connection: None,
                why: String::new(),
            }),
            replace: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    pub(crate) fn server(&self) -> &Address {
        &self.keeper.server
    }

    pub(super) fn state(&self) -> State {
        self.known.borrow().state
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state() == State::Up
    }

    /// The connection, while the server is up.
    pub(crate) fn connected(&self) -> Option<MultiplexedConnection> {
        let known = self.known.borrow();
        let connection = known.connection.as_ref();
        connection.filter(|_| known.state == State::Up).cloned()
    }

    /// Passes on whether the server is up, now and at every change, until there is nothing more to say.
    pub(crate) async fn tell(&self, told: impl Fn(bool)) {
        let mut known = self.known.subscribe();
        loop {
            told(known.borrow_and_update().state == State::Up);
            if known.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for the connection while it is being made.
    pub(super) async fn connection(&self) -> Result<MultiplexedConnection, LinkError> {
        let mut known = self.known.subscribe();
        let settled =
            known.wait_for(|known| known.connection.is_some() || known.state == State::Away);
        let connection = settled
            .await
            .ok()
            .and_then(|known| known.connection.clone());
        self.ensure()?;
        connection.ok_or_else(|| LinkError::Away("the connection has just ended".into()))
    }

    /// Fails while the server is known to be away.
    pub(super) fn ensure(&self) -> Result<(), LinkError> {
        let known = self.known.borrow();
        match known.state {
            State::Away => Err(LinkError::Away(known.why.clone())),
            State::Doubtful | State::Up => Ok(()),
        }
    }

    /// Something went wrong: the prober looks at once.
    pub(super) fn doubt(&self) {
        self.known.send_if_modified(|known| {
            let was_up = known.state == State::Up;
            if was_up {
                known.state = State::Doubtful;
            }
            was_up
        });
        self.wake.notify_one();
    }

    /// This server is the wrong one: the prober has every connection to it opened anew. Not woken for it, so that a server that
    /// stays wrong is left once a second at most, and not once a call.
    pub(super) fn replace(&self) {
        self.replace.store(true, Ordering::Release);
        self.keeper.servers.doubt();
    }

    /// Keeps the connection until told to stop.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let keep = async {
            loop {
                let why = match self.keeper.connect(|_push| true).await {
                    Ok(kept) => {
                        // What was found wrong was an earlier connection.
                        self.replace.store(false, Ordering::Release);
                        self.set(State::Up, Some(kept.connection.clone()), "");
                        let answers = |answer: Result<(), &str>| self.heard(answer);
                        let why = self.keeper.watch(&kept, &self.wake, answers).await;
                        let state = match self.state() {
                            State::Away => State::Away,
                            _ => State::Doubtful,
                        };
                        self.set(state, None, &why);
                        why
                    }
                    Err(why) => {
                        self.set(State::Away, None, &why);
                        why
                    }
                };
                self.keeper.pause(&why).await;
            }
        };
        stop.run_until_cancelled(keep).await;
        self.set(State::Away, None, "it is not needed any more");
    }

    fn set(&self, state: State, connection: Option<MultiplexedConnection>, why: &str) {
        self.known.send_replace(Known {
            state,
            connection,
            why: why.to_owned(),
        });
    }

    fn heard(&self, answer: Result<(), &str>) {
        if self.replace.swap(false, Ordering::AcqRel) {
            self.keeper.servers.give_up(self.server());
        }
        self.known.send_if_modified(|known| {
            let state = match answer {
                Ok(()) => State::Up,
                Err(why) => {
                    why.clone_into(&mut known.why);
                    State::Away
                }
            };
            std::mem::replace(&mut known.state, state) != state
        });
    }
}
