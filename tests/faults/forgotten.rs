//! The registry loses its memory while clients stay connected (F3): by FLUSHALL, by a restart without data, in one shard. Nobody
//! whose connection is alive is said to be offline, and no kick is confirmed that did not happen, by whichever node is asked and
//! whenever: before it finds out, after it has, and while others have not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::json;
use switchboard::registry::keys::{Keys, Shards};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    scene::EXACT,
    support::{
        api::{Answer, Api},
        bounds::{ensure, seconds, within},
        client::Client,
        fleet::{Fleet, Plan},
        proxy::{Flow, Weather},
        run::Run,
    },
    watch::Watch,
};

/// What is lost.
#[derive(Clone, Copy)]
enum Loss {
    Everything,
    /// Redis ends, and comes back without its data.
    Restart,
    /// All that is in one user's shard, as if its server had come back empty.
    ShardOf(&'static str),
}

impl Loss {
    async fn happen(self, fleet: &mut Fleet) {
        match self {
            Self::Everything => fleet.redis.run("FLUSHALL").await,
            Self::Restart => {
                fleet.redis.kill();
                fleet.redis.launch().await;
            }
            Self::ShardOf(user) => {
                let conns = Keys::new("switchboard").conns(Shards::default().of_user(&user.into()));
                let (before, tagged) = conns.split_once('{').unwrap();
                let tag = tagged.split_once('}').unwrap().0;
                let found: Vec<String> = fleet.redis.run(&format!("KEYS {before}{{{tag}}}*")).await;
                assert!(found.len() > 2, "{found:?}");
                let gone: usize = fleet.redis.run(&format!("DEL {}", found.join(" "))).await;
                assert_eq!(gone, found.len());
            }
        }
    }
}

/// What a node has said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<(u64, u64, Vec<String>)>>);

impl Said {
    /// Notes an answer; one that says what is not so is a lie.
    fn note(&self, answer: Result<Answer, String>, is_true: impl FnOnce(&Answer) -> bool) {
        let mut said = self.0.lock();
        match answer {
            Ok(answer) if answer.status == 503 && answer.retry_after.is_some() => said.0 += 1,
            Ok(answer) if answer.status == 200 && is_true(&answer) => said.1 += 1,
            other => said.2.push(format!("{other:?}")),
        }
    }
}

/// Asks a node again and again for a user who is connected, until it is told to stop.
async fn ask(api: Api, user: String, id: String, said: Said, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let read = api.get(&format!("/v1/users/{user}")).await;
        said.note(read, |answer| answer.body["online"] == true);
        let body = json!({ "users": [user] });
        let read = api.post("/v1/presence", body).await;
        said.note(read, |answer| answer.body["users"][&user]["online"] == true);
        let read = api.get(&format!("/v1/connections/{id}")).await;
        said.note(read, |answer| answer.body["userId"] == user.as_str());
        let read = api.get("/v1/users?limit=1000").await;
        said.note(read, |answer| {
            let page = answer.body["users"].as_array();
            page.is_some_and(|page| page.iter().any(|row| row["userId"] == user.as_str()))
        });
        let sent = api.send(&user, "asked", json!(1)).await;
        said.note(sent, |answer| answer.body["connections"] == 1);
        let ack = json!({ "event": "e", "ack": { "timeoutMs": 1 } });
        let sent = api.post(&format!("/v1/users/{user}/events"), ack).await;
        said.note(sent, |answer| answer.body["connections"] == 1);
    }
}

/// How the second node reaches Redis: it takes a while to put back what it has.
const SLOW: Weather = Weather {
    delay: Duration::from_millis(8),
    ..Weather::FAIR
};

/// How much later than the first node the second one reaches a Redis that was away.
const LATER: Duration = Duration::from_secs(1);

/// The first node finds out soon, the others late. The users are on the second one.
async fn forgotten(name: &'static str, loss: Loss, [stays, kicked]: [&str; 2]) {
    let run = Run::begin(name);
    let mut plan = Plan::of(1);
    plan.heartbeat = Duration::from_millis(300);
    let mut fleet = Fleet::start(&run, plan).await;
    fleet.plan.heartbeat = Duration::from_millis(4900);
    fleet.plan.proxied = true;
    for _ in 0..2 {
        fleet.add().await;
    }
    let mut clients = fleet.crowd("crowd", 12).await;
    clients.push(Client::of(fleet[1].addr, stays).await);
    let id = clients.last().unwrap().id.clone();
    fleet.exact(&clients, seconds(15.0)).await;
    fleet[1].proxy.as_ref().unwrap().set(SLOW);
    let (mut refused, mut told) = (0, 0);
    for round in 0..4 {
        let victim = Client::of(fleet[1].addr, kicked).await;
        let said = Said::default();
        let stop = CancellationToken::new();
        let asking = [0, 2].map(|node| {
            let api = fleet[node].api.clone();
            tokio::spawn(ask(
                api,
                stays.into(),
                id.clone(),
                said.clone(),
                stop.clone(),
            ))
        });
        if let Loss::Restart = loss {
            fleet[1].proxy.as_ref().unwrap().set(Weather::CUT);
        }
        loss.happen(&mut fleet).await;
        let lost = Instant::now();
        let api = fleet[0].api.clone();
        let kick = async || {
            let answer = api.disconnect(kicked, json!({})).await?;
            ensure(answer.status != 503, || format!("{answer:?}"))?;
            Ok(answer)
        };
        let heal = async {
            if let Loss::Restart = loss {
                sleep(LATER).await;
                fleet[1].proxy.as_ref().unwrap().set(SLOW);
            }
        };
        let limit = LATER + seconds(EXACT);
        let ((took, answer), ()) = tokio::join!(within(limit, "the kick is answered", kick), heal);
        // One that was refused is written down all the same, and may have been carried out by now.
        let disconnected = answer.body["disconnected"].as_u64();
        assert!(
            answer.status == 200 && disconnected.is_some_and(|it| it <= 1),
            "round {round}, {took:?}: {answer:?}"
        );
        assert_eq!(victim.ended(seconds(1.0)).await.code(), 4500);
        fleet.exact(&clients, seconds(EXACT)).await;
        run.note(format!("exact {:?} after the loss", lost.elapsed()));
        stop.cancel();
        for asking in asking {
            asking.await.unwrap();
        }
        let said = said.0.lock().clone();
        assert_eq!(said.2, Vec::<String>::new(), "round {round}");
        refused += said.0;
        told += said.1;
        run.tell(format!(
            "round {round}: kicked {took:?} after the loss; {} answers, {} refusals",
            said.1, said.0
        ));
    }
    assert!(refused > 0 && told > 0, "{refused} refused, {told} told");
    for client in &clients {
        assert!(client.is_open(), "{}", client.user);
    }
    fleet[1].proxy.as_ref().unwrap().set(Weather::FAIR);
    fleet.finish(clients, Duration::from_secs(10)).await;
}

#[tokio::test]
async fn f3_nobody_is_forgotten_who_is_on_a_node_that_has_not_noticed_a_flushall() {
    forgotten("f3 forgotten", Loss::Everything, ["stays", "kicked"]).await;
}

#[tokio::test]
async fn f3_nobody_is_forgotten_when_redis_restarts_without_its_data() {
    forgotten("f3 forgotten restart", Loss::Restart, ["stays", "kicked"]).await;
}

#[tokio::test]
async fn f3_nobody_is_forgotten_who_is_in_a_shard_that_is_lost() {
    // Two of one shard.
    let stays = "stays";
    let shard = |user: &str| Shards::default().of_user(&user.into());
    let mut others = (0..).map(|number| format!("kicked-{number}"));
    let kicked = others.find(|user| shard(user) == shard(stays)).unwrap();
    forgotten("f3 forgotten shard", Loss::ShardOf(stays), [stays, &kicked]).await;
}

/// One that was not there before: it can't know which nodes it ought to wait for but by what it finds.
#[tokio::test]
async fn f3_a_node_that_starts_while_another_puts_back_what_was_lost_waits_for_it() {
    let run = Run::begin("f3 newcomer");
    let mut plan = Plan::of(1).proxied();
    plan.heartbeat = Duration::from_millis(300);
    let mut fleet = Fleet::start(&run, plan).await;
    let mut clients = fleet.crowd("crowd", 12).await;
    clients.push(Client::of(fleet[0].addr, "stays").await);
    let id = clients.last().unwrap().id.clone();
    fleet.exact(&clients, seconds(15.0)).await;
    let proxy = |fleet: &Fleet, weather| fleet[0].proxy.as_ref().unwrap().set(weather);
    proxy(
        &fleet,
        Weather {
            delay: Duration::from_millis(100),
            ..Weather::FAIR
        },
    );
    let held = Weather {
        there: Flow::Hold,
        ..Weather::FAIR
    };
    let () = fleet.redis.run("FLUSHALL").await;
    let table = Keys::new("switchboard").tables(false).remove(0).1;
    let joined = async || {
        let fields: Vec<String> = fleet.redis.run(&format!("HKEYS {table}")).await;
        let leases = fields.iter().filter(|field| field.contains('.')).count();
        ensure(leases == 1, || format!("{fields:?}"))
    };
    within(seconds(10.0), "the node has joined anew", joined).await;
    // It has its lease, and does not get to put back what was lost.
    proxy(&fleet, held);
    let newcomer = fleet.add().await;
    let (said, stop) = (Said::default(), CancellationToken::new());
    let api = fleet[newcomer].api.clone();
    let asking = tokio::spawn(ask(api, "stays".into(), id, said.clone(), stop.clone()));
    let refuses = async || {
        let said = said.0.lock().clone();
        ensure(said.0 > 0, || format!("{said:?}"))
    };
    within(seconds(5.0), "the newcomer says nothing yet", refuses).await;
    proxy(&fleet, Weather::FAIR);
    fleet.exact(&clients, seconds(10.0)).await;
    let tells = async || {
        let said = said.0.lock().clone();
        ensure(said.1 > 0, || format!("{said:?}"))
    };
    within(seconds(5.0), "the newcomer says who is there", tells).await;
    stop.cancel();
    asking.await.unwrap();
    assert_eq!(said.0.lock().2, Vec::<String>::new());
    fleet.finish(clients, Duration::from_secs(10)).await;
}

/// Asks a node until it answers; returns how long that took.
async fn answers(api: &Api, limit: Duration) -> Duration {
    let stats = async || api.read("/v1/stats").await;
    within(limit, "the node answers", stats).await.0
}

#[tokio::test]
async fn f3_a_dead_node_is_waited_for_no_longer_than_a_lease_and_one_that_has_left_not_at_all() {
    let run = Run::begin("f3 dead");
    let mut fleet = Fleet::start(&run, Plan::brisk(3)).await;
    let (heartbeat, lease) = (fleet.plan.heartbeat, fleet.plan.lease);
    let clients = fleet.crowd("user", 6).await;
    fleet.exact(&clients, seconds(15.0)).await;
    let (lost, clients): (Vec<_>, Vec<_>) = clients.into_iter().partition(|it| it.node == "node-2");
    fleet.kill(2);
    drop(lost);
    let () = fleet.redis.run("FLUSHALL").await;
    for node in fleet.up() {
        let took = answers(&node.api, lease + heartbeat + seconds(2.0)).await;
        run.tell(format!("{} answers after {took:?}", node.name));
    }
    fleet.exact(&clients, seconds(EXACT)).await;

    // The lease of those that come now is so long that a wait for it would be noticed.
    fleet.plan.lease = Duration::from_secs(60);
    let leaves = fleet.add().await;
    let stays = fleet.add().await;
    fleet.exact(&clients, seconds(15.0)).await;
    fleet.nodes[leaves].process.signal("TERM");
    let limit = seconds(15.0);
    assert!(fleet.nodes[leaves].process.ends(limit).await.success());
    fleet.nodes[leaves].silent = true;
    let () = fleet.redis.run("FLUSHALL").await;
    let took = answers(&fleet[stays].api, heartbeat + seconds(5.0)).await;
    run.tell(format!("{} answers after {took:?}", fleet[stays].name));
    fleet.exact(&clients, seconds(EXACT)).await;
    fleet.finish(clients, Duration::from_secs(10)).await;
}

#[tokio::test]
async fn f3_a_node_that_is_alone_answers_after_its_next_heartbeat() {
    let run = Run::begin("f3 alone");
    let mut plan = Plan::of(1);
    plan.lease = Duration::from_secs(60);
    let fleet = Fleet::start(&run, plan).await;
    let clients = fleet.crowd("user", 6).await;
    let () = fleet.redis.run("FLUSHALL").await;
    let took = answers(&fleet[0].api, fleet.plan.heartbeat + seconds(2.0)).await;
    run.tell(format!("answers after {took:?}"));
    fleet.exact(&clients, seconds(EXACT)).await;
    fleet.finish(clients, Duration::from_secs(10)).await;
}

#[tokio::test]
async fn nodes_that_come_and_leave_keep_nobody_from_answering() {
    let run = Run::begin("come and leave");
    let mut fleet = Fleet::start(&run, Plan::of(2)).await;
    let mut clients = Vec::new();
    for number in 0..2 {
        clients.push(Client::of(fleet[number].addr, &format!("user-{number}")).await);
    }
    fleet.exact(&clients, seconds(15.0)).await;
    let apis = fleet.nodes.iter().map(|node| node.api.clone()).collect();
    let users = clients.iter().map(|client| client.user.clone()).collect();
    let watch = Watch::over(apis, users);
    for _ in 0..3 {
        let number = fleet.add().await;
        answers(&fleet[number].api, Duration::ZERO).await;
        fleet.nodes[number].process.signal("TERM");
        let limit = seconds(15.0);
        assert!(fleet.nodes[number].process.ends(limit).await.success());
        fleet.nodes[number].silent = true;
    }
    let seen = watch.seen();
    drop(watch);
    run.tell(format!("{} looks", seen.looks));
    assert!(seen.looks > 5);
    assert_eq!((seen.offline, seen.failed), (Vec::new(), Vec::new()));
    fleet.finish(clients, Duration::from_secs(10)).await;
}
