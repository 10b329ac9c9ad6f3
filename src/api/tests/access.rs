//! Bans, revocations and sessions, and the audit's lines of them.

use serde_json::json;

use super::*;
use crate::api::audit::tests::Lines;

/// Far enough ahead for every run.
const LATER: &str = "2999-01-01T00:00:00Z";

fn line(what: &str, whom: &str, result: &str) -> Value {
    json!({"who": "key:default", "what": what, "whom": whom, "result": result})
}

/// The audit line of an end that met no connection.
fn counted(what: &str, whom: &str) -> Value {
    let mut line = line(what, whom, "done");
    line["disconnected"] = json!(0);
    line["remaining"] = json!(0);
    line
}

/// An answer, with the word that nobody had to be disconnected.
fn and_nobody(mut answer: Value) -> Value {
    answer["disconnected"] = json!(0);
    answer["nodes"] = json!(0);
    answer["remaining"] = json!([]);
    answer
}

#[tokio::test]
async fn a_user_is_banned_and_let_in_again() {
    let lines = Lines::listen();
    let router = public(state().await);
    let call = async |method, path: &str, body| {
        let answer = call_at(&router, method, path, body).await;
        assert_eq!(answer.status, 200, "{method} {path} {}", answer.text);
        answer.json()
    };
    let none = json!({"banned": false, "reason": null, "until": null});
    assert_eq!(call("GET", "/v1/users/7/ban", Value::Null).await, none);

    let ban = json!({"banned": true, "reason": "Spam", "until": LATER});
    let body = json!({"reason": "Spam", "until": LATER});
    let banned = call("PUT", "/v1/users/7/ban", body).await;
    assert_eq!(banned, and_nobody(ban.clone()));
    assert_eq!(call("GET", "/v1/users/7/ban", Value::Null).await, ban);
    assert_eq!(
        call("GET", "/v1/users/7", Value::Null).await["banned"],
        true
    );
    assert_eq!(
        call("GET", "/v1/users/8", Value::Null).await["banned"],
        false
    );

    let forever = json!({"banned": true, "reason": null, "until": null});
    let banned = call("PUT", "/v1/users/7/ban", Value::Null).await;
    assert_eq!(banned, and_nobody(forever.clone()));
    assert_eq!(call("GET", "/v1/users/7/ban", Value::Null).await, forever);

    for _ in 0..2 {
        assert_eq!(call("DELETE", "/v1/users/7/ban", Value::Null).await, none);
        assert_eq!(call("GET", "/v1/users/7/ban", Value::Null).await, none);
    }
    assert_eq!(
        lines.take(),
        [
            counted("ban", "7"),
            counted("ban", "7"),
            line("unban", "7", "done"),
            line("unban", "7", "nothing_to_do"),
        ]
    );
}

#[tokio::test]
async fn a_bad_ban_is_refused_and_is_no_ban() {
    let router = public(state().await);
    for (body, status, code) in [
        (
            json!({"until": "2001-01-01T00:00:00Z"}),
            422,
            "invalid_time",
        ),
        (json!({"until": "tomorrow"}), 400, "malformed"),
        (json!({"until": 4_102_444_800_u64}), 400, "malformed"),
        (json!({"reason": "x".repeat(513)}), 422, "too_long"),
        (json!({"reason": 5}), 400, "malformed"),
        (json!({"reson": "Spam"}), 400, "malformed"),
        (json!([]), 400, "malformed"),
    ] {
        let answer = call_at(&router, "PUT", "/v1/users/7/ban", body.clone()).await;
        assert_eq!(answer.status, status, "{body} {}", answer.text);
        assert_eq!(answer.code(), code, "{body}");
    }
    let ban = call_at(&router, "GET", "/v1/users/7/ban", Value::Null).await;
    assert_eq!(ban.json()["banned"], false);
}

#[tokio::test]
async fn tokens_are_revoked() {
    let lines = Lines::listen();
    let router = public(state().await);
    let call = async |path: &str, body| {
        let answer = call_at(&router, "POST", path, body).await;
        assert_eq!(answer.status, 200, "{path} {}", answer.text);
        answer.json()
    };
    for body in [Value::Null, json!({}), json!({"issuedBefore": null})] {
        let before = jiff::Timestamp::now();
        let answer = call("/v1/users/7/revoke-tokens", body).await;
        let revoked: jiff::Timestamp = answer["revokedBefore"].as_str().unwrap().parse().unwrap();
        assert!(revoked.as_second() >= before.as_second(), "{answer}");
        assert_eq!(answer["disconnected"], 0);
    }
    assert_eq!(lines.take(), vec![counted("revoke_tokens", "7"); 3]);

    assert_eq!(
        call("/v1/users/7/revoke-tokens", json!({"issuedBefore": LATER})).await,
        and_nobody(json!({"revokedBefore": LATER}))
    );
    lines.take();
    for body in [
        json!({"jti": "t-1"}),
        json!({"jti": "t-1", "expiresAt": LATER}),
    ] {
        assert_eq!(call("/v1/tokens/revoke", body).await, and_nobody(json!({})));
    }
    call("/v1/users/7/disconnect", json!({"revokeTokens": true})).await;
    call("/v1/users/7/disconnect", json!({"revokeTokens": false})).await;
    assert_eq!(
        lines.take(),
        [
            counted("revoke_token", "t-1"),
            counted("revoke_token", "t-1"),
            counted("disconnect_user_and_revoke_tokens", "7"),
            counted("disconnect_user", "7"),
        ]
    );
}

#[tokio::test]
async fn a_call_that_a_key_is_not_good_for_leaves_a_line_and_a_users_leaves_none() {
    let lines = Lines::listen();
    let router = public(state().await);
    for (method, path) in [
        ("PUT", "/v1/users/7/ban"),
        ("POST", "/v1/tokens/revoke"),
        ("GET", "/v1/users/7/ban"),
    ] {
        for key in ["send", "every-scopf", USERS_TOKEN] {
            let request = request(method, path, Some(key))
                .body(Body::empty())
                .unwrap();
            ask(&router, request).await;
        }
    }
    let refused = |what: &str, whom: &str| json!({"who": "key:send", "what": what, "whom": whom, "result": "forbidden"});
    assert_eq!(
        lines.take(),
        [
            refused("PUT", "/v1/users/7/ban"),
            refused("POST", "/v1/tokens/revoke"),
        ]
    );
}

/// A page's call.
async fn page(router: &Router, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = request("POST", path, None).header(header::HOST, "app.example.com");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    ask(router, request.body(Body::empty()).unwrap()).await
}

/// What a browser sends after a `Set-Cookie`, and the cookie's attributes.
fn kept(set_cookie: &str) -> (&str, &str) {
    set_cookie.split_once("; ").unwrap()
}

#[tokio::test]
async fn a_session_is_opened_refreshed_and_ended() {
    let lines = Lines::listen();
    let state = issuing().await;
    let (calls, pages) = (public(state.clone()), sessions(state));
    let body = json!({"username": "ada", "role": "editor", "claims": {"email": "ada@example.com"}});
    let opened = call_at(&calls, "POST", "/v1/users/42/sessions", body).await;
    assert_eq!(opened.status, 200, "{}", opened.text);
    assert_eq!(opened.headers[header::CACHE_CONTROL], "no-store");
    let opened = opened.json();
    let (first, attributes) = kept(opened["cookie"].as_str().unwrap());
    assert_eq!(
        first.strip_prefix("refreshToken="),
        opened["refreshToken"].as_str()
    );
    let attributes: Vec<_> = attributes.split("; ").collect();
    assert_eq!(attributes[..3], ["Path=/api", "HttpOnly", "SameSite=Lax"]);
    let max_age: u64 = attributes[3]
        .strip_prefix("Max-Age=")
        .unwrap()
        .parse()
        .unwrap();
    assert!((719 * 3600..=720 * 3600).contains(&max_age), "{max_age}");
    assert_eq!(attributes.len(), 4);
    assert_eq!(lines.take(), [line("open_session", "42", "done")]);

    let refreshed = page(&pages, "/api/refresh-token", &[("cookie", first)]).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text);
    assert_eq!(refreshed.headers[header::CACHE_CONTROL], "no-store");
    let answer = refreshed.json();
    assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
    assert_ne!(answer["token"], opened["token"]);
    assert!(answer["expiresAt"].as_str() >= opened["expiresAt"].as_str());
    let next = refreshed.headers[header::SET_COOKIE].to_str().unwrap();
    let (next, _) = kept(next);
    assert_ne!(next, first);

    // With the next cookie, over TLS, from a page that may.
    let over_tls = [
        ("cookie", next),
        ("x-forwarded-proto", "https"),
        ("origin", "https://app.example.com"),
    ];
    let refreshed = page(&pages, "/api/refresh-token", &over_tls).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text);
    let last = refreshed.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(last.ends_with("; Secure"), "{last}");
    let (last, _) = kept(last);

    let forget = "refreshToken=; Path=/api; HttpOnly; SameSite=Lax; Max-Age=0";
    for _ in 0..2 {
        let answer = page(&pages, "/api/logout", &[("cookie", last)]).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (204, ""));
        assert_eq!(answer.headers[header::SET_COOKIE], forget);
    }
    // The second one found nothing to do.
    assert_eq!(
        lines.take(),
        [json!({"who": "cookie", "what": "close_session", "whom": "its own", "result": "done"})]
    );
    for cookie in [last, "refreshToken=made-up", "refreshToken=%00"] {
        let refused = page(&pages, "/api/refresh-token", &[("cookie", cookie)]).await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.code(), "invalid_refresh_token");
        assert_eq!(refused.headers[header::SET_COOKIE], forget);
        assert_eq!(refused.headers[header::CACHE_CONTROL], "no-store");
    }
    // A stranger can say so for ever, and the audit is none the fuller.
    let unknown = format!(
        "refreshToken={}",
        "A".repeat(last.len() - "refreshToken=".len())
    );
    for cookie in [unknown.as_str(), "refreshToken=made-up", "refreshToken=%00"] {
        let answer = page(&pages, "/api/logout", &[("cookie", cookie)]).await;
        assert_eq!(answer.status, 204);
    }
    assert_eq!(lines.take(), [Value::Null; 0]);
}

#[tokio::test]
async fn without_a_cookie_there_is_nothing_to_refresh_and_nothing_to_end() {
    let pages = sessions(issuing().await);
    let answer = page(&pages, "/api/refresh-token", &[("cookie", "a=b")]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (401, "missing_refresh_token")
    );
    assert!(!answer.headers.contains_key(header::SET_COOKIE));
    assert_eq!(page(&pages, "/api/logout", &[]).await.status, 204);

    for path in ["/api/refresh-token", "/api/logout"] {
        let get = request("GET", path, None).body(Body::empty()).unwrap();
        let answer = ask(&pages, get).await;
        assert_eq!(answer.code(), "method_not_allowed", "{path}");
        assert_eq!(answer.headers[header::ALLOW], "POST");
    }
}

#[tokio::test]
async fn pages_of_other_origins_can_have_no_cookie_used() {
    let pages = sessions(issuing().await);
    for path in ["/api/refresh-token", "/api/logout"] {
        for (origin, may) in [
            ("https://app.example.com", true),
            ("https://shop.example.com", true),
            ("https://evil.example", false),
            ("https://other.app.example.com", false),
            ("null", false),
        ] {
            let headers = [("cookie", "refreshToken=made-up"), ("origin", origin)];
            let answer = page(&pages, path, &headers).await;
            if may {
                assert!(
                    [401, 204].contains(&answer.status.as_u16()),
                    "{path} {origin}"
                );
            } else {
                assert_eq!(answer.status, 403, "{path} {origin}");
                assert_eq!(answer.code(), "forbidden_origin");
                assert!(!answer.headers.contains_key(header::SET_COOKIE));
            }
        }
    }
}

#[tokio::test]
async fn a_node_without_a_signing_key_has_no_sessions() {
    let lines = Lines::listen();
    let state = state().await;
    let (calls, pages) = (public(state.clone()), sessions(state));
    let opened = call_at(&calls, "POST", "/v1/users/42/sessions", json!({})).await;
    assert_eq!(
        (opened.status.as_u16(), opened.code().as_str()),
        (404, "not_found")
    );
    for path in ["/api/refresh-token", "/api/logout"] {
        for cookie in ["a=b", "refreshToken=x"] {
            let answer = page(&pages, path, &[("cookie", cookie)]).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (404, "not_found")
            );
        }
    }
    assert_eq!(lines.take(), [Value::Null; 0]);
}

#[tokio::test]
async fn a_bad_session_is_refused() {
    let router = public(issuing().await);
    for (body, status, code) in [
        (json!({"claims": {"sub": "1"}}), 422, "invalid_claims"),
        (json!({"claims": {"sid": "1"}}), 422, "invalid_claims"),
        (json!({"role": "a", "roles": ["b"]}), 422, "invalid_claims"),
        (json!({"username": "x".repeat(5000)}), 422, "too_long"),
        (json!({"claims": []}), 400, "malformed"),
        (json!({"role": ["a"]}), 400, "malformed"),
        (json!({"name": "ada"}), 400, "malformed"),
    ] {
        let answer = call_at(&router, "POST", "/v1/users/42/sessions", body.clone()).await;
        assert_eq!(answer.status, status, "{body} {}", answer.text);
        assert_eq!(answer.code(), code, "{body}");
    }
    let answer = call_at(&router, "POST", "/v1/users/42/sessions", Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}
