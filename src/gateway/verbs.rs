//! The verbs a backend has: to send, to look, to disconnect. Those on a user's right to be connected are in `access` and
//! `sessions`.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::gateway::{
    Gateway, GatewayError, TokenBearer, TokenRefused,
    message::{Acked, Delivery, Disconnected, Message, Target},
};
use crate::{
    connection::{Connection, ConnectionId, UserId},
    ending::Ending,
    registry::{
        Call, CallEnd, Claim, EndTarget, Entry, Fence, Node, Presence, Totals, UserEntry, UsersPage,
    },
};

impl Gateway {
    /// Hands a message to connections, wherever they are. No connection is an answer, not an error.
    pub async fn send(&self, target: Target, message: Message) -> Result<Delivery, GatewayError> {
        self.inner.delivery.check_namespace(&message.namespace)?;
        self.inner.delivery.send(target, message).await
    }

    /// Hands a message to connections in two steps. When this returns the message is under way, behind those that were before it;
    /// the future says within a second where it went.
    pub async fn dispatch(
        &self,
        target: &Target,
        message: &Message,
    ) -> Result<BoxFuture<'_, Delivery>, GatewayError> {
        self.inner.delivery.check_namespace(&message.namespace)?;
        self.inner.delivery.dispatch(target, message).await
    }

    /// Hands a message to connections, wherever they are, and collects what the clients answer within `timeout`.
    pub async fn send_with_ack(
        &self,
        target: &Target,
        message: &Message,
        timeout: Duration,
    ) -> Result<Acked, GatewayError> {
        self.inner.delivery.check_namespace(&message.namespace)?;
        self.inner
            .delivery
            .send_with_ack(target, message, timeout)
            .await
    }

    /// Claims a call that may be repeated, before anything is done for it, or prolongs the claim that this attempt has. An error means
    /// that nothing may be done for the call.
    pub async fn claim_call(&self, call: &Call) -> Result<Claim, GatewayError> {
        Ok(self.inner.registry.claim_call(call).await?)
    }

    /// Gives a claimed call its end, unless another attempt has taken the place of this one.
    pub async fn settle_call(&self, call: &Call, end: CallEnd<'_>) -> Result<(), GatewayError> {
        Ok(self.inner.registry.settle_call(call, end).await?)
    }

    /// A user's connections.
    pub async fn user(&self, user: &UserId) -> Result<UserEntry, GatewayError> {
        let read = self.inner.registry.user(user);
        Ok(self
            .inner
            .lease
            .vouched(Some(self.inner.registry.shards().of_user(user)), read)
            .await?)
    }

    /// Everybody online, a page at a time.
    pub async fn users(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<UsersPage, GatewayError> {
        let read = self.inner.registry.users(cursor, limit);
        Ok(self.inner.lease.vouched(None, read).await?)
    }

    /// The presence of users, in the order asked for.
    pub async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>, GatewayError> {
        let read = self.inner.registry.presence(users);
        Ok(self.inner.lease.vouched(None, read).await?)
    }

    /// Ends a user's connections on every node, and answers when they are closed and out of the registry, or after 5 s. With
    /// `revoke_tokens` nobody comes back with a token that was issued before.
    pub async fn disconnect_user(
        &self,
        user: &UserId,
        except: Vec<ConnectionId>,
        ending: &Ending,
        revoke_tokens: bool,
    ) -> Result<Disconnected, GatewayError> {
        let target = EndTarget::User {
            user: user.clone(),
            except,
        };
        let fence = revoke_tokens.then_some(Fence::RevokeBefore(None));
        self.inner.orders.disconnect(target, fence, ending).await
    }

    /// One connection.
    pub async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>, GatewayError> {
        let read = self.inner.registry.connection(id);
        Ok(self
            .inner
            .lease
            .vouched(self.inner.registry.shards().of_id(id), read)
            .await?)
    }

    /// Ends one connection, with the same promise. None if there is no such connection; one that comes back under this id within an
    /// hour, with a node that was taken for dead, is ended then.
    pub async fn disconnect_connection(
        &self,
        id: &ConnectionId,
        ending: &Ending,
    ) -> Result<Option<Disconnected>, GatewayError> {
        let Some(connection) = self.connection(id).await? else {
            // Its node may be taken for dead, and come back with it.
            let target = EndTarget::Connection(Entry {
                user: None,
                id: id.clone(),
            });
            self.inner.orders.disconnect(target, None, ending).await?;
            return Ok(None);
        };
        let target = EndTarget::Connection(Entry {
            user: connection.user_id,
            id: connection.id,
        });
        Ok(Some(
            self.inner.orders.disconnect(target, None, ending).await?,
        ))
    }

    /// Whose token it is, by the rule of `/admin`: its issuers, its audiences and its roles. What is held against an
    /// administrator is asked anew with each call, as the verbs of `/admin` do; others' tokens open nothing and cost no
    /// round trip.
    ///
    /// # Errors
    ///
    /// Why the token opens nothing; one that is good and lacks the role is no error.
    pub async fn bearer(&self, token: &str) -> Result<TokenBearer, TokenRefused> {
        self.inner.admin_verbs.bearer(token).await
    }

    /// The live nodes.
    pub async fn nodes(&self) -> Result<Vec<Node>, GatewayError> {
        let read = self.inner.registry.nodes();
        let mut nodes = self.inner.lease.vouched(None, read).await?;
        let own = self.inner.heartbeats.report();
        if let Some(node) = nodes
            .iter_mut()
            .find(|node| node.node_id == own.node_id && node.started_at == own.started_at)
        {
            (node.connections, node.users) = (own.connections, own.users);
        }
        Ok(nodes)
    }

    /// The cluster in three numbers.
    pub async fn totals(&self) -> Result<Totals, GatewayError> {
        let read = self.inner.registry.totals();
        Ok(self.inner.lease.vouched(None, read).await?)
    }

    /// Whether the configuration has the namespace.
    pub fn has_namespace(&self, path: &str) -> bool {
        self.inner.delivery.check_namespace(path).is_ok()
    }
}
