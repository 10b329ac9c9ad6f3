//! One API key that asks for as much as it can, as fast as it can (F14): the node's lease, handshakes and kicks don't wait for it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    scene::Scene,
    support::{
        bounds::seconds,
        client::Client,
        fleet::{Node, Plan},
        run::Run,
        token::KEY,
    },
};

/// How many calls the key has under way at each node.
const AT_ONCE: usize = 40;

/// How many users are asked for, which is as many as one call may.
const USERS: usize = 1_000;

/// How many users come and are kicked meanwhile, at the least.
const ROUNDS: usize = 20;

/// What the calls came to.
#[derive(Default)]
struct Answers {
    served: AtomicU64,
    overloaded: AtomicU64,
}

impl Answers {
    async fn take(&self, answer: reqwest::Response) {
        let counted = match answer.status().as_u16() {
            200 => &self.served,
            503 if answer.headers().contains_key("retry-after") => &self.overloaded,
            other => panic!("{other}"),
        };
        answer.bytes().await.expect("a body");
        counted.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks a node for the presence of a thousand users, again and again, many at once. Never returns.
async fn ask(node: &Node, answers: &Answers) {
    let users: Vec<_> = (0..USERS).map(|number| format!("user-{number}")).collect();
    let body = json!({ "users": users }).to_string();
    let http = reqwest::Client::new();
    let url = format!("http://{}/v1/presence", node.addr);
    join_all((0..AT_ONCE).map(|_| async {
        loop {
            let call = http.post(&url).bearer_auth(KEY).body(body.clone());
            answers.take(call.send().await.expect("an answer")).await;
        }
    }))
    .await;
}

/// Connects a user to each node, waits until the other node lists it, and has that one kick it. Returns how often.
async fn come_and_go(scene: &Scene) -> usize {
    let started = Instant::now();
    let over = scene.fleet.plan.lease;
    let mut rounds = 0;
    while rounds < ROUNDS || started.elapsed() < over {
        let (here, there) = (rounds % 2, (rounds + 1) % 2);
        let user = format!("comes-{rounds}");
        let client = Client::of(scene.fleet[here].addr, &user).await;
        let api = &scene.fleet[there].api;
        let answer = api.disconnect(&user, json!({})).await.unwrap();
        assert_eq!(
            (answer.status, answer.body),
            (
                200,
                json!({ "disconnected": 1, "nodes": 1, "remaining": [] })
            )
        );
        client.ended(seconds(2.0)).await;
        rounds += 1;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f14_a_key_that_asks_for_a_thousand_as_fast_as_it_can_starves_no_lease_handshake_or_kick() {
    let run = Run::begin("f14");
    let scene = Scene::set(&run, Plan::of(2), 20).await;
    let answers = Answers::default();
    let rounds = tokio::select! {
        rounds = come_and_go(&scene) => rounds,
        () = ask(&scene.fleet[0], &answers) => unreachable!(),
        () = ask(&scene.fleet[1], &answers) => unreachable!(),
    };
    let served = answers.served.load(Ordering::Relaxed);
    let overloaded = answers.overloaded.load(Ordering::Relaxed);
    run.tell(format!(
        "{rounds} came and were kicked beside {served} calls served and {overloaded} refused"
    ));
    assert!(served > 0, "the key is served too");
    scene.no_lease_lost();
    scene.nobody_dropped();
    scene.fleet.exact(&scene.clients, seconds(5.0)).await;
    let Scene { fleet, clients } = scene;
    fleet.finish(clients, seconds(10.0)).await;
}
