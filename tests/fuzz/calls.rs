//! The HTTP API: random bodies, ids and queries on every route. Never 500, and every refusal is a problem with a code.

use futures_util::{StreamExt, stream};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cases,
    node::{KEY, Neighbour, Node},
    noise, random,
    redis_server::{PATIENCE, Server},
    seed,
};

/// Each with a body that it takes, if it takes one.
fn routes() -> Vec<(Method, &'static str, Value)> {
    let event = || json!({ "event": "e", "data": { "a": [1, "é"] }, "namespace": "/" });
    vec![
        (Method::POST, "/v1/users/{}/events", event()),
        (
            Method::POST,
            "/v1/users/{}/events",
            json!({ "event": "e", "data": 1, "ack": { "timeoutMs": 10 } }),
        ),
        (
            Method::POST,
            "/v1/events",
            json!({ "messages": [
            { "user": "u", "event": "e", "data": 1 }, { "connection": "c", "event": "e" }, { "room": "r", "event": "e", "namespace": "/" }
        ] }),
        ),
        (
            Method::POST,
            "/v1/broadcast",
            json!({ "event": "e", "data": null, "namespace": "/public" }),
        ),
        (Method::GET, "/v1/users/{}", Value::Null),
        (Method::GET, "/v1/users", Value::Null),
        (Method::POST, "/v1/presence", json!({ "users": ["1", "é"] })),
        (
            Method::POST,
            "/v1/users/{}/disconnect",
            json!({ "reason": "r", "code": 4500, "reconnect": false, "except": ["c"], "revokeTokens": true }),
        ),
        (
            Method::PUT,
            "/v1/users/{}/ban",
            json!({ "reason": "r", "until": "2090-01-01T00:00:00Z" }),
        ),
        (Method::DELETE, "/v1/users/{}/ban", Value::Null),
        (Method::GET, "/v1/users/{}/ban", Value::Null),
        (
            Method::POST,
            "/v1/users/{}/revoke-tokens",
            json!({ "issuedBefore": "2020-01-01T00:00:00Z" }),
        ),
        (
            Method::POST,
            "/v1/tokens/revoke",
            json!({ "jti": "j", "expiresAt": "2090-01-01T00:00:00Z" }),
        ),
        (
            Method::POST,
            "/v1/users/{}/sessions",
            json!({ "role": "r", "username": "n" }),
        ),
        (Method::GET, "/v1/connections/{}", Value::Null),
        (Method::DELETE, "/v1/connections/{}", Value::Null),
        (Method::GET, "/v1/nodes", Value::Null),
        (Method::GET, "/v1/stats", Value::Null),
        (Method::POST, "/api/refresh-token", Value::Null),
        (Method::POST, "/api/logout", Value::Null),
        (Method::GET, "/v1/nothing/{}", Value::Null),
    ]
}

/// One part of a path, whatever is in it.
fn id(random: &mut StdRng) -> String {
    let id = match random.random_range(0..7) {
        0 => noise::bytes(random, 40),
        1 => vec![b'x'; random.random_range(1000..1100)],
        2 => "{s0}:conns".into(),
        3 => "a\0b\u{1}".into(),
        4 => noise::text(random).into_bytes(),
        5 => "0123456789012345678901_".into(),
        _ => format!("user{}", random.random_range(0..20)).into_bytes(),
    };
    percent_encode(&id, NON_ALPHANUMERIC).to_string()
}

/// Puts something else in some place of a body.
fn changed(random: &mut StdRng, body: &mut Value) {
    let place = match body {
        Value::Object(members) if random.random_bool(0.3) => {
            members.insert(noise::name(random).into(), noise::json(random, 2));
            return;
        }
        Value::Object(members) if !members.is_empty() => {
            let at = random.random_range(0..members.len());
            members.values_mut().nth(at).unwrap()
        }
        Value::Array(items) if !items.is_empty() => {
            let at = random.random_range(0..items.len());
            &mut items[at]
        }
        other => {
            *other = noise::json(random, 3);
            return;
        }
    };
    if random.random_bool(0.5) {
        changed(random, place);
    } else {
        *place = noise::json(random, 3);
    }
}

fn body(random: &mut StdRng, valid: &Value) -> Vec<u8> {
    match random.random_range(0..10) {
        0 => noise::bytes(random, 200),
        1 => noise::json(random, 4).to_string().into_bytes(),
        2 => noise::mutated(random, &valid.to_string()).into_bytes(),
        3 => noise::deep(random).into_bytes(),
        4 => {
            // A number that no type holds, in the place of the first value.
            let number = *[
                "1e999",
                "-1e999",
                "99999999999999999999999999",
                "-0",
                "1.5",
                "4500.0",
            ]
            .choose(random)
            .unwrap();
            valid.to_string().replacen("1", number, 1).into_bytes()
        }
        5 => {
            let nested = noise::deep(random);
            valid.to_string().replacen("1", &nested, 1).into_bytes()
        }
        6 => valid.to_string().into_bytes(),
        _ => {
            let mut body = valid.clone();
            for _ in 0..random.random_range(1..4) {
                changed(random, &mut body);
            }
            body.to_string().into_bytes()
        }
    }
}

async fn call(node: &Node, random: &mut StdRng) {
    let routes = routes();
    let (method, path, valid) = routes.choose(random).unwrap();
    let mut path = path.replace("{}", &id(random));
    if path == "/v1/users" {
        let value = match random.random_range(0..4) {
            0 => id(random),
            // What cursors look like from outside, with anything in it.
            1 => {
                use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
                let inside = [b"u1:".to_vec(), noise::bytes(random, 20)].concat();
                URL_SAFE_NO_PAD.encode(inside)
            }
            2 => random.random::<i64>().to_string(),
            _ => random.random_range(0..2000).to_string(),
        };
        let name = ["limit", "cursor", "cursor", "limit=1&limit", "other"]
            .choose(random)
            .unwrap();
        path = format!("{path}?{name}={value}");
    }
    let mut request = node.http.request(method.clone(), node.url(&path));
    if random.random_bool(0.95) {
        request = request.bearer_auth(KEY);
    }
    if *method != Method::GET || random.random_bool(0.1) {
        let kind = *[
            "application/json",
            "application/json",
            "application/json",
            "text/plain",
            "",
        ]
        .choose(random)
        .unwrap();
        request = request
            .header("content-type", kind)
            .body(body(random, valid));
    }
    if path.starts_with("/api/") {
        let cookie = percent_encode(noise::text(random).as_bytes(), NON_ALPHANUMERIC).to_string();
        request = request.header(
            "cookie",
            format!("refreshToken={cookie}.{}", "A".repeat(43)),
        );
    }
    let answer = request.timeout(PATIENCE).send().await.unwrap();
    let (status, kind) = (
        answer.status().as_u16(),
        answer.headers().get("content-type").cloned(),
    );
    let text = answer.text().await.unwrap();
    let said = || format!("{method} {path}: {status} {text}");
    assert!(status < 500, "{}", said());
    if status >= 400 {
        assert_eq!(kind.unwrap(), "application/problem+json", "{}", said());
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert!(
            problem["code"]
                .as_str()
                .is_some_and(|code| !code.is_empty()),
            "{}",
            said()
        );
        assert_eq!(problem["status"], status, "{}", said());
    }
}

async fn fuzz(redis: Option<&Server>, count: u64) {
    let mut node = Node::start(redis).await;
    let mut neighbour = Neighbour::move_in(&node).await;
    let (seed, cases) = (seed(), cases(count));
    for start in (0..cases).step_by(500) {
        stream::iter(start..(start + 500).min(cases))
            .for_each_concurrent(8, |case| {
                let node = &node;
                async move { call(node, &mut random(seed, case)).await }
            })
            .await;
        neighbour.is_well(&node).await;
        node.is_sound();
    }
    node.has_only(neighbour.user).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_answered_with_500() {
    fuzz(None, 4000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_answered_with_500_in_a_fleet() {
    let redis = Server::start().await;
    fuzz(Some(&redis), 4000).await;
}
