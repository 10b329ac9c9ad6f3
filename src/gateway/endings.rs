//! Ending connections: on this node, and on every node, with the promise that goes with it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{
    GatewayError, Inner,
    commands::{Command, Receipt},
    live::{Live, Phase},
    message::Disconnected,
};
use crate::{
    connection::{Connection, ConnectionId},
    ending::Ending,
    registry::{EndOrder, EndTarget, Entry},
};

/// How long a disconnect may take before it answers with what remains.
const PROMISE: Duration = Duration::from_secs(5);

/// How often it looks into the registry for what nobody has confirmed: a node that died, a connection that went by itself.
const LOOK: Duration = Duration::from_millis(250);

impl Inner {
    /// Ends connections of this node: each is told why, and with the last one of a session its transport is closed.
    /// Connections that are being ended already are left to that.
    pub(super) fn end_all(self: &Arc<Self>, lives: &[Arc<Live>], ending: &Ending) {
        // All are marked before the first is ended: whether a session has others left is then the same for each.
        let ending_now: Vec<_> = lives
            .iter()
            .filter(|live| live.set_ending(ending.clone()))
            .collect();
        for live in ending_now {
            // One that has not arrived yet is ended when it does.
            if live.phase() == Phase::Ready {
                self.carry_out(live, ending);
            }
        }
    }

    /// Ends one connection as its ending says.
    pub(super) fn carry_out(self: &Arc<Self>, live: &Arc<Live>, ending: &Ending) {
        let alone = self
            .hub
            .of_session(live.session.id)
            .iter()
            .all(|other| other.ending().is_some());
        // The closed transport is what makes the stock client come back; where other namespaces need it, only the packet
        // can end this one.
        live.say_goodbye(ending, !(ending.reconnect && alone));
        if alone {
            live.session.end();
        }
        self.depart(live, Ending::label(ending.code));
    }

    /// The connections of this node that an order may mean.
    fn candidates(&self, target: &EndTarget) -> Vec<Arc<Live>> {
        match target {
            EndTarget::User { user, except } => {
                let mut lives = self.hub.of_user(user);
                lives.retain(|live| !except.contains(&live.id));
                lives
            }
            EndTarget::Revoked { user } | EndTarget::Session { user, .. } => self.hub.of_user(user),
            EndTarget::Connection(Entry { id, .. }) => self.hub.get(id).into_iter().collect(),
        }
    }

    /// The connections of this node that an order means.
    async fn meant(&self, target: &EndTarget) -> Vec<Arc<Live>> {
        let mut lives = self.candidates(target);
        if let EndTarget::Revoked { .. } | EndTarget::Session { .. } = target {
            // The registry has chosen when the order was given.
            let entries: Vec<_> = lives.iter().map(|live| live.entry()).collect();
            let orders = self.registry.orders(&entries).await.unwrap_or_default();
            let ordered: HashSet<_> = orders.into_iter().map(|(entry, _)| entry.id).collect();
            lives.retain(|live| ordered.contains(&live.id));
        }
        lives
    }

    /// Ends connections of this node and waits until they are closed and out of the registry. Returns which are.
    pub(super) async fn end_and_wait(
        self: &Arc<Self>,
        target: &EndTarget,
        ending: &Ending,
        deadline: Instant,
    ) -> Vec<ConnectionId> {
        let lives = self.meant(target).await;
        self.end_all(&lives, ending);
        let mut closed = Vec::with_capacity(lives.len());
        for live in lives {
            if timeout_at(deadline, live.closed()).await.is_ok() {
                closed.push(live.id.clone());
            }
        }
        closed
    }

    /// Ends connections on every node. Answers when all that were listed before are closed and out of the registry, or
    /// after [`PROMISE`] with those that could not be confirmed.
    pub(super) async fn disconnect(
        self: &Arc<Self>,
        target: EndTarget,
        ending: &Ending,
    ) -> Result<Disconnected, GatewayError> {
        let deadline = Instant::now() + PROMISE;
        let command = Command::End {
            target: target.clone(),
            ending: ending.clone(),
        };
        let (mut request, payload) = self.request(&command);
        let order = EndOrder {
            target: &target,
            fence: None,
            ending,
        };
        let ordered = self
            .registry
            .order_end(order, &self.instance, &payload)
            .await?;
        let listed = ordered.connections;
        let mut open: HashSet<ConnectionId> = listed.iter().map(|c| c.id.clone()).collect();

        let gateway = self.clone();
        let (local_target, local_ending) = (target.clone(), ending.clone());
        let local = tokio::spawn(async move {
            gateway
                .end_and_wait(&local_target, &local_ending, deadline)
                .await
        });
        tokio::pin!(local);
        let mut local_done = false;
        let mut looks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        while !open.is_empty() {
            tokio::select! {
                closed = &mut local, if !local_done => {
                    local_done = true;
                    for id in closed.unwrap_or_default() {
                        open.remove(&id);
                    }
                }
                receipt = request.next() => {
                    if let Some((_, Receipt::Ended { closed })) = receipt {
                        for id in closed {
                            open.remove(&id);
                        }
                    }
                }
                _ = looks.tick() => {
                    if let Ok(there) = self.still_listed(&target).await {
                        open.retain(|id| there.contains(id));
                    }
                }
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        Ok(outcome(&listed, &open))
    }

    /// Which of the connections that an order means are in the registry.
    async fn still_listed(
        &self,
        target: &EndTarget,
    ) -> Result<HashSet<ConnectionId>, GatewayError> {
        Ok(match target {
            EndTarget::User { user, .. }
            | EndTarget::Revoked { user }
            | EndTarget::Session { user, .. } => self
                .registry
                .user(user)
                .await?
                .connections
                .into_iter()
                .map(|connection| connection.id)
                .collect(),
            EndTarget::Connection(entry) => self
                .registry
                .connection(&entry.id)
                .await?
                .into_iter()
                .map(|connection| connection.id)
                .collect(),
        })
    }
}

fn outcome(listed: &[Connection], open: &HashSet<ConnectionId>) -> Disconnected {
    let (remaining, closed): (Vec<_>, Vec<_>) = listed
        .iter()
        .partition(|connection| open.contains(&connection.id));
    let nodes: BTreeSet<_> = closed
        .iter()
        .map(|connection| &connection.node_id)
        .collect();
    Disconnected {
        disconnected: closed.len() as u64,
        nodes: nodes.len() as u64,
        remaining: remaining
            .into_iter()
            .map(|connection| connection.id.clone())
            .collect(),
    }
}
