//! Orders to end connections, on every node, with the promise that goes with them.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use derive_more::Constructor;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use crate::gateway::{
    GatewayError,
    connections::{LocalConnections, ending::closed, local::LocalConnection},
    lease::OwnLease,
    message::{Disconnected, Revoked, TokenRevoked},
    peers::{
        Audience, Peers,
        receipts::Request,
        wire::{self, Command, Receipt},
    },
};
use crate::{
    connection::{ConnectionId, Instance, UserId},
    ending::Ending,
    registry::{
        Ban, EndOrder, EndTarget, Entry, Fence, Listed, Registry, RegistryError, Room,
        keys::{Shard, Shards},
    },
};

/// How long a disconnect may take before it answers with what remains.
const PROMISE: Duration = Duration::from_secs(5);

/// The pause before it first looks into the registry for what nobody has confirmed: a receipt that was lost, a connection that went
/// by itself. Each further pause is twice as long, up to [`SLOWEST_LOOK`]: most ends are confirmed before the second look.
const LOOK: Duration = Duration::from_millis(250);
const SLOWEST_LOOK: Duration = Duration::from_secs(1);

/// How many users of a room are ordered to end at once.
const USERS_AT_ONCE: usize = 32;

/// How many of a room's members are read at once.
const PAGE: usize = 1000;

/// Orders connections to end, on every node, and keeps users out.
#[derive(Constructor)]
pub(crate) struct EndOrders {
    registry: Arc<dyn Registry>,
    lease: Arc<OwnLease>,
    peers: Arc<Peers>,
    connections: Arc<LocalConnections>,
}

impl EndOrders {
    /// Ends connections on every node, with what keeps their user out from now on. Answers when all that were listed before
    /// are closed and out of the registry, or after [`PROMISE`] with those that could not be confirmed.
    pub(crate) async fn disconnect(
        &self,
        target: EndTarget,
        fence: Option<Fence>,
        ending: &Ending,
    ) -> Result<Disconnected, GatewayError> {
        Ok(self.order(target, fence, ending).await?.0)
    }

    /// Ends connections on every node, with what keeps their user out from now on, and answers as `disconnect` does. With
    /// [`Fence::RevokeBefore`] also returns from when on grants count.
    pub(crate) async fn order(
        &self,
        target: EndTarget,
        fence: Option<Fence>,
        ending: &Ending,
    ) -> Result<(Disconnected, Option<Timestamp>), GatewayError> {
        let deadline = Instant::now() + PROMISE;
        let order = EndOrder {
            target: &target,
            fence: fence.as_ref(),
            ending,
        };
        let shard = target.shard(self.registry.shards());
        self.lease.vouch(shard)?;
        let ordered = self.registry.order_end(order).await?;
        let ended = self
            .carry_out(&ordered.connections, shard, ending, deadline)
            .await?;
        Ok((ended, ordered.revoked_before))
    }

    /// Ends the connections in a room, but for some, and whatever else their users have; refuses the tokens of these users that were
    /// issued before. Answers as `disconnect` does.
    ///
    /// A user's connections are ordered to end by the script that refuses the tokens, and by nothing before it: if this fails half
    /// way, whose tokens still pass is still in the room, for the call that repeats it.
    pub(crate) async fn disconnect_users_in(
        &self,
        room: Room,
        except: Vec<ConnectionId>,
        ending: &Ending,
    ) -> Result<Disconnected, GatewayError> {
        let deadline = Instant::now() + PROMISE;
        let shards = self.registry.shards();
        let shard = Some(shards.of_room(&room));
        self.lease.vouch(shard)?;
        let members = self.members(&room, &except).await?;
        let orders = stream::iter(members).map(async |member| {
            let (target, fence) = match member.user {
                Some(user) => {
                    // Of a thousand ids, most are other users'.
                    let of_user = Some(shards.of_user(&user));
                    let except = except.iter().filter(|id| shards.of_id(id) == of_user);
                    let except = except.cloned().collect();
                    let fence = Some(Fence::RevokeBefore(None));
                    (EndTarget::User { user, except }, fence)
                }
                None => (EndTarget::Connection(member), None),
            };
            let order = EndOrder {
                target: &target,
                fence: fence.as_ref(),
                ending,
            };
            self.registry.order_end(order).await
        });
        let mut orders = orders.buffer_unordered(USERS_AT_ONCE);
        let mut listed = Vec::new();
        while let Some(ordered) = orders.next().await {
            listed.extend(ordered?.connections);
        }
        self.carry_out(&listed, shard, ending, deadline).await
    }

    /// The members of a room but for some: of each user one, and all guests.
    async fn members(
        &self,
        room: &Room,
        except: &[ConnectionId],
    ) -> Result<Vec<Entry>, RegistryError> {
        let (mut members, mut users, mut cursor) = (Vec::new(), HashSet::new(), None);
        loop {
            let page = self.registry.members(room, cursor.as_deref(), PAGE).await?;
            let meant = page.members.into_iter();
            let meant = meant.filter(|it| !except.contains(&it.id));
            members.extend(meant.filter(|it| match &it.user {
                Some(user) => users.insert(user.clone()),
                None => true,
            }));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(members);
            }
        }
    }

    /// Ends connections that have been ordered to end, on every node. Answers when they are closed and out of the registry, or at the
    /// deadline with those that could not be confirmed.
    async fn carry_out(
        &self,
        listed: &[Listed],
        shard: Option<Shard>,
        ending: &Ending,
        deadline: Instant,
    ) -> Result<Disconnected, GatewayError> {
        let request = self.peers.open();
        let mut asked = HashSet::new();
        for ((node, shard), ids) in by_node(listed, self.registry.shards()) {
            if node != self.peers.instance {
                let ending = Cow::Borrowed(ending);
                let command = wire::command(request.number(), &Command::End { ids, ending });
                self.peers
                    .tell_surely(Audience::Node(shard, node.clone()), command);
                asked.insert(node);
            }
        }
        let here: Vec<_> = listed
            .iter()
            .filter_map(|listed| self.connections.table.get(&listed.entry.id))
            .collect();
        self.connections.end_all(&here, ending);
        // What the registry has lost meanwhile is not in the list. What is has been told.
        self.lease.vouch(shard)?;
        let mut open: HashSet<_> = listed.iter().map(|it| it.entry.id.clone()).collect();
        let still_open = |open: HashSet<ConnectionId>| {
            let entries = listed.iter().map(|it| &it.entry);
            let asked = entries.filter(|it| open.contains(&it.id)).cloned();
            let asked: Vec<_> = asked.collect();
            async move {
                let listed = self
                    .lease
                    .vouched(shard, self.registry.listed(&asked))
                    .await?;
                Ok(listed.into_iter().map(|entry| entry.id).collect())
            }
        };
        settle(&mut open, here, (&request, asked), still_open, deadline).await;
        Ok(outcome(listed, &open))
    }

    /// Refuses a token and ends the connections that came in by it, on every node: no index leads to them, so all are asked.
    pub(crate) async fn revoke_token(
        &self,
        token_id: &str,
        until: Option<Timestamp>,
    ) -> Result<TokenRevoked, GatewayError> {
        self.registry.revoke_token(token_id, until).await?;
        let deadline = Instant::now() + PROMISE;
        let token_id = Cow::Borrowed(token_id);
        let command = Command::EndToken { token_id };
        let (request, asked) = self.peers.ask_all_surely(&command).await;
        let mut collected = request.collect(asked, deadline).await;
        self.peers.forget_the_dead(&mut collected).await;
        Ok(TokenRevoked {
            disconnected: said(&collected.receipts),
            unconfirmed: collected.unconfirmed,
        })
    }

    /// Bans a user and ends its connections.
    pub(crate) async fn ban(&self, user: &UserId, ban: &Ban) -> Result<Disconnected, GatewayError> {
        let fence = Fence::Ban(ban.clone());
        let mut ending = Ending::of(Ending::BANNED);
        if let Some(reason) = &ban.reason {
            ending = ending.because(reason);
        }
        self.disconnect(everybody(user), Some(fence), &ending).await
    }

    /// Refuses a user's tokens that were issued before a time (none: now), and ends the connections that came in with one.
    pub(crate) async fn revoke_tokens(
        &self,
        user: &UserId,
        issued_before: Option<Timestamp>,
    ) -> Result<Revoked, GatewayError> {
        let target = EndTarget::Revoked { user: user.clone() };
        let fence = Fence::RevokeBefore(issued_before);
        let ending = Ending::of(Ending::TOKEN_REVOKED);
        let (disconnected, revoked_before) = self.order(target, Some(fence), &ending).await?;
        Ok(Revoked {
            revoked_before: revoked_before
                .or(issued_before)
                .unwrap_or_else(Timestamp::now),
            disconnected,
        })
    }
}

/// Waits until nothing is open: by this node's own, by the receipts of those that were asked, and by looks into the registry at
/// what is still open.
async fn settle<F: Future<Output = Result<HashSet<ConnectionId>, RegistryError>>>(
    open: &mut HashSet<ConnectionId>,
    here: Vec<Arc<LocalConnection>>,
    (request, asked): (&Request<'_>, HashSet<Instance>),
    still_open: impl Fn(HashSet<ConnectionId>) -> F,
    deadline: Instant,
) {
    let local = closed(here, deadline);
    tokio::pin!(local);
    let mut local_done = false;
    let (mut pause, mut look) = (LOOK, Instant::now() + LOOK);
    while !open.is_empty() {
        tokio::select! {
            closed = &mut local, if !local_done => {
                local_done = true;
                for id in closed {
                    open.remove(&id);
                }
            }
            come = request.next(1) => {
                let come = come.into_iter().filter(|(from, _)| asked.contains(from));
                for id in come.flat_map(|(_, receipt)| receipt.closed) {
                    open.remove(&id);
                }
            }
            () = tokio::time::sleep_until(look) => {
                if let Ok(Ok(there)) = timeout_at(deadline, still_open(open.clone())).await {
                    open.retain(|id| there.contains(id));
                }
                pause = (2 * pause).min(SLOWEST_LOOK);
                look = Instant::now() + pause;
            }
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
}

fn everybody(user: &UserId) -> EndTarget {
    EndTarget::User {
        user: user.clone(),
        except: Vec::new(),
    }
}

/// The ids of what is listed, by the node that holds them and the shard that they are in.
fn by_node(listed: &[Listed], shards: Shards) -> HashMap<(Instance, Shard), Vec<ConnectionId>> {
    let mut nodes: HashMap<_, Vec<_>> = HashMap::new();
    for Listed { entry, instance } in listed {
        let shard = shards.of_entry(entry).unwrap_or(Shard::FIRST);
        let ids = nodes.entry((instance.clone(), shard)).or_default();
        ids.push(entry.id.clone());
    }
    nodes
}

/// What became of connections that only their nodes know of.
fn said(receipts: &[Receipt]) -> Disconnected {
    let closed: HashSet<_> = receipts.iter().flat_map(|it| &it.closed).collect();
    let mut open: Vec<_> = receipts.iter().flat_map(|it| &it.open).collect();
    open.retain(|id| !closed.contains(id));
    Disconnected {
        disconnected: closed.len() as u64,
        nodes: receipts.iter().filter(|it| !it.closed.is_empty()).count() as u64,
        remaining: open.into_iter().cloned().collect(),
    }
}

fn outcome(listed: &[Listed], open: &HashSet<ConnectionId>) -> Disconnected {
    let (remaining, closed): (Vec<_>, Vec<_>) = listed
        .iter()
        .partition(|listed| open.contains(&listed.entry.id));
    let nodes: BTreeSet<_> = closed.iter().map(|listed| &listed.instance).collect();
    Disconnected {
        disconnected: closed.len() as u64,
        nodes: nodes.len() as u64,
        remaining: remaining
            .into_iter()
            .map(|listed| listed.entry.id.clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::peers::receipts::Requests;

    #[tokio::test]
    async fn only_those_who_were_asked_say_what_has_ended() {
        let requests = Requests::default();
        let request = requests.open();
        for (node, id) in [("stranger", "1"), ("asked", "2")] {
            let receipt = Receipt {
                request: request.number(),
                closed: vec![id.into()],
                ..Receipt::default()
            };
            requests.receipted(&node.into(), receipt);
        }
        let mut open = HashSet::from(["1".into(), "2".into()]);
        let asked = HashSet::from(["asked".into()]);
        let away = async |_| Err(RegistryError::Unavailable("it is away".into()));
        let deadline = Instant::now() + LOOK;
        settle(&mut open, Vec::new(), (&request, asked), away, deadline).await;
        assert_eq!(open, HashSet::from(["1".into()]));
    }

    #[tokio::test]
    async fn only_what_is_still_open_is_looked_for() {
        let requests = Requests::default();
        let request = requests.open();
        let mut open = HashSet::from(["1".into(), "2".into()]);
        let looks = parking_lot::Mutex::new(Vec::new());
        let one_less = async |mut open: HashSet<ConnectionId>| {
            looks.lock().push(open.clone());
            let gone = if open.len() == 2 { "1" } else { "2" };
            open.remove(&gone.into());
            Ok(open)
        };
        let asked = (&request, HashSet::new());
        let deadline = Instant::now() + PROMISE;
        settle(&mut open, Vec::new(), asked, one_less, deadline).await;
        assert_eq!(open, HashSet::new());
        let both = HashSet::from(["1".into(), "2".into()]);
        assert_eq!(*looks.lock(), [both, HashSet::from(["2".into()])]);
    }

    #[test]
    fn what_nodes_have_named_and_not_closed_remains() {
        let of = |open: &[&str], closed: &[&str]| Receipt {
            open: open.iter().map(|id| (*id).into()).collect(),
            closed: closed.iter().map(|id| (*id).into()).collect(),
            ..Receipt::default()
        };
        let receipts = [
            of(&["a1", "a2"], &[]),
            of(&["b1"], &[]),
            of(&[], &[]),
            of(&[], &["a1"]),
        ];
        let said = said(&receipts);
        assert_eq!((said.disconnected, said.nodes), (1, 1));
        assert_eq!(said.remaining, ["a2".into(), "b1".into()]);
    }
}
