use std::net::{IpAddr, Ipv4Addr};

use http::HeaderValue;

use super::*;
use crate::{
    config::{Api, ApiKey, Limits},
    metrics::Metrics,
    registry::Bar,
    transport::door::Door,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn door() -> Arc<Door> {
    Door::new(&Limits::default(), Vec::new(), Metrics::new().unwrap())
}

/// Whose credentials come from loopback, which may fail as often as it likes.
async fn let_in(auth: &ApiAuth, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let door = door();
    auth.caller(headers, Guesses::new(&door, Some(LOOPBACK)))
        .await
}

struct Tokens;

#[async_trait]
impl TokenVerifier for Tokens {
    async fn verify(&self, token: &str) -> Result<TokenBearer, ApiError> {
        let admin = match token {
            "admins.own.token" => true,
            "users.own.token" => false,
            "banned.admins.token" => return Err(ApiError::barred(Bar::Banned)),
            "token.without.redis" => return Err(ApiError::unavailable()),
            _ => return Err(ApiError::unauthorized()),
        };
        Ok(TokenBearer {
            user_id: "7".into(),
            admin,
        })
    }
}

fn auth() -> ApiAuth {
    let key = |name: &str, key: &str, scopes: &[Scope]| ApiKey {
        name: name.into(),
        key: key.into(),
        scopes: scopes.to_vec(),
    };
    let config = Api {
        key: Some("the-first-key".into()),
        keys: vec![
            key("reader", "the-reader's-key", &[Scope::Read]),
            key("empty", "", &[Scope::Admin]),
        ],
        jwt: true,
        ..Api::default()
    };
    ApiAuth::new(&config, Arc::new(Tokens))
}

async fn asked(authorization: &str) -> Result<Caller, ApiError> {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_bytes(authorization.as_bytes()).unwrap();
    headers.insert(header::AUTHORIZATION, value);
    let_in(&auth(), &headers).await
}

async fn caller(authorization: &str) -> Option<Caller> {
    asked(authorization).await.ok()
}

#[tokio::test]
async fn what_is_held_against_a_token_is_said() {
    let refused = |error: ApiError| (error.code, error.detail);
    let banned = asked("Bearer banned.admins.token").await.unwrap_err();
    assert_eq!(refused(banned), refused(ApiError::barred(Bar::Banned)));
    let unknown = asked("Bearer token.without.redis").await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::Unavailable);
    let guessed = asked("Bearer a.made.up").await.unwrap_err();
    assert_eq!(refused(guessed), refused(ApiError::unauthorized()));
}

#[tokio::test]
async fn keys_and_admins_are_recognised_with_their_scopes() {
    let first = caller("Bearer the-first-key").await.unwrap();
    assert_eq!(first.name(), "key:default");
    assert!(first.may(Scope::Disconnect) && first.may(Scope::Admin));

    let reader = caller("bearer the-reader's-key").await.unwrap();
    assert_eq!(reader.name(), "key:reader");
    assert!(reader.may(Scope::Read));
    assert!(!reader.may(Scope::Send) && !reader.may(Scope::Admin));

    let admin = caller("Bearer admins.own.token").await.unwrap();
    assert_eq!(admin.name(), "jwt:7");
    assert!(admin.may(Scope::Send));

    let user = caller("Bearer users.own.token").await.unwrap();
    assert!(!user.may(Scope::Read));
}

#[tokio::test]
async fn keys_are_replaced_while_the_api_runs() {
    let bearer = |key: &'static str| {
        let value = HeaderValue::from_static(key);
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    };
    let (old, new) = (bearer("Bearer the-first-key"), bearer("Bearer another-key"));
    let auth = auth();
    assert!(let_in(&auth, &old).await.is_ok());
    assert!(let_in(&auth, &new).await.is_err());

    let config = Api {
        keys: vec![ApiKey {
            name: "second".into(),
            key: "another-key".into(),
            scopes: vec![Scope::Send],
        }],
        ..Api::default()
    };
    auth.replace(&config);
    assert!(let_in(&auth, &old).await.is_err());
    let caller = let_in(&auth, &new).await.unwrap();
    assert_eq!(caller.name(), "key:second");
    assert!(caller.may(Scope::Send) && !caller.may(Scope::Read));
    let admin = bearer("Bearer admins.own.token");
    assert!(
        let_in(&auth, &admin).await.is_ok(),
        "tokens stay as they were"
    );

    auth.replace(&Api {
        jwt: false,
        ..config
    });
    assert!(let_in(&auth, &new).await.is_ok());
    let refused = let_in(&auth, &admin).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unauthorized);
}

#[tokio::test]
async fn anything_but_the_exact_key_is_refused() {
    for authorization in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  the-first-key",
        "Bearer the-first-key ",
        "Bearer the-first-ke",
        "Bearer the-first-kez",
        "Bearer the-first-keyy",
        "Bearer The-first-key",
        "Bearer the-first-key,the-reader's-key",
        "Basic the-first-key",
        "the-first-key",
        "Bearer ключ",
    ] {
        assert_eq!(caller(authorization).await, None, "{authorization:?}");
    }
}

#[tokio::test]
async fn two_headers_are_refused() {
    let mut headers = HeaderMap::new();
    for _ in 0..2 {
        headers.append(
            header::AUTHORIZATION,
            HeaderValue::from_static("Bearer the-first-key"),
        );
    }
    assert!(let_in(&auth(), &headers).await.is_err());
    assert!(let_in(&auth(), &HeaderMap::new()).await.is_err());
}

#[tokio::test]
async fn what_opens_nothing_is_a_guess_and_a_key_is_let_in_all_the_same() {
    for (wrong, code) in [
        ("users.own.token", None),
        ("a.made.up", Some(ErrorCode::Unauthorized)),
        ("banned.admins.token", Some(ErrorCode::Unauthorized)),
    ] {
        let (auth, door) = (auth(), door());
        let from = async |client, token: &str| {
            let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            let answer = auth.caller(&headers, Guesses::new(&door, Some(client)));
            answer.await.err().map(|error| error.code)
        };
        for n in 0..50 {
            assert_eq!(from(CLIENT, wrong).await, code, "{wrong} {n}");
        }
        // A machine that is held up here works some of it off.
        let mut n = 0;
        while from(CLIENT, wrong).await != Some(ErrorCode::RateLimited) {
            n += 1;
            assert!(n < 1_000, "{wrong} is never refused");
        }
        for _ in 0..200 {
            from(CLIENT, wrong).await;
            assert_eq!(from(CLIENT, "the-reader's-key").await, None);
        }
        let other = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 8));
        for client in [other, LOOPBACK] {
            assert_eq!(from(client, "admins.own.token").await, None);
        }
    }
}

#[tokio::test]
async fn what_opens_something_or_is_not_known_is_no_guess() {
    let (auth, door) = (auth(), door());
    for token in ["admins.own.token", "token.without.redis"] {
        for _ in 0..200 {
            let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            let answer = auth.caller(&headers, Guesses::new(&door, Some(CLIENT)));
            let refused = answer.await.err().map(|error| error.code);
            assert_ne!(refused, Some(ErrorCode::RateLimited), "{token}");
        }
    }
}
