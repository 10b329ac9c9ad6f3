//! What each of the administrators' events does, and what its acknowledgement holds.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AdminError, AdminVerbs,
    arguments::{
        AckAsked, BanUser, DisconnectUser, ListUsers, OfUser, RevokeTokens, SendToUser, arguments,
    },
};
use crate::{
    auth::is_device_id,
    connection::Tally,
    ending::Ending,
    gateway::{
        GatewayError,
        message::{Json, Message, Target},
    },
    registry::{Ban, EndTarget, Fence, MOST_EXCEPTIONS, keys::Shard},
};

/// Users in one page, unless asked otherwise; and at the most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// The longest wait for acknowledgements, in milliseconds.
const MAX_ACK_TIMEOUT: u64 = 30_000;

impl AdminVerbs {
    pub(super) async fn list_users(&self, argument: Value) -> Result<Value, AdminError> {
        let asked: ListUsers = arguments(argument)?;
        let limit = asked.limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(AdminError::Unacceptable(format!(
                "limit: from 1 to {MAX_PAGE}"
            )));
        }
        let page = self.registry.users(asked.cursor.as_deref(), limit);
        let page = self
            .lease
            .vouched(None, page)
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

    pub(super) async fn get_user(&self, argument: Value) -> Result<Value, AdminError> {
        let OfUser { user } = arguments(argument)?;
        let entry = self.registry.user(&user);
        let entry = self
            .lease
            .vouched(Some(Shard::of_user(&user)), entry)
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

    pub(super) async fn send_to(&self, argument: Value) -> Result<Value, AdminError> {
        let SendToUser {
            user,
            device,
            event,
            data,
            namespace,
            ack,
        } = arguments(argument)?;
        let data = data.as_ref().map(Json::of).transpose()?;
        let message = Message {
            event,
            data,
            namespace,
        };
        if !message.is_sendable() {
            return Err(AdminError::Unacceptable(format!(
                "event: {:?} is empty, or Socket.IO's or Switchboard's own",
                message.event
            )));
        }
        if device.as_ref().is_some_and(|device| !is_device_id(device)) {
            return Err(AdminError::Unacceptable(
                "device: from 1 to 128 characters".into(),
            ));
        }
        self.delivery
            .check_namespace(&message.namespace)
            .map_err(|error| AdminError::Unacceptable(error.to_string()))?;
        match ack {
            Some(AckAsked { timeout_ms }) if !(1..=MAX_ACK_TIMEOUT).contains(&timeout_ms) => Err(
                AdminError::Unacceptable(format!("ack.timeoutMs: from 1 to {MAX_ACK_TIMEOUT}")),
            ),
            Some(AckAsked { timeout_ms }) => {
                let timeout = Duration::from_millis(timeout_ms);
                let acked = self
                    .delivery
                    .send_with_ack(&user, device, &message, timeout)
                    .await?;
                Ok(serde_json::to_value(acked)?)
            }
            None => {
                let target = Target::user(user, device);
                let delivery = self.delivery.send(&target, &message).await?;
                Ok(serde_json::to_value(delivery)?)
            }
        }
    }

    pub(super) async fn disconnect_one(&self, argument: Value) -> Result<Value, AdminError> {
        let asked: DisconnectUser = arguments(argument)?;
        let default = match asked.reconnect {
            Some(true) => Ending::RECONNECT_REQUESTED,
            _ => Ending::DISCONNECTED,
        };
        let code = asked.code.unwrap_or(default);
        let mut ending = Ending::of(code);
        if !(4000..5000).contains(&code) || asked.reconnect.is_some_and(|it| it != ending.reconnect)
        {
            return Err(AdminError::Unacceptable("code: not one for this".into()));
        }
        if asked.except.len() > MOST_EXCEPTIONS {
            return Err(AdminError::Unacceptable(format!(
                "except: at most {MOST_EXCEPTIONS}"
            )));
        }
        if let Some(reason) = asked.reason {
            ending = ending.because(reason);
        }
        let target = EndTarget::User {
            user: asked.user,
            except: asked.except,
        };
        let fence = asked.revoke_tokens.then_some(Fence::RevokeBefore(None));
        let ended = self.orders.disconnect(target, fence, &ending).await?;
        Ok(serde_json::to_value(ended)?)
    }

    pub(super) async fn ban_one(&self, argument: Value) -> Result<Value, AdminError> {
        let BanUser {
            user,
            reason,
            until,
        } = arguments(argument)?;
        let ban = Ban { reason, until };
        if ban.until.is_some_and(|until| until <= Timestamp::now()) {
            return Err(AdminError::Unacceptable("until: in the past".into()));
        }
        let ended = self.orders.ban(&user, &ban).await?;
        Ok(json!({
            "banned": true,
            "reason": ban.reason,
            "until": ban.until,
            "disconnected": ended.disconnected,
            "nodes": ended.nodes,
            "remaining": ended.remaining,
        }))
    }

    pub(super) async fn unban_one(&self, argument: Value) -> Result<Value, AdminError> {
        let OfUser { user } = arguments(argument)?;
        self.registry
            .unban(&user)
            .await
            .map_err(GatewayError::from)?;
        Ok(json!({ "banned": false, "reason": null, "until": null }))
    }

    pub(super) async fn revoke_one(&self, argument: Value) -> Result<Value, AdminError> {
        let RevokeTokens {
            user,
            issued_before,
        } = arguments(argument)?;
        let revoked = self.orders.revoke_tokens(&user, issued_before).await?;
        let ended = revoked.disconnected;
        Ok(json!({
            "revokedBefore": revoked.revoked_before,
            "disconnected": ended.disconnected,
            "nodes": ended.nodes,
            "remaining": ended.remaining,
        }))
    }
}
