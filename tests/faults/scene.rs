//! A fleet with clients on all nodes, before, during and after Redis is away.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    api::Api,
    bounds::{ensure, seconds, within},
    client::{Client, Hello, Refused},
    fleet::{Fleet, Node, Plan},
    run::Run,
};

/// A user with a connection on each of the first two nodes.
pub(crate) const PAIR: &str = "pair";

/// How long after Redis is back everything is exact.
pub(crate) const EXACT: f64 = 5.0;

/// How soon the API says that it can't.
const ANSWER: f64 = 1.0;

/// A fleet with its clients. The first two are those of [`PAIR`].
pub(crate) struct Scene {
    pub(crate) fleet: Fleet,
    pub(crate) clients: Vec<Client>,
}

impl Scene {
    /// Starts a fleet, connects `count` users and the pair, and awaits that all is exact.
    pub(crate) async fn set(run: &Run, plan: Plan, count: usize) -> Self {
        let fleet = Fleet::start(run, plan).await;
        let mut clients = Vec::new();
        for number in 0..2 {
            clients.push(Client::of(fleet[number].addr, PAIR).await);
        }
        clients.extend(fleet.crowd("user", count).await);
        let scene = Self { fleet, clients };
        scene.fleet.exact(&scene.clients, seconds(15.0)).await;
        scene
    }

    pub(crate) fn run(&self) -> &Run {
        &self.fleet.run
    }

    /// What holds while the nodes of these numbers can't reach Redis: each says so, answers the API with 503 soon, hands its own
    /// connections what is sent to them, and refuses newcomers so that they come again.
    pub(crate) async fn away(&self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            let node = &self.fleet[number];
            // Before anybody knows: the calls that find out.
            let read = node.api.get(&format!("/v1/users/{PAIR}")).await.unwrap();
            let took = node.unready(seconds(5.0)).await;
            self.run().note(format!(
                "{} noticed after {took:?}, first call {:?}",
                node.name, read.took
            ));
            self.refuses(&node.api).await;
            self.sends_nothing(number).await;
            turned_away(node).await;
        }
        self.nobody_dropped();
    }

    /// Every kind of call is answered with 503 and `Retry-After`, soon.
    async fn refuses(&self, api: &Api) {
        let calls = [
            ("GET", "/v1/users/pair".to_owned(), None),
            ("GET", "/v1/users".to_owned(), None),
            ("GET", "/v1/stats".to_owned(), None),
            ("GET", "/v1/nodes".to_owned(), None),
            (
                "POST",
                "/v1/presence".to_owned(),
                Some(json!({ "users": [PAIR] })),
            ),
            (
                "POST",
                "/v1/users/nobody/events".to_owned(),
                Some(json!({ "event": "e" })),
            ),
            (
                "POST",
                "/v1/broadcast".to_owned(),
                Some(json!({ "event": "all" })),
            ),
            (
                "POST",
                "/v1/users/nobody/disconnect".to_owned(),
                Some(json!({})),
            ),
            ("PUT", "/v1/users/nobody/ban".to_owned(), Some(json!({}))),
        ];
        for (method, path, body) in calls {
            let answer = api.call(method, &path, body).await.unwrap();
            // Nothing is read for a broadcast first: of a node that is heard and hears nothing it may have gone out.
            if path == "/v1/broadcast" && answer.status == 504 {
                assert_eq!(answer.body["code"], "outcome_unknown", "{answer:?}");
                continue;
            }
            assert_eq!(answer.status, 503, "{method} {path}: {answer:?}");
            assert!(answer.retry_after.is_some(), "{method} {path}: {answer:?}");
            assert!(answer.took < seconds(ANSWER), "{method} {path}: {answer:?}");
        }
    }

    /// What is sent to a user meanwhile is refused, and reaches nobody: not those on the node that was asked either, as
    /// [`Scene::back`] looks.
    async fn sends_nothing(&self, number: usize) {
        let node = &self.fleet[number];
        let Some(client) = self.clients.iter().find(|client| client.node == node.name) else {
            return;
        };
        let answer = node.api.send(&client.user, "refused", json!(0)).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
    }

    /// All clients that were connected are.
    pub(crate) fn nobody_dropped(&self) {
        for client in &self.clients {
            assert!(
                client.is_open(),
                "{} of {} has ended: {:?}",
                client.id,
                client.user,
                client.end()
            );
        }
    }

    /// No node was without its lease at any time.
    pub(crate) fn no_lease_lost(&self) {
        for node in self.fleet.up() {
            let lost = node.logged(&["the lease has run out"]);
            assert_eq!(lost, Vec::<String>::new(), "{}", node.name);
        }
    }

    /// Redis is back: exact in time, with the same connections as before; each node reaches the others.
    pub(crate) async fn back(&self) {
        let took = self.fleet.exact(&self.clients, seconds(EXACT)).await;
        self.run().tell(format!(
            "exact {:.2} s after Redis was back",
            took.as_secs_f64()
        ));
        self.nobody_dropped();
        for node in self.fleet.up() {
            let data = json!(format!("{} {}", node.name, self.run().clock()));
            let sent = async || {
                let answer = node.api.send(PAIR, "across", data.clone()).await?;
                let body = answer.ok("send")?;
                ensure(body["connections"] == 2, || {
                    format!("{}: {body}", node.name)
                })
            };
            within(seconds(1.0), "a send reaches both nodes", sent).await;
            for client in &self.clients[..2] {
                client.event("across", &data, seconds(2.0)).await;
            }
        }
        for client in &self.clients {
            let refused = client
                .heard()
                .into_iter()
                .find(|heard| heard.name == "refused");
            assert!(refused.is_none(), "{}: {refused:?}", client.user);
        }
    }

    /// The end, with nothing left over.
    pub(crate) async fn close(self) {
        self.fleet
            .finish(self.clients, Duration::from_secs(10))
            .await;
    }
}

/// A newcomer is refused so that it comes again.
pub(crate) async fn turned_away(node: &Node) {
    let refused = Client::connect(node.addr, &Hello::user("newcomer"))
        .await
        .err();
    assert_eq!(
        refused,
        Some(Refused::Http(503)),
        "a newcomer at {}",
        node.name
    );
}
