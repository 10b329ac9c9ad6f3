//! Tells the registry which rooms this node's connections are in.
//!
//! What is queued is no change but a doubt: whether a connection is in a room is looked up when the registry is told. So the last
//! word on a membership is always the true one, however often it changes meanwhile and however often a call fails, and a storm of
//! joins becomes a few scripts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::LocalConnections;
use crate::{
    gateway::{
        tail::{Happening, Who},
        tasks::contain_async,
    },
    registry::{
        Member, RegistryError,
        keys::{Shard, Shards},
    },
};

/// How many memberships one call tells at the most.
const BATCH: usize = 200;

/// Pause after the registry could not be told.
const RETRY: Duration = Duration::from_millis(200);

/// What waits for the word of the registry: gets true when it has been told.
type Waiting = Vec<oneshot::Sender<bool>>;

/// The memberships of one shard that the registry may not know.
#[derive(Default)]
struct Doubts {
    open: Mutex<HashMap<Member, Waiting>>,
    wake: Notify,
}

/// The memberships that the registry may not know, by the shards of their rooms.
pub(crate) struct Memberships {
    shards: Shards,
    doubts: Vec<Doubts>,
}

impl Memberships {
    pub(super) fn new(shards: Shards) -> Self {
        Self {
            shards,
            doubts: shards.all().map(|_| Doubts::default()).collect(),
        }
    }

    /// The registry is told of these, as they are by then; again and again where it can't be.
    pub(crate) fn doubt(&self, members: impl IntoIterator<Item = Member>) {
        for member in members {
            let doubts = self.of(&member);
            doubts.open.lock().entry(member).or_default();
            doubts.wake.notify_one();
        }
    }

    /// The registry is told of these, and this waits for it.
    ///
    /// # Errors
    ///
    /// The registry can't be told of all of them now. It will be, of what they are by then.
    pub(crate) async fn settle(
        &self,
        members: impl IntoIterator<Item = Member>,
    ) -> Result<(), RegistryError> {
        let told = members.into_iter().map(|member| {
            let (done, told) = oneshot::channel();
            let doubts = self.of(&member);
            doubts.open.lock().entry(member).or_default().push(done);
            doubts.wake.notify_one();
            told
        });
        let told: Vec<_> = told.collect();
        let told = join_all(told).await;
        match told.into_iter().all(|told| told.unwrap_or(false)) {
            true => Ok(()),
            false => Err(RegistryError::Unavailable(
                "the registry can't be told of a room's members".to_owned(),
            )),
        }
    }

    fn of(&self, member: &Member) -> &Doubts {
        &self.doubts[self.shards.of_room(&member.room).index()]
    }
}

impl LocalConnections {
    /// Whether a connection of this node is a member now.
    fn has(&self, member: &Member) -> bool {
        let connection = self.table.get(&member.entry.id);
        connection.is_some_and(|connection| connection.is_member(&member.room))
    }

    /// Tells the tail who has joined and left. To watch a user is no room.
    fn tell_tail(&self, changes: &[(Member, bool)]) {
        let in_rooms = changes
            .iter()
            .filter(|(it, _)| !it.room.namespace.is_empty());
        for (Member { room, entry }, joins) in in_rooms {
            self.tail.tell(|| {
                let who = Who {
                    connection: &entry.id,
                    user: entry.user.as_ref(),
                    namespace: &room.namespace,
                };
                let room = &*room.name;
                match joins {
                    true => Happening::Joined { who, room },
                    false => Happening::Left { who, room },
                }
            });
        }
    }

    /// Tells the registry of the memberships of one shard, until the node is gone.
    pub(super) async fn tell_memberships(self: Arc<Self>, shard: Shard) {
        let doubts = &self.memberships.doubts[shard.index()];
        loop {
            let batch: Vec<_> = {
                let mut open = doubts.open.lock();
                let some: Vec<_> = open.keys().take(BATCH).cloned().collect();
                let some = some.into_iter();
                some.filter_map(|member| open.remove_entry(&member))
                    .collect()
            };
            if batch.is_empty() {
                doubts.wake.notified().await;
                continue;
            }
            let changes: Vec<_> = batch
                .iter()
                .map(|(member, _)| (member.clone(), self.has(member)))
                .collect();
            let told = match self.lease.is_joined() {
                true => {
                    let lease = self.lease.current();
                    let call = self.registry.change_members(&lease, shard, &changes);
                    contain_async("telling of a room's members", changes.len(), call).await
                }
                // Under a lease that nobody knows yet nothing is put in.
                false => None,
            };
            let is_told = matches!(told, Some(Ok(())));
            if is_told {
                self.tell_tail(&changes);
            }
            if let Some(Err(error)) = told {
                tracing::debug!(%error, shard = shard.index(), "can't tell of a room's members yet");
            }
            for (member, waiting) in batch {
                if !is_told {
                    doubts.open.lock().entry(member).or_default();
                }
                for done in waiting {
                    // Who has given up needs no word.
                    done.send(is_told).ok();
                }
            }
            if !is_told {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
