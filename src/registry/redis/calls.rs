//! Calls of the API, each one hash.

use async_trait::async_trait;

use super::{RedisRegistry, milliseconds};
use crate::registry::{CALL_KEPT, CLAIM_KEPT, Call, CallEnd, Calls, Claim, RegistryError};

#[async_trait]
impl Calls for RedisRegistry {
    async fn claim_call(&self, call: &Call) -> Result<Claim, RegistryError> {
        let shard = self.shards.of_digest(&call.key);
        let (outcome, answer): (String, Vec<u8>) = self
            .link
            .query(
                "claim_call",
                self.keys.slot_of(shard),
                self.scripts
                    .claim_call
                    .key(self.keys.call(shard, &call.key))
                    .arg(call.asked.as_slice())
                    .arg(call.claim.as_str())
                    .arg(milliseconds(CLAIM_KEPT))
                    .arg(milliseconds(CALL_KEPT)),
            )
            .await?;
        match outcome.as_str() {
            "taken" => Ok(Claim::Taken),
            "under way" => Ok(Claim::UnderWay),
            "other" => Ok(Claim::Other),
            "done" => Ok(Claim::Done(answer)),
            other => Err(RegistryError::Corrupt(format!("a claim: {other:?}"))),
        }
    }

    async fn settle_call(&self, call: &Call, end: CallEnd<'_>) -> Result<(), RegistryError> {
        let shard = self.shards.of_digest(&call.key);
        let answer = match end {
            CallEnd::Done(answer) => answer,
            CallEnd::Unknown | CallEnd::Free => &[],
        };
        let _: u8 = self
            .link
            .query(
                "settle_call",
                self.keys.slot_of(shard),
                self.scripts
                    .settle_call
                    .key(self.keys.call(shard, &call.key))
                    .arg(call.asked.as_slice())
                    .arg(call.claim.as_str())
                    .arg(end.word())
                    .arg(answer)
                    .arg(milliseconds(CALL_KEPT)),
            )
            .await?;
        Ok(())
    }
}
