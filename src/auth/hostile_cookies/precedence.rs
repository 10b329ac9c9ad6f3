//! When a cookie counts: beside a token, with the store away, with sessions off, after a reload.

use super::*;

#[tokio::test]
async fn a_token_comes_before_the_cookie_be_it_good_or_bad() {
    let (door, _) = door();
    let rule = door.rule("/").unwrap();
    let mut headers = headers(&[format!("connect.sid={}", escaped(&signed("good"))).as_bytes()]);
    let outcome = async |token: Option<&str>, headers: &HeaderMap| {
        let auth = token.map(|token| json!({"token": token}));
        let credentials = Credentials::from_handshake(auth.as_ref(), headers);
        let identity = door.authenticate(&credentials, &rule).await;
        identity.map(|it| it.unwrap().user_id.as_str().to_owned())
    };
    let token = crate::auth::testing::Signer::Secret.sign(
        jsonwebtoken::Algorithm::HS256,
        r#"{"alg":"HS256"}"#,
        &crate::auth::testing::claims(json!({"sub": "7"})),
    );
    assert_eq!(outcome(Some(&token), &headers).await.as_deref(), Ok("7"));
    assert_eq!(outcome(Some("x"), &headers).await, Err(AuthError::Invalid));
    assert_eq!(outcome(Some(""), &headers).await.as_deref(), Ok("42"));
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    assert_eq!(outcome(None, &headers).await, Err(AuthError::Invalid));
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
    assert_eq!(outcome(None, &headers).await.as_deref(), Ok("42"));
}

#[tokio::test]
async fn a_store_that_is_away_makes_nobody_a_guest() {
    let (door, store) = door();
    let good = headers(&[format!("connect.sid={}", escaped(&signed("good"))).as_bytes()]);
    store.set_away(true);
    assert!(!door.has_session_store());
    for path in ["/", "/public", "/admin"] {
        assert_eq!(enter(&door, path, &good).await, Err(Unavailable), "{path}");
    }
    // It takes no store to see that this is no session.
    let bad = headers(&[b"connect.sid=x"]);
    assert_eq!(enter(&door, "/", &bad).await, Err(NotAuthenticated));
    store.set_away(false);
    assert!(enter(&door, "/", &good).await.is_ok() && door.has_session_store());
}

#[tokio::test]
async fn with_sessions_off_no_cookie_is_looked_at() {
    let namespaces = Config::default().namespaces;
    let door = Authenticator::new(&Auth::default(), &namespaces).unwrap();
    let good = headers(&[format!("connect.sid={}", escaped(&signed("good"))).as_bytes()]);
    assert_eq!(enter(&door, "/", &good).await, Err(Missing));
    assert!(door.has_session_store());
}

#[tokio::test]
async fn a_reload_changes_the_secrets_of_all_clones() {
    let (door, _) = door();
    let clone = door.clone();
    let good = format!("connect.sid={}", escaped(&signed("good")));
    assert!(user(&clone, &good).await.is_ok());

    let mut auth = Auth::default();
    auth.session.secrets = vec!["another".into()];
    auth.jwt.algorithms = vec!["none".into()];
    let namespaces = Config::default().namespaces;
    assert!(door.reload(&auth, &namespaces).is_err());
    assert!(user(&clone, &good).await.is_ok(), "nothing is changed");

    auth.jwt.algorithms.clear();
    door.reload(&auth, &namespaces).unwrap();
    assert_eq!(user(&clone, &good).await, Err(NotAuthenticated));
    let new = STANDARD_NO_PAD.encode(signature("good", "another"));
    let cookie = format!("connect.sid=s:good.{new}");
    assert_eq!(user(&clone, cookie).await.as_deref(), Ok("42"));
}
