//! The link that listens. What it wants is in [`Subscriptions`]; this makes Redis send it, on every new connection anew.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{Client, aio::MultiplexedConnection};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    health::Health,
    link::{self, Ended, Link, Retry, within},
    subscriptions::Subscriptions,
};

/// How long Redis may take to confirm a subscription, before the connection is given up.
const CONFIRM: Duration = Duration::from_secs(2);
/// The pause before a subscription that Redis refused is tried again: permissions may be granted at any time.
const REFUSED: Duration = Duration::from_millis(500);

/// The channels that Redis has confirmed on the current connection; none while there is no connection.
type Confirmed = Option<HashSet<String>>;

/// The listening half of the bus.
pub(super) struct Subscriber {
    pub(super) subscriptions: Arc<Subscriptions>,
    confirmed: watch::Sender<Confirmed>,
}

impl Subscriber {
    pub(super) fn new(subscriptions: Subscriptions) -> Self {
        Self {
            subscriptions: Arc::new(subscriptions),
            confirmed: watch::Sender::new(None),
        }
    }

    /// Waits until Redis has confirmed that the channel is subscribed to, or not any more. Does not wait while there is
    /// no connection, nor for long: what is wanted is known, and follows.
    pub(super) async fn settled(&self, channel: &str, subscribed: bool) {
        let mut confirmed = self.confirmed.subscribe();
        let settled = confirmed.wait_for(|confirmed| {
            let confirmed = confirmed.as_ref();
            confirmed.is_none_or(|channels| channels.contains(channel) == subscribed)
        });
        let _ = timeout(link::CALL, settled).await;
    }

    /// Keeps a connection and the subscriptions on it until the bus is closed; then unsubscribes and ends every stream.
    pub(super) async fn run(
        &self,
        client: &Client,
        health: &Arc<Health>,
        closed: &CancellationToken,
    ) {
        let mut retry = Retry::new("subscribe", client);
        while !closed.is_cancelled() {
            let subscriptions = Arc::clone(&self.subscriptions);
            let on_push = {
                let health = Arc::clone(health);
                move |push| subscriptions.dispatch(push, &health)
            };
            let connecting = link::connect(client, on_push);
            let ended = match closed.run_until_cancelled(connecting).await {
                None => break,
                Some(Ok(link)) => {
                    retry.connected();
                    self.live(link, health, closed).await
                }
                Some(Err(why)) => Ended {
                    connected: false,
                    why,
                },
            };
            if !closed.is_cancelled() {
                closed.run_until_cancelled(retry.pause(&ended)).await;
            }
        }
        self.subscriptions.close();
    }

    async fn live(&self, link: Link, health: &Health, closed: &CancellationToken) -> Ended {
        self.confirmed.send_replace(Some(HashSet::new()));
        let Link { connection, ended } = link;
        let why = tokio::select! {
            () = closed.cancelled() => {
                self.unsubscribe(&connection).await;
                "the bus is closed".into()
            }
            () = ended.cancelled() => "the connection ended".into(),
            why = link::watch(connection.clone(), |answers| health.listening(answers)) => why,
            why = self.keep_subscribed(&connection, health) => why,
        };
        ended.cancel();
        let confirmed = self.confirmed.send_replace(None);
        health.deaf(confirmed.is_some_and(|channels| !channels.is_empty()));
        Ended {
            connected: true,
            why,
        }
    }

    /// Subscribes to what is wanted and not confirmed, and the reverse, at every change. Returns why the connection is to be
    /// given up.
    ///
    /// Each channel has a SUBSCRIBE of its own: Redis answers several at once with one refusal for all, and one forbidden
    /// channel must not keep the node from hearing the others.
    async fn keep_subscribed(&self, connection: &MultiplexedConnection, health: &Health) -> String {
        let mut told = HashSet::new();
        loop {
            let wanted = self.subscriptions.wanted();
            let confirmed = self.confirmed.borrow().clone().unwrap_or_default();
            let subscribe = wanted.difference(&confirmed).map(async |channel| {
                let subscribing = timeout(CONFIRM, connection.clone().subscribe(channel)).await;
                (channel, subscribing)
            });
            let mut refused = false;
            for (channel, subscribed) in join_all(subscribe).await {
                match subscribed {
                    Ok(Ok(())) => self.confirm(channel, true),
                    Ok(Err(error)) => {
                        refused = true;
                        if told.insert(channel.clone()) {
                            tracing::warn!(channel, %error, "Redis refuses a subscription");
                        }
                    }
                    Err(_) => return format!("{channel} not confirmed within {CONFIRM:?}"),
                }
            }
            for channel in confirmed.difference(&wanted) {
                match within(CONFIRM, connection.clone().unsubscribe(channel)).await {
                    Ok(()) => self.confirm(channel, false),
                    Err(why) => return format!("{channel} not let go: {why}"),
                }
            }
            health.subscribed(!refused);
            let changed = self.subscriptions.changed();
            if refused {
                let _ = timeout(REFUSED, changed).await;
            } else {
                changed.await;
            }
        }
    }

    fn confirm(&self, channel: &str, subscribed: bool) {
        self.confirmed.send_if_modified(|confirmed| {
            confirmed.as_mut().is_some_and(|channels| {
                if subscribed {
                    channels.insert(channel.to_owned())
                } else {
                    channels.remove(channel)
                }
            })
        });
    }

    /// Says goodbye, for Redis to count this node out before anybody is told that it has closed.
    async fn unsubscribe(&self, connection: &MultiplexedConnection) {
        let channels = self.confirmed.borrow().clone().unwrap_or_default();
        if !channels.is_empty() {
            let channels: Vec<_> = channels.into_iter().collect();
            let mut connection = connection.clone();
            if let Err(why) = within(link::CALL, connection.unsubscribe(channels)).await {
                tracing::debug!(why, "the bus is closed without goodbye");
            }
        }
    }
}
