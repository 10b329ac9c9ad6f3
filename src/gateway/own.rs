//! What a client may do about itself: refresh its token, see its devices, log one of them out, and, as a guest, say who it
//! is. Each is an event with an acknowledgement.

use std::{collections::HashSet, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, json};
use socketioxide::extract::SocketRef;

use super::{
    Inner,
    admin::caller,
    connect::{Arriving, Current},
    live::Live,
    refusal::{self, Refusal},
};
use crate::{
    auth::{AuthError, Identity},
    connection::{Connection, ConnectionId, Tally},
    ending::Ending,
    registry::{Admission, Assertion, EndTarget, Entry, RegistryError, keys::Shard},
    telemetry::AUDIT,
    transport::engine::Adapter,
};

/// Why a request is refused. `Display` is what its acknowledgement says.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("{0}")]
    Refused(Refusal),
    #[error("Service unavailable")]
    Registry(#[from] RegistryError),
    #[error("Not authenticated")]
    Guest,
    #[error("Already authenticated")]
    NoGuest,
    #[error("Unknown connection")]
    UnknownConnection,
    #[error("Invalid arguments")]
    Arguments,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<AuthError> for Denied {
    fn from(error: AuthError) -> Self {
        Self::Refused(error.into())
    }
}

/// The events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    RefreshToken,
    Devices,
    LogoutDevice,
    Authenticate,
}

impl Verb {
    /// The verb of that name.
    pub(super) fn of(event: &str) -> Option<Self> {
        match event {
            "refreshToken" => Some(Self::RefreshToken),
            "devices" => Some(Self::Devices),
            "logoutDevice" => Some(Self::LogoutDevice),
            "authenticate" => Some(Self::Authenticate),
            _ => None,
        }
    }
}

/// Why arguments are denied that are too large to be read.
pub(super) fn too_large(verb: Verb) -> Denied {
    match verb {
        Verb::RefreshToken | Verb::Authenticate => AuthError::Invalid.into(),
        Verb::Devices | Verb::LogoutDevice => Denied::Arguments,
    }
}

/// How many connections an answer to `devices` has unless its client asks for another number, and at the most.
const DEVICES: (usize, usize) = (100, 1000);

/// Which of its connections a client asks for.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DevicesPage {
    limit: Option<usize>,
    /// The last id of the page before.
    cursor: Option<ConnectionId>,
}

impl DevicesPage {
    fn of(asked: Value) -> Result<Self, Denied> {
        let page: Option<Self> = serde_json::from_value(asked).map_err(|_| Denied::Arguments)?;
        let page = page.unwrap_or_default();
        match page.limit {
            Some(limit) if !(1..=DEVICES.1).contains(&limit) => Err(Denied::Arguments),
            _ => Ok(page),
        }
    }

    /// This page of connections that are in the order of their ids, and the cursor of the next one.
    fn cut(self, mut connections: Vec<Connection>) -> (Vec<Connection>, Option<ConnectionId>) {
        if let Some(cursor) = &self.cursor {
            connections.retain(|connection| connection.id > *cursor);
        }
        let limit = self.limit.unwrap_or(DEVICES.0);
        let more = connections.len() > limit;
        connections.truncate(limit);
        let last = connections.last().filter(|_| more);
        let next = last.map(|connection| connection.id.clone());
        (connections, next)
    }
}

impl Inner {
    /// Does what a client asks for. The fields of the answer are those of its acknowledgement.
    pub(super) async fn carry_out_own(
        self: &Arc<Self>,
        verb: Verb,
        live: &Arc<Live>,
        socket: &SocketRef<Adapter>,
        argument: Value,
    ) -> Result<Value, Denied> {
        match verb {
            Verb::RefreshToken => self.refresh(live, argument).await,
            Verb::Devices => self.devices(live, argument).await,
            Verb::LogoutDevice => self.log_out_device(live, argument).await,
            Verb::Authenticate => self.authenticate(live, socket, argument).await,
        }
    }

    /// A fresh token of the same user, in place of the one that the connection came in with.
    async fn refresh(self: &Arc<Self>, live: &Arc<Live>, token: Value) -> Result<Value, Denied> {
        let user = live.user().ok_or(Denied::Guest)?;
        let identity = self.identify(live, token).await?;
        if identity.user_id != *user {
            return Err(AuthError::Invalid.into());
        }
        let expires_at = identity.expires_at;
        // Through the registry before it counts here: a token that has been revoked renews nothing.
        let mut record = live.record(&self.node_id);
        record.expires_at = expires_at;
        live.changed();
        let assertion = Assertion {
            connection: &record,
            grant: &refusal::grant(&identity),
            version: live.version(),
            start: live.start(),
            limit: None,
            again: true,
        };
        match self.registry.assert(&self.lease(), &assertion).await? {
            Admission::Admitted { .. } => {}
            Admission::Refused(bar) => return Err(Refusal::Bar(bar).into()),
            Admission::Ended(ending) => {
                self.end_all(std::slice::from_ref(live), &ending);
                return Err(Refusal::Unavailable.into());
            }
        }
        live.renew(identity);
        live.changed();
        self.watch(live);
        // A revocation of this token since then has looked for it on a connection that still had the token before; and an assertion
        // with that one may have come last.
        self.assert_again(live).await?;
        if live.ending().is_some() {
            return Err(AuthError::Revoked.into());
        }
        Ok(json!({ "expiresAt": expires_at }))
    }

    /// A page of the caller's own connections, in the order of their ids. Unless it is the last one, `next` is the next page's cursor.
    async fn devices(&self, live: &Live, asked: Value) -> Result<Value, Denied> {
        let page = DevicesPage::of(asked)?;
        let connections = match live.user() {
            Some(user) => {
                self.vouched(Some(Shard::of_user(user)), self.registry.user(user))
                    .await?
                    .connections
            }
            // Nobody but the guest itself is known to be the guest's.
            None => vec![live.record(&self.node_id)],
        };
        let (connections, next) = page.cut(connections);
        let mut answer = json!({ "connections": connections });
        if let Some(next) = next {
            answer["next"] = json!(next);
        }
        Ok(answer)
    }

    /// Ends another connection of the caller's. Its own it may leave by itself: ended here, its acknowledgement would be lost.
    async fn log_out_device(self: &Arc<Self>, live: &Live, id: Value) -> Result<Value, Denied> {
        let user = live.user().ok_or(Denied::Guest)?;
        let id: ConnectionId = id.as_str().ok_or(Denied::Arguments)?.into();
        if id == live.id {
            return Err(Denied::UnknownConnection);
        }
        let connection = self
            .vouched(Shard::of_id(&id), self.registry.connection(&id))
            .await?
            .filter(|connection| connection.user_id.as_ref() == Some(user))
            .ok_or(Denied::UnknownConnection)?;
        let target = EndTarget::Connection(Entry {
            user: connection.user_id,
            id: connection.id,
        });
        let ending = Ending::of(Ending::LOGGED_OUT);
        let outcome = self.disconnect(target, None, &ending).await;
        let result = match &outcome {
            Ok(ended) if ended.remaining.is_empty() => "done",
            Ok(_) => "unconfirmed",
            Err(_) => "unavailable",
        };
        tracing::info!(
            target: AUDIT,
            who = caller(live),
            what = "logout_device",
            whom = id.as_str(),
            result,
        );
        outcome.map_err(|_| Refusal::Unavailable)?;
        Ok(json!({}))
    }

    /// A guest says who it is: from here on the connection is its user's. It gets another id, as ids say where the registry
    /// keeps them.
    async fn authenticate(
        self: &Arc<Self>,
        guest: &Arc<Live>,
        socket: &SocketRef<Adapter>,
        token: Value,
    ) -> Result<Value, Denied> {
        if guest.user().is_some() {
            return Err(Denied::NoGuest);
        }
        let identity = self.identify(guest, token).await?;
        let id = self.registry.new_id(Some(&identity.user_id));
        let live = guest.as_user(id, identity, &self.config().limits);
        self.hub.insert(&live, 0);
        let arriving = Arriving::of(self, &live);
        let tally = self.register(&live).await?;
        let current = Current(live.clone());
        let known = || {
            socket.extensions.insert(current);
        };
        if !live.take_over(guest, known) {
            // It ended meanwhile, or is somebody by now.
            self.depart(&live, "transport_close");
            if guest.ending().is_some() && self.hub.of_session(live.session.id).is_empty() {
                // Who ended the guest took this one for staying.
                live.session.end();
            }
            return Err(Refusal::Unavailable.into());
        }
        arriving.has_arrived();
        self.hub.remove(guest);
        self.release(guest, &live);
        if live.session.is_over() || !socket.connected() {
            // That end may have met the guest only.
            self.depart(&live, "transport_close");
            return Err(Refusal::Unavailable.into());
        }
        if let Some(ending) = guest.ending() {
            live.set_ending(ending.clone());
        }
        tracing::debug!(guest = %guest.id, connection = %live.id, user = live.user().map(|user| user.as_str()), "authenticated");
        self.watch(&live);
        if let Some(ending) = live.ending().cloned() {
            self.carry_out(vec![live.clone()], &ending);
        }
        Ok(self.introduction(&live, tally))
    }

    /// Who a token says its bearer is, by the rules of the connection's namespace.
    async fn identify(&self, live: &Live, token: Value) -> Result<Identity, Denied> {
        let token = token.as_str().ok_or(AuthError::Invalid)?;
        let rule = self.auth.rule(&live.namespace).ok_or(AuthError::Invalid)?;
        let identity = self.auth.verify_for(token, &rule).await?;
        rule.authorize(&identity)?;
        Ok(identity)
    }

    /// Registers a connection, and carries out what that means for others of its user's.
    pub(super) async fn register(self: &Arc<Self>, live: &Arc<Live>) -> Result<Tally, Refusal> {
        let mut evicted = HashSet::new();
        let mut limit = self.user_limit();
        let (record, admission) = loop {
            let (losses, lease) = (self.losses(), self.lease());
            let (record, grant) = (live.record(&self.node_id), live.grant());
            let assertion = Assertion {
                connection: &record,
                grant: &grant,
                version: live.version(),
                start: live.start(),
                limit: Some(limit),
                again: false,
            };
            let admission = match self.holds_lease() {
                true => self.registry.assert(&lease, &assertion).await,
                false => Err(RegistryError::Unavailable(
                    "this node has no lease".to_owned(),
                )),
            };
            if let Ok(Admission::Admitted {
                start,
                evicted: more,
                ..
            }) = &admission
            {
                evicted.extend(more.iter().cloned());
                // It has come once, however often it is asserted.
                limit.newcomers = 0;
                // Before the next look: a resync that follows on a loss which that look does not see, sees the connection.
                live.set_registered(*start);
            }
            // A lease or data that was lost meanwhile took the entry along, and the resync after that loss did not know the connection.
            if admission.is_err() || live.is_gone() || losses == self.losses() {
                break (record, admission);
            }
        };
        let tally = match admission {
            Ok(Admission::Admitted { tally, .. }) => tally,
            Ok(Admission::Refused(bar)) => return Err(Refusal::Bar(bar)),
            Ok(Admission::Ended(ending)) => {
                tracing::debug!(connection = %live.id, ?ending, "ordered to end while it came");
                return Err(Refusal::Unavailable);
            }
            Err(error) => {
                tracing::warn!(connection = %live.id, %error, "can't register a connection");
                return Err(Refusal::Unavailable);
            }
        };
        self.hub.count(live);
        if record.transport != live.session.kind() {
            // Upgraded while the registry was being told.
            self.update(live);
        }
        for entry in evicted {
            self.evict(entry);
        }
        Ok(tally)
    }

    /// Has a connection ended that has been ordered to make room for another.
    fn evict(self: &Arc<Self>, entry: Entry) {
        let gateway = self.clone();
        tokio::spawn(async move {
            let ending = Ending::of(Ending::LIMIT);
            if let Some(live) = gateway.hub.get(&entry.id) {
                gateway.end_all(&[live], &ending);
            }
            let target = EndTarget::Connection(entry);
            if let Err(error) = gateway.disconnect(target, None, &ending).await {
                // The order stands; the next one who is admitted, or a resync, carries it out.
                tracing::warn!(%error, "can't end a connection that is to make room");
            }
        });
    }
}
