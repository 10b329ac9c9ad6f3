//! The nodes that share a registry.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;
use switchboard::{
    connection::{Connection, ConnectionId, Instance, Tally, TransportKind, UserId},
    ending::Ending,
    registry::{
        Admission, Assertion, Bar, EndOrder, EndTarget, Entry, Fence, Grant, Heartbeat, Lease,
        Listed, NodeReport, Ordered, Registry, RegistryError, UserLimit, keys::Shard,
    },
};

use super::home::{entry, eventually, is_in};

/// A node's view of the registry.
pub(super) struct Peer {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) lease: Lease,
    pub(super) report: NodeReport,
    /// Another handle on the same registry, whose leases are long.
    pub(super) spare: Option<Arc<dyn Registry>>,
    /// When its connections began, as the registry has said.
    starts: Arc<Mutex<HashMap<ConnectionId, Timestamp>>>,
}

impl Peer {
    pub(super) async fn join(registry: Arc<dyn Registry>, name: &str) -> Self {
        let peer = Self {
            registry,
            lease: Lease {
                instance: Instance::random(),
                epoch: 1,
            },
            report: NodeReport {
                node_id: name.into(),
                version: "1.2.3".into(),
                started_at: Timestamp::from_second(1_790_000_000).unwrap(),
                connections: 0,
                users: 0,
                draining: false,
            },
            spare: None,
            starts: Arc::default(),
        };
        // A cluster has to be found first, with each of its servers.
        eventually("the registry is there", async || {
            let joined = peer.registry.join(&peer.lease, &peer.report).await;
            joined.is_ok() && peer.enters().await
        })
        .await;
        peer
    }

    /// The same node once it has lost its lease.
    pub(super) async fn rejoin(&self) -> Self {
        self.rejoin_by(&self.registry).await
    }

    /// The same with a lease that is long from here on.
    pub(super) async fn rejoin_for_long(&self) -> Self {
        self.rejoin_by(self.spare.as_ref().unwrap()).await
    }

    async fn rejoin_by(&self, registry: &Arc<dyn Registry>) -> Self {
        let next = Self {
            registry: Arc::clone(registry),
            lease: Lease {
                epoch: self.lease.epoch + 1,
                ..self.lease.clone()
            },
            report: self.report.clone(),
            spare: self.spare.clone(),
            starts: Arc::clone(&self.starts),
        };
        next.registry.join(&next.lease, &next.report).await.unwrap();
        next
    }

    /// Says so of the shards that lack its connections, as it has none.
    async fn enters(&self) -> bool {
        let heartbeat = self.registry.heartbeat(&self.lease, &self.report).await;
        let Ok(Heartbeat { lacking, .. }) = heartbeat else {
            return false;
        };
        for shard in lacking {
            let entered = self.entered(shard).await;
            if !entered.is_ok_and(|entered| entered) {
                return false;
            }
        }
        true
    }

    /// Says that all of its connections are in a shard, as the last heartbeat saw it.
    pub(super) async fn entered(&self, shard: Shard) -> Result<bool, RegistryError> {
        match self.registry.generation(shard) {
            Some(generation) => {
                let entering = self.registry.entered(&self.lease, shard, &generation);
                entering.await
            }
            None => Ok(false),
        }
    }

    /// Says that all of its connections are in all shards.
    pub(super) async fn enter(&self) {
        for shard in self.registry.shards().all() {
            assert!(self.entered(shard).await.unwrap());
        }
    }

    /// Every entry of its lease.
    pub(super) async fn held(&self) -> Vec<Entry> {
        self.held_by(&self.lease).await
    }

    pub(super) async fn held_by(&self, lease: &Lease) -> Vec<Entry> {
        let mut held = Vec::new();
        for shard in self.registry.shards().all() {
            held.extend(self.registry.held(lease, shard).await.unwrap());
        }
        held
    }

    /// Says that the node lives; whether its lease held.
    pub(super) async fn beat(&self) -> bool {
        self.registry
            .heartbeat(&self.lease, &self.report)
            .await
            .unwrap()
            .held
    }

    pub(super) async fn report(&self) {
        let written = self.registry.report(&self.lease, &self.report).await;
        written.unwrap();
    }

    /// A connection of this node that is not registered yet.
    pub(super) fn guest(&self) -> Connection {
        self.new_connection(None)
    }

    pub(super) fn connection(&self, user: &str) -> Connection {
        self.new_connection(Some(user.into()))
    }

    fn new_connection(&self, user: Option<UserId>) -> Connection {
        Connection {
            id: self.registry.new_id(user.as_ref()),
            user_id: user,
            namespace: "/".into(),
            node_id: self.report.node_id.clone(),
            transport: TransportKind::Websocket,
            connected_at: Timestamp::from_millisecond(1_790_000_000_123).unwrap(),
            expires_at: Some(Timestamp::from_second(1_790_000_900).unwrap()),
            device_id: None,
            remote_addr: Some("203.0.113.7".into()),
            user_agent: Some("test/1".into()),
            rooms: Vec::new(),
            meta: None,
        }
    }

    pub(super) async fn register(&self, connection: &Connection) -> Tally {
        self.try_register(connection).await.unwrap()
    }

    pub(super) async fn try_register(
        &self,
        connection: &Connection,
    ) -> Result<Tally, RegistryError> {
        match self.admit(connection, &Grant::default(), None).await? {
            Admission::Admitted { tally, .. } => Ok(tally),
            other => panic!("{other:?}"),
        }
    }

    /// Asserts a newcomer.
    pub(super) async fn admit(
        &self,
        connection: &Connection,
        grant: &Grant,
        limit: Option<UserLimit>,
    ) -> Result<Admission, RegistryError> {
        self.assert(connection, grant, 1, limit, false).await
    }

    /// Asserts a connection that was let in before, as it is by its `version`th change.
    pub(super) async fn again(
        &self,
        connection: &Connection,
        grant: &Grant,
        version: u64,
    ) -> Admission {
        let admission = self.assert(connection, grant, version, None, true);
        admission.await.unwrap()
    }

    /// Puts back a connection as it came.
    pub(super) async fn back(&self, connection: &Connection) {
        let admission = self.again(connection, &Grant::default(), 1).await;
        assert!(is_in(&admission), "{admission:?}");
    }

    /// How a connection is to end that is there, if it is. Nothing is changed, as an earlier version changes nothing.
    pub(super) async fn end_of(&self, connection: &Connection) -> Option<Ending> {
        match self.again(connection, &Grant::default(), 0).await {
            Admission::Ended(ending) => Some(ending),
            _ => None,
        }
    }

    pub(super) async fn assert(
        &self,
        connection: &Connection,
        grant: &Grant,
        version: u64,
        limit: Option<UserLimit>,
        again: bool,
    ) -> Result<Admission, RegistryError> {
        let assertion = Assertion {
            connection,
            grant,
            version,
            start: self.start_of(connection),
            limit,
            again,
        };
        let admission = self.registry.assert(&self.lease, &assertion).await?;
        if let Admission::Admitted { start, .. } = admission {
            self.began(connection, start);
        }
        Ok(admission)
    }

    pub(super) fn start_of(&self, connection: &Connection) -> Option<Timestamp> {
        self.starts.lock().get(&connection.id).copied()
    }

    /// When a connection began.
    pub(super) fn began(&self, connection: &Connection, start: Timestamp) {
        self.starts.lock().insert(connection.id.clone(), start);
    }

    /// What keeps a new connection of a user out; if nothing does, it is gone again.
    pub(super) async fn bar(&self, user: &str, grant: &Grant) -> Option<Bar> {
        let connection = self.connection(user);
        match self.admit(&connection, grant, None).await.unwrap() {
            Admission::Admitted { .. } => {
                self.unregister(&[&connection]).await;
                None
            }
            Admission::Refused(bar) => Some(bar),
            ended @ Admission::Ended(_) => panic!("{ended:?}"),
        }
    }

    /// A new connection of a user that came in by a grant, registered.
    pub(super) async fn connect_by(&self, user: &str, grant: &Grant) -> Connection {
        let connection = self.connection(user);
        let admission = self.admit(&connection, grant, None).await.unwrap();
        assert!(is_in(&admission), "{admission:?}");
        connection
    }

    /// A connection of this node, as an order lists it.
    pub(super) fn lists(&self, connection: &Connection) -> Listed {
        Listed {
            entry: entry(connection),
            instance: self.lease.instance.clone(),
        }
    }

    /// Orders the end of connections.
    pub(super) async fn order(
        &self,
        target: &EndTarget,
        fence: Option<&Fence>,
        ending: &Ending,
    ) -> Ordered {
        let order = EndOrder {
            target,
            fence,
            ending,
        };
        self.registry.order_end(order).await.unwrap()
    }

    /// A new connection of a user, registered.
    pub(super) async fn connect(&self, user: &str) -> Connection {
        let connection = self.connection(user);
        self.register(&connection).await;
        connection
    }

    pub(super) async fn unregister(&self, connections: &[&Connection]) {
        let entries: Vec<_> = connections.iter().map(|it| entry(it)).collect();
        self.registry
            .unregister(&self.lease, &entries)
            .await
            .unwrap();
    }

    /// The ids of a user's connections.
    pub(super) async fn ids(&self, user: &str) -> Vec<String> {
        let entry = self.registry.user(&user.into()).await.unwrap();
        entry
            .connections
            .iter()
            .map(|it| it.id.to_string())
            .collect()
    }

    /// Waits until a lease, of which nobody says any more that its node lives, has run out.
    pub(super) async fn sees_lapse_of(&self, lease: &Lease) {
        eventually("the lease runs out", async || {
            let heartbeat = self
                .registry
                .heartbeat(&self.lease, &self.report)
                .await
                .unwrap();
            assert!(heartbeat.held, "the long lease holds");
            heartbeat.lapsed.contains(lease)
        })
        .await;
    }
}
