//! Whether a shard is whole.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::RedisRegistry;
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
        let is_known = || self.known.lock().is_whole(shard, generation.as_deref());
        if is_known() {
            return Ok(true);
        }
        let asked = Instant::now();
        let mut last = self.looks[shard.index()].lock().await;
        if is_known() {
            return Ok(false);
        }
        if let Some(refused) = &mut *last
            && refused.generation == generation
        {
            // Also one that failed: those who wait would do so for its deadline, one after the other.
            refused.is_shared |= refused.at >= asked;
            if refused.is_shared && refused.at.elapsed() < LOOK_SERVES {
                return Err(RegistryError::Unavailable(refused.why.clone()));
            }
        }
        let looked = self.look(shard, generation.as_deref()).await;
        *last = looked.as_ref().err().map(|error| Refused {
            generation,
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
        "shard {:x} has lost its data, and not all nodes are back in it: {}",
        shard.index(),
        missing.join(", ")
    ))
}
