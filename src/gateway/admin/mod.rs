//! The `/admin` namespace: a backend's verbs as events, for people with the right. The right is looked at anew each time.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    GatewayError, Inner,
    access::Ban,
    live::Live,
    message::{Message, Target},
};
use crate::{
    auth::SessionRef,
    connection::{ConnectionId, MAX_USER_ID_BYTES, Tally, UserId},
    ending::Ending,
    registry::{EndTarget, Fence},
};

/// The namespace whose connections may use a backend's verbs.
pub(super) const NAMESPACE: &str = "/admin";

/// What a client without the right is told.
const UNAUTHORIZED: &str = "Unauthorized action";

/// Users in one page, unless asked otherwise; and at the most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// The longest wait for acknowledgements, in milliseconds.
const MAX_ACK_TIMEOUT: u64 = 30_000;

/// Why a verb is not carried out. `Display` is what its acknowledgement says.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("{UNAUTHORIZED}")]
    Unauthorized,
    #[error("Invalid arguments: {0}")]
    Arguments(#[from] serde_json::Error),
    #[error("{0}")]
    Unacceptable(String),
    #[error("Service unavailable")]
    Gateway(#[from] GatewayError),
    #[error("Service unavailable")]
    Away,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListUsers {
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfUser {
    user: UserId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendToUser {
    user: UserId,
    event: String,
    #[serde(default, deserialize_with = "present")]
    data: Option<Value>,
    #[serde(default = "root")]
    namespace: String,
    ack: Option<AckAsked>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AckAsked {
    timeout_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DisconnectUser {
    user: UserId,
    reason: Option<String>,
    code: Option<u16>,
    reconnect: Option<bool>,
    #[serde(default)]
    except: Vec<ConnectionId>,
    #[serde(default)]
    revoke_tokens: bool,
}

#[derive(Deserialize)]
struct BanUser {
    user: UserId,
    #[serde(flatten)]
    ban: Ban,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RevokeTokens {
    user: UserId,
    issued_before: Option<Timestamp>,
}

/// An argument that is there, also when it is null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn root() -> String {
    "/".into()
}

/// An object or nothing; and who is named in it is somebody.
fn checked(argument: Value) -> Result<Value, Denied> {
    if !argument.is_object() && !argument.is_null() {
        return Err(Denied::Unacceptable("the argument: an object".into()));
    }
    match argument.get("user").and_then(Value::as_str) {
        Some(user) if user.is_empty() || user.len() > MAX_USER_ID_BYTES => Err(
            Denied::Unacceptable(format!("user: from 1 to {MAX_USER_ID_BYTES} bytes")),
        ),
        _ => Ok(argument),
    }
}

/// Who asks, as the audit lines of the API name whoever comes with a token.
/// Who a connection is, in lines of the audit.
pub(super) fn caller(live: &Live) -> String {
    live.user()
        .map_or_else(|| "guest".to_owned(), |user| format!("jwt:{user}"))
}

fn arguments<T: DeserializeOwned>(argument: Value) -> Result<T, Denied> {
    Ok(serde_json::from_value(argument)?)
}

/// The events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    ListUsers,
    GetUser,
    SendToUser,
    DisconnectUser,
    BanUser,
    UnbanUser,
    RevokeTokens,
}

impl Verb {
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

    /// The verb of that name.
    pub(super) fn of(event: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == event)
    }
}

impl Inner {
    /// Does what an administrator asks for, and says so in the audit. Who is not, or no longer, one is told so and
    /// disconnected.
    pub(super) async fn carry_out_admin(
        self: &Arc<Self>,
        verb: Verb,
        live: &Arc<Live>,
        argument: Value,
    ) -> Result<Value, Denied> {
        self.authorize(live).await?;
        let whom = argument.get("user").cloned().unwrap_or_default();
        let outcome = match checked(argument) {
            Ok(argument) => self.carry_out_verb(verb, argument).await,
            Err(denied) => Err(denied),
        };
        let result = match &outcome {
            Ok(_) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::info!(target: "audit", who = caller(live), what = verb.name(), %whom, result);
        outcome
    }

    async fn carry_out_verb(
        self: &Arc<Self>,
        verb: Verb,
        argument: Value,
    ) -> Result<Value, Denied> {
        match verb {
            Verb::ListUsers => self.list_users(argument).await,
            Verb::GetUser => self.get_user(argument).await,
            Verb::SendToUser => self.send_to(argument).await,
            Verb::DisconnectUser => self.disconnect_one(argument).await,
            Verb::BanUser => self.ban_one(argument).await,
            Verb::UnbanUser => self.unban_one(argument).await,
            Verb::RevokeTokens => self.revoke_one(argument).await,
        }
    }

    /// Whether a connection may still use the verbs: its token has not run out, has the role, and nothing is held against
    /// it. If not, it is told and ended.
    async fn authorize(self: &Arc<Self>, live: &Arc<Live>) -> Result<(), Denied> {
        let ending = match self.objection(live).await? {
            None => return Ok(()),
            Some(ending) => ending,
        };
        tracing::info!(target: "audit", who = caller(live), what = "admin", result = UNAUTHORIZED);
        live.send_error(UNAUTHORIZED);
        self.end_all(std::slice::from_ref(live), &ending);
        Err(Denied::Unauthorized)
    }

    async fn objection(&self, live: &Live) -> Result<Option<Ending>, Denied> {
        let unauthorized = Some(Ending::of(Ending::DISCONNECTED).because(UNAUTHORIZED));
        let Some(identity) = live.identity() else {
            return Ok(unauthorized);
        };
        let has_role = self
            .auth
            .rule(&live.namespace)
            .is_some_and(|rule| rule.authorize(&identity).is_ok());
        if !has_role {
            return Ok(unauthorized);
        }
        if identity
            .expires_at
            .is_some_and(|end| end <= Timestamp::now())
        {
            return Ok(Some(Ending::of(Ending::TOKEN_EXPIRED).final_one()));
        }
        if let Some(SessionRef::Cookie(id)) = &identity.session {
            let over = self.auth.recheck(&[(id.clone(), identity.as_ref())]).await;
            if !over.map_err(|_| Denied::Away)?.is_empty() {
                return Ok(Some(Ending::of(Ending::SESSION_ENDED)));
            }
        }
        let standing = self
            .registry
            .standing(&[(live.entry(), live.grant())])
            .await;
        let bars = standing.map_err(GatewayError::from)?;
        Ok(bars.first().map(|(_, bar)| bar.ending()))
    }

    async fn list_users(&self, argument: Value) -> Result<Value, Denied> {
        let asked: ListUsers = match argument {
            Value::Null => ListUsers::default(),
            argument => arguments(argument)?,
        };
        let limit = asked.limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Denied::Unacceptable(format!("limit: from 1 to {MAX_PAGE}")));
        }
        let page = self
            .registry
            .users(asked.cursor.as_deref(), limit)
            .await
            .map_err(GatewayError::from)?;
        let users: Vec<_> = page
            .users
            .into_iter()
            .map(
                |(
                    user,
                    Tally {
                        connections,
                        devices,
                    },
                )| {
                    json!({ "userId": user, "connections": connections, "devices": devices })
                },
            )
            .collect();
        Ok(json!({ "users": users, "next": page.next }))
    }

    async fn get_user(&self, argument: Value) -> Result<Value, Denied> {
        let OfUser { user } = arguments(argument)?;
        let entry = self
            .registry
            .user(&user)
            .await
            .map_err(GatewayError::from)?;
        let devices = entry.connections.iter().map(|c| c.device_id.as_deref());
        Ok(json!({
            "userId": user,
            "online": !entry.connections.is_empty(),
            "devices": Tally::of(devices).devices,
            "connections": entry.connections,
            "lastSeen": entry.last_seen,
            "banned": entry.banned,
        }))
    }

    async fn send_to(self: &Arc<Self>, argument: Value) -> Result<Value, Denied> {
        let SendToUser {
            user,
            event,
            data,
            namespace,
            ack,
        } = arguments(argument)?;
        let message = Message {
            event,
            data,
            namespace,
        };
        if !message.is_sendable() {
            return Err(Denied::Unacceptable("event: empty or reserved".into()));
        }
        self.known(&message.namespace)
            .map_err(|error| Denied::Unacceptable(error.to_string()))?;
        match ack {
            Some(AckAsked { timeout_ms }) if !(1..=MAX_ACK_TIMEOUT).contains(&timeout_ms) => Err(
                Denied::Unacceptable(format!("ack.timeoutMs: from 1 to {MAX_ACK_TIMEOUT}")),
            ),
            Some(AckAsked { timeout_ms }) => {
                let timeout = Duration::from_millis(timeout_ms);
                let acked = self.send_with_ack(&user, &message, timeout).await?;
                Ok(serde_json::to_value(acked)?)
            }
            None => {
                let delivery = self.send(&Target::User(user), &message).await?;
                Ok(serde_json::to_value(delivery)?)
            }
        }
    }

    async fn disconnect_one(self: &Arc<Self>, argument: Value) -> Result<Value, Denied> {
        let asked: DisconnectUser = arguments(argument)?;
        let default = match asked.reconnect {
            Some(true) => Ending::RECONNECT_REQUESTED,
            _ => Ending::DISCONNECTED,
        };
        let code = asked.code.unwrap_or(default);
        let mut ending = Ending::of(code);
        if !(4000..5000).contains(&code) || asked.reconnect.is_some_and(|it| it != ending.reconnect)
        {
            return Err(Denied::Unacceptable("code: not one for this".into()));
        }
        if let Some(reason) = asked.reason {
            ending = ending.because(reason);
        }
        let target = EndTarget::User {
            user: asked.user,
            except: asked.except,
        };
        let fence = asked.revoke_tokens.then_some(Fence::RevokeBefore(None));
        let ended = self.disconnect(target, fence, &ending).await?;
        Ok(serde_json::to_value(ended)?)
    }

    async fn ban_one(self: &Arc<Self>, argument: Value) -> Result<Value, Denied> {
        let BanUser { user, ban } = arguments(argument)?;
        if ban.until.is_some_and(|until| until <= Timestamp::now()) {
            return Err(Denied::Unacceptable("until: in the past".into()));
        }
        self.ban(&user, &ban).await?;
        Ok(json!({ "banned": true, "reason": ban.reason, "until": ban.until }))
    }

    async fn unban_one(&self, argument: Value) -> Result<Value, Denied> {
        let OfUser { user } = arguments(argument)?;
        self.registry
            .unban(&user)
            .await
            .map_err(GatewayError::from)?;
        Ok(json!({ "banned": false, "reason": null, "until": null }))
    }

    async fn revoke_one(self: &Arc<Self>, argument: Value) -> Result<Value, Denied> {
        let RevokeTokens {
            user,
            issued_before,
        } = arguments(argument)?;
        let revoked = self.revoke_tokens(&user, issued_before).await?;
        Ok(json!({
            "revokedBefore": revoked.revoked_before,
            "disconnected": revoked.disconnected.disconnected,
        }))
    }
}
