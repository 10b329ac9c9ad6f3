//! Who is let into which namespace, by which credential.

use serde_json::{Value, json};

use super::*;
use crate::{
    auth::testing::{SECRET, Signer, claims, now},
    config::{Auth, AuthRule, Config, Jwt, Namespace},
};

fn build(
    namespaces: &[Namespace],
    user_id_claim: Option<&str>,
) -> Result<Authenticator, AuthConfigError> {
    crate::auth::install_crypto().unwrap();
    #[allow(clippy::needless_update)]
    let auth = Auth {
        jwt: Jwt {
            secret: Some(SECRET.into()),
            issuer: vec!["https://idp".into()],
            user_id_claim: user_id_claim.map(str::to_owned),
            ..Jwt::default()
        },
        ..Auth::default()
    };
    Authenticator::new(&auth, namespaces)
}

fn door() -> Authenticator {
    let mut namespaces = Config::default().namespaces;
    namespaces.push(Namespace::new(
        "/staff",
        AuthRule::Required,
        &["staff", "admin"],
    ));
    namespaces.push(Namespace {
        issuer: Some(vec!["https://partner".into()]),
        audience: Some(vec!["chat".into()]),
        ..Namespace::new("/partner", AuthRule::Required, &[])
    });
    namespaces.push(Namespace {
        issuer: Some(Vec::new()),
        ..Namespace::new("/any-issuer", AuthRule::Required, &[])
    });
    build(&namespaces, None).unwrap()
}

fn token(changes: Value) -> String {
    let mut all = json!({"iss": "https://idp"});
    for (name, value) in changes.as_object().unwrap() {
        all[name] = value.clone();
    }
    let algorithm = jsonwebtoken::Algorithm::HS256;
    Signer::Secret.sign(algorithm, r#"{"alg":"HS256"}"#, &claims(all))
}

fn credentials(token: Option<&str>, bearer: Option<&str>) -> Credentials {
    Credentials {
        token: token.map(Into::into),
        bearer: bearer.map(Into::into),
        cookies: None,
    }
}

/// The user let into `path` with `token`; an empty one stands for a guest.
async fn enter(path: &str, token: &str) -> Result<String, AuthError> {
    let door = door();
    let rule = door.rule(path).unwrap();
    let identity = door
        .authenticate(&credentials(Some(token), None), &rule)
        .await?;
    Ok(identity.map_or_else(String::new, |it| it.user_id.as_str().to_owned()))
}

#[tokio::test]
async fn a_namespace_asks_for_what_it_is_configured_to() {
    let user = token(json!({}));
    let admin = token(json!({"role": "admin"}));
    let expired = token(json!({"exp": now() - 600}));
    let expired_admin = token(json!({"role": "admin", "exp": now() - 600}));
    let (ok, guest) = (|| Ok("42".to_owned()), || Ok(String::new()));

    for (path, token, expected) in [
        ("/", &*user, ok()),
        ("/", "", Err(AuthError::Missing)),
        ("/", "x", Err(AuthError::Invalid)),
        ("/", &*expired, Err(AuthError::Expired)),
        ("/public", &*user, ok()),
        ("/public", "", guest()),
        ("/public", "x", guest()),
        ("/public", &*expired, guest()),
        ("/admin", &*admin, ok()),
        ("/admin", &*user, Err(AuthError::AdminRequired)),
        ("/admin", "", Err(AuthError::Missing)),
        ("/admin", "x", Err(AuthError::Invalid)),
        ("/admin", &*expired, Err(AuthError::Expired)),
        ("/admin", &*expired_admin, Err(AuthError::Expired)),
        ("/staff", &*admin, ok()),
        ("/staff", &*user, Err(AuthError::AccessDenied)),
    ] {
        assert_eq!(enter(path, token).await, expected, "{path} {token:?}");
    }
}

#[tokio::test]
async fn a_namespace_may_have_its_own_issuer_and_audience() {
    let ours = token(json!({}));
    let partner = token(json!({"iss": "https://partner", "aud": "chat"}));
    let for_others = token(json!({"iss": "https://partner", "aud": "shop"}));

    assert!(enter("/", &ours).await.is_ok());
    assert_eq!(enter("/", &partner).await, Err(AuthError::Invalid));
    assert!(enter("/partner", &partner).await.is_ok());
    assert_eq!(enter("/partner", &ours).await, Err(AuthError::Invalid));
    assert_eq!(
        enter("/partner", &for_others).await,
        Err(AuthError::Invalid)
    );
    assert!(enter("/any-issuer", &ours).await.is_ok());
    assert!(enter("/any-issuer", &partner).await.is_ok());
}

#[tokio::test]
async fn the_first_credential_decides() {
    let door = door();
    let rule = door.rule("/").unwrap();
    let (one, two) = (token(json!({"sub": "1"})), token(json!({"sub": "2"})));
    let user = |token, bearer| {
        let credentials = credentials(token, bearer);
        let (door, rule) = (&door, &rule);
        async move {
            let identity = door.authenticate(&credentials, rule).await?;
            Ok(identity.unwrap().user_id.as_str().to_owned())
        }
    };
    assert_eq!(user(Some(&one), Some(&two)).await.as_deref(), Ok("1"));
    assert_eq!(user(None, Some(&two)).await.as_deref(), Ok("2"));
    assert_eq!(user(Some(""), Some(&two)).await.as_deref(), Ok("2"));
    assert_eq!(user(Some("x"), Some(&two)).await, Err(AuthError::Invalid));
    assert_eq!(user(Some(""), Some("")).await, Err(AuthError::Missing));
    assert_eq!(user(None, None).await, Err(AuthError::Missing));
}

#[tokio::test]
async fn an_operator_is_told_why() {
    let refusal = door()
        .explain(&token(json!({"iss": "https://other"})))
        .await;
    let refusal = refusal.unwrap_err().to_string();
    assert_eq!(refusal, "Invalid token: its iss is not the configured one");
    let refusal = door().explain(&token(json!({"exp": 1}))).await;
    let refusal = refusal.unwrap_err().to_string();
    assert_eq!(refusal, "Invalid or expired token: it is past its exp");
}

#[test]
fn a_wrong_configuration_names_its_key() {
    let open = [Namespace::new("/", AuthRule::None, &["admin"])];
    let problem = build(&open, None).unwrap_err();
    assert_eq!(problem.key(), "namespaces[0].roles");
    let problem = build(&[], Some("")).unwrap_err();
    assert_eq!(problem.to_string(), "auth.jwt.user_id_claim: is empty");
}
