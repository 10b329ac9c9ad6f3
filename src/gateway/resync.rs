//! Putting right what the registry has of this node, after a gap.

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{Inner, live::Live};
use crate::registry::{Admission, Entry, Lease, RegistryError};

/// How many connections are put back at once. Measured with 100,000: 6.0 s, and 10.2 s where all are asked for together, as calls
/// then wait for longer than their deadline and are made again.
const AT_ONCE: usize = 256;

impl Inner {
    /// Makes the registry hold just this node's connections, and carries out the orders that it has missed.
    pub(super) async fn resync(self: &Arc<Self>) -> Result<(), RegistryError> {
        let lease = self.lease();
        let (before, departing) = (self.registered(), self.hub.departing());
        let held = self.held(&lease).await?;
        let stale: Vec<_> = held
            .iter()
            .filter(|entry| !self.hub.knows(&entry.id))
            .cloned()
            .collect();
        if !stale.is_empty() {
            self.registry.unregister(&lease, &stale).await?;
        }
        let mut missing = lacking(before, &held);
        // Those that came meanwhile may be in the registry since, or may have been lost.
        let mut come = lacking(self.registered(), &held);
        let known: HashSet<_> = missing.iter().map(|live| live.id.clone()).collect();
        come.retain(|live| !known.contains(&live.id));
        if !come.is_empty() {
            missing.extend(lacking(come, &self.held(&lease).await?));
        }
        let again: Vec<_> = missing
            .iter()
            .map(|live| self.register_again(&lease, live))
            .collect();
        // To the end, also when one of them has failed: a call that is given up may be carried out all the same.
        let again: Vec<_> = stream::iter(again)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        again.into_iter().collect::<Result<(), _>>()?;

        let lives = self.registered();
        self.ordered(lives.clone()).await?;
        let grants: Vec<_> = lives
            .iter()
            .map(|live| (live.entry(), live.grant()))
            .collect();
        for (entry, bar) in self.registry.standing(&grants).await? {
            if let Some(live) = self.hub.get(&entry.id) {
                self.end_all(&[live], &bar.ending());
            }
        }
        // Those that depart are not put back, and nobody else knows that they are not closed yet.
        let departing = departing.into_iter().chain(self.hub.departing());
        for live in lacking(departing, &held) {
            live.unregistered.cancelled().await;
        }
        if !lives.is_empty() {
            tracing::info!(connections = lives.len(), "the registry is exact again");
        }
        Ok(())
    }

    /// What the registry has of this node.
    async fn held(&self, lease: &Lease) -> Result<HashSet<Entry>, RegistryError> {
        Ok(self.registry.held(lease).await?.into_iter().collect())
    }

    /// This node's connections that the registry has been told of.
    fn registered(&self) -> Vec<Arc<Live>> {
        let mut lives = self.hub.all();
        lives.retain(|live| live.is_registered());
        lives
    }

    /// Puts a connection back that the registry has lost.
    async fn register_again(
        self: &Arc<Self>,
        lease: &Lease,
        live: &Arc<Live>,
    ) -> Result<(), RegistryError> {
        if live.is_gone() {
            return Ok(());
        }
        let record = live.record(&self.node_id);
        // It has been let in before: the limit is not held against it.
        let admission = self
            .registry
            .register(lease, &record, &live.grant(), None)
            .await;
        if live.is_gone() {
            // What its end tells the registry may have come before this, which may have been carried out even if it failed.
            let (gateway, live) = (self.clone(), live.clone());
            tokio::spawn(async move {
                live.unregistered.cancelled().await;
                gateway.unregister(&live);
            });
        }
        match admission? {
            Admission::Refused(bar) => {
                self.end_all(std::slice::from_ref(live), &bar.ending());
            }
            // Upgraded while the registry was being told.
            Admission::Admitted { .. } if record.transport != live.session.kind() => {
                self.update(live);
            }
            Admission::Admitted { .. } => {}
        }
        Ok(())
    }
}

/// Those of some connections that are not among these entries.
fn lacking(lives: impl IntoIterator<Item = Arc<Live>>, held: &HashSet<Entry>) -> Vec<Arc<Live>> {
    let mut lives = Vec::from_iter(lives);
    lives.retain(|live| !held.contains(&live.entry()));
    lives
}
