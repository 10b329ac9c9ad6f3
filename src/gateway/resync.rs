//! Putting right what the registry has of this node, after a gap.

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Inner, live::Live};
use crate::registry::{Admission, Entry, Lease, RegistryError};

/// How many connections are put back at once. Measured with 100,000: 6.0 s, and 10.2 s where all are asked for together, as calls
/// then wait for longer than their deadline and are made again.
const AT_ONCE: usize = 256;

impl Inner {
    /// Makes the registry hold just this node's connections, and carries out the orders that it has missed.
    pub(super) async fn resync(self: &Arc<Self>) -> Result<(), RegistryError> {
        let lease = self.lease();
        // Those that come from here on see to it themselves that this lease has them.
        let (before, leaving) = (self.registered(), self.hub.leaving());
        let held: HashSet<Entry> = self.registry.held(&lease).await?.into_iter().collect();
        let stale: Vec<_> = held
            .iter()
            .filter(|entry| !self.hub.knows(&entry.id))
            .cloned()
            .collect();
        if !stale.is_empty() {
            self.registry.unregister(&lease, &stale).await?;
        }
        let missing = before.iter().filter(|live| !held.contains(&live.entry()));
        let again: Vec<_> = missing
            .map(|live| self.register_again(&lease, live))
            .collect();
        stream::iter(again)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;

        // Those that leave are not put back; only, they are not closed yet.
        for live in leaving {
            if !held.contains(&live.entry()) {
                live.unregistered.cancelled().await;
            }
        }

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
        if !lives.is_empty() {
            tracing::info!(connections = lives.len(), "the registry is exact again");
        }
        Ok(())
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
        let record = live.record(&self.node_id);
        // It has been let in before: the limit is not held against it.
        let admission = self
            .registry
            .register(lease, &record, &live.grant(), None)
            .await?;
        if let Admission::Refused(bar) = admission {
            self.end_all(std::slice::from_ref(live), &bar.ending());
        }
        if live.is_gone() {
            // What its end tells the registry may have come before this.
            let (gateway, live) = (self.clone(), live.clone());
            tokio::spawn(async move {
                live.unregistered.cancelled().await;
                gateway.unregister(&live);
            });
        }
        Ok(())
    }
}
