//! What each of the administrators' events does, and what its acknowledgement holds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AdminError, AdminVerbs,
    arguments::{Arguments, ListUsers, Nothing},
};
use crate::{
    connection::{Connection, Tally},
    gateway::{
        GatewayError,
        message::Target,
        requests::{
            self,
            end::{
                BanAnswer, BanRequest, BannedAnswer, DisconnectRequest, RevokeTokensRequest,
                RevokedAnswer,
            },
            send::{self, AckRequest, SendRequest},
        },
    },
    registry::{EndTarget, Fence, RegistryError},
};

impl AdminVerbs {
    pub(super) async fn list_users(&self, arguments: Arguments) -> Result<Value, AdminError> {
        let asked: ListUsers = arguments.of_nobody()?;
        let limit = requests::page(asked.limit)?;
        let page = self.registry.users(asked.cursor.as_deref(), limit);
        let page = self
            .lease
            .vouched(None, page)
            .await
            .map_err(|error| match error {
                RegistryError::BadCursor => AdminError::Unacceptable(error.to_string()),
                error => GatewayError::from(error).into(),
            })?;
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

    pub(super) async fn get_user(&self, arguments: Arguments) -> Result<Value, AdminError> {
        let (user, Nothing {}) = arguments.of_user()?;
        let entry = self.registry.user(&user);
        let entry = self
            .lease
            .vouched(Some(self.registry.shards().of_user(&user)), entry)
            .await
            .map_err(GatewayError::from)?;
        let devices = entry.connections.iter().map(|c| c.device_id.as_deref());
        let connections = entry.connections.iter().cloned();
        let connections: Vec<_> = connections.map(Connection::for_clients).collect();
        Ok(json!({
            "userId": user,
            "online": !entry.connections.is_empty(),
            "devices": Tally::of(devices).devices,
            "connections": connections,
            "lastSeen": entry.last_seen,
            "banned": entry.banned,
        }))
    }

    pub(super) async fn send_to(&self, arguments: Arguments) -> Result<Value, AdminError> {
        let (user, asked): (_, SendRequest) = arguments.of_user()?;
        let (content, device, ack) = asked.parts();
        let timeout = ack.as_ref().map(AckRequest::timeout).transpose()?;
        let device = device.map(requests::device_id).transpose()?;
        let max_payload = self.delivery.max_payload();
        let known = |path: &str| self.delivery.check_namespace(path).is_ok();
        let message = send::message(content, max_payload, known)?;
        match timeout {
            Some(timeout) => {
                let acked = self
                    .delivery
                    .send_with_ack(&Target::user(user, device), &message, timeout)
                    .await?;
                Ok(serde_json::to_value(acked)?)
            }
            None => {
                let target = Target::user(user, device);
                let delivery = self.delivery.send(target, message).await?;
                Ok(serde_json::to_value(delivery)?)
            }
        }
    }

    pub(super) async fn disconnect_one(&self, arguments: Arguments) -> Result<Value, AdminError> {
        let (user, asked): (_, DisconnectRequest) = arguments.of_user()?;
        let ending = asked.ending()?;
        let fence = (asked.revoke_tokens == Some(true)).then_some(Fence::RevokeBefore(None));
        let except = asked.excepted()?;
        let target = EndTarget::User { user, except };
        let ended = self.orders.disconnect(target, fence, &ending).await?;
        Ok(serde_json::to_value(ended)?)
    }

    pub(super) async fn ban_one(&self, arguments: Arguments) -> Result<Value, AdminError> {
        let (user, asked): (_, BanRequest) = arguments.of_user()?;
        let ban = asked.ban(Timestamp::now())?;
        let ended = self.orders.ban(&user, &ban).await?;
        let ban = Some(ban).into();
        Ok(serde_json::to_value(BannedAnswer { ban, ended })?)
    }

    pub(super) async fn unban_one(&self, arguments: Arguments) -> Result<Value, AdminError> {
        let (user, Nothing {}) = arguments.of_user()?;
        self.registry
            .unban(&user)
            .await
            .map_err(GatewayError::from)?;
        Ok(serde_json::to_value(BanAnswer::from(None))?)
    }

    pub(super) async fn revoke_one(&self, arguments: Arguments) -> Result<Value, AdminError> {
        let (user, asked): (_, RevokeTokensRequest) = arguments.of_user()?;
        let revoked = self
            .orders
            .revoke_tokens(&user, asked.issued_before)
            .await?;
        Ok(serde_json::to_value(RevokedAnswer::from(revoked))?)
    }
}
