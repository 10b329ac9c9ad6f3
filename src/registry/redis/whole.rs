//! Whether a shard is whole.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::{RedisRegistry, known::Known};
use crate::{
    connection::Instance,
    registry::{RegistryError, keys::Shard},
};

/// For how long a look at a shard that is not whole serves others, once somebody has waited for it.
const LOOK_SERVES: Duration = Duration::from_millis(100);

/// The looks at one shard that is not known to be whole: one at a time, with what the last one said if it was not.
pub(super) type Looks = tokio::sync::Mutex<Option<Refused>>;

/// What a look has said of a shard that is not whole, or that could not be looked at.
#[derive(Debug)]
pub(super) struct Refused {
    generation: Option<String>,
    why: String,
    at: Instant,
    /// Whether somebody has waited for it.
    is_shared: bool,
}

impl RedisRegistry {
    /// Whether a shard was whole when it had this generation. If it is whole only by now: no, and what was read is to be read again.
    ///
    /// Those who ask together about a shard that is not known to be whole share one look, which then serves for [`LOOK_SERVES`]: it
    /// costs more than a read, and every caller needs one just when all nodes put everything back.
    pub(super) async fn is_whole(
        &self,
        shard: Shard,
        generation: Option<String>,
    ) -> Result<bool, RegistryError> {
        let is_whole = |known: &Known| known.is_whole(shard, generation.as_deref());
        self.looked(shard, generation.as_deref(), is_whole).await
    }

    /// What `read` finds, unless it has found nobody in the shards that `empty` names while a node that was buried, and is back, has
    /// yet to put in there what it has: then it is unavailable.
    pub(super) async fn surely<T, F, S>(
        &self,
        read: impl Fn() -> F,
        empty: impl Fn(&T) -> S,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
        S: IntoIterator<Item = Shard>,
    {
        loop {
            let found = read().await?;
            let mut is_sure = true;
            for shard in empty(&found) {
                let Some(generation) = self.known.lock().awaiting(shard) else {
                    continue;
                };
                let has_all = |known: &Known| known.awaiting(shard).is_none();
                is_sure &= self.looked(shard, Some(&generation), has_all).await?;
            }
            if is_sure {
                return Ok(found);
            }
        }
    }

    /// Looks at a shard of this generation unless it `is_known` to be whole. Returns whether it was known.
    async fn looked(
        &self,
        shard: Shard,
        generation: Option<&str>,
        is_known: impl Fn(&Known) -> bool,
    ) -> Result<bool, RegistryError> {
        if is_known(&self.known.lock()) {
            return Ok(true);
        }
        let asked = Instant::now();
        let mut last = self.looks[shard.index()].lock().await;
        if is_known(&self.known.lock()) {
            return Ok(false);
        }
        if let Some(refused) = &mut *last
            && refused.generation.as_deref() == generation
        {
            // Also one that failed: those who wait would do so for its deadline, one after the other.
            refused.is_shared |= refused.at >= asked;
            if refused.is_shared && refused.at.elapsed() < LOOK_SERVES {
                return Err(RegistryError::Unavailable(refused.why.clone()));
            }
        }
        let looked = self.look(shard, generation).await;
        *last = looked.as_ref().err().map(|error| Refused {
            generation: generation.map(str::to_owned),
            why: match error {
                RegistryError::Unavailable(why) => why.clone(),
                error => error.to_string(),
            },
            at: Instant::now(),
            is_shared: false,
        });
        looked
    }

    async fn look(&self, shard: Shard, generation: Option<&str>) -> Result<bool, RegistryError> {
        let Some(generation) = generation else {
            // Nobody has ever been in it, or it has just lost everything: who knows of somebody knows which.
            self.amiss.notify_one();
            self.read_table().await?;
            return match self.known.lock().nobody() {
                true => Ok(true),
                false => Err(not_whole(shard, &[])),
            };
        };
        let mut members = redis::cmd("SMEMBERS");
        members.arg(self.keys.entered(shard, generation));
        let slot = self.keys.slot_of(shard);
        let entered: HashSet<String> = self.link.query("entered", slot, &members).await?;
        self.read_table().await?;
        let missing = self
            .known
            .lock()
            .look(shard, generation, &entered, self.lease);
        if missing.is_empty() {
            return Ok(false);
        }
        self.amiss.notify_one();
        Err(not_whole(shard, &missing))
    }
}

fn not_whole(shard: Shard, missing: &[Instance]) -> RegistryError {
    let missing: Vec<_> = missing.iter().map(Instance::as_str).collect();
    RegistryError::Unavailable(format!(
        "shard {:x} does not have the connections of all nodes again: {}",
        shard.index(),
        missing.join(", ")
    ))
}
