//! Leases: who is believed, and what becomes of the rest.

use jiff::Timestamp;
use switchboard::{
    ending::Ending,
    registry::{Ban, EndOrder, Fence, NodeReport, Recipient, RegistryError, UserEntry},
};

use super::home::{Home, LONG, Peer, SHORT, all_of, entry, eventually, fleet, tally};

pub(super) async fn a_lapsed_lease_is_left_out_of_every_answer_at_once(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let mine = a.connect("both").await;
    a.beat().await;
    let only = a.connect("only").await;
    let stays = b.connect("both").await;
    b.sees_lapse_of(&a.lease).await;

    // Nobody has reaped it.
    assert_eq!(b.ids("both").await, [stays.id.to_string()]);
    assert_eq!(b.ids("only").await, [""; 0]);
    assert_eq!(b.registry.connection(&mine.id).await.unwrap(), None);
    let presence = b
        .registry
        .presence(&["both".into(), "only".into()])
        .await
        .unwrap();
    assert_eq!(
        [presence[0].tally, presence[1].tally],
        [tally(1, 1), tally(0, 0)]
    );
    let page = b.registry.users(None, 10).await.unwrap();
    assert_eq!(page.users, [("both".into(), tally(1, 1))]);
    let nodes = b.registry.nodes().await.unwrap();
    assert_eq!(
        nodes
            .iter()
            .map(|node| node.node_id.as_str())
            .collect::<Vec<_>>(),
        ["b"]
    );
    let holders = b.registry.holders(&Recipient::User("both".into())).await;
    assert_eq!(holders.unwrap(), std::slice::from_ref(&b.lease.instance));
    let order = EndOrder {
        target: &all_of("both"),
        fence: None,
        ending: &Ending::of(4500),
    };
    let ordered = b.registry.order_end(order).await.unwrap();
    assert_eq!(ordered.connections, [b.lists(&stays)]);
    let again = b.connect("both").await;
    assert_eq!(b.register(&again).await, tally(2, 2));

    // Totals are exact, whether or not that takes reaping.
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections, totals.users), (1, 2, 1));
    assert!(!a.beat().await, "that was final");
    b.registry.reap(&a.lease).await.unwrap();
    b.unregister(&[&only]).await;
    assert_eq!(b.registry.totals().await.unwrap(), totals);
    assert_eq!(b.held_by(&a.lease).await, []);
}

/// Which of the answers of [`asked_by`] is about nodes, and not about who is on them.
pub(super) const NODES: usize = 4;

/// What a node is answered to a read, or to an order to end.
pub(super) async fn asked_by(peer: &Peer, user: &str) -> Vec<Result<(), RegistryError>> {
    let (registry, user) = (&peer.registry, user.into());
    let id = registry.new_id(Some(&user));
    let (target, ending) = (all_of(user.as_str()), Ending::of(4500));
    let ban = Fence::Ban(Ban {
        reason: None,
        until: None,
    });
    let order = EndOrder {
        target: &target,
        fence: Some(&ban),
        ending: &ending,
    };
    let recipient = Recipient::User(user.clone());
    vec![
        registry.user(&user).await.map(drop),
        registry
            .presence(std::slice::from_ref(&user))
            .await
            .map(drop),
        registry.users(None, 10).await.map(drop),
        registry.connection(&id).await.map(drop),
        registry.nodes().await.map(drop),
        registry.totals().await.map(drop),
        registry.holders(&recipient).await.map(drop),
        registry.order_end(order).await.map(drop),
    ]
}

pub(super) async fn a_node_without_a_lease_is_told_nothing_of_who_is_there(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    b.connect("42").await;
    b.sees_lapse_of(&a.lease).await;
    for (number, answer) in asked_by(&a, "42").await.into_iter().enumerate() {
        assert!(
            matches!(answer, Err(RegistryError::Unavailable(_))),
            "question {number}: {answer:?}"
        );
    }
    assert_eq!(b.ids("42").await.len(), 1);

    // A node that is not of the fleet, or not any more, is answered as the others are.
    a.registry.leave(&a.lease).await.unwrap();
    for (number, answer) in asked_by(&a, "42").await.into_iter().enumerate() {
        assert!(answer.is_ok(), "question {number}: {answer:?}");
    }
    assert!(b.registry.ban_of(&"42".into()).await.unwrap().is_some());
}

pub(super) async fn two_reapers_remove_each_entry_once(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    for n in 0..700 {
        a.connect(&format!("user{}", n % 300)).await;
        if n % 20 == 0 {
            a.beat().await;
        }
    }
    b.connect("user1").await;
    b.sees_lapse_of(&a.lease).await;

    let (one, other) = tokio::join!(a.registry.reap(&a.lease), b.registry.reap(&a.lease));
    assert_eq!(one.unwrap() + other.unwrap(), 700);
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 0);
    assert_eq!(
        b.registry
            .heartbeat(&b.lease, &b.report)
            .await
            .unwrap()
            .lapsed,
        []
    );
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections, totals.users), (1, 1, 1));
}

pub(super) async fn a_lease_that_holds_is_not_reaped(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let connection = a.connect("42").await;
    let heartbeat = b.registry.heartbeat(&b.lease, &b.report).await.unwrap();
    assert!(heartbeat.held);
    assert_eq!(heartbeat.lapsed, []);
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 0);
    let unknown = switchboard::registry::Lease {
        instance: "nobody".into(),
        epoch: 1,
    };
    assert_eq!(b.registry.reap(&unknown).await.unwrap(), 0);
    assert_eq!(b.ids("42").await, [connection.id.to_string()]);
    assert!(
        !b.registry
            .heartbeat(&unknown, &b.report)
            .await
            .unwrap()
            .held
    );
}

pub(super) async fn a_lease_that_is_late_goes_on_unless_it_is_buried(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let [mine, theirs] = [a.connect("42").await, b.connect("42").await];
    b.sees_lapse_of(&a.lease).await;
    assert_eq!(b.ids("42").await, [theirs.id.to_string()]);
    assert!(a.beat().await, "it is late, and that is all");
    let heartbeat = b.registry.heartbeat(&b.lease, &b.report).await.unwrap();
    assert_eq!(heartbeat.lapsed, []);
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 0);
    assert_eq!(b.ids("42").await.len(), 2);
    assert_eq!(a.held().await, [entry(&mine)]);
    // Nothing is lacking that was there.
    let heartbeat = a.registry.heartbeat(&a.lease, &a.report).await.unwrap();
    assert!(heartbeat.held && !heartbeat.lost);
    assert_eq!(heartbeat.lacking, []);
}

pub(super) async fn a_buried_epoch_never_comes_back(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let [old, back] = [a.connect("42").await, a.connect("43").await];
    b.sees_lapse_of(&a.lease).await;
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 2);
    // Its node has not noticed yet.
    a.back(&old).await;
    a.report().await;
    assert_eq!(b.ids("42").await, [""; 0]);
    assert!(!a.beat().await);
    assert!(!a.beat().await);
    assert_eq!(b.registry.nodes().await.unwrap().len(), 1);
    assert_eq!(b.ids("42").await, [""; 0]);

    let again = a.rejoin_for_long().await;
    assert!(!a.registry.join(&a.lease, &a.report).await.unwrap());
    assert!(!a.beat().await);
    again.back(&back).await;
    again.enter().await;
    let lapsed = async || {
        let heartbeat = b.registry.heartbeat(&b.lease, &b.report).await.unwrap();
        heartbeat.lapsed.contains(&a.lease)
    };
    eventually("what was left under it is to be reaped", async || {
        lapsed().await || {
            // It may be the turn of the node itself.
            let heartbeat = again.registry.heartbeat(&again.lease, &again.report).await;
            heartbeat.unwrap().lapsed.contains(&a.lease)
        }
    })
    .await;
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 1);
    assert_eq!(b.registry.reap(&again.lease).await.unwrap(), 0);
    assert_eq!(b.ids("42").await, [""; 0]);
    assert_eq!(b.ids("43").await, [back.id.to_string()]);
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections, totals.users), (2, 1, 1));
}

pub(super) async fn a_node_that_joins_anew_lacks_all_until_it_has_entered(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let lacking = async |peer: &Peer| {
        let heartbeat = peer.registry.heartbeat(&peer.lease, &peer.report).await;
        heartbeat.unwrap().lacking
    };
    // Who has just started has nobody to put in.
    assert_eq!(lacking(&a).await, []);
    b.connect("42").await;
    let again = a.rejoin().await;
    let mut all: Vec<_> = again.registry.shards().all().collect();
    assert_eq!(lacking(&again).await, all);
    while let Some(shard) = all.pop() {
        let entered = again.entered(shard).await;
        assert!(entered.unwrap());
        assert_eq!(lacking(&again).await, all);
    }
    assert_eq!(again.ids("42").await.len(), 1);
    assert_eq!(lacking(&b).await, []);
}

pub(super) async fn reaping_the_old_epoch_leaves_the_new_one_alone(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let back = a.connect("42").await;
    let guest = a.guest();
    a.register(&guest).await;
    let lost = a.connect("43").await;
    b.sees_lapse_of(&a.lease).await;

    let again = a.rejoin_for_long().await;
    again.back(&back).await;
    again.back(&guest).await;
    again.enter().await;
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 1);
    assert_eq!(b.ids("42").await, [back.id.to_string()]);
    assert_eq!(b.ids("43").await, [""; 0]);
    assert_eq!(
        b.registry.connection(&back.id).await.unwrap(),
        Some(back.clone())
    );
    assert_eq!(
        b.registry.connection(&guest.id).await.unwrap(),
        Some(guest.clone())
    );
    assert_eq!(b.registry.connection(&lost.id).await.unwrap(), None);
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections, totals.users), (2, 2, 1));
    assert_eq!(b.held_by(&again.lease).await.len(), 2);
}

pub(super) async fn unregistering_under_the_old_epoch_leaves_the_new_one_alone(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let back = a.connect("42").await;
    b.sees_lapse_of(&a.lease).await;
    let again = a.rejoin_for_long().await;
    again.back(&back).await;
    again.enter().await;
    a.unregister(&[&back]).await;
    assert_eq!(b.ids("42").await, [back.id.to_string()]);
    again.unregister(&[&back]).await;
    assert_eq!(b.ids("42").await, [""; 0]);
    b.registry.reap(&a.lease).await.unwrap();
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.connections, totals.users), (0, 0));
}

pub(super) async fn leaving_takes_everything_along(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let mine = a.connect("42").await;
    a.register(&a.guest()).await;
    let stays = b.connect("42").await;
    let before = Timestamp::now();
    a.connect("43").await;
    a.registry.leave(&a.lease).await.unwrap();
    a.registry.leave(&a.lease).await.unwrap();
    assert_eq!(b.ids("42").await, [stays.id.to_string()]);
    assert_eq!(b.registry.connection(&mine.id).await.unwrap(), None);
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections, totals.users), (1, 1, 1));
    assert_eq!(
        b.registry
            .heartbeat(&b.lease, &b.report)
            .await
            .unwrap()
            .lapsed,
        []
    );
    assert!(!a.beat().await);
    let gone = b.registry.user(&"43".into()).await.unwrap();
    assert!(gone.last_seen.unwrap().as_millisecond() >= before.as_millisecond());
    assert_ne!(gone, UserEntry::default());
}

pub(super) async fn nodes_are_what_their_last_heartbeat_said(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let before = Timestamp::now();
    let report = NodeReport {
        connections: 7,
        users: 3,
        draining: true,
        ..a.report.clone()
    };
    assert!(a.registry.heartbeat(&a.lease, &report).await.unwrap().held);
    let nodes = b.registry.nodes().await.unwrap();
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[0].node_id, report.node_id);
    assert_eq!(nodes[0].version, report.version);
    assert_eq!(nodes[0].started_at, report.started_at);
    assert_eq!(
        (nodes[0].connections, nodes[0].users, nodes[0].draining),
        (7, 3, true)
    );
    assert!(nodes[0].last_heartbeat.as_millisecond() >= before.as_millisecond());
    assert_eq!(nodes[1].node_id, b.report.node_id);
    assert_eq!(
        (nodes[1].connections, nodes[1].users, nodes[1].draining),
        (0, 0, false)
    );

    // Two that were given the same name are still two.
    b.registry.heartbeat(&b.lease, &report).await.unwrap();
    assert_eq!(b.registry.nodes().await.unwrap().len(), 2);
}

pub(super) async fn a_report_between_heartbeats_does_not_prolong_the_lease(home: &dyn Home) {
    let [a, b] = fleet(home, SHORT, LONG).await;
    let listed = async || {
        let nodes = b.registry.nodes().await.unwrap();
        nodes
            .into_iter()
            .find(|node| node.node_id == a.report.node_id)
    };
    a.beat().await;
    let before = listed().await.unwrap();
    let report = NodeReport {
        connections: 7,
        users: 3,
        ..a.report.clone()
    };
    a.registry.report(&a.lease, &report).await.unwrap();
    let after = listed().await.unwrap();
    assert_eq!((after.connections, after.users), (7, 3));
    assert_eq!(after.last_heartbeat, before.last_heartbeat);

    b.sees_lapse_of(&a.lease).await;
    a.registry.report(&a.lease, &report).await.unwrap();
    assert!(listed().await.is_none());
    b.registry.reap(&a.lease).await.unwrap();
    a.registry.report(&a.lease, &report).await.unwrap();
    assert!(listed().await.is_none());
    assert!(!a.registry.heartbeat(&a.lease, &report).await.unwrap().held);
}
