//! What backends are to be told is kept, once and in order.

use std::time::Duration;

use serde_json::{Value, value::RawValue};
use switchboard::{
    config::{Backend, Config, Fact, Presence, RunningConfig},
    registry::{Closed, Closing, Member, NotificationId, Room, keys::Shard},
};

use super::home::{Home, LONG, Peer, SHORT, entry, fleet_telling, timing};

const BACKEND: &str = "app";

/// Two nodes that tell a backend of everything, of users who are gone after `offline_delay`.
async fn fleet(home: &dyn Home, a: Duration, offline_delay: Duration) -> [Peer; 2] {
    let backend = |name: &str, namespaces: &[&str]| Backend {
        name: name.to_owned(),
        namespaces: namespaces.iter().map(|it| (*it).to_owned()).collect(),
        notify: Fact::ALL.to_vec(),
        ..Backend::default()
    };
    let config = Config {
        backends: vec![backend(BACKEND, &[]), backend("other", &["/other"])],
        presence: Presence {
            offline_delay,
            ..Presence::default()
        },
        ..Config::default()
    };
    let told = RunningConfig::new(config);
    let timings = [timing(a), timing(LONG)];
    fleet_telling(home, timings, &Presence::default(), Some(&told)).await
}

/// What is kept for a backend in a shard: types, places and data.
async fn kept(
    peer: &Peer,
    shard: Shard,
    backend: &str,
) -> Vec<(&'static str, NotificationId, Value)> {
    let none = NotificationId::default();
    let kept = peer.registry.kept(shard, backend, none, 100).await.unwrap();
    let kept = kept.into_iter();
    kept.map(|it| (it.kind, it.id, serde_json::from_str(it.data.get()).unwrap()))
        .collect()
}

async fn kinds(peer: &Peer, shard: Shard) -> Vec<&'static str> {
    let kept = kept(peer, shard, BACKEND).await;
    kept.into_iter().map(|(kind, ..)| kind).collect()
}

fn shard_of(peer: &Peer, user: &str) -> Shard {
    peer.registry.shards().of_user(&user.into())
}

pub(super) async fn what_happens_is_kept_once_and_in_order(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, Duration::ZERO).await;
    let shard = shard_of(&a, "4\0\u{1}2");
    let first = a.connect("4\0\u{1}2").await;
    a.register(&first).await;
    let second = b.connect("4\0\u{1}2").await;
    let there = ["connection.opened", "user.online", "connection.opened"];
    assert_eq!(kinds(&a, shard).await, there);
    let closed = Closed {
        entry: entry(&second),
        closing: Closing {
            reason: "enough".into(),
            code: Some(4777),
        },
    };
    for _ in 0..2 {
        let closed = std::slice::from_ref(&closed);
        b.registry.close(&b.lease, closed).await.unwrap();
    }
    a.unregister(&[&first]).await;
    for peer in [&a, &b] {
        peer.registry.tell_left(shard).await.unwrap();
    }
    let kept = kept(&b, shard, BACKEND).await;
    let gone: Vec<_> = kept.iter().skip(3).map(|(kind, ..)| *kind).collect();
    assert_eq!(
        gone,
        ["connection.closed", "connection.closed", "user.offline"]
    );
    assert!(kept.is_sorted_by_key(|(_, id, _)| *id));
    let data = |at: usize| &kept[at].2;
    assert_eq!(data(0)["connection"], serde_json::to_value(&first).unwrap());
    assert_eq!(data(1)["userId"], "4\0\u{1}2");
    let (reason, code) = (&data(3)["reason"], &data(3)["code"]);
    assert_eq!(
        (reason.as_str(), code.as_u64()),
        (Some("enough"), Some(4777))
    );
    assert_eq!(data(4)["reason"], "node lost");
    let seen = a
        .registry
        .user(&"4\0\u{1}2".into())
        .await
        .unwrap()
        .last_seen;
    assert_eq!(data(5)["at"], serde_json::to_value(seen).unwrap());
    // Of connections elsewhere the other backend is not told; of users it is.
    let others: Vec<_> = self::kept(&a, shard, "other").await;
    let others: Vec<_> = others.into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(others, ["user.online", "user.offline"]);

    let from = kept[1].1;
    let behind = a.registry.kept(shard, BACKEND, from, 2).await.unwrap();
    let behind: Vec<_> = behind.into_iter().map(|it| it.id).collect();
    assert_eq!(behind, [kept[2].1, kept[3].1]);
    let at = a
        .registry
        .kept(shard, BACKEND, from.before(), 1)
        .await
        .unwrap();
    assert_eq!(at[0].id, from);
    for (_, id, _) in &kept {
        a.registry.delivered(shard, BACKEND, *id).await.unwrap();
        b.registry.delivered(shard, BACKEND, *id).await.unwrap();
    }
    assert!(kinds(&b, shard).await.is_empty());
}

pub(super) async fn who_comes_back_in_time_was_not_gone(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let shard = shard_of(&a, "42");
    let first = a.connect("42").await;
    a.unregister(&[&first]).await;
    a.registry.tell_left(shard).await.unwrap();
    b.connect("42").await;
    b.registry.tell_left(shard).await.unwrap();
    let told = [
        "connection.opened",
        "user.online",
        "connection.closed",
        "connection.opened",
    ];
    assert_eq!(kinds(&a, shard).await, told);
}

pub(super) async fn the_end_of_a_node_is_told_once(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, Duration::ZERO).await;
    let shard = shard_of(&a, "42");
    let lost = a.connect("42").await;
    b.sees_lapse_of(&a.lease).await;
    for _ in 0..2 {
        b.registry.reap(&a.lease).await.unwrap();
        b.registry.tell_left(shard).await.unwrap();
    }
    let kept = kept(&b, shard, BACKEND).await;
    let kinds: Vec<_> = kept.iter().map(|(kind, ..)| *kind).collect();
    let told = [
        "connection.opened",
        "user.online",
        "connection.closed",
        "user.offline",
    ];
    assert_eq!(kinds, told);
    let closed = &kept[2].2;
    assert_eq!(closed["connection"], serde_json::to_value(&lost).unwrap());
    assert_eq!(
        (&closed["reason"], &closed["code"]),
        (&"node lost".into(), &Value::Null)
    );
}

pub(super) async fn rooms_are_told_of_by_their_first_and_last_member(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let (one, two) = (a.connect("1").await, b.connect("2").await);
    // What is in no namespace is nobody's business.
    for room in [Room::new("/", "r\0"), Room::new("watch", "r")] {
        let shard = a.registry.shards().of_room(&room);
        let before = kinds(&a, shard).await.len();
        let change = async |peer: &Peer, connection, is_in| {
            let member = Member {
                room: room.clone(),
                entry: entry(connection),
            };
            let changes = [(member, is_in)];
            let changed = peer.registry.change_members(&peer.lease, shard, &changes);
            changed.await.unwrap();
        };
        for is_in in [true, false] {
            for _ in 0..2 {
                change(&a, &one, is_in).await;
                change(&b, &two, is_in).await;
            }
        }
        let kept = kept(&a, shard, BACKEND).await;
        let told: Vec<_> = kept.iter().skip(before).map(|it| it.0).collect();
        match room.namespace.starts_with('/') {
            true => {
                assert_eq!(told, ["room.occupied", "room.vacated"]);
                let data = serde_json::json!({ "room": "r\0", "namespace": "/" });
                assert_eq!(kept[before].2, data);
            }
            false => assert_eq!(told, [""; 0]),
        }
    }
}

pub(super) async fn an_event_is_kept_for_whom_it_is(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let connection = a.connection("42");
    let shard = shard_of(&a, "42");
    let data = RawValue::from_string(r#"{"args": [1.0]}"#.to_owned()).unwrap();
    let backends = [BACKEND.to_owned()];
    let from = entry(&connection);
    let kept = a.registry.keep_event(&from, &backends, &data);
    kept.await.unwrap();
    let none = NotificationId::default();
    let kept = b.registry.kept(shard, BACKEND, none, 10).await.unwrap();
    let [one] = kept.as_slice() else {
        panic!("{kept:?}")
    };
    assert_eq!((one.kind, one.data.get()), ("client.event", data.get()));
    assert!(
        b.registry
            .kept(shard, "other", none, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

pub(super) async fn too_many_and_too_old_are_dropped(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let shard = shard_of(&a, "42");
    let from = entry(&a.connection("42"));
    let backends = [BACKEND.to_owned()];
    for number in 0..8 {
        let data = RawValue::from_string(number.to_string()).unwrap();
        let kept = a.registry.keep_event(&from, &backends, &data);
        kept.await.unwrap();
    }
    let prune = async |retention, most| {
        let pruned = b.registry.prune(shard, BACKEND, retention, most);
        let pruned = pruned.await.unwrap();
        (pruned.expired, pruned.excess, pruned.left)
    };
    assert_eq!(prune(LONG, 8).await, (0, 0, 8));
    assert_eq!(prune(LONG, 5).await, (0, 3, 5));
    let first = &kept(&a, shard, BACKEND).await[0];
    assert_eq!(first.2, 3, "the oldest go");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(prune(Duration::from_millis(5), 5).await, (5, 0, 0));
}

pub(super) async fn one_node_delivers_at_a_time(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let delivers = async |peer: &Peer| {
        let begun = peer
            .registry
            .begin_delivery(Shard::FIRST, &peer.lease.instance, LONG);
        begun.await.unwrap()
    };
    assert!(delivers(&a).await);
    assert!(delivers(&a).await, "prolonged");
    assert!(!delivers(&b).await);
    let end = async |peer: &Peer| {
        let ended = peer
            .registry
            .end_delivery(Shard::FIRST, &peer.lease.instance);
        ended.await.unwrap();
    };
    end(&b).await;
    assert!(!delivers(&b).await, "another's");
    end(&a).await;
    assert!(delivers(&b).await);
}
