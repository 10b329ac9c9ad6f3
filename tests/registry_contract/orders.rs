//! Who holds a user, and orders to end connections.

use std::collections::BTreeSet;

use switchboard::{
    connection::Instance,
    ending::Ending,
    registry::{EndTarget, Ordered, Whom},
};

use super::home::{Home, LONG, Peer, SHORT, all_of, entry, fleet};

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
            let holders = asker.registry.holders(&Whom::User(user.into())).await;
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
        let whom = Whom::Connection(entry(connection));
        let holders = a.registry.holders(&whom).await.unwrap();
        assert_eq!(holders, sorted(&[&holder.lease.instance]));
    }
    a.unregister(&[&mine]).await;
    let holders = a.registry.holders(&Whom::Connection(entry(&mine))).await;
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

    let asked = [&theirs, &spared, &another, &mine].map(entry);
    let found: BTreeSet<_> = b
        .registry
        .orders(&asked)
        .await
        .unwrap()
        .into_iter()
        .map(|(entry, found)| {
            assert_eq!(found, ending);
            entry
        })
        .collect();
    assert_eq!(found, [&theirs, &mine].map(entry).into());
    assert_eq!(b.registry.orders(&[]).await.unwrap(), []);

    // Repeated, with another ending: the last one counts.
    let softer = Ending::of(Ending::RECONNECT_REQUESTED);
    assert_eq!(order(&a, target, &softer).await, ordered);
    let orders = b.registry.orders(&[entry(&theirs)]).await.unwrap();
    assert_eq!(orders, [(entry(&theirs), softer)]);

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
        let orders = b
            .registry
            .orders(&[entry(meant), entry(other)])
            .await
            .unwrap();
        assert_eq!(orders, [(entry(meant), ending.clone())]);
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

pub(super) async fn an_order_is_forgotten_with_its_connection(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let connection = b.connect("42").await;
    let target = EndTarget::Connection(entry(&connection));
    order(&a, target, &Ending::of(Ending::DISCONNECTED)).await;
    assert_eq!(
        a.registry
            .orders(&[entry(&connection)])
            .await
            .unwrap()
            .len(),
        1
    );
    b.unregister(&[&connection]).await;
    assert_eq!(a.registry.orders(&[entry(&connection)]).await.unwrap(), []);
}

pub(super) async fn a_guest_that_is_ordered_to_end_is_not_released(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let (ordered, free) = (b.guest(), b.guest());
    b.register(&ordered).await;
    b.register(&free).await;
    let ending = Ending::of(Ending::DISCONNECTED);
    order(&a, EndTarget::Connection(entry(&ordered)), &ending).await;
    for guest in [&ordered, &free] {
        let out = b.registry.release(&b.lease, &entry(guest)).await.unwrap();
        assert_eq!(out, guest == &free);
        let listed = a.registry.connection(&guest.id).await.unwrap();
        assert_eq!(listed.as_ref(), (guest == &ordered).then_some(guest));
    }
    let orders = a.registry.orders(&[entry(&ordered), entry(&free)]).await;
    assert_eq!(orders.unwrap(), [(entry(&ordered), ending)]);
    b.unregister(&[&ordered]).await;
    assert!(
        b.registry
            .release(&b.lease, &entry(&ordered))
            .await
            .unwrap(),
        "gone is out"
    );
    assert_eq!(a.registry.totals().await.unwrap().connections, 0);
}

pub(super) async fn an_order_outlives_the_reaping_of_its_node(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let before = a.connect("42").await;
    a.beat().await;
    let after = a.connect("43").await;
    a.beat().await;
    let ending = Ending::of(Ending::BANNED);
    order(&b, all_of("42"), &ending).await;
    b.sees_lapse_of(&a.lease).await;
    // Out of sight: it can't be told, but it may come back.
    assert_eq!(order(&b, all_of("43"), &ending).await, Ordered::default());
    b.registry.reap(&a.lease).await.unwrap();

    let again = a.rejoin_with(&b).await;
    again.register(&before).await;
    again.register(&after).await;
    let orders = again
        .registry
        .orders(&[entry(&before), entry(&after)])
        .await
        .unwrap();
    assert_eq!(orders.len(), 2);
    again.unregister(&[&before, &after]).await;
    assert_eq!(
        b.registry
            .orders(&[entry(&before), entry(&after)])
            .await
            .unwrap(),
        []
    );
}
