//! Calls of the API, in process memory. The readable definition of what `claim_call.lua` and `settle_call.lua` do.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    MemoryRegistry,
    fences::{Expiring, later, now},
};
use crate::registry::{self, CALL_KEPT, CLAIM_KEPT, Call, CallEnd, Claim, RegistryError};

/// By the digest of caller and key.
#[derive(Debug, Default)]
pub(super) struct Calls(Expiring<[u8; 32], Kept>);

#[derive(Debug)]
struct Kept {
    asked: [u8; 32],
    /// The attempt that has it, and until when.
    claim: Option<(String, Timestamp)>,
    answer: Option<Vec<u8>>,
}

impl Calls {
    /// Frees what is over.
    pub(super) fn forget(&mut self) {
        self.0.forget();
    }
}

#[async_trait]
impl registry::Calls for MemoryRegistry {
    async fn claim_call(&self, call: &Call) -> Result<Claim, RegistryError> {
        let calls = &mut self.store.lock().calls.0;
        if let Some(kept) = calls.get(&call.key) {
            if kept.asked != call.asked {
                return Ok(Claim::Other);
            }
            if let Some(answer) = &kept.answer {
                return Ok(Claim::Done(answer.clone()));
            }
            if let Some((name, ends)) = &kept.claim
                && *name != call.claim
                && now() < *ends
            {
                return Ok(Claim::UnderWay);
            }
        }
        let kept = Kept {
            asked: call.asked,
            claim: Some((call.claim.clone(), later(now(), CLAIM_KEPT))),
            answer: None,
        };
        calls.insert(call.key, kept, Some(later(now(), CALL_KEPT)));
        Ok(Claim::Taken)
    }

    async fn settle_call(&self, call: &Call, end: CallEnd<'_>) -> Result<(), RegistryError> {
        let calls = &mut self.store.lock().calls.0;
        let kept = calls.get(&call.key).and_then(|kept| kept.claim.as_ref());
        if kept.is_some_and(|(name, _)| *name != call.claim) {
            return Ok(());
        }
        let (claim, answer) = match end {
            CallEnd::Free => {
                calls.remove(&call.key);
                return Ok(());
            }
            CallEnd::Unknown => (None, None),
            CallEnd::Done(answer) => (Some((call.claim.clone(), now())), Some(answer.to_vec())),
        };
        let kept = Kept {
            asked: call.asked,
            claim,
            answer,
        };
        calls.insert(call.key, kept, Some(later(now(), CALL_KEPT)));
        Ok(())
    }
}
