//! Who holds a user, and orders to end connections.

use std::collections::BTreeSet;

use switchboard::{
    connection::{Connection, Instance},
    ending::Ending,
    registry::{Admission, EndTarget, Entry, Grant, Ordered, Recipient},
};

use super::home::{Home, LONG, Peer, SHORT, all_of, entry, fleet, is_in};

async fn order(peer: &Peer, target: EndTarget, ending: &Ending) -> Ordered {
    peer.order(&target, None, ending).await
}

fn sorted(nodes: &[&Instance]) -> Vec<Instance> {
    let nodes: BTreeSet<_> = nodes.iter().copied().cloned().collect();
    nodes.into_iter().collect()
}

pub(super) async fn holders_of_a_user_are_the_nodes_that_hold_it(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    for _ in 0..3 {
        a.connect("42").await;
        b.connect("42").await;
    }
    a.connect("43").await;
    let (one, two) = (&a.lease.instance, &b.lease.instance);
    for asker in [&a, &b] {
        let holders = async |user: &str| {
            let holders = asker.registry.holders(&Recipient::User(user.into())).await;
            holders.unwrap()
        };
        assert_eq!(holders("42").await, sorted(&[one, two]));
        assert_eq!(holders("43").await, sorted(&[one]));
        assert_eq!(holders("44").await, []);
        assert_eq!(holders("4").await, []);
    }
}

pub(super) async fn the_holder_of_a_connection_is_the_node_that_holds_it(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let mine = a.connect("42").await;
    let theirs = b.connect("42").await;
    let guest = b.guest();
    b.register(&guest).await;
    for (connection, holder) in [(&mine, &a), (&theirs, &b), (&guest, &b)] {
        let recipient = Recipient::Connection(connection.id.clone());
        let holders = a.registry.holders(&recipient).await.unwrap();
        assert_eq!(holders, sorted(&[&holder.lease.instance]));
    }
    a.unregister(&[&mine]).await;
    let holders = a
        .registry
        .holders(&Recipient::Connection(mine.id.clone()))
        .await;
    assert_eq!(holders.unwrap(), []);
}

pub(super) async fn an_order_lists_what_it_means_and_is_found_by_whoever_missed_it(
    home: &dyn Home,
) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let mine = a.connect("42").await;
    let theirs = b.connect("42").await;
    let spared = b.connect("42").await;
    let another = b.connect("43").await;
    let ending = Ending::of(Ending::BANNED).because("spam: \0 é");
    let target = EndTarget::User {
        user: "42".into(),
        except: vec![spared.id.clone()],
    };
    let ordered = order(&a, target.clone(), &ending).await;
    let mut expected = [a.lists(&mine), b.lists(&theirs)];
    expected.sort_by(|a, b| a.entry.cmp(&b.entry));
    assert_eq!(ordered.connections, expected);

    for (peer, connection) in [(&b, &theirs), (&a, &mine)] {
        for _ in 0..2 {
            assert_eq!(peer.end_of(connection).await.as_ref(), Some(&ending));
            let again = peer.again(connection, &Grant::default(), 2).await;
            assert_eq!(again, Admission::Ended(ending.clone()));
        }
        // It is its node that takes it out.
        let there = a.registry.connection(&connection.id).await.unwrap();
        assert_eq!(there.as_ref(), Some(connection));
    }
    for connection in [&spared, &another] {
        assert_eq!(b.end_of(connection).await, None);
    }
    let asked = [&theirs, &spared, &mine].map(entry);
    let listed = a.registry.listed(&asked).await.unwrap();
    assert_eq!(sorted_entries(&listed), sorted_entries(&asked));
    assert_eq!(a.registry.listed(&[]).await.unwrap(), []);

    // Repeated, with another ending: the last one counts.
    let softer = Ending::of(Ending::RECONNECT_REQUESTED);
    assert_eq!(order(&a, target, &softer).await, ordered);
    assert_eq!(b.end_of(&theirs).await, Some(softer));
    b.unregister(&[&theirs]).await;
    let listed = a.registry.listed(&asked).await.unwrap();
    assert_eq!(
        sorted_entries(&listed),
        sorted_entries(&[&spared, &mine].map(entry))
    );

    assert_eq!(order(&a, all_of("44"), &ending).await, Ordered::default());
}

pub(super) async fn an_order_can_mean_one_connection(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let meant = b.connect("42").await;
    let other = b.connect("42").await;
    let guest = b.guest();
    let other_guest = b.guest();
    b.register(&guest).await;
    b.register(&other_guest).await;
    let ending = Ending::of(Ending::DISCONNECTED);
    for (meant, other) in [(&meant, &other), (&guest, &other_guest)] {
        let ordered = order(&a, EndTarget::Connection(entry(meant)), &ending).await;
        assert_eq!(ordered.connections, [b.lists(meant)]);
        assert_eq!(b.end_of(meant).await.as_ref(), Some(&ending));
        assert_eq!(b.end_of(other).await, None);
    }
    for unknown in [a.connection("42"), a.guest()] {
        let ordered = order(&a, EndTarget::Connection(entry(&unknown)), &ending).await;
        assert_eq!(ordered, Ordered::default());
    }
    let mut made_up = entry(&guest);
    made_up.id = "".into();
    let ordered = order(&a, EndTarget::Connection(made_up), &ending).await;
    assert_eq!(ordered, Ordered::default(), "and not every guest");
}

pub(super) async fn an_order_stands_until_its_node_has_carried_it_out(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let ending = Ending::of(Ending::DISCONNECTED);
    let [one, other] = [b.connect("42").await, b.connect("43").await];
    let guest = b.guest();
    b.register(&guest).await;
    let all = [&one, &other, &guest];
    for target in [
        EndTarget::Connection(entry(&one)),
        all_of("43"),
        EndTarget::Connection(entry(&guest)),
    ] {
        order(&a, target, &ending).await;
    }
    let listed = async |connection| {
        let asked = [entry(connection)];
        let listed = a.registry.listed(&asked).await.unwrap();
        assert!(listed.is_empty() || listed == asked);
        !listed.is_empty()
    };
    // The lease before, and that of another node, have nothing to say of it.
    let again = b.rejoin().await;
    for connection in all {
        a.unregister(&[connection]).await;
        assert!(listed(connection).await);
        let back = again.again(connection, &Grant::default(), 1).await;
        assert_eq!(back, Admission::Ended(ending.clone()));
        // It is there under that lease, as it was ended before it could be under the next.
        b.unregister(&[connection]).await;
        assert!(!listed(connection).await);
    }
    again.enter().await;
    assert_eq!(a.registry.totals().await.unwrap().connections, 0);
    // What its node had sent before, and comes late: of a kick the user's connections are still meant.
    let late = again.again(&other, &Grant::default(), 1).await;
    assert_eq!(late, Admission::Ended(ending));
}

/// Kicks a user without asking which connections that meets.
async fn kick(peer: &Peer, except: &[&Connection], code: u16) {
    let target = EndTarget::User {
        user: "42".into(),
        except: except.iter().map(|it| it.id.clone()).collect(),
    };
    order(peer, target, &Ending::of(code)).await;
}

pub(super) async fn a_kick_means_who_was_there_and_nobody_who_comes_after(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let ending = Ending::of(Ending::DISCONNECTED);
    // Of those that were there some have lost their entries, which nobody lists then.
    let [listed, missing, stays] = [
        a.connect("42").await,
        b.connect("42").await,
        b.connect("42").await,
    ];
    b.unregister(&[&missing, &stays]).await;
    kick(&a, &[&stays], Ending::DISCONNECTED).await;
    for round in 0..100 {
        // Most of them come in the same millisecond.
        let newcomer = b.connect("42").await;
        assert_eq!(b.end_of(&newcomer).await, None, "round {round}");
        kick(&a, &[&stays], Ending::DISCONNECTED).await;
        let after = b.connect("42").await;
        assert_eq!(b.end_of(&newcomer).await.as_ref(), Some(&ending));
        assert_eq!(b.end_of(&after).await, None, "round {round}");
        b.unregister(&[&newcomer, &after]).await;
    }
    for (peer, connection) in [(&a, &listed), (&b, &missing)] {
        let again = peer.again(connection, &Grant::default(), 1).await;
        assert_eq!(again, Admission::Ended(ending.clone()));
    }
    b.back(&stays).await;
    assert_eq!(b.end_of(&stays).await, None);
    assert_eq!(b.ids("42").await.len(), 2, "it stays, as does the listed");
    assert_eq!(b.ids("43").await.len(), 0);
    assert_eq!(b.end_of(&b.connect("43").await).await, None);
}

pub(super) async fn a_kick_is_given_up_for_one_that_says_more(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let [one, two, three] = [
        a.connect("42").await,
        a.connect("42").await,
        b.connect("42").await,
    ];
    // Each spares others than the one before, so that all of them count.
    kick(&b, &[&one, &two], 4500).await;
    kick(&b, &[&one, &three], 4501).await;
    assert_eq!(b.end_of(&three).await.map(|it| it.code), Some(4500));
    assert_eq!(a.end_of(&two).await.map(|it| it.code), Some(4501));
    assert_eq!(a.end_of(&one).await, None);
    let newcomer = b.connect("42").await;
    assert!(is_in(&b.again(&newcomer, &Grant::default(), 2).await));
    for _ in 0..50 {
        kick(&b, &[&one], 4502).await;
    }
    for (peer, connection) in [(&a, &two), (&b, &three), (&b, &newcomer)] {
        assert_eq!(peer.end_of(connection).await.map(|it| it.code), Some(4502));
    }
    assert_eq!(a.end_of(&one).await, None);
    kick(&b, &[], 4503).await;
    assert_eq!(a.end_of(&one).await.map(|it| it.code), Some(4503));
}

pub(super) async fn of_too_many_kicks_the_oldest_are_merged(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let [listed, missing, stays] = [
        a.connect("42").await,
        b.connect("42").await,
        b.connect("42").await,
    ];
    // Of these two the registry has no entries by the time that kicks are merged.
    let named_later = b.connect("42").await;
    b.unregister(&[&missing, &named_later]).await;
    let mut came_later = None;
    let mut devices = Vec::new();
    for round in 0..40 {
        let device = a.connect("42").await;
        let mut spared = vec![&device, &stays];
        if let Some(came) = &came_later {
            spared.extend([came, &named_later]);
        }
        kick(&b, &spared, 4500 + round).await;
        devices.push(device);
        if round == 5 {
            came_later = Some(b.connect("42").await);
        }
    }
    let last = devices.pop().unwrap();
    assert_eq!(a.end_of(&last).await, None);
    for spared in [&stays, &came_later.unwrap()] {
        assert_eq!(b.end_of(spared).await, None);
    }
    let (of_a, of_b) = (devices.iter().chain([&listed]), [&missing, &named_later]);
    let ended = of_a.map(|it| (&a, it)).chain(of_b.map(|it| (&b, it)));
    for (peer, connection) in ended {
        let back = peer.again(connection, &Grant::default(), 2).await;
        assert!(matches!(back, Admission::Ended(_)), "{back:?}");
    }
    let newcomer = b.connect("42").await;
    assert_eq!(b.end_of(&newcomer).await, None);
}

pub(super) async fn a_guest_that_is_ordered_to_end_is_not_released(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let (ordered, free) = (b.guest(), b.guest());
    b.register(&ordered).await;
    b.register(&free).await;
    let ending = Ending::of(Ending::DISCONNECTED);
    order(&a, EndTarget::Connection(entry(&ordered)), &ending).await;
    for guest in [&ordered, &free] {
        let end = b.registry.release(&b.lease, &entry(guest)).await.unwrap();
        assert_eq!(end.as_ref(), (guest == &ordered).then_some(&ending));
        let listed = a.registry.connection(&guest.id).await.unwrap();
        assert_eq!(listed.as_ref(), (guest == &ordered).then_some(guest));
    }
    b.unregister(&[&ordered]).await;
    for guest in [&ordered, &free] {
        let again = b.registry.release(&b.lease, &entry(guest)).await;
        assert_eq!(again.unwrap(), None, "gone is out");
    }
    assert_eq!(a.registry.totals().await.unwrap().connections, 0);
}

pub(super) async fn an_order_outlives_the_reaping_of_its_node(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let before = a.connect("42").await;
    a.beat().await;
    let [after, stays] = [a.connect("43").await, a.connect("43").await];
    let [late, later] = [a.connect("44").await, a.connect("45").await];
    let guest = a.guest();
    a.register(&guest).await;
    a.beat().await;
    let ending = Ending::of(Ending::BANNED);
    order(&b, all_of("42"), &ending).await;
    b.sees_lapse_of(&a.lease).await;
    // Out of sight: it can't be told, but it may come back.
    let but = |user: &str, stays: &Connection| EndTarget::User {
        user: user.into(),
        except: vec![stays.id.clone()],
    };
    let none = order(&b, but("43", &stays), &ending).await;
    assert_eq!(none, Ordered::default());
    b.registry.reap(&a.lease).await.unwrap();
    let one = |connection| EndTarget::Connection(entry(connection));
    for target in [all_of("44"), one(&later), one(&guest)] {
        assert_eq!(order(&b, target, &ending).await, Ordered::default());
    }
    let newcomer = b.connect("44").await;

    let again = a.rejoin_for_long().await;
    for connection in [&before, &after, &late, &later, &guest] {
        let back = again.again(connection, &Grant::default(), 1).await;
        assert_eq!(back, Admission::Ended(ending.clone()), "{connection:?}");
    }
    again.back(&stays).await;
    again.enter().await;
    assert_eq!(b.end_of(&newcomer).await, None);
    assert_eq!(again.held().await, [entry(&stays)]);
    // Of those that were listed, or named, nobody says that they are gone until their node does.
    let mut stands = [&before, &later, &guest].map(entry);
    stands.sort();
    for asked in &stands {
        let asked = std::slice::from_ref(asked);
        assert_eq!(b.registry.listed(asked).await.unwrap(), asked);
        again
            .registry
            .unregister(&again.lease, asked)
            .await
            .unwrap();
        assert_eq!(b.registry.listed(asked).await.unwrap(), []);
    }
    assert_eq!(b.ids("43").await, [stays.id.to_string()]);
}

fn sorted_entries(entries: &[Entry]) -> BTreeSet<Entry> {
    entries.iter().cloned().collect()
}
