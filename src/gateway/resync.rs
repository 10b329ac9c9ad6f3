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
        let held: HashSet<Entry> = self.registry.held(&lease).await?.into_iter().collect();
        let lives: Vec<_> = self
            .hub
            .all()
            .into_iter()
            .filter(|live| live.is_registered())
            .collect();
        let mut stale = held.clone();
        for live in &lives {
            stale.remove(&live.entry());
        }
        // Between the two looks a connection may have come: it is in the hub then.
        stale.retain(|entry| self.hub.get(&entry.id).is_none());
        if !stale.is_empty() {
            let stale: Vec<_> = stale.into_iter().collect();
            self.registry.unregister(&lease, &stale).await?;
        }
        let missing = lives.iter().filter(|live| !held.contains(&live.entry()));
        let again: Vec<_> = missing
            .map(|live| self.register_again(&lease, live))
            .collect();
        stream::iter(again)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;

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
            self.unregister(live);
        }
        Ok(())
    }
}
