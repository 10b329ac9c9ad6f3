//! What is said of users whose nodes are known to live, and have yet to put back what they hold.

use std::sync::Arc;

use redis::{PushKind, aio::MultiplexedConnection};
use switchboard::{
    config::Presence,
    connection::{Connection, Tally},
    ending::Ending,
    registry::{
        EndOrder, EndTarget, Recipient, RegistryError,
        keys::{Keys, Shard},
    },
};

use super::{
    home::{LONG, Peer, Redis, RedisServer, SHORT, all_of, entry, fleet, tally, timing},
    redis::raw,
};

/// What a node says of a user and a connection of its: how many there are, by each question; or that nobody can say.
async fn said(peer: &Peer, user: &str, connection: &Connection) -> Vec<Option<usize>> {
    fn said<T>(answer: Result<T, RegistryError>, count: impl Fn(T) -> usize) -> Option<usize> {
        match answer {
            Ok(answer) => Some(count(answer)),
            Err(RegistryError::Unavailable(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }
    let (registry, id) = (&peer.registry, &connection.id);
    let user = user.into();
    let recipient = Recipient::User(user);
    let Recipient::User(user) = &recipient else {
        unreachable!()
    };
    let presence = registry.presence(std::slice::from_ref(user)).await;
    let one = Recipient::Connection(id.clone());
    let ending = Ending::of(Ending::DISCONNECTED);
    // Means nobody, as it is for a session that there is not.
    let target = EndTarget::Session {
        user: user.clone(),
        session: "none".into(),
    };
    let order = EndOrder {
        target: &target,
        fence: None,
        ending: &ending,
    };
    vec![
        said(registry.user(user).await, |it| it.connections.len()),
        said(presence, |it| it[0].tally.connections as usize),
        said(registry.holders(&recipient).await, |it| it.len()),
        said(registry.connection(id).await, |it| {
            usize::from(it.is_some())
        }),
        said(registry.holders(&one).await, |it| it.len()),
        said(registry.order_end(order).await, |it| it.connections.len()),
    ]
}

const SAID: usize = 6;

#[tokio::test]
async fn a_node_that_was_buried_and_is_back_makes_nobody_offline() {
    let server = RedisServer::start().await;
    let [a, b] = fleet(&Redis::of(&server), SHORT, LONG).await;
    let (there, elsewhere) = (a.connect("42").await, b.connect("43").await);
    // As after each heartbeat: it has seen all shards whole.
    assert_eq!(b.registry.totals().await.unwrap().connections, 2);
    b.sees_lapse_of(&a.lease).await;
    assert_eq!(b.registry.reap(&a.lease).await.unwrap(), 1);
    assert_eq!(said(&b, "42", &there).await, [Some(0); SAID], "it is dead");

    let again = a.rejoin_for_long().await;
    assert!(b.beat().await);
    assert_eq!(
        said(&b, "42", &there).await,
        [None; SAID],
        "it is coming back"
    );
    assert_eq!(b.ids("43").await.len(), 1, "a connection of another node");
    let totals = b.registry.totals().await.unwrap();
    assert_eq!((totals.nodes, totals.connections), (2, 1));
    let all = ["43", "42"].map(|user| user.into());
    assert!(b.registry.presence(&all).await.is_err());
    assert!(b.registry.presence(&all[..1]).await.is_ok());

    // What was ordered meanwhile is found by who comes back.
    let (target, ending) = (all_of("44"), Ending::of(Ending::DISCONNECTED));
    let order = EndOrder {
        target: &target,
        fence: None,
        ending: &ending,
    };
    let ordered = b.registry.order_end(order).await;
    assert!(matches!(ordered, Err(RegistryError::Unavailable(_))));

    again.back(&there).await;
    assert_eq!(b.ids("42").await.len(), 1, "what is there is told");
    again.enter().await;
    let mut expected = vec![Some(1); SAID];
    expected[SAID - 1] = Some(0);
    assert_eq!(said(&b, "42", &there).await, expected);
    again.unregister(&[&there]).await;
    assert_eq!(said(&b, "42", &there).await, [Some(0); SAID], "it has gone");
    assert_eq!(said(&b, "43", &elsewhere).await, expected);
}

/// Listens as this node does.
async fn listen(home: &Redis, node: &Peer) -> MultiplexedConnection {
    let (pushes, mut come) = tokio::sync::mpsc::unbounded_channel();
    let config = redis::AsyncConnectionConfig::new().set_push_sender(pushes);
    let client = home.client();
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap();
    let channel = Keys::new("switchboard").node_channel(Shard::FIRST, &node.lease.instance);
    let mut subscribe = redis::cmd("SSUBSCRIBE");
    let () = subscribe
        .arg(channel)
        .query_async(&mut connection)
        .await
        .unwrap();
    while come.recv().await.unwrap().kind != PushKind::SSubscribe {}
    connection
}

#[tokio::test]
async fn a_newcomer_right_after_a_loss_waits_for_those_that_listen() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let newcomer = async |name| {
        let handle = home.registry(&timing(LONG), &Presence::default());
        Peer::join(Arc::new(handle), name).await
    };
    let [a, b] = fleet(&home, LONG, LONG).await;
    let [of_a, of_b] = [a.connect("of a").await, b.connect("of b").await];
    // Nobody listens, as in a new fleet: who comes is there at once.
    let c = newcomer("c").await;
    assert_eq!(c.ids("of b").await.len(), 1);
    let presence = async |node: &Peer, user: &str| -> Option<Tally> {
        let presence = node.registry.presence(&[user.into()]).await;
        presence.ok().map(|presence| presence[0].tally)
    };
    assert_eq!(presence(&c, "nobody").await, Some(tally(0, 0)));
    c.registry.leave(&c.lease).await.unwrap();

    let _listening = [listen(&home, &a).await, listen(&home, &b).await];
    let () = redis::cmd("FLUSHALL")
        .query_async(&mut raw(&home).await)
        .await
        .unwrap();
    let d = newcomer("d").await;
    assert_eq!(presence(&d, "of b").await, None, "nobody is back");
    assert!(a.beat().await);
    a.back(&of_a).await;
    a.enter().await;
    for user in ["of a", "of b", "nobody"] {
        assert_eq!(presence(&d, user).await, None, "one is back: {user}");
    }
    assert!(b.beat().await);
    assert_eq!(presence(&d, "of b").await, None, "its connections are not");
    b.back(&of_b).await;
    b.enter().await;
    for user in ["of a", "of b"] {
        assert_eq!(presence(&d, user).await, Some(tally(1, 1)), "{user}");
    }
    assert_eq!(presence(&d, "nobody").await, Some(tally(0, 0)));
    assert_eq!(d.held().await, []);
    assert_eq!(a.held().await, [entry(&of_a)]);
}
