//! The door: credentials in, identity out.
//!
//! `cookies` is what it does with session cookies.

mod cookies;

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::RwLock;
use secrecy::ExposeSecret;

use crate::{
    auth::{
        AuthConfigError, AuthError, Credentials, Identity, NamespaceRule, SessionStore,
        claims::{Check, UserClaim},
        jwt::{Header, Refusal, TokenDigest},
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
    /// Replaced as a whole by a reload; a verification under way goes on with the one before.
    inner: RwLock<Arc<Inner>>,
    store: Option<Arc<dyn SessionStore>>,
}

struct Inner {
    keys: KeyRing,
    rules: Vec<Arc<NamespaceRule>>,
    everywhere: Intended,
    user: UserClaim,
    /// `auth.jwt.rooms_claim`.
    rooms: String,
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

    /// The rule by which a token counts in a configured namespace.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`]: there is no such namespace, or a backend decides who is let in, and a token alone is worth nothing.
    pub fn token_rule(&self, path: &str) -> Result<Arc<NamespaceRule>, AuthError> {
        let rule = self.rule(path).filter(|rule| !rule.asks_backend());
        rule.ok_or(AuthError::Invalid)
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

    /// Who a token stands for in a namespace, by its issuer and audience. Says nothing of roles.
    ///
    /// # Errors
    ///
    /// [`AuthError::Expired`] for a token that is past its `exp` and right otherwise, [`AuthError::Unavailable`] for one whose
    /// key may be in a JWK set that could not be fetched so far, [`AuthError::Invalid`] for any other.
    pub async fn verify_for(
        &self,
        token: &str,
        rule: &NamespaceRule,
    ) -> Result<Identity, AuthError> {
        Ok(self.inner().check(token, &rule.intended).await?)
    }

    /// Who a token stands for, by the issuer and audience of `auth.jwt`, or why it is refused. For operators: a client learns
    /// no more than the [`AuthError`].
    ///
    /// # Errors
    ///
    /// The [`AuthError`] with its reason.
    pub async fn explain(&self, token: &str) -> Result<Identity, Refusal> {
        let inner = self.inner();
        inner.check(token, &inner.everywhere).await
    }

    /// Fetches the keys of every JWKS URL that is configured and has given none yet. Takes 2 s at most, and a failure is
    /// logged only: tokens ask again.
    pub async fn warm_up(&self) {
        self.inner().keys.warm_up().await;
    }

    /// Whether a JWKS URL is configured that has given no keys so far: who brings its tokens is to try again until it does.
    pub fn waits_for_keys(&self) -> bool {
        self.inner().keys.waits_for_keys()
    }

    /// Asks every JWKS URL, and returns for each the key of the configuration that names it, and how many keys it gives, or why
    /// none. For operators: what it gives is not kept.
    pub(crate) async fn ask_issuers(&self) -> Vec<(String, Result<usize, String>)> {
        self.inner().keys.ask_issuers().await
    }

    /// Who a token stands for, by the issuer and audience of `auth.jwt`.
    #[cfg(test)]
    pub(crate) async fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        Ok(self.explain(token).await?)
    }

    #[cfg(test)]
    pub(crate) fn with_remote(remote: crate::auth::remote::RemoteJwks) -> Self {
        Self::of(
            Inner {
                keys: KeyRing::with_remote(remote),
                rules: Vec::new(),
                everywhere: Intended::everywhere(&config::Jwt::default()),
                user: UserClaim::Usual,
                rooms: config::Jwt::default().rooms_claim,
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
            rooms: jwt.rooms_claim.clone(),
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
        let (payload, bound) = self.keys.payload(token, &header).await?;
        let check = Check {
            // Read after the keys, which may have had to be fetched.
            now: Timestamp::now(),
            leeway: self.leeway,
            intended,
            bound,
            user: &self.user,
            rooms: &self.rooms,
            digest: TokenDigest::of(token),
        };
        check.identity(&payload)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
