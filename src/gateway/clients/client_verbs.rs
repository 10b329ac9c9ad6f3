//! What a client may do about itself: refresh its token, see its devices, log one of them out, and, as a guest, say who it
//! is. Each is an event with an acknowledgement.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use socketioxide::extract::SocketRef;

use super::{
    admin::caller,
    verb::{ClientVerb, VerbError, users},
};
use crate::{
    auth::{AuthError, Authenticator, Credentials, Identity},
    config::RunningConfig,
    connection::{Connection, ConnectionId, NodeId, check_room},
    ending::Ending,
    gateway::{
        arg::Arg,
        calls::{Calls, connect::Candidate},
        connections::{
            LocalConnections,
            local::{CurrentConnection, Granted, LocalConnection, grant_of},
        },
        endings::{expiry::ExpiryWatch, orders::EndOrders},
        lease::OwnLease,
        membership::registrar::Registrar,
        refusal::Refusal,
        rooms::RoomChanges,
        tail::Happening,
        tasks::contain_async,
        watching::Watching,
    },
    registry::{Admission, Assertion, EndTarget, Entry, Registry, RegistryError},
    telemetry::AUDIT,
    transport::engine::Adapter,
};

/// The pause before a guest that could not be released is released again.
const RETRY: Duration = Duration::from_millis(200);

/// How many connections an answer to `devices` has at the most, and unless its client asks for fewer.
const DEVICES: usize = 1000;

/// Which of its connections a client asks for.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DevicesPage {
    limit: Option<usize>,
    /// The last id of the page before.
    cursor: Option<ConnectionId>,
}

impl DevicesPage {
    fn of(asked: Value) -> Result<Self, VerbError> {
        let page: Option<Self> = serde_json::from_value(asked).map_err(|_| VerbError::Arguments)?;
        let page = page.unwrap_or_default();
        match page.limit {
            Some(limit) if !(1..=DEVICES).contains(&limit) => Err(VerbError::Arguments),
            _ => Ok(page),
        }
    }

    /// This page of connections that are in the order of their ids, and the cursor of the next one.
    fn cut(self, mut connections: Vec<Connection>) -> (Vec<Connection>, Option<ConnectionId>) {
        if let Some(cursor) = &self.cursor {
            connections.retain(|connection| connection.id > *cursor);
        }
        let limit = self.limit.unwrap_or(DEVICES);
        let more = connections.len() > limit;
        connections.truncate(limit);
        let last = connections.last().filter(|_| more);
        let next = last.map(|connection| connection.id.clone());
        (connections, next)
    }
}

/// What clients may do about themselves. Clones are the same.
#[derive(Clone)]
pub(crate) struct ClientVerbs {
    node_id: NodeId,
    config: RunningConfig,
    auth: Authenticator,
    registry: Arc<dyn Registry>,
    lease: Arc<OwnLease>,
    connections: Arc<LocalConnections>,
    orders: Arc<EndOrders>,
    registrar: Arc<Registrar>,
    expiry: Arc<ExpiryWatch>,
    rooms: Arc<RoomChanges>,
    watching: Arc<Watching>,
    calls: Arc<Calls>,
}

impl ClientVerbs {
    /// Carries verbs out with these parts.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one of its parts, given once"
    )]
    pub(crate) fn new(
        node_id: NodeId,
        config: RunningConfig,
        auth: Authenticator,
        registry: Arc<dyn Registry>,
        lease: Arc<OwnLease>,
        connections: Arc<LocalConnections>,
        orders: Arc<EndOrders>,
        registrar: Arc<Registrar>,
        expiry: Arc<ExpiryWatch>,
        rooms: Arc<RoomChanges>,
        watching: Arc<Watching>,
        calls: Arc<Calls>,
    ) -> Self {
        Self {
            node_id,
            config,
            auth,
            registry,
            lease,
            connections,
            orders,
            registrar,
            expiry,
            rooms,
            watching,
            calls,
        }
    }

    /// Does what a client asks for. The fields of the answer are those of its acknowledgement.
    pub(crate) async fn carry_out(
        &self,
        verb: ClientVerb,
        connection: &Arc<LocalConnection>,
        socket: &SocketRef<Adapter>,
        argument: Value,
    ) -> Result<Value, VerbError> {
        match verb {
            ClientVerb::RefreshToken => self.refresh(connection, argument).await,
            ClientVerb::Devices => self.devices(connection, argument).await,
            ClientVerb::LogoutDevice => self.log_out_device(connection, argument).await,
            ClientVerb::Authenticate => self.authenticate(connection, socket, argument).await,
            ClientVerb::Join => {
                let room = self.joinable(connection, &argument)?;
                self.rooms.join(connection, room).await?;
                Ok(json!({}))
            }
            ClientVerb::Watch => {
                let users = users(argument)?;
                let users = self.watching.watch(connection, &users).await?;
                Ok(json!({ "users": users }))
            }
            ClientVerb::Unwatch => {
                self.watching.unwatch(connection, &users(argument)?);
                Ok(json!({}))
            }
            ClientVerb::Leave => {
                let room = self.joinable(connection, &argument)?;
                self.rooms.leave(connection, room).await?;
                Ok(json!({}))
            }
        }
    }

    /// A fresh token of the same user, in place of the one that the connection came in with.
    async fn refresh(
        &self,
        connection: &Arc<LocalConnection>,
        token: Value,
    ) -> Result<Value, VerbError> {
        let user = connection.user().ok_or(VerbError::Guest)?;
        let identity = self.identify(connection, token).await?;
        if identity.user_id != *user {
            return Err(AuthError::Invalid.into());
        }
        let expires_at = identity.expires_at;
        // Through the registry before it counts here: a token that has been revoked renews nothing.
        let mut record = connection.assertable(&self.node_id);
        record.expires_at = expires_at;
        connection.changed();
        let assertion = Assertion {
            connection: &record,
            grant: &grant_of(&identity),
            version: connection.version(),
            start: connection.start(),
            limit: None,
            again: true,
        };
        match self
            .registry
            .assert(&self.lease.current(), &assertion)
            .await?
        {
            Admission::Admitted { .. } => {}
            Admission::Refused(bar) => return Err(Refusal::Bar(bar).into()),
            Admission::Ended(ending) => {
                self.connections
                    .end_all(std::slice::from_ref(connection), &ending);
                return Err(Refusal::Unavailable.into());
            }
        }
        connection.renew(identity);
        let changed = self.connections.claim_rooms(connection);
        self.connections.memberships.settle(changed).await?;
        connection.changed();
        self.expiry.watch(connection);
        self.watching.follow_claim(connection);
        // A revocation of this token since then has looked for it on a connection that still had the token before; and an assertion
        // with that one may have come last.
        self.registrar.assert_again(connection).await?;
        if connection.ending().is_some() {
            return Err(AuthError::Revoked.into());
        }
        Ok(json!({ "expiresAt": expires_at }))
    }

    /// A page of the caller's own connections, in the order of their ids. Unless it is the last one, `next` is the next page's cursor.
    async fn devices(
        &self,
        connection: &LocalConnection,
        asked: Value,
    ) -> Result<Value, VerbError> {
        let page = DevicesPage::of(asked)?;
        let connections = match connection.user() {
            Some(user) => {
                self.lease
                    .vouched(
                        Some(self.registry.shards().of_user(user)),
                        self.registry.user(user),
                    )
                    .await?
                    .connections
            }
            // Nobody but the guest itself is known to be the guest's.
            None => vec![connection.record(&self.node_id)],
        };
        let (connections, next) = page.cut(connections);
        let connections: Vec<_> = connections
            .into_iter()
            .map(Connection::for_clients)
            .collect();
        let mut answer = json!({ "connections": connections });
        if let Some(next) = next {
            answer["next"] = json!(next);
        }
        Ok(answer)
    }

    /// Ends another connection of the caller's. Its own it may leave by itself: ended here, its acknowledgement would be lost.
    async fn log_out_device(
        &self,
        connection: &LocalConnection,
        id: Value,
    ) -> Result<Value, VerbError> {
        let user = connection.user().ok_or(VerbError::Guest)?;
        let id: ConnectionId = id.as_str().ok_or(VerbError::Arguments)?.into();
        if id == connection.id {
            return Err(VerbError::UnknownConnection);
        }
        let other = self
            .lease
            .vouched(
                self.registry.shards().of_id(&id),
                self.registry.connection(&id),
            )
            .await?
            .filter(|other| other.user_id.as_ref() == Some(user))
            .ok_or(VerbError::UnknownConnection)?;
        let target = EndTarget::Connection(Entry {
            user: other.user_id,
            id: other.id,
        });
        let ending = Ending::of(Ending::LOGGED_OUT);
        let outcome = self.orders.disconnect(target, None, &ending).await;
        let result = match &outcome {
            Ok(ended) if ended.remaining.is_empty() => "done",
            Ok(_) => "unconfirmed",
            Err(_) => "unavailable",
        };
        tracing::info!(
            target: AUDIT,
            who = caller(connection),
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
        &self,
        guest: &Arc<LocalConnection>,
        socket: &SocketRef<Adapter>,
        token: Value,
    ) -> Result<Value, VerbError> {
        if guest.user().is_some() {
            return Err(VerbError::NoGuest);
        }
        let (identity, granted) = self.let_in(guest, token).await?;
        let id = self.registry.new_id(Some(&identity.user_id));
        let connection = guest.as_user(id, identity, granted, &self.config.now().limits);
        self.connections.claim_rooms(&connection);
        self.connections.table.insert(&connection, 0);
        let arriving = self.connections.guard(&connection);
        let tally = self.registrar.register(&connection).await?;
        let current = CurrentConnection(connection.clone());
        let known = || {
            socket.extensions.insert(current);
        };
        if !connection.take_over(guest, known) {
            // It ended meanwhile, or is somebody by now.
            self.connections.depart(&connection, "transport_close");
            if guest.ending().is_some()
                && self
                    .connections
                    .table
                    .of_session(connection.session.id)
                    .is_empty()
            {
                // Who ended the guest took this one for staying.
                connection.session.end();
            }
            return Err(Refusal::Unavailable.into());
        }
        arriving.has_arrived();
        self.connections.table.remove(guest);
        self.release(guest, &connection);
        if connection.session.is_over() || !socket.connected() {
            // That end may have met the guest only.
            self.connections.depart(&connection, "transport_close");
            return Err(Refusal::Unavailable.into());
        }
        if let Some(ending) = guest.ending() {
            connection.set_ending(ending.clone());
        }
        tracing::debug!(guest = %guest.id, connection = %connection.id, user = connection.user().map(|user| user.as_str()), "authenticated");
        self.connections.tail.tell(|| Happening::Connected {
            who: connection.who(),
            transport: connection.session.kind().as_str(),
        });
        self.expiry.watch(&connection);
        self.watching.go_on(&connection);
        if !connection.memberships().is_empty() {
            let members = connection.memberships();
            self.connections.memberships.settle(members).await?;
            self.registrar.update(&connection);
        }
        if let Some(ending) = connection.ending().cloned() {
            self.connections
                .carry_out(vec![connection.clone()], &ending);
        }
        Ok(connection.introduction(&self.node_id, tally))
    }

    /// The room that a client names, if it may join rooms like that and leave them.
    fn joinable<'a>(
        &self,
        connection: &LocalConnection,
        room: &'a Value,
    ) -> Result<&'a str, VerbError> {
        let room = room.as_str().ok_or(VerbError::Arguments)?;
        check_room(room)?;
        let config = self.config.now();
        let mut namespaces = config.namespaces.iter();
        let namespace = namespaces.find(|it| *it.path == *connection.namespace);
        match namespace.is_some_and(|namespace| namespace.lets_join(room)) {
            true => Ok(room),
            false => Err(VerbError::ForbiddenRoom),
        }
    }

    /// Who a guest is by a token, and what the namespace's backend, if it has one, says of that user.
    async fn let_in(
        &self,
        guest: &LocalConnection,
        token: Value,
    ) -> Result<(Identity, Option<Arc<Granted>>), VerbError> {
        let rule = self.auth.token_rule(&guest.namespace)?;
        let credentials = Credentials {
            token: token.as_str().map(Into::into),
            ..Credentials::default()
        };
        let identity = self.identify(guest, token).await?;
        let candidate = Candidate {
            rule: &rule,
            session: &guest.session,
            credentials: &credentials,
            device_id: guest.device_id.as_deref(),
            identity: Some(identity),
        };
        let nothing = || Arg::Object(Vec::new());
        match self.calls.ask(candidate, nothing).await? {
            (Some(identity), granted) => Ok((identity, granted)),
            (None, _) => Err(AuthError::Invalid.into()),
        }
    }

    /// Who a token says its bearer is, by the rules of the connection's namespace.
    async fn identify(
        &self,
        connection: &LocalConnection,
        token: Value,
    ) -> Result<Identity, VerbError> {
        // What is no token, and what may stand before one, is as in a handshake.
        let auth = json!({ "token": token });
        let credentials = Credentials::from_handshake(Some(&auth), &HeaderMap::new());
        let token = credentials.preferred().ok_or(AuthError::Missing)?;
        let rule = self.auth.token_rule(&connection.namespace)?;
        let identity = self.auth.verify_for(token.expose_secret(), &rule).await?;
        rule.authorize(&identity)?;
        Ok(identity)
    }

    /// A guest's client goes on as `connection`. An order for the guest also ends that connection: then the guest is in the registry
    /// until the client is gone.
    pub(crate) fn release(&self, guest: &Arc<LocalConnection>, connection: &Arc<LocalConnection>) {
        let (verbs, guest, connection) = (self.clone(), guest.clone(), connection.clone());
        tokio::spawn(async move {
            loop {
                let call = verbs.pass_on(&guest, &connection);
                match contain_async("releasing a guest", &guest.id, call).await {
                    Some(Ok(())) => return,
                    Some(Err(error)) => {
                        tracing::debug!(%error, guest = %guest.id, "can't release a guest yet");
                    }
                    None => {}
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    async fn pass_on(
        &self,
        guest: &Arc<LocalConnection>,
        connection: &Arc<LocalConnection>,
    ) -> Result<(), RegistryError> {
        let Some(ending) = self
            .registry
            .release(&self.lease.current(), &guest.entry())
            .await?
        else {
            self.connections.memberships.doubt(guest.memberships());
            self.connections.table.forget(guest);
            guest.unregistered.set(()).ok();
            return Ok(());
        };
        self.connections
            .end_all(std::slice::from_ref(connection), &ending);
        connection.closed().await;
        self.connections.unregister(guest);
        Ok(())
    }
}
