//! The link that listens to one server. What it wants is in [`Subscriptions`], as far as the server has it; this makes Redis
//! send it, on every new connection anew.
//!
//! Channels are those of `SSUBSCRIBE`, in every mode: in a cluster a message to one of them goes to the server of its slot and no
//! further, and elsewhere there is no difference.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{health::Health, subscriptions::Subscriptions};
use crate::link::{
    Address, DEADLINE, Keeper, Kept, LinkError, Servers, Slot, Wanted, is_elsewhere, within,
};

/// How long Redis may take to confirm a subscription, before the connection is given up.
const CONFIRM: Duration = Duration::from_secs(2);
/// The pause before a subscription that Redis refused is tried again: permissions may be granted at any time.
const REFUSED: Duration = Duration::from_millis(500);

/// The channels that Redis has confirmed on one connection.
type Confirmed = Mutex<HashSet<String>>;

/// The listening half of the bus, for one server.
pub(super) struct Subscriber {
    keeper: Keeper,
    subscriptions: Arc<Subscriptions>,
}

impl Subscriber {
    pub(super) fn new(
        servers: &Servers,
        server: &Address,
        subscriptions: Arc<Subscriptions>,
    ) -> Result<Self, LinkError> {
        Ok(Self {
            keeper: Keeper::new("subscribe", servers, server, Wanted::Master)?,
            subscriptions,
        })
    }

    /// Keeps a connection and the subscriptions on it until told to stop; then unsubscribes.
    ///
    /// A connection is over once Redis ends a subscription on it, as it does when the channel's slot is another server's: redis-rs
    /// (1.8.1) takes that message for the answer to what was asked last, so that no later answer belongs to its question.
    pub(super) async fn run(&self, health: &Arc<Health>, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let (subscriptions, heard_by) = (Arc::clone(&self.subscriptions), Arc::clone(health));
            let on_push = move |push: PushInfo| {
                let goes_on = push.kind != PushKind::SUnsubscribe;
                if goes_on {
                    subscriptions.dispatch(push, &heard_by);
                }
                goes_on
            };
            let why = match stop.run_until_cancelled(self.keeper.connect(on_push)).await {
                None => break,
                Some(Ok(kept)) => self.live(kept, health, stop).await,
                Some(Err(why)) => why,
            };
            if !stop.is_cancelled() {
                stop.run_until_cancelled(self.keeper.pause(&why)).await;
            }
        }
    }

    /// Returns why the connection has ended.
    async fn live(&self, kept: Kept, health: &Health, stop: &CancellationToken) -> String {
        let (server, wake, confirmed) = (&self.keeper.server, Notify::new(), Confirmed::default());
        let answers = |answer: Result<(), &str>| health.listening(server, answer.is_ok());
        answers(Ok(()));
        let why = tokio::select! {
            () = stop.cancelled() => {
                self.unsubscribe(kept.connection.clone()).await;
                "it is not needed any more".into()
            }
            why = self.keeper.watch(&kept, &wake, answers) => why,
            why = self.keep_subscribed(&kept.connection, &confirmed, health) => why,
        };
        kept.ended.cancel();
        health.deaf(server, !confirmed.lock().is_empty());
        // It may be said late, of a server that another link has come back to meanwhile: that one says again how it stands.
        self.subscriptions.changed();
        why
    }

    /// The wanted channels that this server has.
    fn wanted(&self) -> HashSet<String> {
        let map = self.keeper.servers.map();
        let channels = self.subscriptions.channels().iter();
        let here = channels
            .filter(|channel| map.at(Slot::of(channel.as_bytes())) == Some(&self.keeper.server));
        here.cloned().collect()
    }

    /// Subscribes to what is wanted and not confirmed, at every change. Returns why the connection is to be given up.
    ///
    /// Each channel has a SSUBSCRIBE of its own: Redis answers several at once with one refusal for all, and one forbidden
    /// channel must not keep the node from hearing the others.
    async fn keep_subscribed(
        &self,
        connection: &MultiplexedConnection,
        confirmed: &Confirmed,
        health: &Health,
    ) -> String {
        let mut told = HashSet::new();
        let mut changes = self.subscriptions.changes();
        loop {
            changes.mark_unchanged();
            let wanted = self.wanted();
            let before = confirmed.lock().clone();
            if !before.is_subset(&wanted) {
                return "another server has some of its channels".into();
            }
            let subscribe = wanted.difference(&before).map(async |channel| {
                let mut command = redis::cmd("SSUBSCRIBE");
                command.arg(channel);
                let subscribing = async {
                    let mut connection = connection.clone();
                    command.query_async::<()>(&mut connection).await
                };
                (channel, timeout(CONFIRM, subscribing).await)
            });
            let mut refused = false;
            for (channel, subscribed) in join_all(subscribe).await {
                match subscribed {
                    Ok(Ok(())) => drop(confirmed.lock().insert(channel.clone())),
                    Ok(Err(error)) => {
                        refused = true;
                        if is_elsewhere(&error) {
                            self.keeper.servers.doubt();
                        } else if told.insert(channel.clone()) {
                            tracing::warn!(channel, %error, "Redis refuses a subscription");
                        }
                    }
                    Err(_) => return format!("{channel} not confirmed within {CONFIRM:?}"),
                }
            }
            health.subscribed(&self.keeper.server, !refused);
            let changed = changes.changed();
            if refused {
                let _ = timeout(REFUSED, changed).await;
            } else {
                let _ = changed.await;
            }
        }
    }

    /// Says goodbye, for Redis to count this node out before anybody is told that it has closed.
    async fn unsubscribe(&self, mut connection: MultiplexedConnection) {
        let goodbye = redis::cmd("SUNSUBSCRIBE");
        let goodbye = goodbye.query_async::<Value>(&mut connection);
        if let Err(why) = within(DEADLINE, goodbye).await {
            tracing::debug!(server = %self.keeper.server, why, "a link is closed without goodbye");
        }
    }
}
