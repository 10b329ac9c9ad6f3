//! Redis loses what it held, and the nodes put back what they can.

use std::collections::BTreeSet;

use proptest::{prelude::*, test_runner::TestCaseError};
use switchboard::registry::{
    Admission, Entry, RegistryError,
    keys::{Shard, Shards},
};

use super::{
    super::home::{Home, NODES},
    Outcome, Timed, USERS, World, answered, both, entry,
};

impl World<'_> {
    /// All leases that have run out are reaped.
    pub(super) async fn reap_all(&mut self) -> Outcome {
        for lease in self.leases.clone() {
            self.reap(&lease, false).await?;
        }
        Ok(())
    }

    /// Every node lives, and nothing is left of any other.
    async fn settle(&mut self) -> Outcome {
        self.reap_all().await?;
        for number in 0..NODES {
            if !self.beat(number).await? {
                self.recover(number, false).await?;
            }
        }
        self.reap_all().await?;
        // Nobody is left who may not be there, and whom no node would put back.
        for number in 0..NODES {
            let entries = self.held_of(&self.nodes[number].lease).await;
            self.put_back(number, &entries, &[]).await?;
        }
        self.vouch().await
    }

    /// A node that has seen others come and go answers for all of the registry, and so knows which live.
    pub(super) async fn vouch(&mut self) -> Outcome {
        let vouched = self.home.lasting.totals().await;
        vouched.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let living = self.model.lasting.known();
        prop_assert_eq!(self.home.lasting.known(), living, "who lives");
        Ok(())
    }

    /// Nothing is said of these shards, to whom knew the registry before, and all of the others.
    async fn nothing_is_said(&self, shards: &[Shard]) -> Outcome {
        for user in USERS {
            let user = user.into();
            let answer = self.home.lasting.user(&user).await;
            let unavailable = matches!(answer, Err(RegistryError::Unavailable(_)));
            let lost = shards.contains(&Shards::default().of_user(&user));
            prop_assert_eq!(unavailable, lost, "{}: {:?}", user, answer);
        }
        Ok(())
    }

    /// 0 to 15: what a shard has of its connections; else the table of leases.
    pub(super) async fn lose(&mut self, part: u8) -> Outcome {
        let Some(redis) = self.home.redis.clone() else {
            return Ok(());
        };
        self.settle().await?;
        // Of a node that is back under a new lease, it has seen that its connections are.
        self.nothing_is_said(&[]).await?;
        let shard = Shards::default().all().nth(part.into());
        let lost: Vec<_> = match shard {
            Some(shard) => {
                redis.lose(shard).await;
                vec![shard]
            }
            None => {
                redis.lose_table().await;
                Vec::new()
            }
        };
        self.walks = [None, None];
        let all: Vec<_> = Shards::default().all().collect();
        for number in 0..NODES {
            // The loss of the table is seen by the node that writes to it.
            match shard {
                None if number > 0 => self.nothing_is_said(&all).await?,
                _ => self.nothing_is_said(&lost).await?,
            }
            let (lease, report) = self.named(number);
            let entries = self.held_of(&lease).await;
            let beat = self.home.nodes[number].heartbeat(&lease, &report).await;
            let beat = beat.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(beat.held && beat.lost, "{:?}", beat);
            prop_assert_eq!(&beat.lacking, &lost);
            self.prolong(number).await?;
            let of_lost =
                |entry: &Entry| lost.contains(&Shards::default().of_entry(entry).unwrap());
            let entries = entries.into_iter().filter(of_lost).collect();
            self.put_back(number, &entries, &lost).await?;
        }
        self.vouch().await?;
        self.nothing_is_said(&[]).await
    }

    /// Redis has lost everything, and what is held against users with it.
    pub(super) async fn lose_all(&mut self) -> Outcome {
        let Some(redis) = self.home.redis.clone() else {
            return Ok(());
        };
        self.settle().await?;
        let mut held = Vec::new();
        for node in &self.nodes {
            held.push(self.held_of(&node.lease).await);
        }
        redis.flush_all().await;
        let all: Vec<_> = Shards::default().all().collect();
        self.model = Home::model();
        self.walks = [None, None];
        for (number, entries) in held.into_iter().enumerate() {
            // A reader without a lease takes an empty registry for one that never had a node.
            if number > 0 {
                self.nothing_is_said(&all).await?;
            }
            let (lease, report) = self.named(number);
            let beat = self.home.nodes[number].heartbeat(&lease, &report).await;
            let beat = beat.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(beat.held && beat.lost, "{:?}", beat);
            prop_assert_eq!(&beat.lacking, &all);
            let model = &self.model.nodes[number];
            model.join(&lease, &report).await.unwrap();
            self.prolong(number).await?;
            self.put_back(number, &entries, &all).await?;
        }
        self.vouch().await?;
        self.nothing_is_said(&[]).await
    }

    /// A node asserts these connections, unregisters those that may not be there, and says that all of these shards are in.
    pub(super) async fn put_back(
        &mut self,
        number: usize,
        entries: &BTreeSet<Entry>,
        shards: &[Shard],
    ) -> Outcome {
        let ever = self.nodes[number].ever.clone();
        let ever: BTreeSet<_> = ever.into_iter().collect();
        for which in ever {
            let known = self.connections[which].clone();
            let entry = entry(&known.connection);
            if !entries.contains(&entry) {
                continue;
            }
            let admission = self.assert(number, which, known, None, true).await?;
            if !matches!(admission, Admission::Admitted { .. }) {
                let (lease, _) = self.named(number);
                let gone = [entry];
                both!(self, "unregister", |home| home.nodes[number]
                    .unregister(&lease, &gone)
                    .await);
            }
        }
        let (lease, _) = self.named(number);
        for shard in shards {
            let entered = both!(self, "entered", |home| {
                let node = &home.nodes[number];
                let generation = node.generation(*shard).unwrap();
                node.entered(&lease, *shard, &generation).await
            });
            prop_assert_eq!(entered, Some(true), "nothing is lost meanwhile");
        }
        Ok(())
    }
}
