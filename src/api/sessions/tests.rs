//! What is taken, and what is answered, cookies included.

use axum::body::to_bytes;
use serde_json::{Value, json};

use super::{payloads::RESERVED, *};
use crate::gateway::access::SessionClaims;

fn claims(body: Value) -> Result<SessionClaims, ErrorCode> {
    let request: SessionRequest = serde_json::from_value(body).unwrap();
    request.claims().map_err(|error| error.code)
}

fn issued(refresh_token: &str) -> Issued {
    let at = |second| Timestamp::from_second(second).unwrap();
    Issued {
        token: "a.b.c".into(),
        expires_at: at(900),
        refresh_token: refresh_token.into(),
        refresh_expires_at: at(3600),
    }
}

async fn body(response: Response) -> Value {
    let body = to_bytes(response.into_body(), 10_000).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

const COOKIE: &str = "refreshToken=r-1; Path=/api; HttpOnly; SameSite=Lax; Max-Age=3600; Secure";

#[test]
fn without_a_signing_key_there_is_no_such_route() {
    assert!(Issuing::known(true).is_ok());
    let error = Issuing::known(false).err().unwrap();
    assert_eq!(error.code, ErrorCode::NotFound);
}

#[test]
fn a_session_says_what_the_backend_says_of_its_user() {
    assert_eq!(claims(json!({})), Ok(SessionClaims::default()));
    let all = claims(json!({"username": "ada", "role": "editor", "claims": {"email": "a@b"}}));
    let all = all.unwrap();
    assert_eq!(all.username.as_deref(), Some("ada"));
    assert_eq!(all.roles, ["editor"]);
    assert_eq!(Value::Object(all.extra), json!({"email": "a@b"}));
    let several = claims(json!({"roles": ["a", "b"]})).unwrap();
    assert_eq!(several.roles, ["a", "b"]);
}

#[test]
fn claims_that_are_not_the_backends_are_refused() {
    for name in RESERVED {
        let given = claims(json!({"claims": {name: 1}}));
        assert_eq!(given, Err(ErrorCode::InvalidClaims), "{name}");
    }
    for body in [
        json!({"role": "a", "roles": ["b"]}),
        json!({"role": ""}),
        json!({"roles": ["a", ""]}),
    ] {
        assert_eq!(
            claims(body.clone()),
            Err(ErrorCode::InvalidClaims),
            "{body}"
        );
    }
    let long = |length: usize| claims(json!({"claims": {"x": "x".repeat(length)}}));
    assert!(long(4000).is_ok());
    assert_eq!(long(4096), Err(ErrorCode::TooLong));
    let name = "x".repeat(4096);
    assert_eq!(claims(json!({"username": name})), Err(ErrorCode::TooLong));
}

#[tokio::test]
async fn a_session_begins_with_a_token_and_a_cookie() {
    let response = opened(issued("r-1"), Timestamp::UNIX_EPOCH, true);
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    assert!(!response.headers().contains_key(header::SET_COOKIE));
    assert_eq!(
        body(response).await,
        json!({
            "token": "a.b.c", "expiresAt": "1970-01-01T00:15:00Z", "refreshToken": "r-1", "cookie": COOKIE,
        })
    );
}

#[tokio::test]
async fn a_refresh_answers_the_token_and_keeps_the_next_cookie_to_itself() {
    let response = refreshed(Some(issued("r-1")), Timestamp::UNIX_EPOCH, true).unwrap();
    assert_eq!(response.status(), 200);
    let cookie = &response.headers()[header::SET_COOKIE];
    assert_eq!(cookie, COOKIE);
    assert!(cookie.is_sensitive());
    assert_eq!(
        body(response).await,
        json!({"token": "a.b.c", "expiresAt": "1970-01-01T00:15:00Z"})
    );
    let unfit = refreshed(Some(issued("r\n1")), Timestamp::UNIX_EPOCH, true);
    assert_eq!(unfit.unwrap_err().code, ErrorCode::Internal);
}

#[tokio::test]
async fn a_refresh_token_that_is_not_good_is_forgotten_and_so_is_one_that_is_done_with() {
    let forget = "refreshToken=; Path=/api; HttpOnly; SameSite=Lax; Max-Age=0";
    let response = refreshed(None, Timestamp::UNIX_EPOCH, false).unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()[header::SET_COOKIE], forget);
    assert_eq!(body(response).await["code"], "invalid_refresh_token");

    let response = logged_out(false).unwrap();
    assert_eq!(response.status(), 204);
    assert_eq!(response.headers()[header::SET_COOKIE], forget);
}
