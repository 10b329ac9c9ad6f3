//! The search for the servers: asks the sentinels, or the servers of a cluster, again and again.
//!
//! All that are known are asked at once, and the newest answer counts, by the epoch that it carries: one that was cut off, or
//! slept through a failover, does not lead anybody back to a server that has been replaced. redis-rs has clients for both, but
//! none that says when it doubts, or that keeps what is known for one server from what is known for another.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Address, Map,
    map::{agree, claims},
    servers::{Login, Shared},
};

/// Between searches while nothing is in doubt. A failover is seen by what it breaks; this is for what breaks nothing, such as
/// a slot that moves.
const STEADY: Duration = Duration::from_secs(2);

/// Between searches at least, however many doubt.
const APART: Duration = Duration::from_millis(100);

/// How long one of those that are asked may take, to connect and to answer.
const ANSWER: Duration = Duration::from_millis(500);

/// What a sentinel says of a master: where it is, and more by name.
type Master = ((String, u16), HashMap<String, String>);

/// Finds servers.
#[derive(Debug)]
pub(super) struct Finder {
    login: Login,
    /// Those of the configuration.
    seeds: Vec<Address>,
    ask: Ask,
    /// Kept from one search to the next.
    connections: HashMap<Address, MultiplexedConnection>,
    /// Whether the last search found nothing, and that was told.
    lost: bool,
}

#[derive(Debug)]
enum Ask {
    /// Sentinels, for the master of this name.
    Sentinels(String),
    /// Servers of a cluster.
    Cluster,
}

impl Finder {
    pub(super) fn sentinels(login: Login, sentinels: Vec<Address>, master: String) -> Self {
        Self::new(login, sentinels, Ask::Sentinels(master))
    }

    pub(super) fn cluster(login: Login, seeds: Vec<Address>) -> Self {
        Self::new(login, seeds, Ask::Cluster)
    }

    fn new(login: Login, seeds: Vec<Address>, ask: Ask) -> Self {
        Self {
            login,
            seeds,
            ask,
            connections: HashMap::new(),
            lost: false,
        }
    }

    /// Searches until told to stop.
    pub(super) async fn run(mut self, shared: Arc<Shared>, stop: CancellationToken) {
        let search = async {
            loop {
                let known = Arc::clone(&shared.map.borrow());
                match self.find(&known).await {
                    Some(found) => self.found(found, &shared),
                    // What was known stays: it may be the way there that is broken.
                    None if !std::mem::replace(&mut self.lost, true) => {
                        tracing::warn!(asked = %list(&self.seeds), "Redis's servers can't be found");
                    }
                    None => {}
                }
                shared.looks.send_modify(|looks| *looks += 1);
                sleep(APART).await;
                let _ = timeout(STEADY, shared.wake.notified()).await;
            }
        };
        stop.run_until_cancelled(search).await;
    }

    fn found(&mut self, found: Map, shared: &Shared) {
        self.lost = false;
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

    /// What the newest of all answers says; none if there is none.
    async fn find(&mut self, known: &Map) -> Option<Map> {
        match self.ask {
            Ask::Sentinels(ref master) => {
                // The first names the promoted one already while the other replicas are being pointed at it; the second has
                // the epoch.
                let mut asking = redis::pipe();
                asking
                    .cmd("SENTINEL")
                    .arg("GET-MASTER-ADDR-BY-NAME")
                    .arg(master);
                asking.cmd("SENTINEL").arg("MASTER").arg(master);
                let asked = self.seeds.clone();
                let answers: Vec<(Address, Master)> = self.ask_all(asked, &asking).await;
                let masters = answers.into_iter().filter_map(|(_, ((host, port), more))| {
                    let epoch: u64 = more.get("config-epoch")?.parse().ok()?;
                    Some((epoch, Address { host, port }))
                });
                masters.max().map(|(_, server)| Map::of_one(server))
            }
            Ask::Cluster => {
                let mut asking = redis::pipe();
                asking.cmd("CLUSTER").arg("NODES");
                let asked: BTreeSet<_> =
                    self.seeds.iter().chain(known.servers()).cloned().collect();
                let answers: Vec<(Address, (String,))> =
                    self.ask_all(asked.into_iter().collect(), &asking).await;
                let claims: Vec<_> = answers
                    .iter()
                    .flat_map(|(asked, (nodes,))| claims(nodes, asked, self.login.is_tls()))
                    .collect();
                Some(agree(&claims)).filter(|map| !map.servers().is_empty())
            }
        }
    }

    /// The answers of those that give one in time.
    async fn ask_all<T: redis::FromRedisValue>(
        &mut self,
        asked: Vec<Address>,
        command: &redis::Pipeline,
    ) -> Vec<(Address, T)> {
        let asking = asked.into_iter().map(|server| {
            let connection = self.connections.remove(&server);
            let login = &self.login;
            async move {
                let answer = timeout(ANSWER, ask(login, &server, connection, command)).await;
                match answer {
                    Ok(Ok((connection, answer))) => Some((server, connection, answer)),
                    Ok(Err(error)) => {
                        tracing::debug!(%server, %error, "who has the data");
                        None
                    }
                    Err(_) => None,
                }
            }
        });
        let answers = join_all(asking).await;
        let mut given = Vec::new();
        // Those that were not asked again, or gave no answer, are let go.
        self.connections.clear();
        for (server, connection, answer) in answers.into_iter().flatten() {
            self.connections.insert(server.clone(), connection);
            given.push((server, answer));
        }
        given
    }
}

async fn ask<T: redis::FromRedisValue>(
    login: &Login,
    server: &Address,
    connection: Option<MultiplexedConnection>,
    command: &redis::Pipeline,
) -> Result<(MultiplexedConnection, T), super::LinkError> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None);
            let client = login.client(server)?;
            client
                .get_multiplexed_async_connection_with_config(&config)
                .await?
        }
    };
    let answer = command.query_async(&mut connection).await?;
    Ok((connection, answer))
}

fn list(servers: &[Address]) -> String {
    let servers: Vec<_> = servers.iter().map(Address::to_string).collect();
    servers.join(", ")
}
