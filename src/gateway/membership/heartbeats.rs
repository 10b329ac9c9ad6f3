//! A node's membership of the cluster: its lease, and what it does when it has lost sight of the others.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::FutureExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::repair::Repairs;
use crate::{
    config::RunningConfig,
    connection::{Instance, NodeId},
    gateway::{
        connections::LocalConnections,
        lease::OwnLease,
        peers::{Peers, wire::Command},
        readiness::Readiness,
        tasks::Tasks,
    },
    registry::{Lease, NodeReport, Registry, RegistryError, Totals},
};

/// How long changes are gathered before a node says anew how many connections it has: `/v1/nodes` is no older, and a node whose
/// clients come and go all the time costs four commands a second.
const GATHERING: Duration = Duration::from_millis(250);
/// How long after a lease has run out others look whether it has.
const SOON: Duration = Duration::from_millis(50);
/// How soon a heartbeat that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// What a heartbeat has heard of the fleet.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// The leases that are for this node to reap.
    lapsed: Vec<Lease>,
    /// How many there are; none if that could not be asked.
    totals: Option<Totals>,
}

/// Sends this node's heartbeats, and sees to what their answers say.
pub(crate) struct Heartbeats {
    node_id: NodeId,
    started_at: Timestamp,
    config: RunningConfig,
    registry: Arc<dyn Registry>,
    lease: Arc<OwnLease>,
    readiness: Arc<Readiness>,
    peers: Arc<Peers>,
    connections: Arc<LocalConnections>,
    repairs: Arc<Repairs>,
    tasks: Tasks,
    /// When all nodes were last told that something was lost.
    told: Mutex<Option<Instant>>,
    /// Sends the next heartbeat at once.
    beat_now: Notify,
    /// Ends the heartbeats: a node that has left must not join again.
    leaving: CancellationToken,
}

impl Heartbeats {
    /// Heartbeats of a node that has not joined; [`Heartbeats::begin`] sends them.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one of its parts, given once"
    )]
    pub(crate) fn new(
        node_id: NodeId,
        config: RunningConfig,
        registry: Arc<dyn Registry>,
        lease: Arc<OwnLease>,
        readiness: Arc<Readiness>,
        peers: Arc<Peers>,
        connections: Arc<LocalConnections>,
        repairs: Arc<Repairs>,
        tasks: Tasks,
    ) -> Self {
        Self {
            node_id,
            started_at: Timestamp::now(),
            config,
            registry,
            lease,
            readiness,
            peers,
            connections,
            repairs,
            tasks,
            told: Mutex::default(),
            beat_now: Notify::new(),
            leaving: CancellationToken::new(),
        }
    }

    /// Joins the fleet and sends heartbeats until the node leaves or stops.
    pub(crate) fn begin(self: &Arc<Self>) {
        let beats = self.clone();
        self.tasks.supervise("keeping the membership", move || {
            let leaving = beats.leaving.clone();
            let kept = leaving.run_until_cancelled_owned(beats.clone().keep());
            kept.map(|_| ())
        });
    }

    /// Another node has left: nothing of it is waited for.
    pub(crate) fn has_left(&self, node: &Instance) {
        self.registry.has_left(node);
    }

    /// Sends the next heartbeat at once.
    pub(crate) fn hurry(&self) {
        self.beat_now.notify_one();
    }

    /// Gives up the lease and tells the other nodes, within `patience`. If that fails, the lease runs out.
    pub(crate) async fn leave(&self, patience: Duration) {
        self.leaving.cancel();
        let lease = self.lease.current();
        // From here on nobody is registered: an entry that came now would stay behind in the registry.
        self.lease.set_left();
        match timeout(patience, self.registry.leave(&lease)).await {
            Ok(Ok(())) => self.peers.tell_all(Command::Farewell).await,
            Ok(Err(error)) => tracing::warn!(%error, "can't leave; the lease runs out"),
            Err(_) => tracing::warn!("can't leave in time; the lease runs out"),
        }
    }

    /// What this node says of itself.
    pub(crate) fn report(&self) -> NodeReport {
        let (connections, users) = self.connections.table.counts();
        NodeReport {
            node_id: self.node_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            connections,
            users,
            draining: self.readiness.is_draining(),
        }
    }

    /// Keeps the node's lease, reaps those of nodes that are gone, and makes the registry exact again after a gap. Runs
    /// until the node leaves.
    ///
    /// Heartbeats wait for nothing but their own answers: what else is to be done grows with the connections, of this node and of
    /// those that died, and on a busy machine takes longer than a lease.
    async fn keep(self: Arc<Self>) {
        // After a panic too: what was under way may not be done.
        self.repairs.set_inexact(self.registry.shards().all());
        let (beats, beaten) = watch::channel(Heard::default());
        tokio::join!(self.keep_lease(beats), self.tend(beaten));
    }

    /// Sends heartbeats; each that was answered passes on what it has heard.
    async fn keep_lease(&self, beats: watch::Sender<Heard>) {
        let mut gaps = self.peers.gaps();
        loop {
            let begun = Instant::now();
            let pause = match self.beat().await {
                Ok((heard, next)) => {
                    beats.send_replace(heard);
                    // Nodes that were asked to beat at once are not to do so together ever after.
                    let heartbeat = self.config.now().registry.heartbeat;
                    let pause = heartbeat.mul_f64(rand::random_range(0.9..=1.0));
                    let next = next.map(|next| (next + SOON).max(SOON.min(heartbeat)));
                    next.map_or(pause, |next| next.min(pause))
                }
                Err(error) => {
                    tracing::debug!(%error, "heartbeat");
                    self.repairs.set_inexact(self.registry.shards().all());
                    // One that was not answered may have been heard, and prolonged the lease of a node that hears nothing. By then
                    // its link's PING has not been answered either, and nothing more is sent.
                    begun.elapsed() + RETRY.min(self.config.now().registry.heartbeat)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.beat_now.notified() => {}
                () = self.amiss() => {}
                gap = gaps.changed() => match gap {
                    Ok(()) => self.repairs.set_inexact(self.registry.shards().all()),
                    // The bus is closed: so is the node, nearly.
                    Err(_) => tokio::time::sleep(pause).await,
                },
                never = self.tell_counts() => match never {},
            }
        }
    }

    /// Tells the registry, after each change, how many connections there are. In turns with the heartbeats, which tell the same:
    /// a report that overtook one could say that the node is settled when it no longer is.
    async fn tell_counts(&self) -> Infallible {
        loop {
            self.connections.table.changed().await;
            tokio::time::sleep(GATHERING).await;
            if self.lease.holds()
                && let Err(error) = self
                    .registry
                    .report(&self.lease.current(), &self.report())
                    .await
            {
                tracing::debug!(%error, "report");
            }
        }
    }

    /// Does after each heartbeat what is to be done; what fails is done again, less and less often, until the next one.
    async fn tend(&self, mut beats: watch::Receiver<Heard>) {
        while beats.changed().await.is_ok() {
            let Heard { mut lapsed, totals } = beats.borrow_and_update().clone();
            let mut pause = RETRY.min(self.config.now().registry.heartbeat);
            while let Err(error) = self.repairs.make_exact(&mut lapsed, totals).await {
                tracing::debug!(%error, "after a heartbeat");
                if beats.has_changed().unwrap_or(true) {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(self.config.now().registry.heartbeat);
            }
        }
    }

    /// Returns when a heartbeat would clear something up; not again and again at once, however many find it.
    async fn amiss(&self) {
        tokio::time::sleep(RETRY.min(self.config.now().registry.heartbeat)).await;
        self.registry.amiss().await;
    }

    /// One heartbeat, or a new lease. Returns what it has heard, and how soon the next one is due at the latest.
    async fn beat(&self) -> Result<(Heard, Option<Duration>), RegistryError> {
        let sent = Instant::now();
        let (mut heard, mut next) = (Heard::default(), None);
        if self.lease.is_joined() {
            let beat = self
                .registry
                .heartbeat(&self.lease.current(), &self.report())
                .await?;
            if !beat.held {
                tracing::warn!(lease = %self.lease.current(), "the lease has run out; joining anew");
                self.lease.next_epoch();
            } else if !beat.emptied.is_empty() {
                tracing::warn!(shards = beat.emptied.len(), "the registry has lost data");
                self.lease.lose(&beat.emptied);
                self.repairs.set_inexact(beat.emptied);
            }
            if beat.lost && self.to_be_told() {
                // They have lost the same, and find it out the sooner.
                let peers = self.peers.clone();
                self.tasks
                    .spawn(async move { peers.tell_all(Command::Beat).await });
            }
            heard = Heard {
                lapsed: beat.lapsed,
                totals: beat.totals,
            };
            next = beat.next;
        }
        let mut joined = false;
        if !self.lease.is_joined() {
            if !self
                .registry
                .join(&self.lease.current(), &self.report())
                .await?
            {
                self.lease.next_epoch();
                return Err(RegistryError::Unavailable("the lease is buried".to_owned()));
            }
            self.lease.set_joined();
            // What was asserted before was asserted under a lease that nobody knew.
            self.lease
                .lose(&Vec::from_iter(self.registry.shards().all()));
            joined = true;
        }
        // After the lease counts: what was ordered until then is what has to be caught up with.
        if self.lease.renewed(sent) || joined {
            self.repairs.set_inexact(self.registry.shards().all());
        }
        Ok((heard, next))
    }

    /// Whether all nodes are to be told of a loss by this one: once a heartbeat.
    fn to_be_told(&self) -> bool {
        let mut told = self.told.lock();
        let due = told.is_none_or(|told| told.elapsed() >= self.config.now().registry.heartbeat);
        if due {
            *told = Some(Instant::now());
        }
        due
    }
}
