//! What is read: pages, presence, when users were last seen, totals.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use switchboard::{
    config,
    connection::Connection,
    registry::{RegistryError, Totals, UsersPage},
};

use super::home::{Home, LONG, Peer, SHORT, eventually, fleet, fleet_keeping, tally};

async fn pages(peer: &Peer, limit: usize) -> Vec<UsersPage> {
    let mut pages: Vec<UsersPage> = Vec::new();
    loop {
        let cursor = pages.last().and_then(|page| page.next.clone());
        let page = peer.registry.users(cursor.as_deref(), limit).await.unwrap();
        let last = page.next.is_none();
        pages.push(page);
        if last {
            return pages;
        }
    }
}

pub(super) async fn pages_hold_everybody_once(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    assert_eq!(pages(&a, 3).await, [UsersPage::default()]);
    let mut expected = BTreeMap::new();
    for n in 0..60 {
        let user = format!("user{n}");
        a.connect(&user).await;
        expected.insert(user, tally(1, 1));
    }
    // More connections than a batch, on both nodes and on one device.
    for n in 0..230 {
        let peer = [&a, &b][n % 2];
        let connection = Connection {
            device_id: Some("tv".into()),
            ..peer.connection("many")
        };
        peer.register(&connection).await;
    }
    expected.insert("many".into(), tally(230, 1));
    a.register(&a.guest()).await;

    for limit in [1, 7, 60, 61, 62, 5000] {
        let pages = pages(&b, limit).await;
        assert_eq!(pages.len(), 61_usize.div_ceil(limit), "pages of {limit}");
        for page in &pages[..pages.len() - 1] {
            assert_eq!(page.users.len(), limit);
        }
        let all: Vec<_> = pages.iter().flat_map(|page| &page.users).collect();
        assert_eq!(all.len(), expected.len(), "each once");
        let found: BTreeMap<_, _> = all
            .iter()
            .map(|(user, it)| (user.to_string(), *it))
            .collect();
        assert_eq!(found, expected);
    }
    assert_eq!(
        pages(&a, 0).await.len(),
        61,
        "none at a time is one at a time"
    );
}

pub(super) async fn a_page_goes_on_after_a_user_that_has_gone(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let mut connections = Vec::new();
    for n in 0..30 {
        connections.push(a.connect(&format!("user{n}")).await);
    }
    let first = b.registry.users(None, 10).await.unwrap();
    let seen: Vec<_> = first.users.iter().map(|(user, _)| Some(user)).collect();
    let gone: Vec<_> = connections
        .iter()
        .filter(|it| seen.contains(&it.user_id.as_ref()))
        .collect();
    assert_eq!(gone.len(), 10);
    a.unregister(&gone).await;
    let rest = b.registry.users(first.next.as_deref(), 100).await.unwrap();
    assert_eq!(rest.users.len(), 20);
    assert!(
        rest.users
            .iter()
            .all(|(user, _)| !seen.contains(&Some(user)))
    );
    assert_eq!(rest.next, None);
}

pub(super) async fn a_foreign_cursor_is_refused(home: &dyn Home) {
    let [a, _b] = fleet(home, LONG, LONG).await;
    for cursor in ["", "0", "user1", "dXNlcg", "*", "%00", "\0", "é"] {
        let page = a.registry.users(Some(cursor), 10).await;
        assert!(
            matches!(page, Err(RegistryError::BadCursor)),
            "{cursor:?}: {page:?}"
        );
    }
}

pub(super) async fn presence_comes_in_the_order_asked_for(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    for n in 0..50 {
        for _ in 0..n % 4 {
            a.connect(&format!("user{n}")).await;
        }
    }
    let asked: Vec<usize> = (0..1000).map(|n| n * 7 % 60).collect();
    let users: Vec<_> = asked.iter().map(|n| format!("user{n}").into()).collect();
    let presence = b.registry.presence(&users).await.unwrap();
    assert_eq!(presence.len(), asked.len());
    for (n, presence) in asked.iter().zip(presence) {
        let expected = if *n < 50 { *n as u64 % 4 } else { 0 };
        assert_eq!(presence.tally, tally(expected, expected), "user{n}");
        assert_eq!(presence.last_seen, None, "user{n}");
    }
    assert_eq!(b.registry.presence(&[]).await.unwrap(), []);
}

async fn last_seen(peer: &Peer, user: &str) -> Option<Timestamp> {
    let entry = peer.registry.user(&user.into()).await.unwrap();
    let presence = peer.registry.presence(&[user.into()]).await.unwrap();
    assert_eq!(entry.last_seen, presence[0].last_seen);
    entry.last_seen
}

pub(super) async fn last_seen_is_kept_for_as_long_as_configured(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let before = Timestamp::now().as_millisecond();
    let [first, second] = [a.connect("42").await, b.connect("42").await];
    a.unregister(&[&first]).await;
    assert_eq!(last_seen(&a, "42").await, None, "still online");
    b.unregister(&[&second]).await;
    let seen = last_seen(&a, "42").await.unwrap().as_millisecond();
    assert!((before..=Timestamp::now().as_millisecond()).contains(&seen));
    b.unregister(&[&second]).await;
    assert_eq!(
        last_seen(&a, "42").await.unwrap().as_millisecond(),
        seen,
        "only once"
    );
    let third = a.connect("42").await;
    assert_eq!(last_seen(&a, "42").await, None, "online again");
    a.unregister(&[&third]).await;
    assert!(last_seen(&a, "42").await.unwrap().as_millisecond() >= seen);
    assert_eq!(last_seen(&a, "43").await, None, "never there");

    let brief = config::Presence {
        last_seen: Duration::from_secs(1),
        ..config::Presence::default()
    };
    let [a, _b] = fleet_keeping(home, LONG, LONG, &brief).await;
    let connection = a.connect("brief").await;
    a.unregister(&[&connection]).await;
    eventually("it is forgotten", async || {
        a.registry
            .user(&"brief".into())
            .await
            .unwrap()
            .last_seen
            .is_none()
    })
    .await;
    assert_eq!(last_seen(&a, "brief").await, None);

    let none = config::Presence {
        last_seen: Duration::ZERO,
        ..config::Presence::default()
    };
    let [a, _b] = fleet_keeping(home, LONG, LONG, &none).await;
    let connection = a.connect("none").await;
    a.unregister(&[&connection]).await;
    assert_eq!(last_seen(&a, "none").await, None);
}

pub(super) async fn last_seen_of_a_dead_nodes_user_is_its_last_heartbeat(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    a.connect("42").await;
    assert!(a.beat().await);
    let heartbeat = b.registry.nodes().await.unwrap()[0].last_heartbeat;
    b.sees_lapse_of(&a.lease).await;
    let seen = last_seen(&b, "42").await.expect("not reaped yet");
    // A heartbeat reaches the user's shard and the nodes one after the other, and maybe by two clocks.
    let apart = seen.duration_since(heartbeat).abs();
    assert!(apart < SignedDuration::from_secs(1), "{apart}");
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 1);
    assert_eq!(last_seen(&b, "42").await, Some(seen), "reaped");
}

pub(super) async fn totals_are_exact(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let totals = async |nodes, connections, users| {
        let expected = Totals {
            nodes,
            connections,
            users,
        };
        assert_eq!(b.registry.totals().await.unwrap(), expected);
    };
    totals(2, 0, 0).await;
    b.connect("1").await;
    b.connect("1").await;
    b.connect("2").await;
    a.beat().await;
    a.connect("2").await;
    a.register(&a.guest()).await;
    a.connect("3").await;
    a.beat().await;
    totals(2, 6, 3).await;
    b.sees_lapse_of(&a.lease).await;
    totals(1, 3, 2).await;
}
