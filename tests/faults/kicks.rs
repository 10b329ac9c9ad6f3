//! What an answered disconnect means (K3, K6, K7, K8): from the answer on, no connection that it was for is let in, heard, or told
//! anything.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt, stream};
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
    run::Run,
    stored::Stored,
    token::token,
};

pub(crate) const REVOKE: fn() -> Value = || json!({ "revokeTokens": true });

/// Disconnects a user; a 503, as a node without time gives it, is asked again.
pub(crate) async fn disconnect(api: &Api, user: &str, body: &Value) -> Answer {
    let call = async || {
        let answer = api.disconnect(user, body.clone()).await?;
        ensure(answer.status != 503, || format!("{answer:?}"))?;
        Ok(answer)
    };
    within(bound(PATIENCE / 3), "disconnect is answered", call)
        .await
        .1
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
        let refused =
            Some(r#"44{"message":"Token revoked","data":{"code":"token_revoked"}}"#.to_owned());
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

/// A client that reads nothing is closed half a second after its end has begun; links that are killed meanwhile have the node
/// put right what the registry has of it.
#[tokio::test]
async fn who_is_not_yet_closed_is_not_taken_out_of_the_registry_by_a_resync() {
    let run = Run::begin("not yet closed");
    let plan = Plan::of(2).with("LIMITS__SEND_QUEUE_BYTES", "64MB");
    let fleet = Fleet::start(&run, plan).await;
    let witness = Client::of(fleet[0].addr, "witness").await;
    let mut admin = fleet.redis.connection().await;
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("pubsub");
    let mut put_right = 0;
    let resyncs = || fleet[0].logged(&["the registry is exact again"]).len();
    for round in 0..5 {
        let user = format!("lingers-{round}");
        let connect = Message::text(Hello::user(&user).packet());
        let mut socket = dial(fleet[0].addr, Some(4096)).await.unwrap();
        socket.send(connect).await.unwrap();
        until(&mut socket, r#"42["ready""#).await.unwrap();
        let chunk = json!("x".repeat(400_000));
        for _ in 0..20 {
            let answer = fleet[0].api.send(&user, "fill", chunk.clone()).await;
            assert_eq!(answer.unwrap().status, 200);
        }
        let before = resyncs();
        let call = fleet[0].api.disconnect(&user, REVOKE());
        let meanwhile = async {
            let look = async || {
                let () = kill.query_async(&mut admin).await.unwrap();
                let stored = Stored::read(&fleet.redis, "switchboard").await?;
                ensure(stored.entries.len() == 1, || format!("{stored:?}"))
            };
            within(seconds(5.0), "it is out of the registry", look).await;
            assert!(
                socket.send(Message::text("3")).await.is_err(),
                "out of the registry, and its node still has it"
            );
        };
        let (answer, ()) = tokio::join!(call, meanwhile);
        let answer = answer.unwrap();
        let meanwhile = resyncs() - before;
        run.tell(format!("{}; {meanwhile} resyncs", answer.body));
        assert_eq!(answer.body["remaining"], json!([]));
        put_right += meanwhile;
        fleet.exact([&witness], seconds(5.0)).await;
        for node in fleet.up() {
            node.ready(seconds(5.0)).await;
        }
    }
    assert!(put_right > 0, "nothing was ever put right meanwhile");
    fleet.finish(vec![witness], Duration::from_secs(10)).await;
}

/// The guest's client has been told that it is its user's, and the guest is not out of the registry yet: its node's calls take a
/// while to get there.
#[tokio::test]
async fn a_guest_that_is_ended_while_it_becomes_its_user_s_is_ended() {
    let run = Run::begin("guest");
    let fleet = Fleet::start(&run, Plan::of(2).proxied()).await;
    for round in 0..4 {
        let user = format!("guest-{round}");
        let mut socket = dial(fleet[0].addr, None).await.unwrap();
        socket.send(Message::text("40/public,")).await.unwrap();
        let ready = until(&mut socket, r#"42/public,["ready""#).await.unwrap();
        let told: Value = serde_json::from_str(ready.trim_start_matches("42/public,")).unwrap();
        let guest = told[1]["connectionId"].as_str().unwrap();
        let proxy = fleet[0].proxy.as_ref().unwrap();
        proxy.set(Weather {
            delay: Duration::from_millis(150),
            ..Weather::FAIR
        });
        let authenticate = json!(["authenticate", token(&user)]);
        let authenticate = Message::text(format!("42/public,1{authenticate}"));
        socket.send(authenticate).await.unwrap();
        let ack = until(&mut socket, "43/public,1").await.unwrap();
        assert!(ack.contains(r#""ok":true"#), "{ack}");
        let path = format!("/v1/connections/{guest}");
        let answer = fleet[1].api.call("DELETE", &path, None).await.unwrap();
        run.tell(format!("round {round}: {answer:?}"));
        assert_eq!(
            (answer.status, &answer.body),
            (
                200,
                &json!({ "disconnected": 1, "nodes": 1, "remaining": [] })
            )
        );
        assert_eq!(fleet[1].api.connections_of(&user).await.unwrap(), []);
        let end = until(&mut socket, "42/public,[\"forceDisconnect\"").await;
        assert!(end.is_some_and(|end| end.contains("4500")));
        proxy.set(Weather::FAIR);
        fleet[0].ready(seconds(10.0)).await;
    }
    fleet.finish(Vec::new(), Duration::from_secs(10)).await;
}
