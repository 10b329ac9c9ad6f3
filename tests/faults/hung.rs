//! A disconnect that includes a hung node (K4): it does not claim what nobody has confirmed, and it is done when the node wakes.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    scene::Scene,
    support::{
        bounds::{ensure, seconds, within},
        client::{Client, Hello},
        fleet::Plan,
        run::Run,
        token::fresh_token,
    },
};

/// The promise: what is not confirmed in this time is named.
const PROMISE: f64 = 5.0;

async fn hang(name: &'static str, revoke: bool, hang: Duration) {
    let run = Run::begin(name);
    let mut scene = Scene::set(&run, Plan::of(3), 20).await;
    let on_hung = Client::of(scene.fleet[0].addr, "kicked").await;
    let elsewhere = Client::of(scene.fleet[1].addr, "kicked").await;

    let stopped = Instant::now();
    scene.fleet.freeze(0);
    let body = json!({ "revokeTokens": revoke });
    let answer = scene.fleet[2].api.disconnect("kicked", body).await.unwrap();
    run.note(format!("{answer:?}"));
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.body["remaining"], json!([on_hung.id]), "{answer:?}");
    assert_eq!(answer.body["disconnected"], 1, "{answer:?}");
    assert!(answer.took < seconds(PROMISE + 1.0), "{answer:?}");
    elsewhere.ended(seconds(1.0)).await;
    sleep((stopped + hang).saturating_duration_since(Instant::now())).await;
    assert!(on_hung.is_open());

    let woken = Instant::now();
    scene.fleet.wake(0);
    let end = on_hung.ended(seconds(2.0)).await;
    run.tell(format!(
        "measured: ended {:?} after SIGCONT",
        end.at.duration_since(woken)
    ));
    assert!(matches!(end.code(), 4500 | 4502) && end.packet, "{end:?}");
    scene.back().await;
    scene.close().await;
}

#[tokio::test]
async fn k4_a_node_hangs_and_wakes_with_its_lease() {
    hang("k4 within", false, Duration::from_secs(7)).await;
}

/// Its entries are reaped by then: the order is not.
#[tokio::test]
async fn k4_a_node_hangs_and_wakes_after_its_lease() {
    hang("k4 beyond", false, Duration::from_secs(14)).await;
}

#[tokio::test]
async fn k4_a_node_hangs_and_wakes_after_its_lease_tokens_revoked() {
    hang("k4 revoked", true, Duration::from_secs(14)).await;
}

/// The id of a token.
fn token_id(token: &str) -> String {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap());
    let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}

/// Whatever ends a connection says what it could not confirm, and by whatever its node ends it when it wakes.
#[tokio::test]
async fn k4_every_end_names_what_a_hung_node_has_not_confirmed() {
    let run = Run::begin("k4 ends");
    let mut scene = Scene::set(&run, Plan::of(2), 10).await;
    let hung = scene.fleet[0].addr;
    let (banned, revoked) = (
        Client::of(hung, "banned").await,
        Client::of(hung, "revoked").await,
    );
    let single = Client::of(hung, "single").await;
    let token = fresh_token("by-token");
    let by_token = Client::connect(hung, &Hello::with(token.clone()))
        .await
        .unwrap();

    scene.fleet.freeze(0);
    let api = &scene.fleet[1].api;
    let (ban, revoke) = ("/v1/users/banned/ban", "/v1/users/revoked/revoke-tokens");
    let delete = format!("/v1/connections/{}", single.id);
    let jti = json!({ "jti": token_id(&token) });
    let (ban, revoke, delete, jti) = tokio::join!(
        api.call("PUT", ban, None),
        api.post(revoke, json!({})),
        api.call("DELETE", &delete, None),
        api.post("/v1/tokens/revoke", jti),
    );
    for (answer, client) in [(ban, &banned), (revoke, &revoked), (delete, &single)] {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
        let ended = ["disconnected", "nodes", "remaining"].map(|field| &answer.body[field]);
        let expected = [&json!(0), &json!(0), &json!([client.id])];
        assert_eq!(ended, expected, "{answer:?}");
    }
    // Only the node itself knows which connections it holds by that token.
    let jti = jti.unwrap();
    assert_eq!(jti.status, 202, "{jti:?}");
    let expected = json!({ "disconnected": 0, "nodes": 0, "remaining": [], "unconfirmed": 1 });
    assert_eq!(jti.body, expected);

    scene.fleet.wake(0);
    let ban = "/v1/users/banned/ban";
    scene.fleet[1].api.call("DELETE", ban, None).await.unwrap();
    for (client, code) in [
        (banned, 4501),
        (revoked, 4502),
        (single, 4500),
        (by_token, 4502),
    ] {
        let end = client.ended(seconds(2.0)).await;
        assert_eq!((end.code(), end.packet), (code, true), "{end:?}");
    }
    scene.back().await;
    scene.close().await;
}

/// A lease that is over before the promise is says nothing of the node's clients: they are named all the same.
#[tokio::test]
async fn k4_a_lease_that_runs_out_meanwhile_confirms_nothing() {
    let run = Run::begin("k4 lapse");
    // Whatever the machine: over before the promise is.
    let plan = Plan {
        heartbeat: Duration::from_millis(500),
        lease: Duration::from_secs(3),
        ..Plan::of(3)
    };
    let mut scene = Scene::set(&run, plan, 10).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::of(scene.fleet[0].addr, "kicked").await);
    }
    scene.fleet.freeze(0);
    // What it finds on the bus when it wakes, and on its sockets. At once, as each waits a second for it, and the lease is short.
    let api = &scene.fleet[1].api;
    let all = json!({ "event": "late", "data": "all" });
    let (sent, all) = tokio::join!(
        api.send("kicked", "late", json!(0)),
        api.post("/v1/broadcast", all)
    );
    let (sent, all) = (sent.unwrap(), all.unwrap());
    assert_eq!(
        sent.body,
        json!({ "connections": 0, "nodes": 0, "unconfirmed": 1 }),
        "nobody has confirmed: {sent:?}"
    );
    assert_eq!(
        (all.status, &all.body["nodes"], &all.body["unconfirmed"]),
        (200, &json!(2), &json!(1)),
        "{all:?}"
    );
    for client in &clients {
        client.ask(1, "devices");
    }
    let body = json!({ "revokeTokens": true });
    let answer = scene.fleet[1].api.disconnect("kicked", body).await.unwrap();
    run.note(format!("{answer:?}"));
    let mut remaining: Vec<_> = clients.iter().map(|client| client.id.clone()).collect();
    remaining.sort();
    let mut named: Vec<_> = answer.body["remaining"].as_array().unwrap().clone();
    named.sort_by_key(ToString::to_string);
    assert_eq!(
        (answer.status, json!(named)),
        (202, json!(remaining)),
        "{answer:?}"
    );
    assert!(answer.took < seconds(PROMISE + 1.0), "{answer:?}");
    assert_eq!(
        scene.fleet[2].api.connections_of("kicked").await.unwrap(),
        []
    );

    scene.fleet.wake(0);
    for client in &clients {
        let end = client.ended(seconds(2.0)).await;
        assert!(matches!(end.code(), 4500 | 4502) && end.packet, "{end:?}");
        // Before the freeze it had heard of nothing; `ready` is not kept.
        for heard in client.heard() {
            let denied = heard.name == "ack" && heard.data[1][0]["ok"] == json!(false);
            assert!(
                heard.name == "forceDisconnect" || denied,
                "told to one who is out: {heard:?}"
            );
        }
    }
    let dropped = async || {
        let metrics = scene.fleet[0].api.metrics().await?;
        let count = metrics.sum(
            "switchboard_messages_dropped_total",
            &[r#"reason="no_lease""#],
        );
        ensure(count == 2.0, || format!("{count} messages were dropped"))
    };
    within(seconds(2.0), "both messages are counted", dropped).await;
    scene.back().await;
    scene.close().await;
}
