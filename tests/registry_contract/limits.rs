//! How many connections a user may have.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use switchboard::{
    connection::{Connection, ConnectionId, Tally},
    ending::Ending,
    registry::{Admission, Bar, EndTarget, Entry, Grant, LimitPolicy, UserLimit},
};

use super::home::{Home, LONG, Peer, SHORT, entry, eventually, fleet, ordered, tally};

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

/// How many connections the user has, and who makes room.
#[derive(Debug, PartialEq)]
enum Outcome {
    In(Tally, Vec<Entry>),
    Out(Bar),
}

async fn admit(peer: &Peer, connection: &Connection, limit: Option<UserLimit>) -> Outcome {
    let admission = peer.admit(connection, &Grant::default(), limit).await;
    match admission.unwrap() {
        Admission::Admitted { tally, evicted, .. } => Outcome::In(tally, evicted),
        Admission::Refused(bar) => Outcome::Out(bar),
        Admission::Ended(ending) => panic!("{ending:?}"),
    }
}

fn admitted(connections: u64, evicted: &[&Connection]) -> Outcome {
    let evicted = evicted.iter().map(|it| entry(it));
    Outcome::In(tally(connections, connections), evicted.collect())
}

const TOO_MANY: Outcome = Outcome::Out(Bar::TooMany);

/// One that began so many seconds after the others might have.
fn aged(peer: &Peer, user: &str, seconds: i64) -> Connection {
    let connection = peer.connection(user);
    let start = Timestamp::now() - SignedDuration::from_hours(1);
    peer.began(&connection, start + SignedDuration::from_secs(seconds));
    connection
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
    let ends = a.end_of(&first).await;
    assert_eq!(ends, Some(Ending::of(Ending::LOGGED_OUT)));
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
    assert_eq!(b.end_of(&oldest).await, Some(Ending::of(Ending::LIMIT)));
    assert_eq!(b.end_of(&middle).await, None);
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
    let start = Timestamp::now() - SignedDuration::from_secs(1);
    for _ in 0..5 {
        let connection = b.connection("42");
        b.began(&connection, start);
        b.register(&connection).await;
        ids.push(connection.id);
    }
    ids.sort();
    let Outcome::In(_, evicted) = admit(&a, &a.connection("42"), evict(4)).await else {
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
    let again = a.rejoin_for_long().await;
    assert_eq!(admit(&again, &back, reject(1)).await, admitted(2, &[]));
    again.unregister(&[&back]).await;
    assert_eq!(admit(&again, &back, reject(1)).await, TOO_MANY);
    assert_eq!(admit(&again, &back, None).await, admitted(2, &[]));
}

pub(super) async fn who_was_let_in_before_is_held_to_no_limit(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let none = Grant::default();
    let [one, two] = [aged(&a, "42", 0), aged(&a, "42", 1)];
    admit(&a, &one, None).await;
    admit(&a, &two, None).await;
    a.unregister(&[&one]).await;
    for limit in [reject(1), evict(1)] {
        let limit = limit.map(|limit| UserLimit {
            newcomers: 1,
            ..limit
        });
        for connection in [&one, &two, &one, &two] {
            let again = a.assert(connection, &none, 1, limit, true).await.unwrap();
            let Admission::Admitted { evicted, .. } = again else {
                panic!("{again:?}");
            };
            assert_eq!(evicted, []);
        }
        for connection in [&one, &two] {
            assert_eq!(a.end_of(connection).await, None);
        }
        assert_eq!(b.ids("42").await.len(), 2);
        a.unregister(&[&one]).await;
    }
    // And nobody has been counted as a newcomer for it.
    let limit = reject(5).map(|limit| UserLimit {
        newcomers: 1,
        ..limit
    });
    let newcomer = b.connection("42");
    assert_eq!(admit(&b, &newcomer, limit).await, admitted(2, &[]));
}

pub(super) async fn many_connections_of_one_user_are_counted(home: &dyn Home) {
    let fleet = fleet(home, LONG, LONG).await;
    let [a, b] = &fleet;
    let mut oldest = aged(a, "42", -60);
    for n in 0..400_u64 {
        let connection = match n {
            0 => oldest.clone(),
            _ => fleet[n as usize % 2].connection("42"),
        };
        // Devices are told apart as far as that goes.
        let connection = Connection {
            device_id: (n < 200).then(|| "tv".into()),
            ..connection
        };
        if n == 0 {
            oldest = connection.clone();
        }
        let peer = &fleet[n as usize % 2];
        let tally = match admit(peer, &connection, reject(400)).await {
            Outcome::In(tally, evicted) => {
                assert_eq!(evicted, []);
                tally
            }
            out => panic!("{out:?}"),
        };
        assert_eq!(tally.connections, n + 1);
        match n {
            0..200 => assert_eq!(tally.devices, 1),
            200..256 => assert_eq!(tally.devices, n - 198),
            _ => assert!((n - 198..=n + 1).contains(&tally.devices), "{tally:?}"),
        }
    }
    for limit in [reject(400), reject(399)] {
        assert_eq!(admit(a, &a.connection("42"), limit).await, TOO_MANY);
    }
    let presence = b.registry.presence(&["42".into()]).await.unwrap();
    assert_eq!(presence[0].tally, self::tally(400, 201));
    let newest = a.connection("42");
    match admit(a, &newest, evict(400)).await {
        Outcome::In(tally, evicted) => {
            assert_eq!(evicted, [entry(&oldest)]);
            assert_eq!(tally.connections, 400);
        }
        out => panic!("{out:?}"),
    }
    assert_eq!(b.ids("42").await.len(), 401);
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.connections, totals.users), (401, 1));
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
            Outcome::In(_, evicted) => {
                entered.insert(connection.id.clone());
                left.extend(evicted.into_iter().map(|it| it.id));
            }
            Outcome::Out(bar) => assert_eq!(bar, Bar::TooMany),
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
        let ordered = ordered(&fleet, &listed.connections).await;
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
        assert!(matches!(admission, Outcome::In(..)));
    }
    for peer in [&a, &b] {
        let admission = admit(peer, &peer.connection("42"), limit).await;
        assert_eq!(admission, Outcome::Out(Bar::TooOften));
    }
    assert_eq!(a.ids("42").await.len(), 3, "nothing was added");
    for other in [a.connection("43"), a.guest(), a.connection("42")] {
        let limit = limit.filter(|_| other.user_id != Some("42".into()));
        let admission = admit(&a, &other, limit).await;
        assert!(matches!(admission, Outcome::In(..)), "{other:?}");
    }
    eventually("the next one gets in", async || {
        let next = admit(&b, &b.connection("42"), limit).await;
        assert!(matches!(
            next,
            Outcome::In(..) | Outcome::Out(Bar::TooOften)
        ));
        matches!(next, Outcome::In(..))
    })
    .await;
    // One too many counts as a newcomer as well.
    for _ in 0..2 {
        assert_eq!(admit(&a, &a.connection("42"), limit).await, TOO_MANY);
    }
    let admission = admit(&a, &a.connection("42"), limit).await;
    assert_eq!(admission, Outcome::Out(Bar::TooOften));
}
