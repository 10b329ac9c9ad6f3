//! Minting: tokens that this configuration's own verifier takes.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header, encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use crate::{
    auth::{AuthConfigError, claims::MAX_TIME, keys::Allowed},
    config,
    connection::{NoUserId, UserId},
};

/// What a new token is to say.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// `sub`.
    pub user: UserId,
    /// One becomes `role`, several become `roles`.
    pub roles: Vec<String>,
    /// `username`.
    pub username: Option<String>,
    /// From now to `exp`; whole seconds.
    pub ttl: Duration,
    /// `sid`: the family of refresh tokens that it is given for. Its `iat` then has milliseconds (a NumericDate may, RFC 7519
    /// §2), so that a token fetched right after a revocation outlives it. Without one `iat` is in whole seconds, as scripts
    /// that subtract it from `exp` expect.
    pub session: Option<String>,
    /// `iat` of a token of a session, by the clock that revocations go by; none: now, by this machine's.
    pub issued_at: Option<Timestamp>,
    /// Further claims. They win over the configured `iss` and `aud` and the fields above, but can't be `sub`, `iat`,
    /// `exp` or `jti`; nor do they change the `sid` above, or the claim of `auth.jwt.user_id_claim`.
    pub extra: Vec<(String, Value)>,
}

impl NewToken {
    /// A token for a user, with neither roles nor further claims.
    pub fn new(user: impl Into<UserId>, ttl: Duration) -> Self {
        Self {
            user: user.into(),
            roles: Vec::new(),
            username: None,
            ttl,
            session: None,
            issued_at: None,
            extra: Vec::new(),
        }
    }
}

/// A token that was minted.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The token.
    pub token: SecretString,
    /// Its `exp`.
    pub expires_at: Timestamp,
    /// Its `jti`.
    pub token_id: String,
}

/// Why no token is minted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// No key to sign with.
    #[error(transparent)]
    Config(#[from] AuthConfigError),
    /// A user id that no connection could have.
    #[error("the user: {0}")]
    User(#[from] NoUserId),
    /// A life that ends beyond the year 9999.
    #[error("the token would live too long")]
    Ttl,
    /// A further claim that has its own way to be set.
    #[error("the claim {0} can't be given")]
    Reserved(String),
    /// The signature failed.
    #[error("the token can't be signed")]
    Signing,
}

/// Signs a token with `auth.jwt.secret`: HS256, unless `auth.jwt.algorithms` leaves out just that.
///
/// The keys of `auth.jwt.keys` sign nothing. It has `iss` and `aud` where they are configured: the first of each list. A configured `auth.jwt.user_id_claim` is set
/// along with `sub`.
///
/// # Errors
///
/// [`MintError::Config`] names `auth.jwt.secret` when there is none.
pub fn mint(config: &config::Jwt, new: &NewToken) -> Result<Minted, MintError> {
    let secret = config.secret.as_ref().map(ExposeSecret::expose_secret);
    let secret = secret.filter(|secret| !secret.is_empty()).ok_or_else(|| {
        AuthConfigError::new(
            "auth.jwt.secret",
            "is not set: there is nothing to sign with (the keys of auth.jwt.keys only verify)",
        )
    })?;
    let allowed = Allowed::new(&config.algorithms)?.of(AlgorithmFamily::Hmac.algorithms());
    let algorithm = *allowed.first().ok_or_else(|| {
        let problem = "allows nothing that auth.jwt.secret can sign with";
        AuthConfigError::new("auth.jwt.algorithms", problem)
    })?;
    UserId::checked(new.user.to_string())?;
    let now = Timestamp::now();
    let issued_at = now.as_second();
    let expires = i64::try_from(new.ttl.as_secs()).ok();
    let expires = expires.and_then(|ttl| issued_at.checked_add(ttl));
    let expires = expires.filter(|at| *at <= MAX_TIME).ok_or(MintError::Ttl)?;
    let expires_at = Timestamp::from_second(expires).map_err(|_| MintError::Ttl)?;
    let token_id = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());

    let mut claims = Map::new();
    let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    if let Some(issuer) = config.issuer.first() {
        set("iss", json!(issuer));
    }
    if let Some(audience) = config.audience.first() {
        set("aud", json!(audience));
    }
    match new.roles.as_slice() {
        [] => None,
        [role] => set("role", json!(role)),
        roles => set("roles", json!(roles)),
    };
    if let Some(username) = &new.username {
        set("username", json!(username));
    }
    for (name, value) in &new.extra {
        if ["sub", "iat", "exp", "jti"].contains(&&**name) {
            return Err(MintError::Reserved(name.clone()));
        }
        set(name, value.clone());
    }
    // After the further claims: whose a token is, none of them decides.
    if let Some(claim) = &config.user_id_claim {
        set(claim, json!(new.user));
    }
    set("sub", json!(new.user));
    match &new.session {
        Some(session) => {
            set("sid", json!(session));
            let issued_at = new.issued_at.unwrap_or(now);
            set("iat", json!(issued_at.as_millisecond() as f64 / 1000.0));
        }
        None => {
            set("iat", json!(issued_at));
        }
    }
    set("exp", json!(expires));
    set("jti", json!(token_id));

    let key = EncodingKey::from_secret(secret.as_bytes());
    let token = encode(&Header::new(algorithm), &claims, &key).map_err(|_| MintError::Signing)?;
    Ok(Minted {
        token: token.into(),
        expires_at,
        token_id,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::auth::{AuthError, Authenticator, testing};

    fn jwt() -> config::Jwt {
        config::Jwt {
            secret: Some(testing::SECRET.into()),
            ..config::Jwt::default()
        }
    }

    fn door(jwt: &config::Jwt) -> Authenticator {
        testing::authenticator(jwt.clone())
    }

    /// Who comes in with a token that is minted so.
    async fn bearer(jwt: &config::Jwt, new: &NewToken) -> crate::auth::Identity {
        let minted = mint(jwt, new).unwrap();
        let token = minted.token.expose_secret();
        door(jwt).verify(token).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_minted_is_let_in() {
        let jwt = config::Jwt {
            issuer: vec!["https://idp".into(), "https://other".into()],
            audience: vec!["chat".into()],
            ..jwt()
        };
        let minted = mint(
            &jwt,
            &NewToken {
                roles: vec!["admin".into()],
                username: Some("ann".into()),
                extra: vec![("email".into(), json!("ann@example.com"))],
                ..NewToken::new("42", Duration::from_secs(60))
            },
        )
        .unwrap();
        let identity = door(&jwt)
            .verify(minted.token.expose_secret())
            .await
            .unwrap();

        assert_eq!(identity.user_id, "42".into());
        assert_eq!(identity.username.as_deref(), Some("ann"));
        assert_eq!(identity.email.as_deref(), Some("ann@example.com"));
        assert_eq!(identity.roles, ["admin"]);
        assert_eq!(identity.expires_at, Some(minted.expires_at));
        assert_eq!(identity.token_id.as_deref(), Some(&*minted.token_id));
        let issued_at = identity.issued_at.unwrap().as_second();
        assert_eq!(minted.expires_at.as_second() - issued_at, 60);
    }

    #[tokio::test]
    async fn follows_the_configured_claim_and_algorithms() {
        for claim in ["uid", "user.id", "/user/id"] {
            let jwt = config::Jwt {
                user_id_claim: Some(claim.into()),
                algorithms: vec!["RS256".into(), "HS512".into()],
                ..jwt()
            };
            let new = NewToken {
                roles: vec!["a".into(), "b".into()],
                ..NewToken::new("42", Duration::from_secs(60))
            };
            let identity = bearer(&jwt, &new).await;
            assert_eq!(identity.user_id, "42".into());
            assert_eq!(identity.roles, ["a", "b"]);
        }
    }

    #[tokio::test]
    async fn no_further_claim_makes_it_somebody_else_s() {
        for (claim, extra) in [
            ("uid", ("uid", json!("victim"))),
            ("user.id", ("user", json!({"id": "victim"}))),
            ("/user/id", ("user", json!({"id": "victim"}))),
            ("/user/id", ("/user/id", json!("victim"))),
        ] {
            let jwt = config::Jwt {
                user_id_claim: Some(claim.into()),
                ..jwt()
            };
            let new = NewToken {
                extra: vec![(extra.0.into(), extra.1)],
                ..NewToken::new("42", Duration::from_secs(60))
            };
            let identity = bearer(&jwt, &new).await;
            assert_eq!(identity.user_id, "42".into(), "{claim}");
        }
    }

    #[tokio::test]
    async fn no_two_are_the_same_and_none_outlives_its_time() {
        let new = NewToken::new("42", Duration::ZERO);
        let (one, two) = (mint(&jwt(), &new).unwrap(), mint(&jwt(), &new).unwrap());
        assert_ne!(one.token_id, two.token_id);

        let strict = config::Jwt {
            leeway: Duration::ZERO,
            ..jwt()
        };
        let outcome = door(&strict).verify(one.token.expose_secret()).await;
        assert_eq!(outcome, Err(AuthError::Expired));
    }

    #[tokio::test]
    async fn a_token_of_a_session_names_it_and_has_milliseconds() {
        let before = Timestamp::now().as_millisecond();
        let new = NewToken {
            session: Some("family".into()),
            extra: vec![("sid".into(), json!("another"))],
            ..NewToken::new("42", Duration::from_secs(60))
        };
        let minted = mint(&jwt(), &new).unwrap();
        let strict = config::Jwt {
            leeway: Duration::ZERO,
            ..jwt()
        };
        let identity = door(&strict)
            .verify(minted.token.expose_secret())
            .await
            .unwrap();

        let family = crate::auth::SessionRef::Family("family".into());
        assert_eq!(identity.session, Some(family));
        let issued_at = identity.issued_at.unwrap().as_millisecond();
        assert!((before..=Timestamp::now().as_millisecond()).contains(&issued_at));
        let lives = minted.expires_at.as_millisecond() - issued_at;
        assert!((59_000..=60_000).contains(&lives), "{lives}");
    }

    #[tokio::test]
    async fn it_bears_the_time_that_it_is_given() {
        let issued_at = Timestamp::now() - jiff::SignedDuration::from_secs(7);
        let new = NewToken {
            session: Some("family".into()),
            issued_at: Some(issued_at),
            ..NewToken::new("42", Duration::from_secs(60))
        };
        let minted = mint(&jwt(), &new).unwrap();
        let verified = door(&jwt()).verify(minted.token.expose_secret()).await;
        let borne = verified.unwrap().issued_at.unwrap();
        assert_eq!(borne.as_millisecond(), issued_at.as_millisecond());
        assert!(minted.expires_at > Timestamp::now() + jiff::SignedDuration::from_secs(55));
    }

    #[test]
    fn says_why_not() {
        let minute = Duration::from_secs(60);
        let error = |jwt: &config::Jwt, new: NewToken| mint(jwt, &new).unwrap_err().to_string();

        let none = config::Jwt::default();
        assert!(error(&none, NewToken::new("42", minute)).starts_with("auth.jwt.secret: "));
        let narrow = config::Jwt {
            algorithms: vec!["RS256".into()],
            ..jwt()
        };
        assert!(error(&narrow, NewToken::new("42", minute)).starts_with("auth.jwt.algorithms: "));

        let refused = |new: NewToken| mint(&jwt(), &new).unwrap_err();
        assert_eq!(
            refused(NewToken::new("", minute)),
            MintError::User(NoUserId)
        );
        assert_eq!(
            refused(NewToken::new("a".repeat(1025), minute)),
            MintError::User(NoUserId)
        );
        assert_eq!(refused(NewToken::new("42", Duration::MAX)), MintError::Ttl);
        for name in ["sub", "iat", "exp", "jti"] {
            let new = NewToken {
                extra: vec![(name.into(), json!(1))],
                ..NewToken::new("42", minute)
            };
            assert_eq!(refused(new), MintError::Reserved(name.into()));
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let minted = mint(&jwt(), &NewToken::new("42", Duration::from_secs(60))).unwrap();
        let shown = format!("{minted:?}");
        assert!(!shown.contains(minted.token.expose_secret()), "{shown}");
    }
}
