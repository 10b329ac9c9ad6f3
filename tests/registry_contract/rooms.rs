//! Rooms: who is in them, and who is meant to be.

use std::collections::BTreeSet;

use jiff::{Timestamp, ToSpan as _};
use switchboard::{
    connection::{Connection, UserId},
    ending::Ending,
    registry::{
        Admission, EndOrder, EndTarget, Entry, Grant, Lasting, Member, Recipient, Room, RoomFilter,
        RoomTally,
    },
};

use super::home::{Home, LONG, Peer, SHORT, entry, fleet, is_in};

fn room(name: &str) -> Room {
    Room::new("/", name)
}

fn member(room: &Room, connection: &Connection) -> Member {
    Member {
        room: room.clone(),
        entry: entry(connection),
    }
}

/// Puts a connection of a node into rooms, or takes it out.
async fn change(peer: &Peer, connection: &Connection, rooms: &[&Room], is_in: bool) {
    for room in rooms {
        let shard = peer.registry.shards().of_room(room);
        let changes = [(member(room, connection), is_in)];
        let changed = peer.registry.change_members(&peer.lease, shard, &changes);
        changed.await.unwrap();
    }
}

/// All members, a few at a time.
async fn members(peer: &Peer, room: &Room, limit: usize) -> Vec<Entry> {
    let (mut members, mut cursor) = (Vec::new(), None);
    loop {
        let page = peer.registry.members(room, cursor.as_deref(), limit).await;
        let page = page.unwrap();
        assert!(page.members.len() <= limit);
        members.extend(page.members);
        cursor = page.next;
        if cursor.is_none() {
            return members;
        }
    }
}

/// All rooms that a filter lets pass, a few at a time, by name and count.
async fn rooms(
    peer: &Peer,
    namespace: Option<&str>,
    prefix: &str,
    limit: usize,
) -> BTreeSet<(Room, u64)> {
    let filter = RoomFilter {
        namespace: namespace.map(str::to_owned),
        prefix: prefix.to_owned(),
    };
    let (mut rooms, mut cursor) = (BTreeSet::new(), None);
    loop {
        let page = peer.registry.rooms(&filter, cursor.as_deref(), limit).await;
        let page = page.unwrap();
        assert!(page.rooms.len() <= limit);
        for room in page.rooms {
            assert!(rooms.insert(room.clone()), "{room:?} is there twice");
        }
        cursor = page.next;
        if cursor.is_none() {
            return rooms;
        }
    }
}

fn count(connections: u64, users: u64) -> RoomTally {
    RoomTally { connections, users }
}

pub(super) async fn a_room_has_its_members_whatever_their_nodes(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let chat = room("chat");
    let (one, two) = (a.connect("42").await, b.connect("42").await);
    let (three, guest) = (b.connect("7").await, a.guest());
    a.register(&guest).await;
    for _ in 0..2 {
        for (peer, connection) in [(&a, &one), (&b, &two), (&b, &three), (&a, &guest)] {
            change(peer, connection, &[&chat], true).await;
        }
    }
    assert_eq!(b.registry.room(&chat).await.unwrap(), count(4, 2));
    let mut expected: Vec<_> = [&guest, &one, &two, &three].map(entry).into();
    expected.sort();
    for limit in [1, 3, 100] {
        assert_eq!(members(&a, &chat, limit).await, expected, "{limit}");
    }
    let holders = a
        .registry
        .holders(&Recipient::Room(chat.clone()))
        .await
        .unwrap();
    let both = [&a, &b].map(|peer| peer.lease.instance.clone());
    assert_eq!(BTreeSet::from_iter(holders), both.into());

    for _ in 0..2 {
        change(&a, &one, &[&chat], false).await;
        change(&a, &guest, &[&chat], false).await;
    }
    assert_eq!(a.registry.room(&chat).await.unwrap(), count(2, 2));
    let holders = b
        .registry
        .holders(&Recipient::Room(chat.clone()))
        .await
        .unwrap();
    assert_eq!(holders, std::slice::from_ref(&b.lease.instance));
    change(&b, &two, &[&chat], false).await;
    assert_eq!(a.registry.room(&chat).await.unwrap(), count(1, 1));
    change(&b, &three, &[&chat], false).await;
    assert_eq!(a.registry.room(&chat).await.unwrap(), count(0, 0));
    assert_eq!(rooms(&a, None, "", 10).await, BTreeSet::new());
}

pub(super) async fn rooms_of_any_name_are_listed_by_namespace_and_prefix(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let connection = a.connect("\0u\u{1}").await;
    let names = [
        "a", "a\0b", "a\u{1}", "ab", "b", "\0", "{s1}", "é", "[a", "b/",
    ];
    let all: Vec<_> = ["/", "/x", "/\0"]
        .into_iter()
        .flat_map(|namespace| names.map(|name| Room::new(namespace, name)))
        .collect();
    change(&a, &connection, &all.iter().collect::<Vec<_>>(), true).await;
    for (namespace, prefix) in [
        (None, ""),
        (None, "a"),
        (None, "a\0"),
        (None, "b/"),
        (None, "zzz"),
        (Some("/"), ""),
        (Some("/x"), "a"),
        (Some("/\0"), "\0"),
        (Some("/y"), ""),
    ] {
        let expected = all.iter().filter(|room| {
            namespace.is_none_or(|it| it == &*room.namespace) && room.name.starts_with(prefix)
        });
        let expected: BTreeSet<_> = expected.map(|room| (room.clone(), 1)).collect();
        for limit in [1, 4, 1000] {
            let found = rooms(&b, namespace, prefix, limit).await;
            assert_eq!(found, expected, "{namespace:?} {prefix:?} {limit}");
        }
    }
    for room in &all {
        assert_eq!(
            members(&b, room, 10).await,
            [entry(&connection)],
            "{room:?}"
        );
    }
    let mut joined = BTreeSet::new();
    for shard in a.registry.shards().all() {
        joined.extend(a.registry.joined(&a.lease, shard).await.unwrap());
    }
    assert_eq!(
        joined,
        all.iter().map(|room| member(room, &connection)).collect()
    );
    for wrong in ["", "x", "dTE6NDI"] {
        let filter = RoomFilter::default();
        assert!(b.registry.rooms(&filter, Some(wrong), 1).await.is_err());
        assert!(b.registry.members(&all[0], Some(wrong), 1).await.is_err());
    }
}

pub(super) async fn the_members_of_a_dead_node_are_gone_with_it(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let (chat, only) = (room("chat"), room("only"));
    let (mine, stays) = (a.connect("42").await, b.connect("42").await);
    change(&a, &mine, &[&chat, &only], true).await;
    a.beat().await;
    change(&b, &stays, &[&chat], true).await;
    b.sees_lapse_of(&a.lease).await;

    // Nobody has reaped it.
    assert_eq!(members(&b, &chat, 10).await, [entry(&stays)]);
    assert_eq!(rooms(&b, None, "", 10).await, [(chat.clone(), 1)].into());
    assert_eq!(b.registry.room(&chat).await.unwrap(), count(1, 1));
    assert_eq!(b.registry.room(&only).await.unwrap(), count(0, 0));
    let holders = b
        .registry
        .holders(&Recipient::Room(chat.clone()))
        .await
        .unwrap();
    assert_eq!(holders, std::slice::from_ref(&b.lease.instance));

    b.registry.reap(&a.lease).await.unwrap();
    assert_eq!(b.registry.room(&chat).await.unwrap(), count(1, 1));
    for shard in b.registry.shards().all() {
        let joined = b.registry.joined(&a.lease, shard).await.unwrap();
        assert_eq!(joined, [], "{shard:?}");
    }
    // It comes back under the next lease, with what it has.
    let a = a.rejoin_for_long().await;
    a.enter().await;
    a.again(&mine, &Grant::default(), 2).await;
    change(&a, &mine, &[&chat], true).await;
    assert_eq!(b.registry.room(&chat).await.unwrap(), count(2, 1));
}

/// What an assertion says of the rooms that a user is to be in.
async fn told(peer: &Peer, connection: &Connection) -> Vec<Lasting> {
    match peer.again(connection, &Grant::default(), 1).await {
        Admission::Admitted { mut lasting, .. } => {
            lasting.retain(|it| it.holds(Timestamp::now()));
            lasting
        }
        other => panic!("{other:?}"),
    }
}

pub(super) async fn a_lasting_membership_is_told_to_who_comes_after_it(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let connection = a.connect("42").await;
    let guest = a.guest();
    a.register(&guest).await;
    assert_eq!(told(&a, &connection).await, []);
    let until = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap() + 1.hour();
    let kept = [
        Lasting {
            room: room("a\0\u{1}"),
            until: None,
        },
        Lasting {
            room: Room::new("/x", "b"),
            until: Some(until),
        },
    ];
    let keep = async |lasting: &Lasting, most| {
        let user = "42".into();
        let kept = b.registry.keep_in_room(&user, lasting, most);
        kept.await.unwrap()
    };
    for lasting in &kept {
        assert!(keep(lasting, 2).await);
        assert!(keep(lasting, 2).await, "once more");
    }
    let third = Lasting {
        room: room("third"),
        until: None,
    };
    assert!(!keep(&third, 2).await);
    for it in [a.connect("42").await, connection] {
        assert_eq!(told(&a, &it).await, kept);
    }
    assert_eq!(told(&a, &guest).await, []);
    assert_eq!(a.registry.lasting(&"42".into()).await.unwrap(), kept);
    let shown = b.registry.user(&"42".into()).await.unwrap().connections;
    assert!(shown.iter().all(|it| it.rooms == ["a\0\u{1}"]), "{shown:?}");

    // What is over counts for nothing.
    let over = Lasting {
        until: Some(Timestamp::now() - 1.hour()),
        ..kept[0].clone()
    };
    assert!(keep(&over, 2).await);
    assert!(keep(&third, 2).await);
    let left = [kept[1].clone(), third.clone()];
    let mut lasting = a.registry.lasting(&"42".into()).await.unwrap();
    lasting.sort_by(|a, b| b.room.cmp(&a.room));
    assert_eq!(lasting, left);

    for _ in 0..2 {
        b.registry.let_go(&"42".into(), &third.room).await.unwrap();
    }
    assert_eq!(a.registry.lasting(&"42".into()).await.unwrap(), left[..1]);
    assert!(keep(&third, 9).await);
    b.registry
        .keep_in_room(&"7".into(), &third, 9)
        .await
        .unwrap();
    for _ in 0..2 {
        a.registry.let_all_go(&third.room).await.unwrap();
    }
    assert_eq!(a.registry.lasting(&"42".into()).await.unwrap(), left[..1]);
    assert_eq!(a.registry.lasting(&"7".into()).await.unwrap(), []);
}

/// A user is put into a room and taken out of it at once: what stands in the end is found when the room is emptied.
pub(super) async fn a_lasting_membership_is_found_whatever_was_written_at_once(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let user = UserId::from("4\0\u{1}2");
    for round in 0..50 {
        let lasting = Lasting {
            room: room(&format!("r{round}")),
            until: None,
        };
        let room = &lasting.room;
        if round % 2 == 0 {
            assert!(a.registry.keep_in_room(&user, &lasting, 999).await.unwrap());
        }
        let (one, other, out, all) = tokio::join!(
            a.registry.keep_in_room(&user, &lasting, 999),
            b.registry.keep_in_room(&user, &lasting, 999),
            b.registry.let_go(&user, room),
            async {
                match round % 3 {
                    0 => a.registry.let_all_go(room).await,
                    _ => Ok(()),
                }
            },
        );
        assert!(one.unwrap() && other.unwrap());
        out.and(all).unwrap();
        a.registry.let_all_go(room).await.unwrap();
        assert_eq!(b.registry.lasting(&user).await.unwrap(), [], "{room:?}");
    }
}

pub(super) async fn an_order_for_a_room_means_its_members(home: &dyn Home) {
    let fleet = fleet(home, LONG, LONG).await;
    let [a, b] = &fleet;
    let chat = room("chat");
    let (one, two, stays) = (
        a.connect("42").await,
        b.connect("7").await,
        b.connect("9").await,
    );
    let other = a.connect("42").await;
    for (peer, connection) in [(a, &one), (b, &two), (b, &stays)] {
        change(peer, connection, &[&chat], true).await;
    }
    let target = EndTarget::Room {
        room: chat.clone(),
        except: vec![stays.id.clone()],
    };
    let order = EndOrder {
        target: &target,
        fence: None,
        ending: &Ending::of(4500),
    };
    let ordered = a.registry.order_end(order).await.unwrap();
    let ids: BTreeSet<_> = ordered
        .connections
        .iter()
        .map(|it| it.entry.id.clone())
        .collect();
    assert_eq!(ids, BTreeSet::from([one.id.clone(), two.id.clone()]));
    for listed in &ordered.connections {
        let peer = if listed.entry.id == one.id { a } else { b };
        assert_eq!(listed.instance, peer.lease.instance);
    }
    let again = async |peer: &Peer, it| peer.again(it, &Grant::default(), 2).await;
    assert_eq!(again(a, &one).await, Admission::Ended(Ending::of(4500)));
    assert_eq!(again(b, &two).await, Admission::Ended(Ending::of(4500)));
    assert!(is_in(&again(b, &stays).await) && is_in(&again(a, &other).await));
}
