//! What the body of a call may look like, and what it may not.

use serde_json::json;

use super::*;

async fn post(path: &str, content_type: Option<&str>, body: &'static str) -> Answer {
    let mut request = request("POST", path, Some(KEY));
    if let Some(content_type) = content_type {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    let request = request.body(body.into()).unwrap();
    ask(&public(state().await), request).await
}

#[tokio::test]
async fn json_is_read_whatever_it_is_said_to_be() {
    for content_type in [
        None,
        Some("application/json; charset=utf-8"),
        Some("application/x-www-form-urlencoded"),
        Some("text/plain;charset=UTF-8"),
        Some("application/octet-stream"),
        Some(""),
    ] {
        let answer = post("/v1/broadcast", content_type, r#"{"event":"e"}"#).await;
        assert_eq!(
            answer.json(),
            json!({"connections": 0, "nodes": 1, "unconfirmed": 0}),
            "{content_type:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_json_is_malformed_whatever_it_is_said_to_be() {
    for content_type in [None, Some("application/json"), Some("text/plain")] {
        for (broken, culprit) in [
            ("", "EOF"),
            ("{", "EOF"),
            (r#"{"event":"e"}{}"#, "trailing"),
            (r#"{"event":"e"}x"#, "trailing"),
            ("\u{feff}{}", "expected value"),
            ("event=e", "expected value"),
        ] {
            let answer = post("/v1/broadcast", content_type, broken).await;
            assert_eq!(answer.status, 400, "{broken} {content_type:?}");
            assert_eq!(answer.code(), "malformed", "{broken}");
            assert!(answer.text.contains(culprit), "{broken} {}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_user_is_named_by_text_or_by_an_integer() {
    let users = r#"{"users":[42,"42",-7,18446744073709551615,42.0,"x"]}"#;
    let answer = post("/v1/presence", None, users).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = answer.json();
    let named: Vec<_> = answer["users"].as_object().unwrap().keys().collect();
    assert_eq!(named, ["-7", "18446744073709551615", "42", "x"]);

    let messages = r#"{"messages":[{"user":42,"event":"e"},{"user":4.2,"event":"e"},{"user":null,"event":"e"}]}"#;
    let answer = post("/v1/events", None, messages).await.json();
    let results = &answer["results"];
    assert_eq!(
        results[0],
        json!({"connections": 0, "nodes": 0, "unconfirmed": 0})
    );
    assert_eq!(results[1]["error"]["code"], "malformed", "{results}");
    assert_eq!(results[2]["error"]["code"], "invalid_target", "{results}");

    for user in [
        "4.2",
        "1e300",
        "36893488147419103232",
        "true",
        "null",
        "[1]",
        "{}",
    ] {
        let body = format!(r#"{{"users":["1",{user}]}}"#).leak();
        let answer = post("/v1/presence", None, body).await;
        assert_eq!(answer.status, 400, "{user} {}", answer.text);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("users[1]: "), "{detail}");
    }
}

#[tokio::test]
async fn a_list_of_its_fields_is_no_object() {
    for (method, path, body, place) in [
        ("POST", "/v1/presence", json!([["42"]]), "an object"),
        ("POST", "/v1/broadcast", json!(["e", 1, "/"]), "an object"),
        (
            "POST",
            "/v1/users/1/events",
            json!(["e", 1, "/", null]),
            "an object",
        ),
        (
            "POST",
            "/v1/users/1/events",
            json!({"event": "e", "ack": [500]}),
            "ack: ",
        ),
        ("POST", "/v1/events", json!([[]]), "an object"),
        (
            "POST",
            "/v1/users/1/disconnect",
            json!(["x", 4500, false, [], false]),
            "an object",
        ),
        ("PUT", "/v1/users/1/ban", json!(["x", null]), "an object"),
        (
            "POST",
            "/v1/users/1/revoke-tokens",
            json!([null]),
            "an object",
        ),
        ("POST", "/v1/tokens/revoke", json!(["t", null]), "an object"),
    ] {
        let answer = call(method, path, body.clone()).await;
        assert_eq!(answer.status, 400, "{path} {body} {}", answer.text);
        assert_eq!(answer.code(), "malformed");
        assert!(answer.text.contains(place), "{path} {}", answer.text);
    }
    let messages = json!({"messages": [["42", null, null, "e", 1, null]]});
    let answer = call("POST", "/v1/events", messages).await.json();
    assert_eq!(
        answer["results"][0]["error"]["code"], "malformed",
        "{answer}"
    );
    let none = json!({"event": "e", "ack": null});
    assert_eq!(call("POST", "/v1/users/1/events", none).await.status, 200);
}

#[tokio::test]
async fn a_session_is_no_list_of_its_fields_either() {
    let router = public(issuing().await);
    let body = json!(["ada", "editor", null, null]);
    let answer = call_at(&router, "POST", "/v1/users/1/sessions", body).await;
    assert_eq!(answer.code(), "malformed");
}

/// The last second that RFC 3339 can write is beyond the last that most clocks can.
#[tokio::test]
async fn for_ever_is_a_time() {
    const FOR_EVER: &str = "9999-12-31T23:59:59Z";
    let router = public(state().await);
    for until in [
        FOR_EVER,
        "9999-12-31T23:59:59.999Z",
        "9999-12-31T00:00:00+00:00",
        "9999-12-31T23:59:59-12:00",
    ] {
        let body = json!({"until": until});
        let answer = call_at(&router, "PUT", "/v1/users/7/ban", body).await;
        assert_eq!(answer.status, 200, "{until} {}", answer.text);
        let ban = json!({"banned": true, "reason": null, "until": FOR_EVER});
        assert_eq!(answer.json()["until"], FOR_EVER, "{until}");
        let told = call_at(&router, "GET", "/v1/users/7/ban", Value::Null).await;
        assert_eq!(told.json(), ban, "{until}");
    }
    let body = json!({"issuedBefore": FOR_EVER});
    let answer = call_at(&router, "POST", "/v1/users/7/revoke-tokens", body).await;
    assert_eq!(answer.json()["revokedBefore"], FOR_EVER, "{}", answer.text);
    let body = json!({"jti": "t", "expiresAt": FOR_EVER});
    let answer = call_at(&router, "POST", "/v1/tokens/revoke", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);

    for until in [
        "9999-12-32T00:00:00Z",
        "9999-12-31",
        "9999-12-31T23:59:59",
        "10000-01-01T00:00:00Z",
    ] {
        let body = json!({"until": until});
        let answer = call_at(&router, "PUT", "/v1/users/7/ban", body).await;
        assert_eq!(answer.code(), "malformed", "{until}");
    }
}
