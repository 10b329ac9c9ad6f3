//! What every read says is the same in both homes.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use proptest::{prelude::*, test_runner::TestCaseError};
use switchboard::{
    connection::{Tally, UserId},
    registry::{Entry, Grant, Recipient, keys::Shards},
};

use super::{super::home::NODES, Outcome, Timed, USERS, World, answered, both, entry, sorted};

/// A walk through the pages of everybody.
#[derive(Default)]
pub(super) struct Walk {
    cursor: Option<String>,
    seen: BTreeSet<UserId>,
    /// Online all along.
    stayed: BTreeSet<UserId>,
}

/// Asks both homes at a time when nothing changes. The answer must be the same.
macro_rules! same {
    ($world:expr, $what:expr, |$home:ident| $call:expr) => {{
        let expected = {
            let $home = &$world.model;
            $call
        };
        let answer = {
            let $home = $world.home;
            $call
        };
        let expected = answered(expected)?.rounded(&$world.clock);
        let answer = answered(answer)?.rounded(&$world.clock);
        prop_assert_eq!(&answer, &expected, "{}", $what);
    }};
}

impl World<'_> {
    async fn online(&self) -> BTreeMap<UserId, Tally> {
        let page = self.model.reader.users(None, 1000).await.unwrap();
        page.users.into_iter().collect()
    }

    pub(super) async fn totals(&mut self) -> Outcome {
        both!(self, "totals", |home| home.reader.totals().await);
        let living = self.model.reader.nodes().await.unwrap();
        for node in &mut self.nodes {
            node.reaped |= !living.iter().any(|it| it.node_id == node.report.node_id);
        }
        Ok(())
    }

    pub(super) async fn everybody(&mut self, limit: usize) -> Outcome {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.home.reader.users(cursor.as_deref(), limit).await;
            let page = page.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(
                page.users.len() <= limit.max(1),
                "a page of {}",
                page.users.len()
            );
            all.extend(page.users);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let count = all.len();
        let all: BTreeMap<_, _> = all.into_iter().collect();
        prop_assert_eq!(all.len(), count, "each once");
        prop_assert_eq!(all, self.online().await, "everybody");
        Ok(())
    }

    /// The next page of a walk, in each home.
    pub(super) async fn page(&mut self, limit: usize) -> Outcome {
        let online = self.online().await;
        for (home, walk) in [&self.model, self.home].into_iter().zip(&mut self.walks) {
            let mut here = walk.take().unwrap_or_else(|| Walk {
                stayed: online.keys().cloned().collect(),
                ..Walk::default()
            });
            let page = home.reader.users(here.cursor.as_deref(), limit).await;
            let page = page.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(page.users.len() <= limit, "a page of {}", page.users.len());
            for (user, tally) in page.users {
                prop_assert_eq!(Some(&tally), online.get(&user), "{} on a page", user);
                prop_assert!(here.seen.insert(user.clone()), "{} on two pages", user);
            }
            here.cursor = page.next;
            if here.cursor.is_none() {
                let missed = sorted(here.stayed.difference(&here.seen));
                prop_assert_eq!(
                    missed,
                    Vec::<&UserId>::new(),
                    "online all along and on no page"
                );
            } else {
                *walk = Some(here);
            }
        }
        Ok(())
    }

    pub(super) async fn compare(&mut self) -> Outcome {
        self.compared += 1;
        let online = self.online().await;
        for walk in self.walks.iter_mut().flatten() {
            walk.stayed.retain(|user| online.contains_key(user));
        }
        let users = USERS.map(UserId::from);
        same!(self, "presence", |home| home.reader.presence(&users).await);
        same!(self, "users", |home| try_join_all(
            users.iter().map(|user| home.reader.user(user))
        )
        .await);
        same!(self, "nodes", |home| home.reader.nodes().await);
        // One node at a time, which may not know more than its lease lets it.
        let number = self.compared % NODES;
        self.look(number).await;
        let user = &users[self.compared % USERS.len()];
        same!(self, "a user, to a node", |home| home.nodes[number]
            .user(user)
            .await);
        same!(self, "ban", |home| home.reader.ban_of(user).await);
        let recipient = Recipient::User(user.clone());
        same!(self, "holders", |home| home
            .reader
            .holders(&recipient)
            .await);
        if let Some(last) = self.connections.last() {
            let id = &last.connection.id;
            same!(self, "connection", |home| home.reader.connection(id).await);
            let recipient = Recipient::Connection(id.clone());
            same!(self, "the holder of one", |home| home
                .reader
                .holders(&recipient)
                .await);
        }
        self.compare_entries(number).await?;
        let of_families = self.families.iter().map(|family| {
            let any = Entry {
                user: Some(family.user.clone()),
                id: "any".into(),
            };
            let grant = Grant {
                issued_at: Some(jiff::Timestamp::MAX),
                session: Some(family.id.clone()),
                ..Grant::default()
            };
            (any, grant)
        });
        let connections = self.connections.iter();
        let all: Vec<_> = connections
            .map(|it| (entry(&it.connection), it.grant.clone()))
            .chain(of_families)
            .collect();
        same!(self, "standing", |home| home
            .reader
            .standing(&all)
            .await
            .map(sorted));
        Ok(())
    }

    /// Which entries there are, by node, by user and in all.
    async fn compare_entries(&self, number: usize) -> Outcome {
        let lease = &self.nodes[number].lease;
        for shard in Shards::default().all() {
            same!(self, format!("held by {lease}"), |home| home.nodes[number]
                .held(lease, shard)
                .await
                .map(sorted));
        }
        let all: Vec<_> = self
            .connections
            .iter()
            .map(|it| entry(&it.connection))
            .collect();
        same!(self, "listed", |home| home.reader.listed(&all).await);
        if let Some(redis) = &self.home.redis {
            let mut entries = BTreeSet::new();
            for lease in &self.leases {
                entries.extend(self.held_of(lease).await);
            }
            for (shard, (counted, users)) in Shards::default().all().zip(redis.counted().await) {
                let here = || {
                    let here = entries.iter();
                    here.filter(|it| Shards::default().of_entry(it) == Some(shard))
                };
                prop_assert_eq!(counted, here().count() as u64, "entries as counted");
                // Where guests came first, the first read counts.
                let of: BTreeSet<_> = here().filter_map(|it| it.user.as_ref()).collect();
                let exact = users.is_none_or(|users| users == of.len() as i64);
                prop_assert!(exact, "{:?} users are counted of {:?}", users, of);
            }
        }
        Ok(())
    }
}
