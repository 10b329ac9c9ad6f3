//! The link that listens to one server. What it wants is in [`Subscriptions`], as far as the server has it; this makes Redis
//! send it, on every new connection anew.
//!
//! Channels are those of `SSUBSCRIBE`, in every mode: in a cluster a message to one of them goes to the server of its slot and no
//! further, and elsewhere there is no difference.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
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

/// The channels that Redis has confirmed on the current connection; none while there is no connection.
type Confirmed = Option<HashSet<String>>;

/// The listening half of the bus, for one server.
pub(super) struct Subscriber {
    keeper: Keeper,
    subscriptions: Arc<Subscriptions>,
    confirmed: Mutex<Confirmed>,
}

/// The channels that are being let go on a connection.
type Leaving = Arc<Mutex<HashSet<String>>>;

impl Subscriber {
    pub(super) fn new(
        servers: &Servers,
        server: &Address,
        subscriptions: Arc<Subscriptions>,
    ) -> Result<Self, LinkError> {
        Ok(Self {
            keeper: Keeper::new("subscribe", servers, server, Wanted::Master)?,
            subscriptions,
            confirmed: Mutex::default(),
        })
    }

    /// Keeps a connection and the subscriptions on it until told to stop; then unsubscribes.
    pub(super) async fn run(&self, health: &Arc<Health>, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let subscriptions = Arc::clone(&self.subscriptions);
            let leaving = Leaving::default();
            let on_push = {
                let (health, leaving) = (Arc::clone(health), Arc::clone(&leaving));
                move |push: PushInfo| {
                    if is_put_out(&push, &leaving) {
                        return false;
                    }
                    subscriptions.dispatch(push, &health);
                    true
                }
            };
            let why = match stop.run_until_cancelled(self.keeper.connect(on_push)).await {
                None => break,
                Some(Ok(kept)) => self.live(kept, &leaving, health, stop).await,
                Some(Err(why)) => why,
            };
            if !stop.is_cancelled() {
                stop.run_until_cancelled(self.keeper.pause(&why)).await;
            }
        }
    }

    /// Returns why the connection has ended.
    async fn live(
        &self,
        kept: Kept,
        leaving: &Leaving,
        health: &Health,
        stop: &CancellationToken,
    ) -> String {
        *self.confirmed.lock() = Some(HashSet::new());
        let (server, connection, wake) = (&self.keeper.server, &kept.connection, Notify::new());
        let answers = |answer: Result<(), &str>| health.listening(server, answer.is_ok());
        answers(Ok(()));
        let why = tokio::select! {
            () = stop.cancelled() => {
                self.unsubscribe(connection, leaving).await;
                "it is not needed any more".into()
            }
            why = self.keeper.watch(&kept, &wake, answers) => why,
            why = self.keep_subscribed(connection, leaving, health) => why,
        };
        kept.ended.cancel();
        let confirmed = self.confirmed.lock().take();
        let had_heard = confirmed.is_some_and(|channels| !channels.is_empty());
        health.deaf(server, had_heard);
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

    /// Subscribes to what is wanted and not confirmed, and the reverse, at every change. Returns why the connection is to be
    /// given up.
    ///
    /// Each channel has a SSUBSCRIBE of its own: Redis answers several at once with one refusal for all, and one forbidden
    /// channel must not keep the node from hearing the others.
    async fn keep_subscribed(
        &self,
        connection: &MultiplexedConnection,
        leaving: &Leaving,
        health: &Health,
    ) -> String {
        let mut told = HashSet::new();
        let mut changes = self.subscriptions.changes();
        loop {
            changes.mark_unchanged();
            let wanted = self.wanted();
            let confirmed = self.confirmed.lock().clone().unwrap_or_default();
            let subscribe = wanted.difference(&confirmed).map(async |channel| {
                let subscribing = about(connection, "SSUBSCRIBE", channel);
                (channel, timeout(CONFIRM, subscribing).await)
            });
            let mut refused = false;
            for (channel, subscribed) in join_all(subscribe).await {
                match subscribed {
                    Ok(Ok(())) => self.confirm(channel, true),
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
            for channel in confirmed.difference(&wanted) {
                match self.let_go(connection, leaving, channel).await {
                    Ok(()) => self.confirm(channel, false),
                    Err(why) => return format!("{channel} not let go: {why}"),
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

    fn confirm(&self, channel: &str, subscribed: bool) {
        if let Some(channels) = self.confirmed.lock().as_mut() {
            match subscribed {
                true => channels.insert(channel.to_owned()),
                false => channels.remove(channel),
            };
        }
    }

    async fn let_go(
        &self,
        connection: &MultiplexedConnection,
        leaving: &Leaving,
        channel: &str,
    ) -> Result<(), String> {
        leaving.lock().insert(channel.to_owned());
        within(CONFIRM, about(connection, "SUNSUBSCRIBE", channel)).await
    }

    /// Says goodbye, for Redis to count this node out before anybody is told that it has closed.
    async fn unsubscribe(&self, connection: &MultiplexedConnection, leaving: &Leaving) {
        let channels = self.confirmed.lock().clone().unwrap_or_default();
        let goodbyes = channels
            .iter()
            .map(|channel| self.let_go(connection, leaving, channel));
        if timeout(DEADLINE, join_all(goodbyes)).await.is_err() {
            tracing::debug!(server = %self.keeper.server, "a link is closed without goodbye");
        }
    }
}

async fn about(
    connection: &MultiplexedConnection,
    command: &str,
    channel: &str,
) -> RedisResult<()> {
    let mut command = redis::cmd(command);
    command.arg(channel);
    command.query_async(&mut connection.clone()).await
}

/// Whether Redis has ended a subscription of its own accord, as the channel's slot is another server's now. Nothing more comes
/// on that channel; and redis-rs takes the message for the answer to whatever was asked last, so that no later answer on this
/// connection belongs to its question.
fn is_put_out(push: &PushInfo, leaving: &Leaving) -> bool {
    if push.kind != PushKind::SUnsubscribe {
        return false;
    }
    match push.data.first() {
        Some(Value::BulkString(channel)) => {
            let channel = String::from_utf8_lossy(channel);
            !leaving.lock().remove(channel.as_ref())
        }
        _ => false,
    }
}
