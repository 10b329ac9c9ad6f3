//! A node's membership of the cluster: its lease, and what it does when it has lost sight of the others.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::watch, time::Instant};

use super::{
    Inner,
    wire::{self, Command},
};
use crate::{
    connection::Instance,
    registry::{Heartbeat, Lease, NodeReport, RegistryError, Settled},
};

/// How long changes are gathered before a node says anew how many connections it has: `/v1/nodes` is no older, and a node whose
/// clients come and go all the time costs four commands a second.
const GATHERING: Duration = Duration::from_millis(250);
/// How soon a heartbeat that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);

impl Inner {
    /// What this node says of itself.
    pub(super) fn report(&self) -> NodeReport {
        let (connections, users) = self.hub.counts();
        NodeReport {
            node_id: self.node_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            connections,
            users,
            draining: self.is_draining(),
            settled: self.is_settled(),
        }
    }

    /// Keeps the node's lease, reaps those of nodes that are gone, and makes the registry exact again after a gap. Runs
    /// until the node leaves.
    ///
    /// Heartbeats wait for nothing but their own answers: what else is to be done grows with the connections, of this node and of
    /// those that died, and on a busy machine takes longer than a lease.
    pub(super) async fn keep_membership(self: Arc<Self>) {
        loop {
            let (beats, beaten) = watch::channel(Vec::new());
            let kept = async {
                tokio::join!(
                    self.keep_lease(beats),
                    self.tend(beaten),
                    self.meet_others()
                )
            };
            if AssertUnwindSafe(kept).catch_unwind().await.is_ok() {
                return;
            }
            // A node without heartbeats is lost to the others, and its clients with it. What was under way may not be done.
            tracing::error!("keeping the membership panicked");
            self.inexact.store(true, Ordering::Release);
            self.others.look_again();
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Sends heartbeats; each that was answered passes the leases on that have run out.
    async fn keep_lease(self: &Arc<Self>, beats: watch::Sender<Vec<Lease>>) {
        let mut gaps = self.bus.gaps();
        loop {
            let pause = match self.beat().await {
                Ok(lapsed) => {
                    beats.send_replace(lapsed);
                    // Nodes that were asked to beat at once are not to do so together ever after.
                    self.config()
                        .registry
                        .heartbeat
                        .mul_f64(rand::random_range(0.9..=1.0))
                }
                Err(error) => {
                    tracing::debug!(%error, "heartbeat");
                    self.inexact.store(true, Ordering::Release);
                    RETRY.min(self.config().registry.heartbeat)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.beat_now.notified() => {}
                gap = gaps.changed() => match gap {
                    Ok(()) => self.inexact.store(true, Ordering::Release),
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
            self.hub.changed().await;
            tokio::time::sleep(GATHERING).await;
            if self.holds_lease()
                && let Err(error) = self.registry.report(&self.lease(), &self.report()).await
            {
                tracing::debug!(%error, "report");
            }
        }
    }

    /// Does after each heartbeat what is to be done; what fails is done again after the next one, or sooner.
    async fn tend(self: &Arc<Self>, mut beats: watch::Receiver<Vec<Lease>>) {
        while beats.changed().await.is_ok() {
            let lapsed = beats.borrow_and_update().clone();
            if let Err(error) = self.make_exact(lapsed).await {
                tracing::debug!(%error, "after a heartbeat");
                tokio::time::sleep(RETRY).await;
                self.beat_now.notify_one();
            }
        }
    }

    /// Looks, while there are nodes to wait for, who of them is back.
    async fn meet_others(&self) {
        loop {
            self.others.missed().await;
            while !self.others.are_there() {
                match self.registry.settled().await {
                    Ok(Settled { wholly, partly }) => {
                        self.others.are_back(&wholly);
                        self.others
                            .are_coming(&partly, self.config().registry.lease);
                    }
                    Err(error) => tracing::debug!(%error, "who is back"),
                }
                if !self.others.are_there() {
                    tokio::time::sleep(RETRY).await;
                }
            }
            for instance in self.others.give_up() {
                tracing::warn!(%instance, "a node has not come back to a registry that had lost it");
            }
        }
    }

    /// Refuses what this node can't answer for: while its lease is over the registry says of its connections that they are gone,
    /// and they are here; and until it has caught up, it may not know whom others have ordered to be gone, and the registry may
    /// lack what it had lost. So it neither tells who is online, nor confirms an end, nor takes or delivers what is said. Nor does
    /// it before the others are back that the registry may have lost with it.
    pub(super) fn vouch(&self) -> Result<(), RegistryError> {
        self.vouch_for_its_own()?;
        match self.others.are_there() {
            true => Ok(()),
            false => Err(RegistryError::Unavailable(
                "the registry has lost nodes that are not back yet".to_owned(),
            )),
        }
    }

    /// Asks the registry for what this node vouches for, before the question and after the answer: of what was lost in between
    /// the answer may know nothing.
    pub(super) async fn vouched<T>(
        &self,
        answer: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        self.vouch()?;
        let answer = answer.await?;
        self.vouch()?;
        Ok(answer)
    }

    /// [`Inner::vouch`] as far as only connections of this node are concerned.
    pub(super) fn vouch_for_its_own(&self) -> Result<(), RegistryError> {
        match self.is_current() {
            true => Ok(()),
            false => Err(RegistryError::Unavailable(
                "this node has no lease, or has just got it back".to_owned(),
            )),
        }
    }

    /// Another node asks for a heartbeat.
    pub(super) fn asked_to_beat(&self, lost: bool) {
        if lost {
            self.others.were_told();
        }
        self.beat_now.notify_one();
    }

    /// Tells all nodes what nobody confirms.
    pub(super) async fn tell_all(&self, command: Command<'_>) {
        let payload = wire::command(0, &command);
        if let Err(error) = self.bus.publish_all(&payload).await {
            // Their next heartbeat comes without it.
            tracing::debug!(%error, "can't tell the other nodes");
        }
    }

    fn ask_for_beats(self: &Arc<Self>, lost: bool) {
        let gateway = self.clone();
        self.spawn(async move { gateway.tell_all(Command::Beat { lost }).await });
    }

    /// The lease is lost, in the registry as a whole or in a part of it: maybe the others' are too.
    fn lost(self: &Arc<Self>) {
        self.others.await_all(self.config().registry.lease);
        self.inexact.store(true, Ordering::Release);
    }

    /// The other nodes that have these leases.
    fn besides(&self, holding: Vec<Lease>) -> impl Iterator<Item = Instance> {
        let there = holding.into_iter().map(|lease| lease.instance);
        there.filter(|instance| *instance != self.instance)
    }

    /// One heartbeat, or a new lease. Returns the leases that have run out.
    async fn beat(self: &Arc<Self>) -> Result<Vec<Lease>, RegistryError> {
        let sent = Instant::now();
        let mut joined = false;
        let calm = self.others.are_there();
        let lapsed = if self.joined() {
            let Heartbeat {
                held,
                partly,
                holding,
                lapsed,
            } = self
                .registry
                .heartbeat(&self.lease(), &self.report())
                .await?;
            if !held || partly {
                let in_time = self.holds_lease();
                match partly {
                    true => {
                        tracing::warn!(lease = %self.lease(), "a part of the registry has lost the lease");
                    }
                    false if in_time => {
                        tracing::warn!(lease = %self.lease(), "the registry has lost the lease; joining anew");
                    }
                    false => {
                        tracing::warn!(lease = %self.lease(), "the lease has run out; joining anew");
                    }
                }
                self.lost();
                // Where it is this node that was late, the others have nothing to find out.
                if in_time && self.others.to_be_told(self.config().registry.heartbeat) {
                    self.ask_for_beats(true);
                }
            }
            if partly {
                // Before the registry says anything again where it was lost.
                self.lost_in_part();
                self.registry.resume(&self.lease(), &self.report()).await?;
            } else if held {
                self.others.seen(self.besides(holding), calm);
            } else {
                self.next_epoch();
            }
            lapsed
        } else {
            Vec::new()
        };
        if !self.joined() {
            let lease = self.lease();
            self.registry.join(&lease, &self.report()).await?;
            if lease.epoch == 1 {
                // Those who are there may be about to put back what was lost.
                let there = self.registry.heartbeat(&lease, &self.report()).await?;
                self.others.seen(self.besides(there.holding), true);
                self.others.await_all(self.config().registry.lease);
                self.others.are_back(&self.registry.settled().await?.wholly);
            }
            self.set_joined();
            joined = true;
            if lease.epoch == 1 {
                // For the others to know this node before anything is lost, and for it to know them.
                self.ask_for_beats(false);
                self.beat_now.notify_one();
            }
        }
        // After the lease counts: what was ordered until then is what has to be caught up with.
        if self.renewed(sent) || joined {
            self.inexact.store(true, Ordering::Release);
        }
        Ok(lapsed)
    }

    /// Makes the registry hold what it should: of this node, and of those that are gone.
    async fn make_exact(self: &Arc<Self>, lapsed: Vec<Lease>) -> Result<(), RegistryError> {
        if self.inexact.swap(false, Ordering::AcqRel) {
            let lost = self.times_lost();
            if let Err(error) = self.resync().await {
                self.inexact.store(true, Ordering::Release);
                return Err(error);
            }
            if let Some(lost) = lost
                && self.caught_up(lost)
            {
                // For the others to know: they may be waiting for it.
                self.beat_now.notify_one();
            }
        }
        for lease in lapsed.into_iter().filter(|lease| *lease != self.lease()) {
            self.reap(&lease).await?;
        }
        let totals = self.registry.totals().await?;
        self.metrics.cluster_users().set(totals.users as f64);
        self.metrics
            .cluster_connections()
            .set(totals.connections as f64);
        Ok(())
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
