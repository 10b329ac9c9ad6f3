//! The door: credentials in, identity out.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use secrecy::ExposeSecret;

use crate::{
    auth::{
        AuthConfigError, AuthError, Credentials, Identity, NamespaceRule,
        claims::{Check, UserClaim},
        jwt::{Header, Refusal},
        keys::KeyRing,
        rule::Intended,
    },
    config,
};

/// Lets users in, by the keys and rules of the configuration. Clones are the same one.
#[derive(Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

struct Inner {
    keys: KeyRing,
    rules: Vec<NamespaceRule>,
    everywhere: Intended,
    user: UserClaim,
    leeway: Duration,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("local_keys", &self.inner.keys.local_len())
            .field("rules", &self.inner.rules)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Reads the configured key files. A JWKS URL is asked by [`Authenticator::warm_up`] or by the first token that
    /// needs it, so that a node starts although its issuer is away. With no key at all, every token is invalid.
    ///
    /// # Errors
    ///
    /// [`AuthConfigError`], which names the key of the configuration that is wrong.
    pub fn new(
        auth: &config::Auth,
        namespaces: &[config::Namespace],
    ) -> Result<Self, AuthConfigError> {
        let jwt = &auth.jwt;
        let rules = namespaces
            .iter()
            .enumerate()
            .map(|(index, namespace)| NamespaceRule::new(index, namespace, jwt))
            .collect::<Result<_, _>>()?;
        let user = match &jwt.user_id_claim {
            None => UserClaim::Usual,
            Some(claim) if claim.is_empty() => {
                return Err(AuthConfigError::new("auth.jwt.user_id_claim", "is empty"));
            }
            Some(claim) => UserClaim::Configured(claim.clone()),
        };
        Ok(Self::assemble(KeyRing::new(jwt)?, rules, user, jwt))
    }

    fn assemble(
        keys: KeyRing,
        rules: Vec<NamespaceRule>,
        user: UserClaim,
        jwt: &config::Jwt,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                keys,
                rules,
                everywhere: Intended::everywhere(jwt),
                user,
                leeway: jwt.leeway,
            }),
        }
    }

    /// The rule of a configured namespace.
    pub fn rule(&self, path: &str) -> Option<&NamespaceRule> {
        self.inner.rules.iter().find(|rule| rule.path() == path)
    }

    /// Who comes with these credentials into a namespace; none is a guest.
    ///
    /// The first credential there is decides: a bad `auth.token` does not give way to a good `Authorization`. Where no
    /// token is asked for, one that is invalid or expired lets its bearer in as a guest, as none would: a page that
    /// still holds yesterday's token can read what everyone can.
    ///
    /// # Errors
    ///
    /// Why the client is refused; its text is the `connect_error`'s. Roles are looked at last.
    pub async fn authenticate(
        &self,
        credentials: &Credentials,
        rule: &NamespaceRule,
    ) -> Result<Option<Identity>, AuthError> {
        let verdict = match credentials.preferred() {
            Some(token) => self.verify_for(token.expose_secret(), rule).await,
            None => Err(AuthError::Missing),
        };
        match verdict {
            Ok(identity) => {
                rule.authorize(&identity)?;
                Ok(Some(identity))
            }
            Err(_) if !rule.requires_token() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Who a token stands for, by the issuer and audience of `auth.jwt`. Says nothing of roles.
    ///
    /// # Errors
    ///
    /// [`AuthError::Expired`] for a token that is past its `exp` and right otherwise, [`AuthError::Invalid`] for any
    /// other.
    pub async fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        Ok(self.check(token, &self.inner.everywhere).await?)
    }

    /// The same by the issuer and audience of a namespace, for a token that is to prolong a connection there.
    ///
    /// # Errors
    ///
    /// As [`Authenticator::verify`].
    pub async fn verify_for(
        &self,
        token: &str,
        rule: &NamespaceRule,
    ) -> Result<Identity, AuthError> {
        Ok(self.check(token, &rule.intended).await?)
    }

    /// The same as [`Authenticator::verify`], and says why not. For operators: a client learns no more than the
    /// [`AuthError`].
    ///
    /// # Errors
    ///
    /// The [`AuthError`] with its reason.
    pub async fn explain(&self, token: &str) -> Result<Identity, Refusal> {
        self.check(token, &self.inner.everywhere).await
    }

    async fn check(&self, token: &str, intended: &Intended) -> Result<Identity, Refusal> {
        let outcome = self.try_check(token, intended).await;
        if let Err(refusal) = &outcome {
            tracing::debug!(reason = refusal.reason(), "a token is refused");
        }
        outcome
    }

    async fn try_check(&self, token: &str, intended: &Intended) -> Result<Identity, Refusal> {
        let header = Header::read(token)?;
        let payload = self.inner.keys.payload(token, &header).await?;
        let check = Check {
            // Read after the keys, which may have had to be fetched.
            now: Timestamp::now(),
            leeway: self.inner.leeway,
            intended,
            user: &self.inner.user,
        };
        check.identity(&payload)
    }

    /// Fetches the keys of a JWKS URL, if one is configured and there are none yet. Takes 2 s at most, and a failure is
    /// logged only: tokens ask again.
    pub async fn warm_up(&self) {
        self.inner.keys.warm_up().await;
    }

    /// Whether a JWKS URL is configured that has given no keys so far: its tokens are refused until it does.
    pub fn waits_for_keys(&self) -> bool {
        self.inner.keys.waits_for_keys()
    }

    #[cfg(test)]
    pub(crate) fn with_remote(remote: crate::auth::remote::RemoteJwks) -> Self {
        let jwt = config::Jwt::default();
        let keys = KeyRing::with_remote(remote);
        Self::assemble(keys, Vec::new(), UserClaim::Usual, &jwt)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
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
        }
    }

    /// The user let into `path` with `token`; an empty one stands for a guest.
    async fn enter(path: &str, token: &str) -> Result<String, AuthError> {
        let door = door();
        let rule = door.rule(path).unwrap();
        let identity = door
            .authenticate(&credentials(Some(token), None), rule)
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
            let door = &door;
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
}
