//! What calls take, and what they answer.

use serde_json::json;

use super::*;

#[tokio::test]
async fn what_is_wrong_with_a_body_has_a_status_and_a_place() {
    let event = |event: Value| json!({"messages": [], "event": event});
    let long = "x".repeat(1001);
    let many = |item: Value| vec![item; 1001];
    for (path, body, status, code, place) in [
        ("users/1/events", json!({}), 400, "malformed", "`event`"),
        (
            "users/1/events",
            json!({"event": 5}),
            400,
            "malformed",
            "event: ",
        ),
        (
            "users/1/events",
            json!({"event": "e", "dta": 1}),
            400,
            "malformed",
            "`dta`",
        ),
        (
            "users/1/events",
            json!({"event": "e", "ack": {}}),
            400,
            "malformed",
            "`timeoutMs`",
        ),
        (
            "users/1/events",
            json!({"event": "e", "ack": {"timeoutMs": 0}}),
            422,
            "out_of_range",
            "ack.timeoutMs",
        ),
        (
            "users/1/events",
            json!({"event": "disconnect"}),
            422,
            "reserved_event",
            "event",
        ),
        (
            "users/1/events",
            json!({"event": ""}),
            422,
            "invalid_event",
            "event",
        ),
        (
            "users/1/events",
            json!({"event": "e", "namespace": "x"}),
            422,
            "unknown_namespace",
            "/x",
        ),
        (
            "users/1/events",
            json!({"event": "e", "data": long}),
            413,
            "payload_too_large",
            "data",
        ),
        (
            "users/1/events",
            json!({"event": "e", "data": "x".repeat(70_000)}),
            413,
            "payload_too_large",
            "body",
        ),
        (
            "broadcast",
            json!({"event": "e", "user": "1"}),
            400,
            "malformed",
            "`user`",
        ),
        ("broadcast", json!([]), 400, "malformed", ""),
        ("events", event(json!("e")), 400, "malformed", "`event`"),
        (
            "events",
            json!({"messages": 1}),
            400,
            "malformed",
            "messages",
        ),
        (
            "events",
            json!({"messages": many(json!(1))}),
            422,
            "too_many",
            "messages",
        ),
        (
            "presence",
            json!({"users": [true]}),
            400,
            "malformed",
            "users[0]",
        ),
        (
            "presence",
            json!({"users": [""]}),
            422,
            "invalid_user",
            "user",
        ),
        (
            "presence",
            json!({"users": many(json!("1"))}),
            422,
            "too_many",
            "users",
        ),
        (
            "users/1/disconnect",
            json!({"revoke": true}),
            400,
            "malformed",
            "`revoke`",
        ),
        (
            "users/1/disconnect",
            json!({"code": "4500"}),
            400,
            "malformed",
            "code",
        ),
        (
            "users/1/disconnect",
            json!({"code": 3999}),
            422,
            "out_of_range",
            "code",
        ),
        (
            "users/1/disconnect",
            json!({"code": 4500, "reconnect": true}),
            422,
            "invalid_code",
            "reconnect",
        ),
        (
            "users/1/disconnect",
            json!({"reason": long}),
            422,
            "too_long",
            "reason",
        ),
        (
            "users/1/disconnect",
            json!({"revokeTokens": "yes"}),
            400,
            "malformed",
            "revokeTokens",
        ),
        (
            "users/1/revoke-tokens",
            json!({"issuedBefore": "now"}),
            400,
            "malformed",
            "issuedBefore",
        ),
        ("tokens/revoke", json!({}), 400, "malformed", "`jti`"),
        (
            "tokens/revoke",
            json!({"jti": ""}),
            422,
            "invalid_token_id",
            "jti",
        ),
        (
            "tokens/revoke",
            json!({"jti": "t", "expiresAt": 5}),
            400,
            "malformed",
            "expiresAt",
        ),
    ] {
        let answer = call("POST", &format!("/v1/{path}"), body.clone()).await;
        assert_eq!(answer.status, status, "{path} {body} {}", answer.text);
        assert_eq!(answer.code(), code, "{path} {body}");
        assert!(
            answer.json()["detail"].as_str().unwrap().contains(place),
            "{}",
            answer.text
        );
    }
}

#[tokio::test]
async fn a_user_id_goes_round_unharmed() {
    for id in [
        "{x}:\n\t\0",
        "...",
        "../..",
        "..%2F..",
        "%25",
        "a+b c",
        "?#&=;",
        "👩‍👩‍👧",
        "null",
        &"ж".repeat(200),
        &"/".repeat(200),
    ] {
        let escaped: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = call("GET", &format!("/v1/users/{escaped}"), Value::Null).await;
        assert_eq!(answer.json()["userId"], id);
        let sent = call(
            "POST",
            &format!("/v1/users/{escaped}/events"),
            json!({"event": "e"}),
        )
        .await;
        assert_eq!(
            sent.json(),
            json!({"connections": 0, "nodes": 0, "unconfirmed": 0}),
            "{id:?}"
        );
        let presence = call("POST", "/v1/presence", json!({"users": [id]})).await;
        assert_eq!(presence.json()["users"][id]["online"], false, "{id:?}");
    }
}

#[tokio::test]
async fn a_path_that_is_no_user_id_is_refused() {
    let answer = call("POST", "/v1/users//events", json!({"event": "e"})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (422, "invalid_user")
    );
    let answer = call("GET", "/v1/users/%FF", Value::Null).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (400, "malformed")
    );
    let answer = call(
        "GET",
        &format!("/v1/users/{}", "x".repeat(1025)),
        Value::Null,
    )
    .await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (422, "invalid_user")
    );
}

#[tokio::test]
async fn nobody_there_is_an_answer() {
    let offline = json!({"online": false, "connections": 0, "devices": 0, "lastSeen": null});
    for (method, path, body, answer) in [
        (
            "GET",
            "/v1/users/7",
            Value::Null,
            json!({
                "userId": "7", "online": false, "connections": [], "devices": 0, "lastSeen": null, "banned": false,
            }),
        ),
        (
            "GET",
            "/v1/users",
            Value::Null,
            json!({"users": [], "next": null}),
        ),
        (
            "GET",
            "/v1/users?limit=&cursor=",
            Value::Null,
            json!({"users": [], "next": null}),
        ),
        (
            "POST",
            "/v1/presence",
            json!({"users": ["7", "7"]}),
            json!({"users": {"7": offline}}),
        ),
        (
            "POST",
            "/v1/users/7/events",
            json!({"event": "e", "data": null}),
            json!({"connections": 0, "nodes": 0, "unconfirmed": 0}),
        ),
        (
            "POST",
            "/v1/users/7/events",
            json!({"event": "e", "ack": {"timeoutMs": 1}}),
            json!({"connections": 0, "nodes": 0, "acks": [], "missing": 0, "unconfirmed": 0}),
        ),
        (
            "POST",
            "/v1/events",
            json!({"messages": []}),
            json!({"results": []}),
        ),
        (
            "POST",
            "/v1/users/7/disconnect",
            json!({}),
            json!({"disconnected": 0, "nodes": 0, "remaining": []}),
        ),
        (
            "POST",
            "/v1/users/7/disconnect",
            Value::Null,
            json!({"disconnected": 0, "nodes": 0, "remaining": []}),
        ),
    ] {
        let got = call(method, path, body).await;
        assert_eq!(got.status, 200, "{path} {}", got.text);
        assert_eq!(got.json(), answer, "{path}");
    }
    for method in ["GET", "DELETE"] {
        let answer = call(method, "/v1/connections/cX", Value::Null).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (404, "unknown_connection")
        );
    }
}

#[tokio::test]
async fn one_bad_message_does_not_fail_the_others() {
    let messages = json!([
        {"user": "7", "event": "e"},
        {"user": "7", "event": "connect"},
        {"user": "7", "evnt": "e"},
        "nonsense",
        {"event": "e"},
        {"user": "7", "room": "r", "event": "e"},
        {"room": "r", "event": "e", "namespace": "public", "data": {"deep": [1]}},
        {"connection": "c", "event": "e", "data": "x".repeat(1001)},
        {"connection": "c", "event": "e"},
    ]);
    let answer = call("POST", "/v1/events", json!({"messages": messages})).await;
    assert_eq!(answer.status, 200);
    let results = answer.json()["results"].take();
    let codes: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["error"]["code"].as_str().unwrap_or("sent"))
        .collect();
    assert_eq!(
        codes,
        [
            "sent",
            "reserved_event",
            "malformed",
            "malformed",
            "invalid_target",
            "invalid_target",
            "sent",
            "payload_too_large",
            "sent",
        ]
    );
    assert_eq!(
        results[0],
        json!({"connections": 0, "nodes": 0, "unconfirmed": 0})
    );
    assert!(
        results[2]["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("`evnt`")
    );
}

#[tokio::test]
async fn a_query_is_checked() {
    for (query, status, code) in [
        ("limit=0", 422, "out_of_range"),
        ("limit=1001", 422, "out_of_range"),
        ("limit=-1", 422, "out_of_range"),
        ("limit=ten", 400, "malformed"),
        ("limit=1&limit=2", 400, "malformed"),
        ("page=2", 400, "malformed"),
        ("cursor=made-up", 400, "invalid_cursor"),
    ] {
        let answer = call("GET", &format!("/v1/users?{query}"), Value::Null).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{query}"
        );
    }
}
