//! A connection comes, changes and goes.

use std::collections::BTreeSet;

use switchboard::{
    connection::{Connection, ConnectionId, TransportKind},
    registry::{Grant, RegistryError, UserEntry},
};

use super::home::{Home, LONG, entry, fleet, is_in, tally};

pub(super) async fn a_registered_connection_is_listed_until_it_is_unregistered(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let full = Connection {
        device_id: Some("phone".into()),
        ..a.connection("42")
    };
    assert_eq!(a.register(&full).await, tally(1, 1));

    let user = b.registry.user(&"42".into()).await.unwrap();
    assert_eq!(user.connections, std::slice::from_ref(&full));
    assert_eq!(user.last_seen, None);
    assert_eq!(
        b.registry.connection(&full.id).await.unwrap(),
        Some(full.clone())
    );

    a.unregister(&[&full]).await;
    assert_eq!(b.ids("42").await, [""; 0]);
    assert_eq!(b.registry.connection(&full.id).await.unwrap(), None);
    assert_eq!(b.registry.totals().await.unwrap().users, 0);
}

pub(super) async fn connections_and_devices_are_counted(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let mut known = Vec::new();
    for (peer, device, expected) in [
        (&a, Some("phone"), tally(1, 1)),
        (&b, Some("phone"), tally(2, 1)),
        (&b, Some("laptop"), tally(3, 2)),
        (&a, None, tally(4, 3)),
        (&a, None, tally(5, 4)),
        (&b, Some(""), tally(6, 5)),
        (&b, Some(""), tally(7, 5)),
    ] {
        let connection = Connection {
            device_id: device.map(Into::into),
            ..peer.connection("42")
        };
        assert_eq!(peer.register(&connection).await, expected, "{device:?}");
        known.push(connection);
    }
    let [presence] = a.registry.presence(&["42".into()]).await.unwrap()[..] else {
        panic!("one user");
    };
    assert_eq!(presence.tally, tally(7, 5));

    known.sort_by(|a, b| a.id.cmp(&b.id));
    let listed = b.registry.user(&"42".into()).await.unwrap().connections;
    assert_eq!(listed, known, "in the order of their ids");
    assert_eq!(a.registry.totals().await.unwrap().users, 1);
}

pub(super) async fn writes_can_be_repeated(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    a.registry.join(&a.lease, &a.report).await.unwrap();
    let connection = a.connection("42");
    for _ in 0..3 {
        assert_eq!(a.register(&connection).await, tally(1, 1));
    }
    let other = b.connect("42").await;
    assert_eq!(a.register(&connection).await, tally(2, 2));
    let later = Connection {
        transport: TransportKind::Polling,
        ..connection.clone()
    };
    assert_eq!(a.register(&later).await, tally(2, 2));
    assert_eq!(
        b.registry.connection(&connection.id).await.unwrap(),
        Some(later.clone())
    );

    let totals = a.registry.totals().await.unwrap();
    assert_eq!((totals.connections, totals.users), (2, 1));
    for _ in 0..3 {
        a.unregister(&[&connection, &connection]).await;
    }
    assert_eq!(a.ids("42").await, [other.id.to_string()]);
    b.unregister(&[&other]).await;
    b.unregister(&[&other]).await;
    let totals = a.registry.totals().await.unwrap();
    assert_eq!((totals.connections, totals.users), (0, 0));
}

pub(super) async fn any_text_can_be_a_user(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let long = "x".repeat(200);
    let emoji = "😀".repeat(256);
    let users = [
        "a",
        "a\0b",
        "ab",
        "a\0",
        "a\u{1}",
        "a\u{1}\u{1}",
        "a\u{1}\u{2}",
        "\0",
        "\u{1}",
        "\0\0",
        "\u{2}",
        "{s0}",
        "}{",
        "a{b}c",
        "user:1",
        "user:1:conns",
        "line\nfeed\r\n",
        "*",
        "[a",
        "(a",
        "+",
        "-",
        " ",
        "..%2F..",
        "../..",
        "é",
        "👩‍👩‍👧",
        "\u{10ffff}",
        "'\"; return 1 --",
        &long,
        &emoji,
    ];
    let mut connections = Vec::new();
    for user in users {
        let connection = Connection {
            device_id: Some(user.into()),
            user_agent: Some(user.into()),
            rooms: vec![user.into()],
            remote_addr: Some(user.into()),
            namespace: format!("/{user}"),
            ..a.connection(user)
        };
        assert_eq!(a.register(&connection).await, tally(1, 1), "{user:?}");
        connections.push(connection);
    }
    for (user, connection) in users.iter().zip(&connections) {
        let listed = b.registry.user(&(*user).into()).await.unwrap();
        assert_eq!(
            listed.connections,
            std::slice::from_ref(connection),
            "{user:?}"
        );
        let found = b.registry.connection(&connection.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(connection), "{user:?}");
    }
    let page = b.registry.users(None, 1000).await.unwrap();
    let paged: BTreeSet<_> = page.users.iter().map(|(user, _)| user.as_str()).collect();
    assert_eq!(paged, users.into_iter().collect());
    assert_eq!(page.users.len(), users.len());
    let held = b.held_by(&a.lease).await;
    assert_eq!(
        held.into_iter().collect::<BTreeSet<_>>(),
        connections.iter().map(entry).collect()
    );

    for (gone, connection) in connections.iter().enumerate() {
        a.unregister(&[connection]).await;
        let totals = b.registry.totals().await.unwrap();
        assert_eq!(
            totals.users as usize,
            users.len() - gone - 1,
            "{:?}",
            connection.user_id
        );
        assert_eq!(totals.connections, totals.users);
    }
}

pub(super) async fn a_guest_is_found_by_its_id_only(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let guests = [a.guest(), a.guest(), b.guest()];
    for (peer, guest) in [&a, &a, &b].into_iter().zip(&guests) {
        assert_eq!(peer.register(guest).await, tally(1, 1));
        assert_eq!(peer.register(guest).await, tally(1, 1));
    }
    for guest in &guests {
        assert_eq!(
            b.registry.connection(&guest.id).await.unwrap().as_ref(),
            Some(guest)
        );
    }
    assert!(b.registry.users(None, 10).await.unwrap().users.is_empty());
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.connections, totals.users), (3, 0));
    a.unregister(&[&guests[0]]).await;
    assert_eq!(b.registry.connection(&guests[0].id).await.unwrap(), None);
    assert_eq!(b.registry.totals().await.unwrap().connections, 2);
}

pub(super) async fn what_is_asserted_again_is_as_it_is_by_its_last_version(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let none = Grant::default();
    for connection in [a.connect("42").await, a.guest()] {
        let first = a.admit(&connection, &none, None).await.unwrap();
        let start = a.start_of(&connection).unwrap();
        assert!(is_in(&first));
        let upgraded = Connection {
            expires_at: None,
            transport: TransportKind::Polling,
            ..connection.clone()
        };
        let there = async || b.registry.connection(&connection.id).await.unwrap();
        for _ in 0..2 {
            assert!(is_in(&a.again(&upgraded, &none, 2).await));
            assert_eq!(there().await.as_ref(), Some(&upgraded));
        }
        // What was said before comes late.
        assert!(is_in(&a.again(&connection, &none, 1).await));
        assert!(is_in(&a.admit(&connection, &none, None).await.unwrap()));
        assert_eq!(there().await.as_ref(), Some(&upgraded));
        assert!(is_in(&a.again(&connection, &none, 3).await));
        assert_eq!(there().await.as_ref(), Some(&connection));
        assert_eq!(a.start_of(&connection), Some(start), "it began once");

        // It is put back where it is missing, as it was last.
        a.unregister(&[&connection]).await;
        assert_eq!(there().await, None);
        assert!(is_in(&a.again(&upgraded, &none, 4).await));
        assert_eq!(there().await, Some(upgraded));
        assert_eq!(a.start_of(&connection), Some(start));
        assert_eq!(b.registry.totals().await.unwrap().connections, 1);
        a.unregister(&[&connection]).await;
    }
}

pub(super) async fn an_id_that_others_made_up_is_never_registered(home: &dyn Home) {
    let [a, _b] = fleet(home, LONG, LONG).await;
    let real = a.connect("42").await;
    let digit = &real.id.as_str()[..1];
    let elsewhere = if digit == "0" { '1' } else { '0' };
    for id in [
        "",
        "x",
        "../../etc",
        "é",
        "0\0",
        &format!("{elsewhere}{}", &real.id.as_str()[1..]),
    ] {
        let id = ConnectionId::from(id);
        let made_up = Connection {
            id: id.clone(),
            ..real.clone()
        };
        let refused = a.try_register(&made_up).await;
        assert!(matches!(refused, Err(RegistryError::Corrupt(_))), "{id}");
        assert_eq!(a.registry.connection(&id).await.unwrap(), None, "{id}");
        a.unregister(&[&made_up]).await;
    }
    assert_eq!(a.ids("42").await, [real.id.to_string()]);
}

pub(super) async fn many_are_unregistered_at_once(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let mut all = Vec::new();
    for n in 0..450 {
        // Many of one user, so that one shard has more than a script takes.
        let user = if n % 3 == 0 {
            format!("user{n}")
        } else {
            "many".into()
        };
        all.push(a.connect(&user).await);
    }
    let stays = b.connect("many").await;
    assert_eq!(b.registry.totals().await.unwrap().users, 151);
    a.unregister(&all.iter().collect::<Vec<_>>()).await;
    assert_eq!(b.ids("many").await, [stays.id.to_string()]);
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.connections, totals.users), (1, 1));
    assert_eq!(b.held_by(&a.lease).await, []);
    a.unregister(&[]).await;
}

pub(super) async fn a_lease_lists_what_it_holds(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let mut expected = BTreeSet::new();
    for user in ["1", "2", "2", "a\0b"] {
        expected.insert(entry(&a.connect(user).await));
        b.connect(user).await;
    }
    let guest = a.guest();
    a.register(&guest).await;
    expected.insert(entry(&guest));
    let held = b.held_by(&a.lease).await;
    assert_eq!(held.len(), 5);
    assert_eq!(held.into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(
        b.registry.user(&"3".into()).await.unwrap(),
        UserEntry::default()
    );
}
