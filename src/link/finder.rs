//! The search for the servers: asks the sentinels, or the servers of a cluster, again and again.
//!
//! All that are known are asked at once, and the newest answer counts, by the epoch that it carries: one that was cut off, or
//! slept through a failover, does not lead anybody back to a server that has been replaced ([`super::memory`]). The search ends
//! soon after the first answer that is good enough, and not with the last one: a seed that is dead says nothing at all, and to
//! wait for that would take most of what a call has. What comes later counts when it comes.
//!
//! redis-rs (1.8.1) has clients for both, `SentinelClient` and `ClusterConnection`. The first takes the first answer; neither says
//! which of the servers is away, or keeps an older answer from counting.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Address, Map,
    ask::{Answer, Ask, connect},
    keeper::Role,
    login::Login,
    memory::{Heard, Memory},
    servers::Shared,
};

/// Between searches while nothing is in doubt. A failover is seen by what it breaks; this is for what breaks nothing, such as
/// a slot that moves.
const STEADY: Duration = Duration::from_secs(2);

/// Between searches at least, however many doubt.
const APART: Duration = Duration::from_millis(100);

/// How long the others have to say something newer, once there is an answer that is good enough: an eighth of what a call has.
const OTHERS: Duration = Duration::from_millis(100);

/// How long a sentinel or a server may take to connect and to answer.
const ANSWER: Duration = Duration::from_millis(500);

/// Finds the servers, and tells everybody who asks ([`Shared`]).
#[derive(Debug)]
pub(super) struct Finder {
    login: Login,
    /// Those of the configuration.
    seeds: Vec<Address>,
    ask: Ask,
    /// [`ANSWER`], but for tests.
    patience: Duration,
    /// Kept from one question to the next.
    connections: HashMap<Address, MultiplexedConnection>,
    /// The questions that are under way, one to each server at most. The next search takes those that the last did not wait for.
    asking: FuturesUnordered<BoxFuture<'static, Answer>>,
    asked: BTreeSet<Address>,
    memory: Memory,
    /// The last search found nothing, and the log says so.
    lost: bool,
    /// Older answers are held back, and the log says so.
    held_back: bool,
}

impl Finder {
    pub(super) fn new(login: Login, seeds: Vec<Address>, ask: Ask) -> Self {
        Self {
            login,
            seeds,
            ask,
            patience: ANSWER,
            connections: HashMap::new(),
            asking: FuturesUnordered::new(),
            asked: BTreeSet::new(),
            memory: Memory::default(),
            lost: false,
            held_back: false,
        }
    }

    /// Searches until told to stop.
    pub(super) async fn run(mut self, shared: Arc<Shared>, stop: CancellationToken) {
        let search = async {
            loop {
                if self.find(&shared).await {
                    self.lost = false;
                    self.publish(&shared);
                } else if !std::mem::replace(&mut self.lost, true) {
                    // What was known stays: it may be the way there that is broken.
                    tracing::warn!(asked = %list(&self.seeds), "Redis's servers can't be found");
                }
                shared.looks.send_modify(|looks| *looks += 1);
                sleep(APART).await;
                self.rest(&shared).await;
            }
        };
        stop.run_until_cancelled(search).await;
    }

    fn publish(&self, shared: &Shared) {
        let found = self.memory.map();
        shared.map.send_if_modified(|map| {
            let changed = **map != found;
            if changed {
                let servers: Vec<_> = found.servers().into_iter().cloned().collect();
                tracing::info!(servers = %list(&servers), whole = found.is_whole(), "Redis's servers");
                *map = Arc::new(found);
            }
            changed
        });
    }

    /// Searches once. Returns false if nobody has answered.
    async fn find(&mut self, shared: &Shared) -> bool {
        self.ask_all();
        let mut heard = Heard::default();
        let end = sleep_until(Instant::now() + self.patience);
        tokio::pin!(end);
        let mut met = false;
        loop {
            let answer = tokio::select! {
                answer = self.asking.next() => answer,
                () = &mut end => None,
            };
            let Some(answer) = answer else {
                break;
            };
            self.note(answer, &mut heard);
            if !met && self.memory.is_met_by(&heard) {
                met = true;
                let soon = Instant::now() + OTHERS;
                if soon < end.deadline() {
                    end.as_mut().reset(soon);
                }
            }
        }
        if heard.claims.is_empty() {
            return false;
        }
        let said = |seed: &&Address| heard.by.contains(seed);
        if self.seeds.iter().filter(said).count() > self.seeds.len() / 2 {
            self.memory.believe(&heard);
            self.held_back = false;
            return true;
        }
        let older = !self.memory.is_met_by(&heard);
        let holds = older && self.holds(shared).await;
        if self.memory.add(&heard, holds, Instant::now()) {
            tracing::warn!(
                "an older answer on where Redis is counts now: there has been no newer one for long"
            );
        } else if older && !self.held_back {
            let by: Vec<_> = heard.by.into_iter().collect();
            tracing::warn!(by = %list(&by), "an older answer on where Redis is does not count yet");
        }
        self.held_back = older;
        true
    }

    /// Waits until it is time for another search. Late answers count meanwhile if they are newer.
    async fn rest(&mut self, shared: &Shared) {
        let end = sleep(STEADY);
        tokio::pin!(end);
        loop {
            let answer = tokio::select! {
                () = &mut end => return,
                () = shared.wake.notified() => return,
                Some(answer) = self.asking.next() => answer,
            };
            let mut heard = Heard::default();
            self.note(answer, &mut heard);
            if self.memory.is_met_by(&heard) {
                self.memory.add(&heard, false, Instant::now());
                self.publish(shared);
            }
        }
    }

    /// Asks all servers that may know and are not being asked already.
    fn ask_all(&mut self) {
        let known = match self.ask {
            Ask::Sentinels(_) => Map::default(),
            Ask::Cluster => self.memory.map(),
        };
        let those: BTreeSet<_> = self.seeds.iter().chain(known.servers()).cloned().collect();
        self.connections.retain(|server, _| those.contains(server));
        for server in those {
            if !self.asked.insert(server.clone()) {
                continue;
            }
            let kept = self.connections.remove(&server);
            let (login, ask, limit) = (self.login.clone(), self.ask.clone(), self.patience);
            let asking = ask.put(login, server, kept, limit);
            self.asking.push(asking.boxed());
        }
    }

    fn note(&mut self, answer: Answer, heard: &mut Heard) {
        self.asked.remove(&answer.by);
        if let Some((connection, claims)) = answer.said {
            self.connections.insert(answer.by.clone(), connection);
            if !claims.is_empty() {
                heard.claims.extend(claims);
                heard.by.insert(answer.by);
            }
        }
    }

    /// Returns true if the known master still says that it is one. In a cluster it has been asked already: false.
    async fn holds(&mut self, shared: &Shared) -> bool {
        let Ask::Sentinels(_) = self.ask else {
            return false;
        };
        let map = self.memory.map();
        let Some(master) = map.servers().into_iter().next() else {
            return false;
        };
        let asking = async {
            let mut connection = connect(&shared.login, master).await.ok()?;
            Role::of(&mut connection, self.patience).await
        };
        matches!(timeout(self.patience, asking).await, Ok(Some(Role::Master)))
    }
}

fn list(servers: &[Address]) -> String {
    let servers: Vec<_> = servers.iter().map(Address::to_string).collect();
    servers.join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
