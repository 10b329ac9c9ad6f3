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
