//! How many connections a user may have.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use jiff::SignedDuration;
use switchboard::{
    connection::{Connection, ConnectionId},
    ending::Ending,
    registry::{Admission, Bar, EndTarget, Entry, Grant, LimitPolicy, UserLimit},
};

use super::home::{Home, LONG, Peer, SHORT, entry, eventually, fleet, tally};

fn reject(max: u32) -> Option<UserLimit> {
    Some(UserLimit {
        max,
        policy: LimitPolicy::Reject,
        newcomers: 0,
    })
}

fn evict(max: u32) -> Option<UserLimit> {
    Some(UserLimit {
        max,
        policy: LimitPolicy::EvictOldest,
        newcomers: 0,
    })
}

async fn admit(peer: &Peer, connection: &Connection, limit: Option<UserLimit>) -> Admission {
    peer.admit(connection, &Grant::default(), limit)
        .await
        .unwrap()
}

fn admitted(connections: u64, evicted: &[&Connection]) -> Admission {
    Admission::Admitted {
        tally: tally(connections, connections),
        evicted: evicted.iter().map(|it| entry(it)).collect(),
    }
}

const TOO_MANY: Admission = Admission::Refused(Bar::TooMany);

/// One that began so many seconds after the others might have.
fn aged(peer: &Peer, user: &str, seconds: i64) -> Connection {
    let connection = peer.connection(user);
    Connection {
        connected_at: connection.connected_at + SignedDuration::from_secs(seconds),
        ..connection
    }
}

pub(super) async fn one_too_many_is_refused(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let first = a.connection("42");
    let second = b.connection("42");
    let third = a.connection("42");
    assert_eq!(admit(&a, &first, reject(2)).await, admitted(1, &[]));
    assert_eq!(admit(&b, &second, reject(2)).await, admitted(2, &[]));
    assert_eq!(admit(&a, &third, reject(2)).await, TOO_MANY);
    assert_eq!(a.registry.connection(&third.id).await.unwrap(), None);
    assert_eq!(a.registry.totals().await.unwrap().connections, 2);

    // Those that are there are not counted twice, and not refused, however low the limit is by now.
    assert_eq!(admit(&a, &first, reject(2)).await, admitted(2, &[]));
    assert_eq!(admit(&b, &second, reject(1)).await, admitted(2, &[]));
    // Nobody else's business.
    assert_eq!(
        admit(&a, &a.connection("43"), reject(2)).await,
        admitted(1, &[])
    );
    for n in 1..4 {
        let guest = a.guest();
        assert_eq!(
            admit(&a, &guest, reject(1)).await,
            admitted(1, &[]),
            "guest {n}"
        );
    }

    b.unregister(&[&second]).await;
    assert_eq!(admit(&a, &third, reject(2)).await, admitted(2, &[]));
    for (n, limit) in [(3, None), (4, reject(0)), (5, evict(0))] {
        let further = b.connection("42");
        assert_eq!(admit(&b, &further, limit).await, admitted(n, &[]));
    }
}

pub(super) async fn those_that_are_ordered_to_end_do_not_count(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let first = aged(&a, "42", 0);
    let second = aged(&b, "42", 1);
    admit(&a, &first, reject(2)).await;
    admit(&b, &second, reject(2)).await;
    let target = EndTarget::Connection(entry(&first));
    b.order(&target, None, &Ending::of(Ending::LOGGED_OUT))
        .await;
    let third = aged(&a, "42", 2);
    // It is still listed, though.
    assert_eq!(admit(&a, &third, reject(2)).await, admitted(3, &[]));
    let fourth = aged(&a, "42", 3);
    assert_eq!(admit(&a, &fourth, reject(2)).await, TOO_MANY);
    // The one that goes anyway makes no room, and keeps its order.
    assert_eq!(admit(&a, &fourth, evict(2)).await, admitted(3, &[&second]));
    let orders = a.registry.orders(&[entry(&first)]).await.unwrap();
    assert_eq!(orders[0].1.code, Ending::LOGGED_OUT);
}

pub(super) async fn the_oldest_make_room(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let middle = aged(&b, "42", 20);
    let oldest = aged(&b, "42", 10);
    let youngest = aged(&a, "42", 30);
    for (n, (peer, connection)) in [(&b, &middle), (&b, &oldest), (&a, &youngest)]
        .into_iter()
        .enumerate()
    {
        let all = admitted(n as u64 + 1, &[]);
        assert_eq!(admit(peer, connection, evict(3)).await, all);
    }
    let fourth = aged(&a, "42", 5);
    let expected = admitted(3, &[&oldest]);
    assert_eq!(admit(&a, &fourth, evict(3)).await, expected);
    let orders = b.registry.orders(&[&oldest, &middle].map(entry)).await;
    assert_eq!(
        orders.unwrap(),
        [(entry(&oldest), Ending::of(Ending::LIMIT))]
    );
    assert!(b.ids("42").await.contains(&oldest.id.to_string()));

    // As the first answer may be lost, so may the word to the node of the evicted: it is named until it is gone.
    assert_eq!(admit(&a, &fourth, evict(3)).await, expected);
    let fifth = aged(&b, "42", 40);
    assert_eq!(
        admit(&b, &fifth, evict(3)).await,
        // It is not about who came last, but about who began first.
        admitted(3, &[&oldest, &fourth])
    );
    b.unregister(&[&oldest]).await;
    a.unregister(&[&fourth]).await;
    assert_eq!(admit(&b, &fifth, evict(3)).await, admitted(3, &[]));

    // A lower limit takes all that are beyond it.
    let last = aged(&a, "42", 50);
    assert_eq!(
        admit(&a, &last, evict(1)).await,
        admitted(1, &[&middle, &youngest, &fifth])
    );
}

pub(super) async fn equals_make_room_in_the_order_of_their_ids(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(b.connect("42").await.id);
    }
    ids.sort();
    let Admission::Admitted { evicted, .. } = admit(&a, &a.connection("42"), evict(4)).await else {
        panic!("refused");
    };
    let evicted: Vec<_> = evicted.into_iter().map(|entry| entry.id).collect();
    assert_eq!(evicted, ids[..2]);
}

pub(super) async fn a_dead_nodes_connections_do_not_count(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let back = a.connection("42");
    assert_eq!(admit(&a, &back, reject(1)).await, admitted(1, &[]));
    b.sees_lapse_of(&a.lease).await;
    let next = b.connection("42");
    assert_eq!(admit(&b, &next, evict(1)).await, admitted(1, &[]));
    b.unregister(&[&next]).await;
    assert_eq!(admit(&b, &next, reject(1)).await, admitted(1, &[]));
    // What was let in before comes back without being asked; if it is still known, with being asked.
    let again = a.rejoin_with(&b).await;
    assert_eq!(admit(&again, &back, reject(1)).await, admitted(2, &[]));
    again.unregister(&[&back]).await;
    assert_eq!(admit(&again, &back, reject(1)).await, TOO_MANY);
    assert_eq!(admit(&again, &back, None).await, admitted(2, &[]));
}

/// Many at once, on both nodes; who was let in, and who was evicted.
async fn rush(
    [a, b]: &[Peer; 2],
    user: &str,
    limit: Option<UserLimit>,
) -> (BTreeSet<ConnectionId>, BTreeSet<ConnectionId>) {
    let comers: Vec<_> = (0..24)
        .map(|n| (if n % 2 == 0 { a } else { b }, n))
        .map(|(peer, n)| (peer, aged(peer, user, n)))
        .collect();
    let admissions = join_all(
        comers
            .iter()
            .map(|(peer, connection)| admit(peer, connection, limit)),
    );
    let (mut entered, mut left) = (BTreeSet::new(), BTreeSet::new());
    for ((_, connection), admission) in comers.iter().zip(admissions.await) {
        match admission {
            Admission::Admitted { evicted, .. } => {
                entered.insert(connection.id.clone());
                left.extend(evicted.into_iter().map(|it| it.id));
            }
            Admission::Refused(bar) => assert_eq!(bar, Bar::TooMany),
        }
    }
    (entered, left)
}

pub(super) async fn a_rush_does_not_get_past_the_limit(home: &dyn Home) {
    let fleet = fleet(home, LONG, LONG).await;
    for round in 0..20 {
        let user = format!("rejected{round}");
        let (entered, _) = rush(&fleet, &user, reject(3)).await;
        assert_eq!(entered.len(), 3);
        assert_eq!(fleet[0].ids(&user).await.len(), 3);

        let user = format!("evicted{round}");
        let (entered, left) = rush(&fleet, &user, evict(3)).await;
        assert_eq!(entered.len(), 24);
        let listed = fleet[1].registry.user(&user.as_str().into()).await.unwrap();
        let listed: Vec<_> = listed.connections.iter().map(entry).collect();
        let ordered = fleet[1].registry.orders(&listed).await.unwrap();
        let ordered: BTreeSet<_> = ordered
            .into_iter()
            .map(|(Entry { id, .. }, _)| id)
            .collect();
        assert_eq!(ordered, left, "each is told of");
        assert_eq!(entered.difference(&left).count(), 3);
    }
}

pub(super) async fn newcomers_are_counted_together_for_a_while(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let limit = Some(UserLimit {
        max: 5,
        policy: LimitPolicy::Reject,
        newcomers: 3,
    });
    for peer in [&a, &b, &a] {
        let admission = admit(peer, &peer.connection("42"), limit).await;
        assert!(matches!(admission, Admission::Admitted { .. }));
    }
    for peer in [&a, &b] {
        let admission = admit(peer, &peer.connection("42"), limit).await;
        assert_eq!(admission, Admission::Refused(Bar::TooOften));
    }
    assert_eq!(a.ids("42").await.len(), 3, "nothing was added");
    for other in [a.connection("43"), a.guest(), a.connection("42")] {
        let limit = limit.filter(|_| other.user_id != Some("42".into()));
        let admission = admit(&a, &other, limit).await;
        assert!(matches!(admission, Admission::Admitted { .. }), "{other:?}");
    }
    eventually("the next one gets in", async || {
        let next = admit(&b, &b.connection("42"), limit).await;
        assert!(matches!(
            next,
            Admission::Admitted { .. } | Admission::Refused(Bar::TooOften)
        ));
        matches!(next, Admission::Admitted { .. })
    })
    .await;
    // One too many counts as a newcomer as well.
    for _ in 0..2 {
        assert_eq!(admit(&a, &a.connection("42"), limit).await, TOO_MANY);
    }
    let admission = admit(&a, &a.connection("42"), limit).await;
    assert_eq!(admission, Admission::Refused(Bar::TooOften));
}
