//! A room of very many members, as Redis meets it: the registry of the library alone, as no machine has that many sockets. What
//! each verb costs, and how long anybody else waits for the longest command of it.

use std::time::Instant;

use switchboard::{
    config::{self, Presence, RegistryTiming},
    connection::Instance,
    link::Servers,
    metrics::Metrics,
    registry::{
        Entry, Lasting, Lease, Member, NodeReport, Recipient, Registry, Room, RoomFilter, Rooms,
        redis::RedisRegistry,
    },
};

use crate::{
    Bench,
    caller::calls,
    meter::Meter,
    support::{
        bounds::{ensure, seconds, within},
        redis_server::Server,
    },
};

/// Nodes with members.
const NODES: usize = 8;
/// Memberships that a node tells of together: as `gateway::connections::memberships` does.
const TOGETHER: usize = 200;
/// Calls at once.
const AT_ONCE: usize = 32;
/// Calls of what costs the same each time.
const CALLS: usize = 500;

/// A node without clients.
struct Node {
    registry: RedisRegistry,
    lease: Lease,
    members: Vec<Member>,
}

impl Node {
    async fn join(redis: &Server, number: usize) -> Self {
        let config = config::Redis {
            urls: vec![redis.url().into()],
            ..config::Redis::default()
        };
        let timing = RegistryTiming {
            // Nothing renews it.
            lease: seconds(3600.0),
            ..RegistryTiming::default()
        };
        let servers = Servers::new(&config).unwrap();
        let metrics = Metrics::new().unwrap();
        let registry = RedisRegistry::new(&servers, &timing, &Presence::default(), metrics);
        let node = Self {
            registry: registry.unwrap(),
            lease: Lease {
                instance: Instance::random(),
                epoch: 1,
            },
            members: Vec::new(),
        };
        let report = NodeReport {
            node_id: format!("node-{number}").into(),
            version: "bench".into(),
            started_at: jiff::Timestamp::UNIX_EPOCH,
            connections: 0,
            users: 0,
            draining: false,
        };
        within(seconds(60.0), "a node joins", async || {
            let joined = node.registry.join(&node.lease, &report).await;
            ensure(joined.is_ok_and(|is| is), || "not yet".to_owned())
        })
        .await;
        node
    }

    /// Takes members into the room, or out of it.
    async fn change(&self, members: &[Member], is_in: bool) {
        let shard = self.registry.shards().of_room(&members[0].room);
        let changes = members.iter().map(|member| (member.clone(), is_in));
        let changes: Vec<_> = changes.collect();
        let changed = self.registry.change_members(&self.lease, shard, &changes);
        changed.await.unwrap();
    }

    /// Takes all of its members into the room, or out of it.
    async fn change_all(&self, is_in: bool) {
        for some in self.members.chunks(TOGETHER) {
            self.change(some, is_in).await;
        }
    }
}

/// Says what some calls cost each, and what the longest command took.
struct Measured<'a> {
    redis: &'a Server,
    meter: Meter<'a>,
    members: usize,
}

impl Measured<'_> {
    async fn of(
        &mut self,
        bench: &mut Bench<'_>,
        what: &str,
        count: usize,
        work: impl Future<Output = ()>,
    ) {
        let began = Instant::now();
        let ((), cost) = self.meter.cost(work).await;
        let took = began.elapsed();
        let name = format!("{what}, {} members", self.members);
        let each = cost.per(count as f64);
        bench.put(&format!("{name}: Redis, µs"), "", each.redis);
        let slowest = crate::rooms::slowest(self.redis).await;
        bench.put(&format!("{name}: slowest command, ms"), "≤ 5", slowest);
        let told = format!("{name}: {} in {took:.1?}; {}", count, each.dearest());
        bench.table.latest(bench.column, &name, &told);
    }
}

pub(crate) async fn measure(bench: &mut Bench<'_>) {
    let redis = Server::start().await;
    let () = redis.run("CONFIG SET slowlog-log-slower-than 100").await;
    let () = redis.run("CONFIG SET slowlog-max-len 10000").await;
    let members = bench.options.members;
    let room = Room::new("/", "all");
    let mut nodes = Vec::new();
    for number in 0..NODES {
        nodes.push(Node::join(&redis, number).await);
    }
    let users = (0..members).map(|number| format!("user-{number}"));
    let users: Vec<_> = users.collect();
    for (number, user) in users.iter().enumerate() {
        let node = &mut nodes[number % NODES];
        let user = Some(user.as_str().into());
        let id = node.registry.new_id(user.as_ref());
        let (room, entry) = (room.clone(), Entry { user, id });
        node.members.push(Member { room, entry });
    }
    let asker = Node::join(&redis, NODES).await.registry;
    let meter = Meter::new(&redis, &[]).await;
    let mut measured = Measured {
        redis: &redis,
        meter,
        members,
    };
    let () = redis.run("SLOWLOG RESET").await;

    let coming = async {
        for node in &nodes {
            node.change_all(true).await;
        }
    };
    measured.of(bench, "joining, by 200", members, coming).await;
    let kept = calls(members, AT_ONCE, async |number| {
        let lasting = Lasting {
            room: room.clone(),
            until: None,
        };
        let user = users[number].as_str().into();
        assert!(asker.keep_in_room(&user, &lasting, 256).await.unwrap());
    });
    measured
        .of(bench, "a user put into the room", members, kept)
        .await;

    let recipient = Recipient::Room(room.clone());
    let holders = calls(CALLS, AT_ONCE, async |_| {
        let holders = asker.holders(&recipient).await.unwrap();
        assert_eq!(holders.len(), NODES);
    });
    measured
        .of(bench, "holders of a send", CALLS, holders)
        .await;
    let tally = calls(CALLS, AT_ONCE, async |_| {
        let tally = asker.room(&room).await.unwrap();
        assert_eq!(tally.connections, members as u64);
    });
    measured.of(bench, "the room", CALLS, tally).await;
    let listed = calls(CALLS, AT_ONCE, async |_| {
        let filter = RoomFilter::default();
        let page = asker.rooms(&filter, None, 100).await.unwrap();
        assert_eq!(page.rooms, [(room.clone(), members as u64)]);
    });
    measured.of(bench, "a page of rooms", CALLS, listed).await;
    let pages = async {
        let (mut count, mut cursor) = (0, None);
        loop {
            let page = asker.members(&room, cursor.as_deref(), 1000).await.unwrap();
            count += page.members.len();
            cursor = page.next;
            if cursor.is_none() {
                break assert_eq!(count, members);
            }
        }
    };
    let count = members.div_ceil(1000);
    measured
        .of(bench, "a page of 1,000 members", count, pages)
        .await;

    let leaving = calls(CALLS, AT_ONCE, async |number| {
        let node = &nodes[number % NODES];
        let member = &node.members[number / NODES];
        node.change(std::slice::from_ref(member), false).await;
        node.change(std::slice::from_ref(member), true).await;
    });
    measured
        .of(bench, "one leaves, and joins again", CALLS, leaving)
        .await;
    let out = calls(CALLS, AT_ONCE, async |number| {
        let user = users[number].as_str().into();
        asker.let_go(&user, &room).await.unwrap();
    });
    measured
        .of(bench, "a user taken out of the room", CALLS, out)
        .await;
    let shard = asker.shards().of_room(&room);
    let looked = async {
        for node in &nodes {
            let joined = node.registry.joined(&node.lease, shard).await.unwrap();
            assert_eq!(joined.len(), node.members.len());
        }
    };
    measured
        .of(bench, "a node looks at what it has", NODES, looked)
        .await;
    let dead = nodes.pop().unwrap();
    let reaped = async {
        asker.leave(&dead.lease).await.unwrap();
    };
    let count = dead.members.len();
    measured
        .of(bench, "a member of a dead node is reaped", count, reaped)
        .await;
    let left = (members - count) as u64;
    assert_eq!(asker.room(&room).await.unwrap().connections, left);

    let undone = async { asker.let_all_go(&room).await.unwrap() };
    measured
        .of(
            bench,
            "emptying: a lasting membership undone",
            members,
            undone,
        )
        .await;
    let emptied = async {
        // All nodes at once, as they are told.
        let leaving = nodes.iter().map(|node| node.change_all(false));
        futures_util::future::join_all(leaving).await;
    };
    measured
        .of(bench, "emptying: a member leaves", left as usize, emptied)
        .await;
    assert_eq!(asker.room(&room).await.unwrap().connections, 0);
    for of_rooms in [
        "members",
        "rooms",
        "holders:*",
        "m:*",
        "lasting:*",
        "kept:*",
    ] {
        let left: Vec<String> = redis.run(&format!("KEYS *}}:{of_rooms}")).await;
        assert!(left.is_empty(), "{of_rooms}: {}", left.len());
    }
}
