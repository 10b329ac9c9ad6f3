//! Orders to end connections.

use jiff::Timestamp;

use super::{
    RedisRegistry,
    fences::ban_text,
    member::{self, Member},
    milliseconds,
};
use crate::{
    connection::ConnectionId,
    ending::Ending,
    link::time,
    registry::{
        EndOrder, EndTarget, Entry, Fence, Lease, Listed, Ordered, REVOCATION_KEPT, RegistryError,
        SESSION_KEPT, SessionId, fence::ORDER_KEPT, keys::Place, keys::Shard,
    },
};

/// What `order_end.lua` answers: entries, and a time in ms.
type Answer = (Vec<Vec<u8>>, Option<i64>);

/// A fence as `order_end.lua` takes it.
#[derive(Default)]
struct FenceArgs {
    kind: &'static str,
    value: String,
    kept: String,
    /// Empty for none: nobody writes the keys of that.
    session: SessionId,
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

/// An ending as `ending` keeps it, behind the time at which it was ordered.
pub(super) fn order_text(ending: &Ending) -> Result<Vec<u8>, RegistryError> {
    rmp_serde::to_vec(ending).map_err(|error| RegistryError::Corrupt(format!("order: {error}")))
}

/// Of an entry what a node has to be told; whatever else is in it need not be readable.
fn listed(member: &[u8]) -> Result<Listed, RegistryError> {
    let member = Member::parse(member)?;
    let Lease { instance, .. } = member.lease.parse()?;
    let entry = member.entry()?;
    Ok(Listed { entry, instance })
}

impl RedisRegistry {
    pub(super) async fn order(&self, order: EndOrder<'_>) -> Result<Ordered, RegistryError> {
        let EndOrder { target, ending, .. } = order;
        let user = target.user();
        let (shard, id) = match (target, user) {
            (EndTarget::Connection(entry), _) => match Shard::of_entry(entry) {
                Some(shard) => (shard, entry.id.as_str()),
                None => return Ok(Ordered::default()),
            },
            (_, Some(user)) => (Shard::of_user(user), ""),
            (_, None) => return Ok(Ordered::default()),
        };
        let (scope, of_session, except): (_, _, &[ConnectionId]) = match target {
            EndTarget::User { except, .. } => ("all", String::new(), except),
            EndTarget::Revoked { .. } => ("revoked", String::new(), &[]),
            EndTarget::Session { session, .. } => ("session", session.digest(), &[]),
            EndTarget::Connection(_) => ("all", String::new(), &[]),
        };
        let fence = FenceArgs::of(order.fence.filter(|_| user.is_some()))?;
        let user = member::user_field(user);
        let mut script = self.scripts.order_end.prepare_invoke();
        script
            .key(self.keys.conns(shard))
            .key(self.keys.leases(Place::Shard(shard)))
            .key(self.keys.ending(shard))
            .key(self.keys.ban(shard, &user))
            .key(self.keys.revoked(shard, &user))
            .key(self.keys.over(shard, &user, &fence.session.digest()))
            .key(self.keys.family(shard, &fence.session))
            .arg(user)
            .arg(id)
            .arg(order_text(ending)?)
            .arg(milliseconds(ORDER_KEPT))
            .arg(scope)
            .arg(of_session)
            .arg(fence.kind)
            .arg(fence.value)
            .arg(fence.kept)
            .arg(self.asker());
        for id in except {
            script.arg(id.as_str());
        }
        let answer: Option<Answer> = self
            .link
            .query("order_end", self.keys.slot_of(shard), &script)
            .await?;
        let (members, revoked) = answer.ok_or_else(|| self.not_believed())?;
        let connections = members
            .iter()
            .filter_map(|member| self.unreadable.skip("entry", listed(member)));
        Ok(Ordered {
            connections: connections.collect(),
            revoked_before: revoked.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        })
    }

    /// One command for each shard that the entries are in, all sent together.
    pub(super) async fn read_orders(
        &self,
        entries: &[Entry],
    ) -> Result<Vec<(Entry, Ending)>, RegistryError> {
        let mut shards = vec![Vec::new(); usize::from(Shard::COUNT)];
        for entry in entries {
            if let Some(shard) = Shard::of_entry(entry) {
                shards[shard.index()].push(entry);
            }
        }
        let mut commands = Vec::new();
        let mut asked = Vec::new();
        for (shard, entries) in Shard::all().zip(shards) {
            if !entries.is_empty() {
                let ids: Vec<_> = entries.iter().map(|entry| entry.id.as_str()).collect();
                let mut hmget = redis::cmd("HMGET");
                hmget.arg(self.keys.ending(shard)).arg(ids);
                commands.push((self.keys.slot_of(shard), hmget));
                asked.extend(entries);
            }
        }
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        // How old an order is, Redis knows: it was given by that clock, and a node's own may be off by more than orders are kept.
        commands.push((commands[0].0, redis::cmd("TIME")));
        let mut found: Vec<Vec<Option<Vec<u8>>>> = self.link.read_all("orders", &commands).await?;
        let now = time(&found.pop().unwrap_or_default())
            .ok_or_else(|| RegistryError::Corrupt("the time".into()))?;
        let mut orders = Vec::new();
        for (entry, order) in asked.into_iter().zip(found.into_iter().flatten()) {
            let Some(order) = order else {
                continue;
            };
            let ending = read_order(&order, now).unwrap_or_else(|error| {
                self.unreadable.found("order", &error);
                // However the connection was to end, it was to end.
                Some(Ending::of(Ending::DISCONNECTED))
            });
            orders.extend(ending.map(|ending| (entry.clone(), ending)));
        }
        Ok(orders)
    }
}

/// An order, unless it is over its time and was not cleared away yet.
fn read_order(order: &[u8], now: Timestamp) -> Result<Option<Ending>, RegistryError> {
    let corrupt = || RegistryError::Corrupt("an order to end".into());
    let colon = order
        .iter()
        .position(|byte| *byte == b':')
        .ok_or_else(corrupt)?;
    let given = std::str::from_utf8(&order[..colon])
        .ok()
        .and_then(|ms| ms.parse().ok())
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .ok_or_else(corrupt)?;
    if now.duration_since(given).as_secs() > ORDER_KEPT.as_secs() as i64 {
        return Ok(None);
    }
    rmp_serde::from_slice(&order[colon + 1..])
        .map(Some)
        .map_err(|_| corrupt())
}
