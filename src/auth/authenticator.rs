//! The door: credentials in, identity out.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::RwLock;
use secrecy::ExposeSecret;

use crate::{
    auth::{
        AuthConfigError, AuthError, Credentials, Identity, NamespaceRule, SessionId, SessionStore,
        StoreUnavailable,
        claims::{Check, UserClaim},
        jwt::{Header, Refusal},
        keys::KeyRing,
        rule::Intended,
        sessions::Sessions,
    },
    config,
};

/// Lets users in, by the keys and rules of the configuration. Clones are the same one.
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    /// Replaced as a whole by a reload; whoever is at it goes on with what there was.
    inner: RwLock<Arc<Inner>>,
    store: Option<Arc<dyn SessionStore>>,
}

struct Inner {
    keys: KeyRing,
    rules: Vec<Arc<NamespaceRule>>,
    everywhere: Intended,
    user: UserClaim,
    leeway: Duration,
    sessions: Option<Sessions>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        f.debug_struct("Authenticator")
            .field("local_keys", &inner.keys.local_len())
            .field("rules", &inner.rules)
            .field("sessions", &inner.sessions)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Reads the configured key files. A JWKS URL is asked by [`Authenticator::warm_up`] or by the first token that
    /// needs it, so that a node starts although its issuer is away. With no key at all, every token is invalid.
    ///
    /// Session cookies want [`Authenticator::with_sessions`] besides.
    ///
    /// # Errors
    ///
    /// [`AuthConfigError`], which names the key of the configuration that is wrong.
    pub fn new(
        auth: &config::Auth,
        namespaces: &[config::Namespace],
    ) -> Result<Self, AuthConfigError> {
        let inner = Inner::new(auth, namespaces, KeyRing::new(&auth.jwt)?)?;
        Ok(Self::of(inner, None))
    }

    /// The same with the store that session cookies are looked up in. Without one, whoever brings a session cookie is
    /// told to try again.
    #[must_use]
    pub fn with_sessions(self, store: Arc<dyn SessionStore>) -> Self {
        Self {
            shared: Arc::new(Shared {
                inner: RwLock::new(self.inner()),
                store: Some(store),
            }),
        }
    }

    fn of(inner: Inner, store: Option<Arc<dyn SessionStore>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                inner: RwLock::new(Arc::new(inner)),
                store,
            }),
        }
    }

    fn inner(&self) -> Arc<Inner> {
        self.shared.inner.read().clone()
    }

    /// Goes by another configuration from now on, in all clones; key files are read again. The keys of a JWKS URL that stays
    /// the same are kept, and so is the store. Who is connected already is left alone.
    ///
    /// # Errors
    ///
    /// [`AuthConfigError`] as for [`Authenticator::new`]; nothing is changed then.
    pub fn reload(
        &self,
        auth: &config::Auth,
        namespaces: &[config::Namespace],
    ) -> Result<(), AuthConfigError> {
        let keys = KeyRing::renewed(&auth.jwt, &self.inner().keys)?;
        let inner = Inner::new(auth, namespaces, keys)?;
        *self.shared.inner.write() = Arc::new(inner);
        Ok(())
    }

    /// The rule of a configured namespace.
    pub fn rule(&self, path: &str) -> Option<Arc<NamespaceRule>> {
        let inner = self.inner();
        inner.rules.iter().find(|rule| rule.path() == path).cloned()
    }

    /// Who comes with these credentials into a namespace; none is a guest.
    ///
    /// The first credential there is decides: `auth.token`, then `Authorization`, then the session cookie; a bad one does
    /// not give way to the next. Where no token is asked for, a credential that is bad or expired lets its bearer in as a
    /// guest, as none would: a page that still holds yesterday's token can read what everyone can.
    ///
    /// # Errors
    ///
    /// Why the client is refused; its text is the `connect_error`'s. Roles are looked at last. [`AuthError::Unavailable`]
    /// when it can't be told, in every namespace: a user must not become a guest for as long as the store is away.
    pub async fn authenticate(
        &self,
        credentials: &Credentials,
        rule: &NamespaceRule,
    ) -> Result<Option<Identity>, AuthError> {
        let verdict = match credentials.preferred() {
            Some(token) => self.verify_for(token.expose_secret(), rule).await,
            None => self.by_cookie(credentials).await,
        };
        match verdict {
            Ok(identity) => {
                rule.authorize(&identity)?;
                Ok(Some(identity))
            }
            Err(error) if rule.requires_token() || error == AuthError::Unavailable => Err(error),
            Err(_) => Ok(None),
        }
    }

    async fn by_cookie(&self, credentials: &Credentials) -> Result<Identity, AuthError> {
        let inner = self.inner();
        let cookies = credentials
            .cookies
            .as_ref()
            .map(ExposeSecret::expose_secret);
        let found = cookies.zip(inner.sessions.as_ref());
        let Some((sessions, id)) =
            found.and_then(|(cookies, sessions)| Some((sessions, sessions.id(cookies)?)))
        else {
            return Err(AuthError::Missing);
        };
        let refused = |reason: &'static str| {
            tracing::debug!(reason, "a session cookie is refused");
            AuthError::NotAuthenticated
        };
        let id = id.map_err(refused)?;
        let Some(store) = &self.shared.store else {
            tracing::warn!("there is no session store to look a session cookie up in");
            return Err(AuthError::Unavailable);
        };
        let mut identities = sessions
            .identities(&**store, &[id], Timestamp::now())
            .await
            .map_err(|error| {
                tracing::warn!(%error, "can't look up a session");
                AuthError::Unavailable
            })?;
        match identities.pop() {
            Some(identity) => identity.map_err(refused),
            None => Err(AuthError::Unavailable),
        }
    }

    /// Looks at the sessions of connections again, all at once: one round trip to the store for every 256 sessions, and
    /// another for those in use for longer than their `expires`. Answers the indices, in order, of the identities that no
    /// longer hold: their session is gone, expired or logged out, or it is another user's now, or has other roles.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`]: nothing is known of any of them. They are not over for that.
    pub async fn recheck(
        &self,
        held: &[(SessionId, &Identity)],
    ) -> Result<Vec<usize>, StoreUnavailable> {
        match (&self.inner().sessions, &self.shared.store) {
            (Some(sessions), Some(store)) if !held.is_empty() => {
                sessions.over(&**store, held, Timestamp::now()).await
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Whether the session store was well when it was last heard of; true where no cookie is looked at.
    pub fn has_session_store(&self) -> bool {
        self.inner().sessions.is_none()
            || self
                .shared
                .store
                .as_ref()
                .is_some_and(|store| store.is_up())
    }

    /// Who a token stands for, by the issuer and audience of `auth.jwt`. Says nothing of roles.
    ///
    /// # Errors
    ///
    /// [`AuthError::Expired`] for a token that is past its `exp` and right otherwise, [`AuthError::Unavailable`] for one whose
    /// key may be in a JWK set that could not be fetched so far, [`AuthError::Invalid`] for any other.
    pub async fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        let inner = self.inner();
        Ok(inner.check(token, &inner.everywhere).await?)
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
        Ok(self.inner().check(token, &rule.intended).await?)
    }

    /// The same as [`Authenticator::verify`], and says why not. For operators: a client learns no more than the
    /// [`AuthError`].
    ///
    /// # Errors
    ///
    /// The [`AuthError`] with its reason.
    pub async fn explain(&self, token: &str) -> Result<Identity, Refusal> {
        let inner = self.inner();
        inner.check(token, &inner.everywhere).await
    }

    /// Fetches the keys of a JWKS URL, if one is configured and there are none yet. Takes 2 s at most, and a failure is
    /// logged only: tokens ask again.
    pub async fn warm_up(&self) {
        self.inner().keys.warm_up().await;
    }

    /// Whether a JWKS URL is configured that has given no keys so far: whoever brings its tokens is to try again until it
    /// does.
    pub fn waits_for_keys(&self) -> bool {
        self.inner().keys.waits_for_keys()
    }

    #[cfg(test)]
    pub(crate) fn with_remote(remote: crate::auth::remote::RemoteJwks) -> Self {
        Self::of(
            Inner {
                keys: KeyRing::with_remote(remote),
                rules: Vec::new(),
                everywhere: Intended::everywhere(&config::Jwt::default()),
                user: UserClaim::Usual,
                leeway: config::Jwt::default().leeway,
                sessions: None,
            },
            None,
        )
    }
}

impl Inner {
    fn new(
        auth: &config::Auth,
        namespaces: &[config::Namespace],
        keys: KeyRing,
    ) -> Result<Self, AuthConfigError> {
        let jwt = &auth.jwt;
        let rule = |(index, namespace)| NamespaceRule::new(index, namespace, jwt).map(Arc::new);
        let user = match &jwt.user_id_claim {
            None => UserClaim::Usual,
            Some(claim) if claim.is_empty() => {
                return Err(AuthConfigError::new("auth.jwt.user_id_claim", "is empty"));
            }
            Some(claim) => UserClaim::Configured(claim.clone()),
        };
        Ok(Self {
            keys,
            rules: namespaces
                .iter()
                .enumerate()
                .map(rule)
                .collect::<Result<_, _>>()?,
            everywhere: Intended::everywhere(jwt),
            user,
            leeway: jwt.leeway,
            sessions: Sessions::new(&auth.session),
        })
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
        let payload = self.keys.payload(token, &header).await?;
        let check = Check {
            // Read after the keys, which may have had to be fetched.
            now: Timestamp::now(),
            leeway: self.leeway,
            intended,
            user: &self.user,
        };
        check.identity(&payload)
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
}
