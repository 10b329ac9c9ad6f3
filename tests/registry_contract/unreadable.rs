//! What another program or version has written into Redis is skipped, and its neighbours are not harmed.

use redis::{ToRedisArgs, aio::MultiplexedConnection};
use switchboard::{
    connection::{Connection, UserId},
    ending::Ending,
    metrics::Metrics,
    registry::{
        Bar, EndTarget, Fence, Grant, LimitPolicy, Recipient, RegistryError, UserLimit,
        keys::{Keys, Shard, Shards},
    },
};

use super::{
    home::{LONG, Peer, Redis, RedisServer, all_of, entry, fleet, is_in},
    redis::raw,
};

/// Two nodes, and a way to write past them.
struct Scene {
    a: Peer,
    b: Peer,
    raw: MultiplexedConnection,
    keys: Keys,
    /// Of both nodes.
    metrics: Metrics,
    _server: RedisServer,
}

const USER: &str = "42";

fn shard() -> Shard {
    Shards::default().of_user(&USER.into())
}

impl Scene {
    async fn set() -> Self {
        let server = RedisServer::start().await;
        let home = Redis::of(&server);
        let [a, b] = fleet(&home, LONG, LONG).await;
        Self {
            a,
            b,
            raw: raw(&home).await,
            keys: Keys::new("switchboard"),
            metrics: home.metrics(),
            _server: server,
        }
    }

    async fn write(&mut self, command: &str, key: impl ToRedisArgs, arguments: &[&[u8]]) {
        let mut command = redis::cmd(command);
        command.arg(key).arg(arguments);
        let _: redis::Value = command.query_async(&mut self.raw).await.unwrap();
    }

    /// Writes members that nobody can read, before, among and behind those of the user.
    async fn spoil_entries(&mut self, like: &Connection) {
        let lease = self.a.lease.to_string();
        let whole = |user: &str, id: &[u8], rest: &[u8]| {
            let fields: [&[u8]; 9] = [
                user.as_bytes(),
                id,
                lease.as_bytes(),
                b"",
                b"mubbs7ln",
                b"mubbs7i8",
                b"",
                b"1",
                rest,
            ];
            fields.join(&0)
        };
        let conns = self.keys.conns(shard());
        for member in [
            b"garbage".to_vec(),
            b"\0".to_vec(),
            b"42\0".to_vec(),
            b"42\0x".to_vec(),
            b"42\0\xff\xfe\0\0\0\0".to_vec(),
            whole(USER, b"\xff\xfe", b""),
            whole(USER, b"4AAAAAAAAAAAAAAAAAAAAAA", b"\xc1"),
            whole("4\u{1}", b"4AAAAAAAAAAAAAAAAAAAAAB", b"\xc1"),
            whole("zzzz", b"4AAAAAAAAAAAAAAAAAAAAAC", b"\xc1"),
            format!("42\0{}\0", like.id).into_bytes(),
        ] {
            self.write("ZADD", &conns, &[b"0", &member]).await;
        }
    }
}

fn ids(connections: &[Connection]) -> Vec<String> {
    let mut ids: Vec<_> = connections.iter().map(|it| it.id.to_string()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn an_entry_fails_no_others() {
    let mut scene = Scene::set().await;
    let first = scene.a.connect(USER).await;
    scene.spoil_entries(&first).await;
    let Scene { a, b, .. } = &scene;
    let second = b.connect(USER).await;
    let neighbour = b.connect("neighbour").await;
    let both = ids(&[first.clone(), second.clone()]);
    let user = UserId::from(USER);

    let read = a.registry.user(&user).await.unwrap();
    assert_eq!(ids(&read.connections), both);
    let presence = [user.clone(), "neighbour".into(), "nobody".into()];
    let presence = a.registry.presence(&presence).await.unwrap();
    assert!(presence[0].tally.connections >= 2);
    assert_eq!(presence[1].tally.connections, 1);
    assert_eq!(presence[2].tally.connections, 0);
    for limit in [1, 2, 100] {
        let (mut users, mut cursor) = (Vec::new(), None);
        loop {
            let page = a.registry.users(cursor.as_deref(), limit).await.unwrap();
            users.extend(page.users.into_iter().map(|(user, _)| user.to_string()));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        for user in [USER, "neighbour"] {
            assert!(users.contains(&user.to_owned()), "{users:?}");
        }
    }
    for connection in [&first, &second, &neighbour] {
        let found = a.registry.connection(&connection.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(connection));
    }
    assert!(a.registry.totals().await.unwrap().connections >= 3);

    let recipient = Recipient::User(user.clone());
    let holders = a.registry.holders(&recipient).await.unwrap();
    assert_eq!(holders.len(), 2, "a and b");
    let limit = UserLimit {
        max: 3,
        policy: LimitPolicy::EvictOldest,
        newcomers: 0,
    };
    let third = a.connection(USER);
    let admission = a.admit(&third, &Grant::default(), Some(limit)).await;
    assert!(is_in(&admission.unwrap()));

    let ending = Ending::of(Ending::DISCONNECTED);
    let fence = Fence::RevokeBefore(None);
    let ordered = a.order(&all_of(USER), Some(&fence), &ending).await;
    for listed in [a.lists(&first), b.lists(&second), a.lists(&third)] {
        assert!(ordered.connections.contains(&listed), "{ordered:?}");
    }
    a.unregister(&[&first, &third]).await;
    b.unregister(&[&second, &neighbour]).await;
    let read = a.registry.user(&user).await.unwrap();
    assert!(read.connections.is_empty(), "{:?}", read.connections);
    assert!(b.registry.leave(&b.lease).await.is_ok());
    assert!(a.beat().await);
}

#[tokio::test]
async fn a_lease_or_a_report_fails_no_others() {
    let mut scene = Scene::set().await;
    let connection = scene.b.connect(USER).await;
    let (_, table) = scene.keys.tables(false).remove(0);
    let report = br#"99999999999999:1790000000000:{"what":1}"#;
    for (lease, row) in [
        (&b"gone"[..], &b"\xff\xfe"[..]),
        (b"\xff\xfe.1", report),
        (b"there.1", b""),
        (b"there.x", report),
        (b"odd.1", report),
        (b"odd.2", b"99999999999999:1790000000000"),
        (b"odd.3", b":::"),
        (b"odd.4", b"99999999999999999999999999:1:{}"),
        (b"odd.5", b"soon:1790000000000:{}"),
        (b"", b""),
    ] {
        scene.write("HSET", &table, &[lease, row]).await;
    }
    let metrics = scene.metrics.clone();
    let Scene { a, b, .. } = &scene;
    for peer in [a, b] {
        assert!(peer.beat().await);
        assert!(peer.beat().await);
        let nodes = peer.registry.nodes().await.unwrap();
        let names: Vec<_> = nodes.iter().map(|node| node.node_id.to_string()).collect();
        assert_eq!(names, ["a", "b"]);
        let totals = peer.registry.totals().await.unwrap();
        assert_eq!((totals.nodes, totals.connections), (2, 1));
        assert_eq!(peer.ids(USER).await, [connection.id.to_string()]);
        let found = peer.registry.connection(&connection.id).await.unwrap();
        assert_eq!(found, Some(connection.clone()));
        peer.report().await;
        let newcomer = peer.connect("newcomer").await;
        peer.unregister(&[&newcomer]).await;
        let unknown = "odd.1".parse().unwrap();
        assert_eq!(peer.registry.reap(&unknown).await.unwrap(), 0);
    }
    assert!(counted(&metrics, "lease") >= 9);
    // What the own row says is written anew.
    let lease = scene.a.lease.to_string();
    for row in [&b""[..], b"\xff\xfe", b"9:9:9"] {
        scene.write("HSET", &table, &[lease.as_bytes(), row]).await;
        assert!(scene.a.beat().await);
        let nodes = scene.b.registry.nodes().await.unwrap();
        assert_eq!(nodes.len(), 2, "{row:?}");
    }
    scene.write("HSET", &table, &[b"generation", b""]).await;
    scene.write("HSET", &table, &[b"beat", b"never"]).await;
    assert!(scene.a.beat().await);
    assert!(scene.b.beat().await);
    let again = scene.a.rejoin().await;
    again.enter().await;
    scene.b.registry.leave(&scene.b.lease).await.unwrap();
    assert_eq!(again.registry.nodes().await.unwrap().len(), 1);
}

/// How many were skipped of a kind.
fn counted(metrics: &Metrics, what: &str) -> u64 {
    let rendered = metrics.render();
    let line = rendered
        .lines()
        .find(|line| line.contains("unreadable") && line.contains(&format!("\"{what}\"")));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_kick_fails_no_others() {
    let mut scene = Scene::set().await;
    let [first, second] = [scene.a.connect(USER).await, scene.a.connect(USER).await];
    let kicks = scene.keys.kicks(shard(), USER.as_bytes());
    let garbage: [&[u8]; 6] = [
        b"",
        b"\xff\xfe",
        b"soon\0\0\0",
        b"99999999999999",
        b"99999999999999\0",
        b"-1\0\0",
    ];
    scene.write("RPUSH", &kicks, &garbage).await;
    for connection in [&first, &second] {
        assert_eq!(scene.a.end_of(connection).await, None);
    }
    let target = EndTarget::User {
        user: USER.into(),
        except: vec![first.id.clone()],
    };
    let ending = Ending::of(Ending::BANNED);
    let ordered = scene.b.order(&target, None, &ending).await;
    assert_eq!(ordered.connections, [scene.a.lists(&second)]);
    scene.write("LPUSH", &kicks, &garbage).await;
    assert_eq!(scene.a.end_of(&first).await, None);
    assert_eq!(scene.a.end_of(&second).await, Some(ending));
    let third = scene.b.connect(USER).await;
    assert_eq!(scene.b.end_of(&third).await, None);

    // One of which nobody can tell how it is to end: it is to end.
    let odd = [
        b"99999999999999\0",
        first.id.as_str().as_bytes(),
        b"\x01\0\xc1",
    ]
    .concat();
    scene.write("LPUSH", &kicks, &[&odd]).await;
    let ended = scene.b.end_of(&third).await;
    assert_eq!(ended, Some(Ending::of(Ending::DISCONNECTED)));
    assert_eq!(scene.a.end_of(&first).await, None);
    assert!(counted(&scene.metrics, "order") >= 1);
}

#[tokio::test]
async fn what_is_held_against_one_user_fails_no_other() {
    let mut scene = Scene::set().await;
    let [spoilt, other] = [scene.a.connect(USER).await, scene.a.connect(USER).await];
    let (shard, user) = (shard(), USER.as_bytes());
    let (revoked, seen) = (
        scene.keys.revoked(shard, user),
        scene.keys.seen(shard, user),
    );
    let ending = scene.keys.end(shard, spoilt.id.as_str().as_bytes());
    scene.write("SET", revoked, &[b"soon"]).await;
    scene.write("SET", seen, &[b"yesterday"]).await;
    scene.write("SET", &ending, &[b"later"]).await;

    let Scene { a, keys, .. } = &scene;
    let banned = keys.ban(Shards::default().of_user(&"banned".into()), b"banned");
    let connections = [entry(&spoilt), entry(&other), entry(&a.connection("43"))];
    let grants = connections.clone().map(|entry| (entry, Grant::default()));
    let standing = a.registry.standing(&grants).await.unwrap();
    let expected = connections[..2].iter().map(|it| (it.clone(), Bar::Revoked));
    assert_eq!(standing, expected.collect::<Vec<_>>());
    assert_eq!(a.bar(USER, &Grant::default()).await, Some(Bar::Revoked));
    assert_eq!(a.bar("43", &Grant::default()).await, None);
    let default = Ending::of(Ending::DISCONNECTED);
    assert_eq!(a.end_of(&spoilt).await, Some(default));
    assert_eq!(a.end_of(&other).await, None);

    scene.write("SET", banned, &[b"{"]).await;
    let Scene { a, .. } = &scene;
    let ban = a.registry.ban_of(&"banned".into()).await.unwrap();
    assert!(ban.is_some_and(|ban| ban.reason.is_none() && ban.until.is_none()));
    assert_eq!(a.bar("banned", &Grant::default()).await, Some(Bar::Banned));

    let others = ["43".into(), USER.into(), "nobody".into()];
    a.connect("43").await;
    let presence = a.registry.presence(&others).await.unwrap();
    let counts: Vec<_> = presence.iter().map(|it| it.tally.connections).collect();
    assert_eq!(counts, [1, 2, 0]);
    a.unregister(&[&spoilt, &other]).await;
    let read = a.registry.user(&USER.into()).await.unwrap();
    assert!(read.connections.is_empty() && read.last_seen.is_some());
    let revoke = Fence::RevokeBefore(None);
    let ordered = a
        .order(
            &all_of(USER),
            Some(&revoke),
            &Ending::of(Ending::TOKEN_REVOKED),
        )
        .await;
    assert!(ordered.revoked_before.is_some(), "written anew");
    let error = a.registry.users(Some("???"), 1).await.unwrap_err();
    assert!(matches!(error, RegistryError::BadCursor));
}
