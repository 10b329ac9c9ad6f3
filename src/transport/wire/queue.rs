//! What is written to a wire [past the engine](crate::transport::past): queued first, and written by the next task
//! that writes to this wire.

use std::{mem, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;

use super::Wire;
use crate::transport::{outgoing::Rest, session::Session};

/// How many frames wait for their first write at the most. More than that come while the tasks that write are late.
const MOST: usize = 64;

/// What became of frames that were to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Queued {
    /// They are queued, and [`Wire::write_queued`] has to be called.
    Due,
    /// They are queued, and leave with what came before them.
    Behind,
    /// They are not queued.
    Refused,
}

impl Wire {
    /// Queues whole frames behind all that waits.
    pub(in crate::transport) fn queue(&self, frames: &Bytes) -> Queued {
        let mut backlog = self.backlog.lock();
        if backlog.dead {
            // As of what the engine writes by then.
            backlog.lost += Rest::default().messages(frames);
            return Queued::Behind;
        }
        if backlog.within_packet || backlog.fresh.len() == MOST {
            return Queued::Refused;
        }
        if backlog.chunks.is_empty() {
            backlog.fresh.push(frames.clone());
            return match backlog.fresh.len() {
                1 => Queued::Due,
                _ => Queued::Behind,
            };
        }
        let limits = &self.config.now().limits;
        let now = Instant::now();
        backlog.push(frames, Rest::default(), now, limits.write_deadline);
        match backlog.bytes as u64 > limits.send_queue_bytes.as_u64() {
            true => Queued::Due,
            false => Queued::Behind,
        }
    }

    /// Writes what is queued, unless somebody else has; ends the session if more waits than may.
    pub(in crate::transport) fn write_queued(self: &Arc<Self>, session: &Arc<Session>) {
        let mut backlog = self.backlog.lock();
        let limit = self.config.now().limits.send_queue_bytes.as_u64();
        let is_full = match mem::take(&mut backlog.fresh).as_slice() {
            [] => {
                let queued = backlog.bytes as u64;
                drop(backlog);
                Ok(queued > limit)
            }
            [frames] => self.hand_on(backlog, frames, session),
            several => self.hand_on(backlog, &several.concat(), session),
        };
        // One that has failed is found by the engine's reader.
        if is_full.unwrap_or_default() {
            session.stalled();
        }
        // The end of the wire may wait for this.
        self.progress.notify_waiters();
    }
}
