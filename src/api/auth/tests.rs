use http::HeaderValue;

use super::*;
use crate::{
    config::{Api, ApiKey},
    registry::Bar,
};

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
    };
    ApiAuth::new(&config, Arc::new(Tokens))
}

async fn asked(authorization: &str) -> Result<Caller, ApiError> {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_bytes(authorization.as_bytes()).unwrap();
    headers.insert(header::AUTHORIZATION, value);
    auth().caller(&headers).await
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
    assert!(auth.caller(&old).await.is_ok());
    assert!(auth.caller(&new).await.is_err());

    let config = Api {
        keys: vec![ApiKey {
            name: "second".into(),
            key: "another-key".into(),
            scopes: vec![Scope::Send],
        }],
        ..Api::default()
    };
    auth.replace(&config);
    assert!(auth.caller(&old).await.is_err());
    let caller = auth.caller(&new).await.unwrap();
    assert_eq!(caller.name(), "key:second");
    assert!(caller.may(Scope::Send) && !caller.may(Scope::Read));
    let admin = bearer("Bearer admins.own.token");
    assert!(
        auth.caller(&admin).await.is_ok(),
        "tokens stay as they were"
    );

    auth.replace(&Api {
        jwt: false,
        ..config
    });
    assert!(auth.caller(&new).await.is_ok());
    let refused = auth.caller(&admin).await.unwrap_err();
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
    assert!(auth().caller(&headers).await.is_err());
    assert!(auth().caller(&HeaderMap::new()).await.is_err());
}
