//! A node's membership of the cluster: its lease, and what it does when it has lost sight of the others.

use std::{
    collections::BTreeSet, convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::watch, time::Instant};

use crate::gateway::{
    Inner,
    peers::wire::{self, Command},
};
use crate::registry::{Lease, NodeReport, RegistryError, keys::Shard};

/// How long changes are gathered before a node says anew how many connections it has: `/v1/nodes` is no older, and a node whose
/// clients come and go all the time costs four commands a second.
const GATHERING: Duration = Duration::from_millis(250);
/// How long after a lease has run out others look whether it has.
const SOON: Duration = Duration::from_millis(50);
/// How soon a heartbeat that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);

impl Inner {
    /// What this node says of itself.
    pub(in crate::gateway) fn report(&self) -> NodeReport {
        let (connections, users) = self.table.counts();
        NodeReport {
            node_id: self.node_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            connections,
            users,
            draining: self.is_draining(),
        }
    }

    /// Keeps the node's lease, reaps those of nodes that are gone, and makes the registry exact again after a gap. Runs
    /// until the node leaves.
    ///
    /// Heartbeats wait for nothing but their own answers: what else is to be done grows with the connections, of this node and of
    /// those that died, and on a busy machine takes longer than a lease.
    pub(in crate::gateway) async fn keep_membership(self: Arc<Self>) {
        loop {
            let (beats, beaten) = watch::channel(Vec::new());
            let kept = async { tokio::join!(self.keep_lease(beats), self.tend(beaten)) };
            if AssertUnwindSafe(kept).catch_unwind().await.is_ok() {
                return;
            }
            // A node without heartbeats is lost to the others, and its clients with it. What was under way may not be done.
            tracing::error!("keeping the membership panicked");
            self.set_inexact();
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Sends heartbeats; each that was answered passes the leases on that have run out.
    async fn keep_lease(self: &Arc<Self>, beats: watch::Sender<Vec<Lease>>) {
        let mut gaps = self.bus.gaps();
        loop {
            let begun = Instant::now();
            let pause = match self.beat().await {
                Ok((lapsed, next)) => {
                    beats.send_replace(lapsed);
                    // Nodes that were asked to beat at once are not to do so together ever after.
                    let heartbeat = self.config().registry.heartbeat;
                    let pause = heartbeat.mul_f64(rand::random_range(0.9..=1.0));
                    let next = next.map(|next| (next + SOON).max(SOON.min(heartbeat)));
                    next.map_or(pause, |next| next.min(pause))
                }
                Err(error) => {
                    tracing::debug!(%error, "heartbeat");
                    self.set_inexact();
                    // One that was not answered may have been heard, and prolonged the lease of a node that hears nothing. By then
                    // its link's PING has not been answered either, and nothing more is sent.
                    begun.elapsed() + RETRY.min(self.config().registry.heartbeat)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.beat_now.notified() => {}
                () = self.amiss() => {}
                gap = gaps.changed() => match gap {
                    Ok(()) => self.set_inexact(),
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
            self.table.changed().await;
            tokio::time::sleep(GATHERING).await;
            if self.holds_lease()
                && let Err(error) = self.registry.report(&self.lease(), &self.report()).await
            {
                tracing::debug!(%error, "report");
            }
        }
    }

    /// Does after each heartbeat what is to be done; what fails is done again, less and less often, until the next one.
    async fn tend(self: &Arc<Self>, mut beats: watch::Receiver<Vec<Lease>>) {
        while beats.changed().await.is_ok() {
            let mut lapsed = beats.borrow_and_update().clone();
            let mut pause = RETRY.min(self.config().registry.heartbeat);
            while let Err(error) = self.make_exact(&mut lapsed).await {
                tracing::debug!(%error, "after a heartbeat");
                if beats.has_changed().unwrap_or(true) {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(self.config().registry.heartbeat);
            }
        }
    }

    /// Returns when a heartbeat would clear something up; not again and again at once, however many find it.
    async fn amiss(&self) {
        tokio::time::sleep(RETRY.min(self.config().registry.heartbeat)).await;
        self.registry.amiss().await;
    }

    /// Tells all nodes what nobody confirms.
    pub(in crate::gateway) async fn tell_all(&self, command: Command<'_>) {
        let payload = wire::command(0, &command);
        if let Err(error) = self.bus.publish_all(&payload).await {
            // Their next heartbeat comes without it.
            tracing::debug!(%error, "can't tell the other nodes");
        }
    }

    /// Has all connections asserted after the next heartbeat: there may be orders that this node has not seen.
    fn set_inexact(&self) {
        self.inexact.lock().extend(Shard::all());
    }

    /// One heartbeat, or a new lease. Returns the leases that are to be reaped, and how soon the next one is due at the latest.
    async fn beat(self: &Arc<Self>) -> Result<(Vec<Lease>, Option<Duration>), RegistryError> {
        let sent = Instant::now();
        let (mut lapsed, mut next) = (Vec::new(), None);
        if self.joined() {
            let beat = self
                .registry
                .heartbeat(&self.lease(), &self.report())
                .await?;
            if !beat.held {
                tracing::warn!(lease = %self.lease(), "the lease has run out; joining anew");
                self.next_epoch();
            } else if !beat.emptied.is_empty() {
                tracing::warn!(shards = beat.emptied.len(), "the registry has lost data");
                self.lost(&beat.emptied);
                self.inexact.lock().extend(beat.emptied);
            }
            if beat.lost && self.to_be_told() {
                // They have lost the same, and find it out the sooner.
                let gateway = self.clone();
                self.spawn(async move { gateway.tell_all(Command::Beat).await });
            }
            (lapsed, next) = (beat.lapsed, beat.next);
        }
        let mut joined = false;
        if !self.joined() {
            if !self.registry.join(&self.lease(), &self.report()).await? {
                self.next_epoch();
                return Err(RegistryError::Unavailable("the lease is buried".to_owned()));
            }
            self.set_joined();
            // Whatever was asserted before was asserted under a lease that nobody knew.
            self.lost(&Vec::from_iter(Shard::all()));
            joined = true;
        }
        // After the lease counts: what was ordered until then is what has to be caught up with.
        if self.renewed(sent) || joined {
            self.set_inexact();
        }
        Ok((lapsed, next))
    }

    /// Whether all nodes are to be told of a loss by this one: once a heartbeat.
    fn to_be_told(&self) -> bool {
        let mut told = self.told.lock();
        let due = told.is_none_or(|told| told.elapsed() >= self.config().registry.heartbeat);
        if due {
            *told = Some(Instant::now());
        }
        due
    }

    /// Makes the registry hold what it should: of this node, and of those that are gone.
    async fn make_exact(self: &Arc<Self>, lapsed: &mut Vec<Lease>) -> Result<(), RegistryError> {
        // Under a lease that nobody knows yet nothing is put in.
        let inexact = match self.joined() {
            true => std::mem::take(&mut *self.inexact.lock()),
            false => BTreeSet::new(),
        };
        let failed = self.resync(inexact).await;
        let mut failure = failed.len();
        self.inexact.lock().extend(failed);
        let mut left = Vec::new();
        for lease in lapsed.drain(..).filter(|lease| *lease != self.lease()) {
            if let Err(error) = self.reap(&lease).await {
                tracing::debug!(%error, %lease, "can't be reaped yet");
                failure += 1;
                left.push(lease);
            }
        }
        *lapsed = left;
        let fleet = match self.registry.totals().await {
            Ok(totals) => {
                self.metrics.cluster_users().set(totals.users as f64);
                self.metrics
                    .cluster_connections()
                    .set(totals.connections as f64);
                totals.connections
            }
            Err(error) => {
                tracing::debug!(%error, "the cluster's numbers");
                self.table.len() as u64
            }
        };
        self.repair(fleet).await;
        match failure {
            0 => Ok(()),
            left => Err(RegistryError::Unavailable(format!(
                "{left} shards or leases are left to be seen to"
            ))),
        }
    }

    async fn reap(&self, lapsed: &Lease) -> Result<(), RegistryError> {
        let connections = self.registry.reap(lapsed).await?;
        if connections > 0 {
            self.metrics.connections_reaped().increment(connections);
            tracing::warn!(lease = %lapsed, connections, "reaped a node that is gone");
        }
        Ok(())
    }
}
