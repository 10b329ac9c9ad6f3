//! The `/admin` namespace: a backend's verbs as events, for people with the right. The right is looked at anew each time.
//!
//! `arguments` is what the events come with, `verbs` what each of them does; `bearer` is the same right for the HTTP API.

mod arguments;
mod bearer;
mod verbs;

use std::sync::Arc;

use derive_more::Constructor;
use jiff::Timestamp;
use serde_json::Value;

use self::arguments::Arguments;
pub(crate) use self::arguments::Given;
pub use self::bearer::{TokenBearer, TokenRefused};
use crate::{
    auth::{Authenticator, Identity, SessionRef},
    ending::Ending,
    gateway::{
        GatewayError,
        connections::{LocalConnections, local::LocalConnection},
        delivery::Deliverer,
        endings::orders::EndOrders,
        lease::OwnLease,
        requests::Invalid,
    },
    registry::{Bar, Entry, Grant, Registry},
    telemetry::AUDIT,
};

/// The namespace whose connections may use a backend's verbs.
pub(crate) const NAMESPACE: &str = "/admin";

/// What a client without the right is told.
const UNAUTHORIZED: &str = "Unauthorized action";

/// Why a verb is not carried out. `Display` is what its acknowledgement says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("{UNAUTHORIZED}")]
    Unauthorized,
    #[error("Invalid arguments: {0}")]
    Arguments(#[from] serde_json::Error),
    #[error("{0}")]
    Unacceptable(String),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("Service unavailable")]
    Gateway(#[from] GatewayError),
    #[error("Service unavailable")]
    Away,
}

/// Who a connection is, in lines of the audit: as the API names the bearer of a token.
pub(crate) fn caller(connection: &LocalConnection) -> String {
    connection
        .user()
        .map_or_else(|| "guest".to_owned(), |user| format!("jwt:{user}"))
}

/// The events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminVerb {
    ListUsers,
    GetUser,
    SendToUser,
    DisconnectUser,
    BanUser,
    UnbanUser,
    RevokeTokens,
}

impl AdminVerb {
    const ALL: [Self; 7] = [
        Self::ListUsers,
        Self::GetUser,
        Self::SendToUser,
        Self::DisconnectUser,
        Self::BanUser,
        Self::UnbanUser,
        Self::RevokeTokens,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ListUsers => "listUsers",
            Self::GetUser => "getUser",
            Self::SendToUser => "sendToUser",
            Self::DisconnectUser => "disconnectUser",
            Self::BanUser => "banUser",
            Self::UnbanUser => "unbanUser",
            Self::RevokeTokens => "revokeTokens",
        }
    }

    /// Whether it does more than look.
    fn changes(self) -> bool {
        !matches!(self, Self::ListUsers | Self::GetUser)
    }

    /// The verb of that name.
    pub(crate) fn of(event: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == event)
    }
}

/// What administrators may do.
#[derive(Constructor)]
pub(crate) struct AdminVerbs {
    auth: Authenticator,
    registry: Arc<dyn Registry>,
    lease: Arc<OwnLease>,
    connections: Arc<LocalConnections>,
    delivery: Arc<Deliverer>,
    orders: Arc<EndOrders>,
}

impl AdminVerbs {
    /// Does what an administrator asks for, and says so in the audit if it changes something. Who is not, or no longer, one is told so and
    /// disconnected.
    pub(crate) async fn carry_out(
        &self,
        verb: AdminVerb,
        connection: &Arc<LocalConnection>,
        given: Given,
    ) -> Result<Value, AdminError> {
        self.authorize(connection).await?;
        let whom = given.whom();
        let outcome = match given.parts() {
            Ok(arguments) => self.carry_out_verb(verb, arguments).await,
            Err(denied) => Err(denied),
        };
        let result = match &outcome {
            Ok(_) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        if verb.changes() {
            tracing::info!(target: AUDIT, who = caller(connection), what = verb.name(), %whom, result);
        }
        outcome
    }

    async fn carry_out_verb(
        &self,
        verb: AdminVerb,
        arguments: Arguments,
    ) -> Result<Value, AdminError> {
        match verb {
            AdminVerb::ListUsers => self.list_users(arguments).await,
            AdminVerb::GetUser => self.get_user(arguments).await,
            AdminVerb::SendToUser => self.send_to(arguments).await,
            AdminVerb::DisconnectUser => self.disconnect_one(arguments).await,
            AdminVerb::BanUser => self.ban_one(arguments).await,
            AdminVerb::UnbanUser => self.unban_one(arguments).await,
            AdminVerb::RevokeTokens => self.revoke_one(arguments).await,
        }
    }

    /// Whether a connection may still use the verbs: its token has not run out, has the role, and nothing is held against
    /// it. If not, it is told and ended.
    async fn authorize(&self, connection: &Arc<LocalConnection>) -> Result<(), AdminError> {
        let ending = match self.objection(connection).await? {
            None => return Ok(()),
            Some(ending) => ending,
        };
        tracing::info!(target: AUDIT, who = caller(connection), what = "admin", result = UNAUTHORIZED);
        connection.send_error(UNAUTHORIZED);
        self.connections
            .end_all(std::slice::from_ref(connection), &ending);
        Err(AdminError::Unauthorized)
    }

    async fn objection(&self, connection: &LocalConnection) -> Result<Option<Ending>, AdminError> {
        let unauthorized = Some(Ending::of(Ending::DISCONNECTED).because(UNAUTHORIZED));
        let Some(identity) = connection.identity() else {
            return Ok(unauthorized);
        };
        if !self.is_administrator(&identity) {
            return Ok(unauthorized);
        }
        if identity
            .expires_at
            .is_some_and(|end| end <= Timestamp::now())
        {
            return Ok(Some(Ending::of(Ending::TOKEN_EXPIRED).final_one()));
        }
        if let Some(SessionRef::Cookie(id)) = &identity.session {
            // By what the session said: a backend may have given another role.
            let shown = connection.shown().unwrap_or_else(|| identity.clone());
            let over = self.auth.recheck(&[(id.clone(), shown.as_ref())]).await;
            if !over.map_err(|_| AdminError::Away)?.is_empty() {
                return Ok(Some(Ending::of(Ending::SESSION_ENDED)));
            }
        }
        let bar = self.bar(connection.entry(), connection.grant()).await?;
        Ok(bar.map(|bar| bar.ending()))
    }

    /// Whether somebody has a role that `/admin` asks for. False where there is no `/admin`.
    fn is_administrator(&self, identity: &Identity) -> bool {
        self.auth
            .rule(NAMESPACE)
            .is_some_and(|rule| rule.authorize(identity).is_ok())
    }

    /// What is held against a user or what the user came with: a ban, a revocation, or the end of the session.
    async fn bar(&self, entry: Entry, grant: Grant) -> Result<Option<Bar>, GatewayError> {
        let bars = self.registry.standing(&[(entry, grant)]).await?;
        Ok(bars.first().map(|(_, bar)| *bar))
    }
}
