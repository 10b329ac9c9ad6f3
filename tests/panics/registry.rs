//! A registry whose calls panic now and then, before they do anything or after they have done it all.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use rand::{Rng, rngs::StdRng};
use serde_json::value::RawValue;
use switchboard::{
    connection::{Connection, ConnectionId, Instance, UserId},
    ending::Ending,
    registry::{
        Admission, Assertion, Ban, Bar, Call, CallEnd, Calls, Claim, Closed, EndOrder, Entry,
        Families, Family, FamilyToken, Grant, Heartbeat, Lasting, Lease, LoginId, Member,
        MembersPage, Node, NodeReport, Notification, NotificationId, Ordered, Outbox, Presence,
        Pruned, Recipient, Registry, RegistryError, Room, RoomFilter, RoomTally, Rooms, RoomsPage,
        Rotation, Totals, Turn, UserEntry, UsersPage,
        keys::{Shard, Shards},
        memory::MemoryRegistry,
    },
};
use tokio::sync::watch;

/// What a panic says.
pub(crate) const INJECTED: &str = "injected into the registry";

/// How often calls panic.
#[derive(Clone)]
pub(crate) struct Faults {
    random: Arc<Mutex<StdRng>>,
    /// Of a thousand.
    odds: Arc<AtomicU64>,
    count: Arc<AtomicU64>,
    /// Whether answers to `assert` are held back.
    held: watch::Sender<bool>,
}

impl Faults {
    pub(crate) fn new(random: StdRng) -> Self {
        Self {
            random: Arc::new(Mutex::new(random)),
            odds: Arc::default(),
            count: Arc::default(),
            held: watch::Sender::new(false),
        }
    }

    pub(crate) fn set(&self, odds: u64) {
        self.odds.store(odds, Ordering::SeqCst);
    }

    /// Holds back the answers to `assert`, or lets them go.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    async fn until_let_go(&self, call: &str) {
        if call == "assert" {
            let mut held = self.held.subscribe();
            held.wait_for(|held| !held)
                .await
                .expect("its sender is here");
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn may_panic(&self, call: &str) {
        let odds = self.odds.load(Ordering::SeqCst);
        let one = self.random.lock().random_range(0..1000) < odds;
        if one {
            self.count.fetch_add(1, Ordering::SeqCst);
            panic!("{INJECTED}: {call}");
        }
    }
}

/// The registry of one process, with faults.
pub(crate) struct Panicky {
    pub(crate) inner: MemoryRegistry,
    pub(crate) faults: Faults,
}

#[async_trait]
impl Families for Panicky {
    fn new_family_id(&self, user: &UserId) -> LoginId {
        self.inner.new_family_id(user)
    }

    async fn open_family(
        &self,
        family: &Family,
        token: &FamilyToken,
    ) -> Result<Timestamp, RegistryError> {
        self.inner.open_family(family, token).await
    }

    async fn rotate(
        &self,
        id: &LoginId,
        turn: Turn<'_>,
    ) -> Result<(Rotation, Option<Timestamp>), RegistryError> {
        self.inner.rotate(id, turn).await
    }

    async fn close_family(
        &self,
        id: &LoginId,
        token: &FamilyToken,
    ) -> Result<Option<Family>, RegistryError> {
        self.inner.close_family(id, token).await
    }

    async fn rewrite_claims(
        &self,
        family: &Family,
        claims: &serde_json::Value,
    ) -> Result<bool, RegistryError> {
        self.inner.rewrite_claims(family, claims).await
    }
}

#[async_trait]
impl Calls for Panicky {
    async fn claim_call(&self, call: &Call) -> Result<Claim, RegistryError> {
        self.inner.claim_call(call).await
    }

    async fn settle_call(&self, call: &Call, end: CallEnd<'_>) -> Result<(), RegistryError> {
        self.inner.settle_call(call, end).await
    }
}

#[async_trait]
impl Rooms for Panicky {
    async fn change_members(
        &self,
        lease: &Lease,
        shard: Shard,
        changes: &[(Member, bool)],
    ) -> Answer<()> {
        self.faults.may_panic("change_members");
        let changed = self.inner.change_members(lease, shard, changes).await;
        self.faults.may_panic("change_members");
        changed
    }

    async fn joined(&self, lease: &Lease, shard: Shard) -> Answer<Vec<Member>> {
        self.faults.may_panic("joined");
        self.inner.joined(lease, shard).await
    }

    async fn room(&self, room: &Room) -> Answer<RoomTally> {
        self.inner.room(room).await
    }

    async fn rooms(
        &self,
        filter: &RoomFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Answer<RoomsPage> {
        self.inner.rooms(filter, cursor, limit).await
    }

    async fn members(
        &self,
        room: &Room,
        cursor: Option<&str>,
        limit: usize,
    ) -> Answer<MembersPage> {
        self.inner.members(room, cursor, limit).await
    }

    async fn keep_in_room(&self, user: &UserId, lasting: &Lasting, most: usize) -> Answer<bool> {
        self.inner.keep_in_room(user, lasting, most).await
    }

    async fn let_go(&self, user: &UserId, room: &Room) -> Answer<()> {
        self.inner.let_go(user, room).await
    }

    async fn let_all_go(&self, room: &Room) -> Answer<()> {
        self.inner.let_all_go(room).await
    }

    async fn lasting(&self, user: &UserId) -> Answer<Vec<Lasting>> {
        self.inner.lasting(user).await
    }
}

#[async_trait]
impl Outbox for Panicky {
    async fn begin_delivery(&self, shard: Shard, node: &Instance, lasts: Duration) -> Answer<bool> {
        self.inner.begin_delivery(shard, node, lasts).await
    }

    async fn end_delivery(&self, shard: Shard, node: &Instance) -> Answer<()> {
        self.inner.end_delivery(shard, node).await
    }

    async fn tell_left(&self, shard: Shard) -> Answer<()> {
        self.inner.tell_left(shard).await
    }

    async fn keep_event(&self, from: &Entry, backends: &[String], data: &RawValue) -> Answer<()> {
        self.inner.keep_event(from, backends, data).await
    }

    async fn kept(
        &self,
        shard: Shard,
        backend: &str,
        after: NotificationId,
        limit: usize,
    ) -> Answer<Vec<Notification>> {
        self.inner.kept(shard, backend, after, limit).await
    }

    async fn delivered(&self, shard: Shard, backend: &str, id: NotificationId) -> Answer<()> {
        self.inner.delivered(shard, backend, id).await
    }

    async fn prune(
        &self,
        shard: Shard,
        backend: &str,
        retention: Duration,
        most: u64,
    ) -> Answer<Pruned> {
        self.inner.prune(shard, backend, retention, most).await
    }

    async fn add_to_stream(&self, key: &str, id: &str, event: &str) -> Answer<()> {
        self.inner.add_to_stream(key, id, event).await
    }
}

type Answer<T> = Result<T, RegistryError>;

/// Each call as it is, with a fault before or after it.
macro_rules! passed_on {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Registry for Panicky {
            fn shards(&self) -> Shards {
                self.inner.shards()
            }

            fn new_id(&self, user: Option<&UserId>) -> ConnectionId {
                self.faults.may_panic("new_id");
                self.inner.new_id(user)
            }

            fn has_left(&self, node: &Instance) {
                self.faults.may_panic("has_left");
                self.inner.has_left(node);
            }

            fn known(&self) -> HashSet<Instance> {
                self.faults.may_panic("known");
                self.inner.known()
            }

            fn generation(&self, shard: Shard) -> Option<String> {
                self.faults.may_panic("generation");
                self.inner.generation(shard)
            }

            fn is_up(&self) -> bool {
                true
            }

            fn away(&self) -> Vec<Shard> {
                Vec::new()
            }

            async fn amiss(&self) {
                self.inner.amiss().await;
            }

            $(async fn $name(&self, $($argument: $kind),*) -> $answer {
                self.faults.may_panic(stringify!($name));
                let answer = self.inner.$name($($argument),*).await;
                self.faults.until_let_go(stringify!($name)).await;
                self.faults.may_panic(stringify!($name));
                answer
            })*
        }
    };
}

passed_on! {
    join(lease: &Lease, report: &NodeReport) -> Answer<bool>;
    heartbeat(lease: &Lease, report: &NodeReport) -> Answer<Heartbeat>;
    report(lease: &Lease, report: &NodeReport) -> Answer<()>;
    entered(lease: &Lease, shard: Shard, generation: &str) -> Answer<bool>;
    leave(lease: &Lease) -> Answer<()>;
    reap(lapsed: &Lease) -> Answer<u64>;
    assert(lease: &Lease, assertion: &Assertion<'_>) -> Answer<Admission>;
    close(lease: &Lease, closed: &[Closed]) -> Answer<()>;
    release(lease: &Lease, entry: &Entry) -> Answer<Option<Ending>>;
    held(lease: &Lease, shard: Shard) -> Answer<Vec<Entry>>;
    user(user: &UserId) -> Answer<UserEntry>;
    presence(users: &[UserId]) -> Answer<Vec<Presence>>;
    users(cursor: Option<&str>, limit: usize) -> Answer<UsersPage>;
    connection(id: &ConnectionId) -> Answer<Option<Connection>>;
    nodes() -> Answer<Vec<Node>>;
    totals() -> Answer<Totals>;
    holders(recipient: &Recipient) -> Answer<Vec<Instance>>;
    order_end(order: EndOrder<'_>) -> Answer<Ordered>;
    listed(entries: &[Entry]) -> Answer<Vec<Entry>>;
    standing(connections: &[(Entry, Grant)]) -> Answer<Vec<(Entry, Bar)>>;
    ban_of(user: &UserId) -> Answer<Option<Ban>>;
    unban(user: &UserId) -> Answer<bool>;
    revoke_token(token_id: &str, until: Option<Timestamp>) -> Answer<()>;
}
