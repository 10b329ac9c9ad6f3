//! What an answered disconnect means (K1, K3, K6, K7, K8): from the answer on, nobody whom it was for is let in, heard, or told
//! anything.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt, stream};
use parking_lot::Mutex;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    api::{Answer, Api},
    bounds::{PATIENCE, bound, ensure, seconds, within},
    client::{Client, Hello, Refused, Socket, dial, next_text},
    fleet::{Fleet, Plan},
    polling::Polling,
    proxy::Weather,
    returning::{Manner, Returning},
    run::Run,
    token::token,
};

const REVOKE: fn() -> Value = || json!({ "revokeTokens": true });

/// How many clients of one user come and go at once.
const CROWD: usize = 20;

/// At most so many rounds, and so long.
const ROUNDS: (u64, Duration) = (40, Duration::from_secs(30));

/// What a round's clients have asked, and when.
#[derive(Default)]
struct Asked(HashMap<String, (Arc<Client>, Vec<Instant>)>);

impl Asked {
    /// Everybody who is connected asks something.
    fn ask(&mut self, crowd: &[Returning]) {
        for client in crowd.iter().filter_map(Returning::client) {
            let id = client.id.clone();
            let (client, times) = self.0.entry(id).or_insert_with(|| (client, Vec::new()));
            client.ask(times.len() as u64, "devices");
            times.push(Instant::now());
        }
    }

    /// What was handled, or heard, although it was after the answer.
    fn wrongs(&self, answered: Instant) -> Vec<String> {
        let mut wrongs = Vec::new();
        for (client, times) in self.0.values() {
            for heard in client.heard() {
                let late = match heard.name.as_str() {
                    "ack" => {
                        let number = heard.data[0].as_u64().unwrap() as usize;
                        times[number] > answered
                    }
                    name => name == "after",
                };
                if late {
                    wrongs.push(format!("{}: {} {}", client.id, heard.name, heard.data));
                }
            }
        }
        wrongs
    }
}

/// Disconnects a user; a 503, as a node without time gives it, is asked again.
async fn disconnect(api: &Api, user: &str, body: &Value) -> Answer {
    let call = async || {
        let answer = api.disconnect(user, body.clone()).await?;
        ensure(answer.status != 503, || format!("{answer:?}"))?;
        Ok(answer)
    };
    within(bound(PATIENCE / 3), "disconnect is answered", call)
        .await
        .1
}

#[tokio::test]
async fn k1_twenty_clients_come_back_again_and_again_while_disconnect_runs() {
    let run = Run::begin("k1");
    let fleet = Fleet::start(&run, Plan::of(3)).await;
    let mut random = run.random("rounds");
    let start = Instant::now();
    let (mut rounds, mut met) = (0, 0);
    while rounds < ROUNDS.0 && start.elapsed() < ROUNDS.1 {
        let user = format!("k1-{rounds}");
        let millis = |range: std::ops::Range<u64>| {
            Duration::from_millis(range.start)..Duration::from_millis(range.end)
        };
        let crowd: Vec<_> = (0..CROWD)
            .map(|number| {
                let manner = Manner {
                    doors: fleet.nodes.iter().map(|node| node.addr).collect(),
                    hello: Hello::user(&user),
                    pause: millis(0..20),
                    stubborn: true,
                    stay: Some(millis(5..80)),
                };
                Returning::start(manner, run.random(&format!("{user} {number}")))
            })
            .collect();
        let come = async || {
            let visits = crowd.iter().flat_map(Returning::visits);
            let count = visits.filter(|visit| visit.outcome.is_ok()).count();
            ensure(count >= CROWD / 2, || format!("{count} have come"))
        };
        within(bound(PATIENCE), "half of the crowd has come", come).await;

        let asked = Arc::<Mutex<Asked>>::default();
        let api = &fleet[random.random_range(0..3)].api;
        let pause = random.random_range(0..40);
        let disconnect = async {
            sleep(Duration::from_millis(pause)).await;
            let answer = disconnect(api, &user, &REVOKE()).await;
            (answer, Instant::now())
        };
        let asking = async {
            loop {
                asked.lock().ask(&crowd);
                sleep(Duration::from_millis(3)).await;
            }
        };
        let (answer, answered) = tokio::select! {
            done = disconnect => done,
            () = asking => unreachable!(),
        };
        assert_eq!(
            (answer.status, &answer.body["remaining"]),
            (200, &json!([])),
            "{answer:?}"
        );
        met += answer.body["disconnected"].as_u64().unwrap();
        run.note(format!("round {rounds}: {}", answer.body));

        // Nobody is listed, sent to, or heard.
        for node in fleet.up() {
            let nobody = async || {
                assert_eq!(node.api.connections_of(&user).await?, [], "{}", node.name);
                let sent = node
                    .api
                    .send(&user, "after", json!(rounds))
                    .await?
                    .ok("send")?;
                assert_eq!(sent, json!({ "connections": 0, "nodes": 0 }));
                Ok(())
            };
            within(seconds(1.0), "the node answers", nobody).await;
        }
        asked.lock().ask(&crowd);
        // Each has been refused with a CONNECT packet that it sent after the answer.
        let refused = async || {
            let left = crowd.iter().filter(|one| {
                !one.visits().iter().any(|visit| {
                    let said = Refused::Connect("Token revoked".to_owned());
                    visit.began > answered && visit.outcome.as_ref().is_err_and(|why| *why == said)
                })
            });
            let left = left.count();
            ensure(left == 0, || format!("{left} have not been refused yet"))
        };
        within(bound(PATIENCE), "everybody is refused", refused).await;
        for visit in crowd.iter().flat_map(Returning::visits) {
            match &visit.outcome {
                Ok(stay) => {
                    assert!(stay.sent < answered, "{}: let in after the answer", stay.id);
                    assert!(stay.end.is_some(), "{}: not ended", stay.id);
                }
                Err(Refused::Connect(why)) => assert_eq!(why, "Token revoked"),
                Err(Refused::Closed(_) | Refused::Http(503)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(
            asked.lock().wrongs(answered),
            Vec::<String>::new(),
            "after the answer"
        );
        rounds += 1;
    }
    assert!(
        rounds >= 3 && met > 0,
        "{rounds} rounds, {met} connections met"
    );
    run.tell(format!(
        "measured: {rounds} rounds of {CROWD} clients, {met} connections met by the disconnects"
    ));
    fleet.finish(Vec::new(), Duration::from_secs(10)).await;
}

/// Nobody of the user's reads, and all that can be queued for them is.
#[tokio::test]
async fn k3_all_of_a_users_clients_are_stalled_with_full_buffers() {
    let run = Run::begin("k3");
    let plan = Plan::of(2)
        .with("LIMITS__SEND_QUEUE_BYTES", "64MB")
        .with("LIMITS__WRITE_DEADLINE", "120s");
    let fleet = Fleet::start(&run, plan).await;
    let hello = Hello {
        receive_buffer: Some(4096),
        ..Hello::user("stalled")
    };
    let mut clients = Vec::new();
    for number in 0..6 {
        let client = Client::connect(fleet[number % 2].addr, &hello)
            .await
            .unwrap();
        client.stall();
        clients.push(client);
    }
    let chunk = json!("x".repeat(400_000));
    for _ in 0..20 {
        let answer = fleet[0]
            .api
            .send("stalled", "fill", chunk.clone())
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let answer = fleet[0].api.disconnect("stalled", REVOKE()).await.unwrap();
    run.tell(format!("measured: answered after {:?}", answer.took));
    let closed = json!({ "disconnected": 6, "nodes": 2, "remaining": [] });
    assert_eq!((answer.status, &answer.body), (200, &closed), "{answer:?}");
    assert!(answer.took < seconds(2.0), "{answer:?}");
    for node in fleet.up() {
        assert_eq!(node.api.connections_of("stalled").await.unwrap(), []);
    }
    for client in &clients {
        client.resume();
        client.ended(seconds(5.0)).await;
    }
    fleet.finish(Vec::new(), Duration::from_secs(10)).await;
}

/// The call comes while the handshake is anywhere between the CONNECT packet and `ready`: the way to Redis is slow.
async fn in_the_middle(name: &'static str, revoke: bool) {
    let run = Run::begin(name);
    let fleet = Fleet::start(&run, Plan::of(2).proxied()).await;
    let slow = Weather {
        delay: Duration::from_millis(20),
        ..Weather::FAIR
    };
    fleet[0].proxy.as_ref().unwrap().set(slow);
    let meet = |number: usize| {
        let (fleet, mut random) = (&fleet, run.random(&number.to_string()));
        async move {
            let user = format!("middle-{number}");
            token(&user);
            let (hello, after) = (Hello::user(&user), random.random_range(0..160));
            let come = Client::connect(fleet[0].addr, &hello);
            let kick = async {
                sleep(Duration::from_millis(after)).await;
                let body = json!({ "revokeTokens": revoke });
                disconnect(&fleet[1].api, &user, &body).await
            };
            let (come, answer) = tokio::join!(come, kick);
            assert_eq!(
                (answer.status, &answer.body["remaining"]),
                (200, &json!([])),
                "{answer:?}"
            );
            (come, answer.body["disconnected"] == 1)
        }
    };
    let met: Vec<_> = stream::iter(0..80)
        .map(meet)
        .buffer_unordered(8)
        .collect()
        .await;
    let (mut stay, mut counts) = (Vec::new(), [0; 3]);
    for (come, ended) in met {
        match come {
            Ok(client) if ended || revoke => {
                counts[0] += 1;
                client.ended(seconds(2.0)).await;
            }
            // It came after the call, and may.
            Ok(client) => {
                counts[1] += 1;
                stay.push(client);
            }
            Err(Refused::Connect(why)) if revoke => {
                counts[2] += 1;
                assert_eq!(why, "Token revoked");
            }
            Err(Refused::Closed(_) | Refused::Http(503)) => counts[2] += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    run.tell(format!(
        "measured: {} ended, {} came after, {} not let in",
        counts[0], counts[1], counts[2]
    ));
    assert!(
        counts[0] > 0 && counts[1] + counts[2] > 0,
        "the calls come at all moments"
    );
    fleet[0].proxy.as_ref().unwrap().set(Weather::FAIR);
    fleet.finish(stay, seconds(5.0)).await;
}

#[tokio::test]
async fn k6_a_disconnect_meets_handshakes_that_are_being_registered() {
    in_the_middle("k6", false).await;
}

#[tokio::test]
async fn k6_a_revocation_meets_handshakes_that_are_being_registered() {
    in_the_middle("k6 revoke", true).await;
}

/// The next packet that is not a ping; none when the transport has ended.
async fn packet(socket: &mut Socket) -> Option<String> {
    let next = async {
        loop {
            match next_text(socket).await?.as_str() {
                "2" => socket.send(Message::text("3")).await.ok()?,
                text => return Some(text.to_owned()),
            }
        }
    };
    tokio::time::timeout(bound(PATIENCE / 3), next)
        .await
        .expect("a packet, or the end, in time")
}

/// Reads until a packet begins with `start`.
async fn until(socket: &mut Socket, start: &str) -> Option<String> {
    loop {
        let text = packet(socket).await?;
        if text.starts_with(start) {
            return Some(text);
        }
    }
}

#[tokio::test]
async fn k7_the_same_transport_asks_to_be_let_in_again_after_its_disconnect_packet() {
    let run = Run::begin("k7");
    let fleet = Fleet::start(&run, Plan::of(2)).await;
    for round in 0..20 {
        let user = format!("again-{round}");
        let connect = Message::text(Hello::user(&user).packet());
        let mut socket = dial(fleet[round % 2].addr, None).await.unwrap();
        socket.send(connect.clone()).await.unwrap();
        until(&mut socket, r#"42["ready""#).await.unwrap();
        // A guest keeps the transport open.
        let guest = round % 4 < 2;
        if guest {
            socket.send(Message::text("40/public,")).await.unwrap();
            until(&mut socket, r#"42/public,["ready""#).await.unwrap();
        }
        let call = fleet[(round / 2) % 2].api.disconnect(&user, REVOKE());
        let again = async {
            until(&mut socket, "41").await.unwrap();
            match socket.send(connect.clone()).await {
                Ok(()) => packet(&mut socket).await,
                Err(_) => None,
            }
        };
        let (answer, said) = tokio::join!(call, again);
        assert_eq!(answer.unwrap().body["remaining"], json!([]));
        let refused = Some(r#"44{"message":"Token revoked"}"#.to_owned());
        assert!(
            said == refused || (said.is_none() && !guest),
            "guest {guest}: {said:?}"
        );
        assert_eq!(fleet[0].api.connections_of(&user).await.unwrap(), []);
    }
    fleet.finish(Vec::new(), Duration::from_secs(10)).await;
}

#[tokio::test]
async fn k8_a_polling_session_with_a_poll_in_flight() {
    let run = Run::begin("k8");
    let fleet = Fleet::start(&run, Plan::of(2)).await;
    for round in 0..10 {
        let user = format!("polls-{round}");
        let polling = Polling::open(fleet[0].addr).await.unwrap();
        polling.connect(&Hello::user(&user)).await.unwrap();
        let polls = tokio::spawn({
            let polling = polling.clone();
            async move {
                let mut packets = Vec::new();
                while let Ok(more) = polling.poll().await {
                    packets.extend(more);
                }
                packets
            }
        });
        sleep(Duration::from_millis(20 * (round % 3))).await;
        let answer = fleet[1].api.disconnect(&user, REVOKE()).await.unwrap();
        let closed = json!({ "disconnected": 1, "nodes": 1, "remaining": [] });
        assert_eq!((answer.status, &answer.body), (200, &closed), "{answer:?}");
        let packets = polls.await.unwrap();
        let told = packets
            .iter()
            .any(|packet| packet.starts_with(r#"42["forceDisconnect",{"code":45"#));
        assert!(
            told && packets.iter().any(|packet| packet.starts_with("41")),
            "{packets:?}"
        );
        // What it says after the answer is said to nobody.
        assert_ne!(polling.post(r#"42["devices"]"#).await, 200);
        assert_eq!(fleet[0].api.connections_of(&user).await.unwrap(), []);
    }
    fleet.finish(Vec::new(), Duration::from_secs(10)).await;
}
