//! What is said of users whose nodes are known to live, and have yet to put back what they hold.

use switchboard::{
    connection::Connection,
    ending::Ending,
    registry::{EndOrder, EndTarget, RegistryError, Whom},
};

use super::home::{LONG, Peer, Redis, RedisServer, SHORT, all_of, fleet};

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
    let whom = Whom::User(user);
    let Whom::User(user) = &whom else {
        unreachable!()
    };
    let presence = registry.presence(std::slice::from_ref(user)).await;
    let one = Whom::Connection(id.clone());
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
        said(registry.holders(&whom).await, |it| it.len()),
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
    assert_eq!(b.ids("43").await.len(), 1, "whom another node has");
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
