//! Who holds a user, and orders to end connections.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use redis::{Cmd, ScriptInvocation};

use super::{
    RedisRegistry,
    fences::ban_text,
    member::{self, Member},
    milliseconds,
    reads::{FEW, counting, starting_with},
    shards::{TRIES, read},
};
use crate::{
    connection::{ConnectionId, Instance},
    ending::Ending,
    registry::{
        EndOrder, EndTarget, Entry, Fence, Listed, LoginId, Ordered, REVOCATION_KEPT, Recipient,
        RegistryError, SESSION_KEPT,
        fence::{KICKS_KEPT, ORDER_KEPT},
        keys::Shard,
    },
};

/// How many connections are looked for at once: takes Redis well below a millisecond.
const LISTED_AT_ONCE: usize = 250;

/// What `order_end.lua` answers: entries; a time in ms; a generation.
type Found = (Vec<Vec<u8>>, Option<String>, String);

/// A fence as `order_end.lua` takes it.
#[derive(Default)]
struct FenceArgs {
    kind: &'static str,
    value: String,
    kept: String,
    /// Empty for none: nobody writes the keys of that.
    session: LoginId,
}

impl FenceArgs {
    fn of(fence: Option<&Fence>) -> Result<Self, RegistryError> {
        Ok(match fence {
            None => Self::default(),
            Some(Fence::Ban(ban)) => Self {
                kind: "ban",
                value: ban_text(ban)?,
                kept: ban
                    .until
                    .map(|until| until.as_millisecond().to_string())
                    .unwrap_or_default(),
                ..Self::default()
            },
            Some(Fence::RevokeBefore(before)) => Self {
                kind: "revoke",
                value: before
                    .map(|before| before.as_millisecond().to_string())
                    .unwrap_or_default(),
                kept: milliseconds(REVOCATION_KEPT).to_string(),
                ..Self::default()
            },
            Some(Fence::EndSession(session)) => Self {
                kind: "session",
                kept: milliseconds(SESSION_KEPT).to_string(),
                session: session.clone(),
                ..Self::default()
            },
        })
    }
}

/// How a connection is to end, as it is kept: a map, which later versions may add to.
pub(super) fn ending_text(ending: &Ending) -> Result<Vec<u8>, RegistryError> {
    rmp_serde::to_vec_named(ending)
        .map_err(|error| RegistryError::Corrupt(format!("order: {error}")))
}

/// Reads what [`ending_text`] wrote.
pub(super) fn read_ending(order: &[u8]) -> Result<Ending, RegistryError> {
    rmp_serde::from_slice(order).map_err(|error| RegistryError::Corrupt(format!("order: {error}")))
}

impl RedisRegistry {
    pub(super) async fn read_holders(
        &self,
        recipient: &Recipient,
    ) -> Result<Vec<Instance>, RegistryError> {
        let user = match recipient {
            Recipient::User(user) => user,
            Recipient::Connection(id) => {
                return Ok(self.holder_of(id).await?.into_iter().collect());
            }
            Recipient::Room(room) => return self.holders_of(room).await,
        };
        let (shard, fields) = (self.shards.of_user(user), member::user_field(Some(user)));
        let range = starting_with(self.keys.conns(shard), &fields);
        let command = [(self.keys.slot_of(shard), range)];
        let mut answers = self
            .read_whole("holders", &[shard], &command, false)
            .await?;
        let members: Vec<Vec<u8>> = read(answers.pop())?;
        let members: Vec<_> = self.readable(&members).collect();
        let table = self
            .table_of_leases(members.iter().map(|member| member.lease))
            .await?;
        let holders: BTreeSet<_> = members
            .iter()
            .filter_map(|member| table.live(member.lease))
            .map(|row| row.lease.instance.clone())
            .collect();
        Ok(holders.into_iter().collect())
    }

    pub(super) async fn order(&self, order: EndOrder<'_>) -> Result<Ordered, RegistryError> {
        let EndOrder { target, ending, .. } = order;
        let user = target.user();
        let (shard, id) = match (target, user) {
            (EndTarget::Room { room, except }, _) => {
                return self.order_room(room, except, ending).await;
            }
            (EndTarget::Connection(entry), _) => match self.shards.of_entry(entry) {
                Some(shard) => (shard, entry.id.as_str()),
                None => return Ok(Ordered::default()),
            },
            (_, Some(user)) => (self.shards.of_user(user), ""),
            (_, None) => return Ok(Ordered::default()),
        };
        self.carried(shard).await?;
        let (scope, of_session, except): (_, _, &[ConnectionId]) = match target {
            EndTarget::User { except, .. } => ("all", String::new(), except),
            EndTarget::Revoked { .. } => ("revoked", String::new(), &[]),
            EndTarget::Session { session, .. } => ("session", session.digest(), &[]),
            EndTarget::Connection(_) | EndTarget::Room { .. } => ("all", String::new(), &[]),
        };
        let fence = FenceArgs::of(order.fence.filter(|_| user.is_some()))?;
        let user = member::user_field(user);
        let mut script = self.scripts.order_end.prepare_invoke();
        script
            .key(self.keys.conns(shard))
            .key(self.keys.generation(shard))
            .key(self.keys.kicks(shard, &user))
            .key(self.keys.ban(shard, &user))
            .key(self.keys.revoked(shard, &user))
            .key(self.keys.over(shard, &user, &fence.session.digest()))
            .key(self.keys.family(shard, &fence.session))
            .arg(user)
            .arg(id)
            .arg(ending_text(ending)?)
            .arg(milliseconds(ORDER_KEPT))
            .arg(scope)
            .arg(of_session)
            .arg(self.keys.end_prefix(shard))
            .arg(fence.kind)
            .arg(fence.value)
            .arg(fence.kept)
            .arg(KICKS_KEPT);
        for id in except {
            script.arg(id.as_str());
        }
        let (members, revoked) = self.ordered(shard, &script).await?;
        let members: Vec<_> = self.readable(&members).collect();
        let table = self
            .table_of_leases(members.iter().map(|member| member.lease))
            .await?;
        let mut told = HashSet::new();
        let listed = members.iter().filter_map(|member| {
            let row = table
                .live(member.lease)
                .filter(|_| told.insert(member.id))?;
            Some(Listed {
                entry: self.unreadable.skip("entry", member.entry())?,
                instance: row.lease.instance.clone(),
            })
        });
        Ok(Ordered {
            connections: listed.collect(),
            revoked_before: revoked
                .and_then(|ms| ms.parse().ok())
                .and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        })
    }

    /// The order is written at once; which connections it means can't be said where entries are missing. Where the shard is found whole only by
    /// now, it is given once more. The entries of all runs are returned, the latest first: a connection that
    /// only the first run found has ended since, and one that has changed in between comes twice.
    async fn ordered(
        &self,
        shard: Shard,
        script: &ScriptInvocation<'_>,
    ) -> Result<(Vec<Vec<u8>>, Option<String>), RegistryError> {
        let mut met = Vec::new();
        for _ in 0..TRIES {
            let slot = self.keys.slot_of(shard);
            let (mut members, revoked, generation): Found =
                self.link.query("order_end", slot, script).await?;
            members.append(&mut met);
            met = members;
            let generation = Some(generation).filter(|generation| !generation.is_empty());
            if self.is_whole(shard, generation).await? {
                return Ok((met, revoked));
            }
        }
        Err(RegistryError::Unavailable(
            "a shard loses its data again and again".to_owned(),
        ))
    }

    /// Two commands for each: is the entry there, and is the order that stands until its own node has taken it out. Some hundred
    /// connections at a time, and many on connections of their own: nobody waits behind the ten thousand of one user.
    pub(super) async fn read_listed(&self, entries: &[Entry]) -> Result<Vec<Entry>, RegistryError> {
        let mut listed = Vec::new();
        for some in entries.chunks(LISTED_AT_ONCE) {
            self.some_listed(some, &mut listed).await?;
        }
        Ok(listed)
    }

    async fn some_listed(
        &self,
        entries: &[Entry],
        listed: &mut Vec<Entry>,
    ) -> Result<(), RegistryError> {
        let mut commands = Vec::with_capacity(2 * entries.len());
        let mut asked = Vec::with_capacity(entries.len());
        let mut shards = BTreeSet::new();
        for entry in entries {
            if let Some(shard) = self.shards.of_entry(entry) {
                let slot = self.keys.slot_of(shard);
                let count = counting(self.keys.conns(shard), &fields_of(entry));
                commands.push((slot, count));
                let end = self.keys.end(shard, entry.id.as_str().as_bytes());
                commands.push((slot, Cmd::exists(end)));
                asked.push(entry);
                shards.insert(shard);
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        let shards: Vec<_> = shards.into_iter().collect();
        let long = asked.len() > FEW;
        let answers = self.read_whole("listed", &shards, &commands, long).await?;
        let mut answers = answers.into_iter();
        for entry in asked {
            let there: bool = read(answers.next())?;
            let stands: bool = read(answers.next())?;
            if stands || there {
                listed.push(entry.clone());
            }
        }
        Ok(())
    }

    /// The members that can be read, taken apart.
    pub(super) fn readable<'a>(&self, members: &'a [Vec<u8>]) -> impl Iterator<Item = Member<'a>> {
        members
            .iter()
            .filter_map(|member| self.unreadable.skip("entry", Member::parse(member)))
    }
}

/// The first fields of an entry, which no other one has.
fn fields_of(entry: &Entry) -> Vec<u8> {
    let user = member::user_field(entry.user.as_ref());
    [user.as_slice(), b"\0", entry.id.as_str().as_bytes()].concat()
}
