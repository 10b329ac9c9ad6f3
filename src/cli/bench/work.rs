//! What each kind of load does.

use std::{future::ready, sync::Arc, time::Duration};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Load, Pace, Report, Work,
    crowd::{AT_ONCE, Client, Crowd, EVENT},
    pace::bar,
    servers::Meter,
    target::Target,
};

/// How long messages may take to be heard after the last was sent.
const LAST: Duration = Duration::from_secs(5);

/// How long after a load its room is forgotten, should it end before it has emptied it.
const ROOM: Duration = Duration::from_secs(60);

/// Runs a load against the nodes, whose processes are measured meanwhile.
pub(super) async fn run(
    work: &Work,
    load: &Load,
    pace: Pace,
    target: Target,
    pids: &[i32],
) -> anyhow::Result<Report> {
    if matches!(work, Work::Send | Work::Broadcast | Work::Room | Work::Kick) {
        target.ensure_key()?;
    }
    let count = u64::from(load.connections);
    let crowd = Crowd::new(Arc::new(target), &load.namespace);
    let mut clients = match work {
        Work::Connect | Work::Idle | Work::Churn { .. } => Vec::new(),
        _ => crowd.gather(count).await?,
    };
    let room = match work {
        Work::Room => Some(fill_a_room(&crowd, &clients, load).await?),
        _ => None,
    };

    let (meter, start) = (Meter::start(pids), Instant::now());
    let succeeded = match work {
        Work::Connect | Work::Idle => {
            let arrived = arrive(&crowd, pace).await;
            clients = arrived.0;
            if matches!(work, Work::Idle) {
                rest(&crowd, &clients, load.duration).await;
            }
            arrived.1
        }
        Work::Churn { stay } => churn(&crowd, pace, *stay).await,
        Work::Send | Work::Broadcast | Work::Room => {
            let path = |number| match (work, &room) {
                (Work::Send, _) => {
                    let user = crowd.target.user(number % count);
                    vec!["users".to_owned(), user, "events".to_owned()]
                }
                (_, Some(room)) => vec!["rooms".to_owned(), room.clone(), "events".to_owned()],
                _ => vec!["broadcast".to_owned()],
            };
            send(&crowd, pace, load, path).await
        }
        Work::Call { event } => call(&crowd, pace, &clients, event).await,
        Work::Kick => kick(&crowd, pace, std::mem::take(&mut clients)).await,
    };
    // Before the clients go, whose memory is measured too.
    let (took, servers) = (start.elapsed(), meter.stop());
    if let Some(room) = room
        && let Err(error) = empty_the_room(&crowd, &room, load).await
    {
        let why = format!("the room stays until a minute after the load: {error:#}");
        crowd.record.failed(why, 1);
    }
    drop(clients);
    let operations = (pace, succeeded);
    let recorded = crowd.record.take();
    Ok(Report::new(
        work.name(),
        count,
        operations,
        took,
        recorded,
        servers,
    ))
}

/// Connects clients, and returns them, and how many there are.
async fn arrive(crowd: &Crowd, pace: Pace) -> (Vec<Client>, u64) {
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let succeeded = pace.run("connecting", &crowd.record, |number, due| {
        let (crowd, arrived) = (crowd.clone(), arrived.clone());
        async move {
            let client = crowd
                .connect(number)
                .await
                .map_err(|error| format!("{error:#}"))?;
            crowd.record.time("ready", due.elapsed());
            arrived.lock().push(client);
            Ok(())
        }
    });
    let succeeded = succeeded.await;
    let arrived = std::mem::take(&mut *arrived.lock());
    (arrived, succeeded)
}

/// Lets clients stay for a while, and counts those that don't.
async fn rest(crowd: &Crowd, clients: &[Client], duration: Duration) {
    let seconds = bar("idle", duration.as_secs());
    let until = Instant::now() + duration;
    while Instant::now() < until {
        sleep(Duration::from_secs(1).min(until - Instant::now())).await;
        seconds.inc(1);
    }
    seconds.finish_and_clear();
    let gone = clients.iter().filter(|client| !client.is_open()).count();
    crowd.record.failed("ended while idle", gone as u64);
}

async fn churn(crowd: &Crowd, pace: Pace, stay: Duration) -> u64 {
    let succeeded = pace.run("coming and going", &crowd.record, |number, due| {
        let crowd = crowd.clone();
        async move {
            let client = crowd
                .connect(number)
                .await
                .map_err(|error| format!("{error:#}"))?;
            crowd.record.time("ready", due.elapsed());
            // In a task of its own: to stay is no part of the operation, and has no bound.
            tokio::spawn(async move {
                sleep(stay).await;
                drop(client);
            });
            Ok(())
        }
    });
    let succeeded = succeeded.await;
    sleep(stay).await;
    succeeded
}

/// Sends messages to where `path` says, and waits for those that were handed over.
async fn send(crowd: &Crowd, pace: Pace, load: &Load, path: impl Fn(u64) -> Vec<String>) -> u64 {
    let handed_over = Arc::new(Mutex::new(0));
    let succeeded = pace.run("sending", &crowd.record, |number, due| {
        let (crowd, handed_over) = (crowd.clone(), handed_over.clone());
        let body = json!({
            "event": EVENT,
            "data": crowd.data(due, load.size),
            "namespace": load.namespace,
        });
        let path = path(number);
        async move {
            let path: Vec<_> = path.iter().map(String::as_str).collect();
            let url = crowd.target.url(&path);
            let answer = crowd.target.call(Method::POST, url, &body).await;
            let answer = answer.map_err(|error| format!("{error:#}"))?;
            crowd.record.time("answered", due.elapsed());
            *handed_over.lock() += answer["connections"].as_u64().unwrap_or_default();
            match answer["unconfirmed"].as_u64() {
                Some(0) | None => Ok(()),
                Some(_) => Err("a node did not confirm".into()),
            }
        }
    });
    let succeeded = succeeded.await;
    let handed_over = *handed_over.lock();
    crowd.hear(handed_over, LAST).await;
    succeeded
}

/// Takes everybody out of the room, for good.
async fn empty_the_room(crowd: &Crowd, room: &str, load: &Load) -> anyhow::Result<()> {
    let mut url = crowd.target.url(&["rooms", room]);
    url.query_pairs_mut()
        .append_pair("namespace", &load.namespace);
    crowd.target.call(Method::DELETE, url, &json!({})).await?;
    Ok(())
}

/// Puts all clients into one room, and returns its name. It is forgotten some time after the load, should that end early.
async fn fill_a_room(crowd: &Crowd, clients: &[Client], load: &Load) -> anyhow::Result<String> {
    let room = format!("bench-{}", crowd.target.run);
    let until = Timestamp::now() + load.duration + ROOM;
    let body = json!({ "namespace": load.namespace, "until": until });
    let joining = stream::iter(clients).map(async |client| {
        let path = ["users", &client.user, "rooms", &room];
        let url = crowd.target.url(&path);
        crowd.target.call(Method::PUT, url, &body).await
    });
    let joined = joining
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| ready(Ok(())));
    joined.await.context("the room can't be filled")?;
    Ok(room)
}

async fn call(crowd: &Crowd, pace: Pace, clients: &[Client], event: &str) -> u64 {
    pace.run("calling", &crowd.record, |number, due| {
        let record = crowd.record.clone();
        let answer = clients[number as usize % clients.len()].call(event);
        async move {
            let answered = answer.await;
            answered.map_err(|_| "the client's connection ended".to_owned())?;
            record.time("acknowledged", due.elapsed());
            Ok(())
        }
    })
    .await
}

/// Disconnects one user after the other, and waits until each client's connection is closed.
async fn kick(crowd: &Crowd, pace: Pace, clients: Vec<Client>) -> u64 {
    let clients = Arc::new(Mutex::new(clients));
    pace.run("kicking", &crowd.record, |_, due| {
        let (crowd, clients) = (crowd.clone(), clients.clone());
        async move {
            let client = clients.lock().pop().ok_or("no client is left")?;
            let path = ["users", client.user.as_str(), "disconnect"];
            let url = crowd.target.url(&path);
            let answer = crowd.target.call(Method::POST, url, &json!({})).await;
            let answer: Value = answer.map_err(|error| format!("{error:#}"))?;
            crowd.record.time("answered", due.elapsed());
            if answer["disconnected"] != 1 {
                return Err("the user was not connected".into());
            }
            let ended = client.ended().await?;
            crowd.record.time("ended", ended.duration_since(due));
            Ok(())
        }
    })
    .await
}
