//! Keeps the registry's entry of each connection of this node.

use std::{collections::HashSet, sync::Arc, time::Duration};

use derive_more::Constructor;

use crate::{
    config::{PerUserPolicy, RunningConfig},
    connection::{NodeId, Tally},
    ending::Ending,
    gateway::{
        connections::{LocalConnections, local::LocalConnection},
        endings::orders::EndOrders,
        lease::OwnLease,
        refusal::Refusal,
    },
    registry::{
        Admission, Assertion, EndTarget, Entry, Lasting, LimitPolicy, RATE_WINDOW, Registry,
        RegistryError, UserLimit,
    },
};

/// For how long the word of the node is waited for that has changed which rooms a user is to be in.
const WORD_COMES: Duration = Duration::from_secs(2);

/// Registers this node's connections, asserts them again, and does what the registry answers.
#[derive(Constructor)]
pub(crate) struct Registrar {
    node_id: NodeId,
    config: RunningConfig,
    registry: Arc<dyn Registry>,
    lease: Arc<OwnLease>,
    connections: Arc<LocalConnections>,
    orders: Arc<EndOrders>,
}

impl Registrar {
    /// Registers a connection, and carries out what that means for others of its user's.
    pub(crate) async fn register(
        self: &Arc<Self>,
        connection: &Arc<LocalConnection>,
    ) -> Result<Tally, Refusal> {
        let mut evicted = HashSet::new();
        let mut limit = self.user_limit();
        let (record, admission) = loop {
            let (losses, lease) = (self.lease.losses(), self.lease.current());
            let (record, grant) = (connection.assertable(&self.node_id), connection.grant());
            let revision = connection.lasting_revision();
            let assertion = Assertion {
                connection: &record,
                grant: &grant,
                version: connection.version(),
                start: connection.start(),
                limit: Some(limit),
                again: false,
            };
            let admission = match self.lease.holds() {
                true => self.registry.assert(&lease, &assertion).await,
                false => Err(RegistryError::Unavailable(
                    "this node has no lease".to_owned(),
                )),
            };
            if let Ok(Admission::Admitted {
                start,
                evicted: more,
                lasting,
                ..
            }) = &admission
            {
                evicted.extend(more.iter().cloned());
                // It has come once, however often it is asserted.
                limit.newcomers = 0;
                // Before the next look: a resync that follows on a loss which that look does not see, sees the connection.
                connection.set_registered(*start);
                // A backend has changed them meanwhile, and its word may have come before the registry's.
                if connection.adopt_lasting(revision, lasting).is_none() {
                    continue;
                }
            }
            // A lease or data that was lost meanwhile took the entry along, and the resync after that loss did not know the connection.
            if admission.is_err() || connection.is_gone() || losses == self.lease.losses() {
                break (record, admission);
            }
        };
        let tally = match admission {
            Ok(Admission::Admitted { tally, .. }) => tally,
            Ok(Admission::Refused(bar)) => return Err(Refusal::Bar(bar)),
            Ok(Admission::Ended(ending)) => {
                tracing::debug!(connection = %connection.id, ?ending, "ordered to end while it came");
                return Err(Refusal::Unavailable);
            }
            Err(error) => {
                tracing::warn!(connection = %connection.id, %error, "can't register a connection");
                return Err(Refusal::Unavailable);
            }
        };
        let members = connection.memberships();
        if let Err(error) = self.connections.memberships.settle(members).await {
            tracing::warn!(connection = %connection.id, %error, "can't put a connection into its rooms");
            return Err(Refusal::Unavailable);
        }
        if let Err(error) = self.look_at_lasting_again(connection).await {
            tracing::warn!(connection = %connection.id, %error, "can't read which rooms a user is to be in");
            return Err(Refusal::Unavailable);
        }
        self.connections.table.count(connection);
        if let Some(user) = connection.user().filter(|_| tally.connections <= 1) {
            self.connections.user_changed(user);
        }
        if record.transport != connection.session.kind() {
            // Upgraded while the registry was being told.
            self.update(connection);
        }
        for entry in evicted {
            self.evict(entry);
        }
        Ok(tally)
    }

    /// Takes a connection out of rooms that its user is not to be in any more. A room is emptied by undoing lasting memberships, and
    /// then asking the nodes with members: one that was undone before the registry had this member is seen here, and of one that
    /// is undone later this node is asked.
    async fn look_at_lasting_again(
        &self,
        connection: &LocalConnection,
    ) -> Result<(), RegistryError> {
        match connection.has_lasting() {
            true => self.read_lasting(connection).await,
            false => Ok(()),
        }
    }

    /// Makes a connection be in the rooms that its user is to be in, and in no others for that.
    async fn read_lasting(&self, connection: &LocalConnection) -> Result<(), RegistryError> {
        let Some(user) = connection.user() else {
            return Ok(());
        };
        let revision = connection.lasting_revision();
        let lasting = self.registry.lasting(user).await?;
        // Of what has changed since the revision, this node has been told.
        let changed = connection.adopt_lasting(revision, &lasting);
        let changed = changed.unwrap_or_default();
        self.connections.memberships.settle(changed).await
    }

    /// The registry has said which rooms the user of a connection is to be in. Where that is not what this node has, the node that has
    /// changed it is about to say so, and counts in its answer what that changes here. If no word comes, it is read.
    fn compare_lasting(
        self: &Arc<Self>,
        connection: &Arc<LocalConnection>,
        revision: u64,
        lasting: &[Lasting],
    ) {
        if !connection.doubt_lasting(revision, lasting) {
            return;
        }
        let (registrar, connection) = (self.clone(), connection.clone());
        tokio::spawn(async move {
            tokio::time::sleep(WORD_COMES).await;
            connection.doubt_no_more();
            if connection.lasting_revision() == revision
                && let Err(error) = registrar.read_lasting(&connection).await
            {
                tracing::debug!(connection = %connection.id, %error, "can't read which rooms a user is to be in; the next repair does");
            }
        });
    }

    /// Ends a connection evicted by the per-user limit.
    fn evict(self: &Arc<Self>, entry: Entry) {
        let registrar = self.clone();
        tokio::spawn(async move {
            let ending = Ending::of(Ending::LIMIT);
            if let Some(connection) = registrar.connections.table.get(&entry.id) {
                registrar.connections.end_all(&[connection], &ending);
            }
            let target = EndTarget::Connection(entry);
            if let Err(error) = registrar.orders.disconnect(target, None, &ending).await {
                // The order stands; the next one who is admitted, or a resync, carries it out.
                tracing::warn!(%error, "can't end a connection that is to make room");
            }
        });
    }

    /// Tells the registry what a connection is like, and does what comes of it.
    pub(crate) async fn assert_again(
        self: &Arc<Self>,
        connection: &Arc<LocalConnection>,
    ) -> Result<(), RegistryError> {
        if connection.is_gone() {
            return Ok(());
        }
        let (version, revision) = (connection.version(), connection.lasting_revision());
        let record = connection.assertable(&self.node_id);
        let grant = connection.grant();
        let assertion = Assertion {
            connection: &record,
            grant: &grant,
            version,
            start: connection.start(),
            limit: None,
            again: true,
        };
        let admission = self
            .registry
            .assert(&self.lease.current(), &assertion)
            .await;
        if connection.is_gone() {
            // What its end tells the registry may have come before this, which may have been carried out even if it failed.
            let (connections, connection) = (self.connections.clone(), connection.clone());
            tokio::spawn(async move {
                connection.unregistered.wait().await;
                connections.unregister(&connection);
            });
        }
        match admission? {
            Admission::Admitted { lasting, .. } => {
                self.compare_lasting(connection, revision, &lasting);
            }
            Admission::Refused(bar) => self
                .connections
                .end_all(std::slice::from_ref(connection), &bar.ending()),
            Admission::Ended(ending) => self
                .connections
                .end_all(std::slice::from_ref(connection), &ending),
        }
        Ok(())
    }

    /// Tells the registry what a connection is like now. What fails is made good by the next repair.
    pub(crate) fn update(self: &Arc<Self>, connection: &Arc<LocalConnection>) {
        connection.changed();
        let (registrar, connection) = (self.clone(), connection.clone());
        tokio::spawn(async move {
            if let Err(error) = registrar.assert_again(&connection).await {
                tracing::warn!(connection = %connection.id, %error, "can't update a connection");
            }
        });
    }

    /// What one user may have.
    fn user_limit(&self) -> UserLimit {
        let limits = &self.config.now().limits;
        UserLimit {
            max: limits.connections_per_user,
            policy: match limits.connections_per_user_policy {
                PerUserPolicy::Reject => LimitPolicy::Reject,
                PerUserPolicy::EvictOldest => LimitPolicy::EvictOldest,
            },
            newcomers: limits
                .connects_per_second_per_user
                .saturating_mul(RATE_WINDOW.as_secs() as u32),
        }
    }
}
