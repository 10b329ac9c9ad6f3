//! What is refused for load, and what never is.

use serde_json::json;

use super::*;

/// Calls that are refused for load: all but ends, health and metrics.
const CALLS: [(&str, &str); 12] = [
    ("GET", "/v1/users/7"),
    ("GET", "/v1/users"),
    ("POST", "/v1/presence"),
    ("GET", "/v1/users/7/ban"),
    ("GET", "/v1/connections/c"),
    ("GET", "/v1/nodes"),
    ("GET", "/v1/stats"),
    ("POST", "/v1/users/7/events"),
    ("POST", "/v1/connections/c/events"),
    ("POST", "/v1/events"),
    ("POST", "/v1/broadcast"),
    ("POST", "/v1/users/7/sessions"),
];

/// Calls that are not, with their bodies, and how they are answered.
fn never_refused() -> [(&'static str, &'static str, Value, u16); 9] {
    [
        ("POST", "/v1/users/7/disconnect", json!({}), 200),
        ("PUT", "/v1/users/7/ban", json!({}), 200),
        ("DELETE", "/v1/users/7/ban", Value::Null, 200),
        ("POST", "/v1/users/7/revoke-tokens", json!({}), 200),
        ("POST", "/v1/tokens/revoke", json!({"jti": "t"}), 200),
        ("DELETE", "/v1/connections/c", Value::Null, 404),
        ("GET", "/healthz", Value::Null, 200),
        ("GET", "/readyz", Value::Null, 200),
        ("GET", "/metrics", Value::Null, 200),
    ]
}

async fn limited(rate: u32, in_flight: u32) -> ApiState {
    let mut config = Config::default();
    (config.api.rate, config.api.in_flight) = (rate, in_flight);
    state_of(config).await
}

async fn none_is_refused(router: &Router) {
    for (method, path, body, status) in never_refused() {
        let answer = call_at(router, method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path} {}", answer.text);
    }
}

#[tokio::test]
async fn with_as_many_calls_in_flight_as_may_be_further_ones_are_503_and_ends_pass() {
    let state = limited(0, 1).await;
    let router = public(state.clone());
    let api = &state.config.now().api;
    let place = state.load.admit("key:other", Scope::Send, api).unwrap();
    for (method, path) in CALLS {
        let answer = call_at(&router, method, path, Value::Null).await;
        assert_eq!(answer.status, 503, "{method} {path}");
        assert_eq!(answer.code(), "overloaded", "{method} {path}");
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    }
    none_is_refused(&router).await;
    drop(place);
    for _ in 0..3 {
        let answer = call_at(&router, "GET", "/v1/stats", Value::Null).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[tokio::test]
async fn beyond_its_rate_a_key_gets_429_and_its_ends_pass() {
    let router = public(limited(1, 0).await);
    let get = async |key: &str| {
        let request = request("GET", "/v1/stats", Some(key));
        ask(&router, request.body(Body::empty()).unwrap()).await
    };
    for key in [KEY, "read", ADMINS_TOKEN] {
        assert_eq!(get(key).await.status, 200, "{key}");
    }
    let mut refused = get(KEY).await;
    while refused.status == 200 {
        refused = get(KEY).await;
    }
    assert_eq!(refused.status, 429);
    assert_eq!(refused.code(), "rate_limited");
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    none_is_refused(&router).await;
}

#[tokio::test]
async fn large_calls_that_find_no_room_are_503_and_others_pass() {
    let state = state().await;
    let router = public(state.clone());
    let room = state.load.items(usize::MAX).await.unwrap();
    let refused = |method, path, body: Value| call_at(&router, method, path, body);
    let message = json!({"user": "7", "event": "e"});
    let (presence, list, bulk) = tokio::join!(
        refused("POST", "/v1/presence", json!({"users": ["7"]})),
        refused("GET", "/v1/users", Value::Null),
        refused("POST", "/v1/events", json!({"messages": [message]})),
    );
    for answer in [presence, list, bulk] {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.code(), "overloaded");
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    }
    let answer = call_at(&router, "GET", "/v1/users/7", Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    none_is_refused(&router).await;
    drop(room);
    let answer = call_at(&router, "POST", "/v1/presence", json!({"users": ["7"]})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}
