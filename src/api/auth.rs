//! Who may call what. A handler that takes an [`Allowed`] can't run without the right: nothing else makes one.

use std::{marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use axum::extract::{FromRequestParts, OriginalUri};
use http::{HeaderMap, header, request::Parts};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    ApiState, audit,
    error::{ApiError, ErrorCode},
    guesses::Guesses,
    load::InFlight,
};
use crate::{
    auth::AuthError,
    config::{self, Scope},
    gateway::{Gateway, TokenBearer, TokenRefused},
};

/// Verifies tokens: a [`Gateway`]; in tests a table.
#[async_trait]
pub trait TokenVerifier: Send + Sync + 'static {
    /// Whose token it is.
    ///
    /// # Errors
    ///
    /// 401 for a token that is not valid, or that opens everything but for what is held against it; 503 if nobody can say
    /// what is.
    async fn verify(&self, token: &str) -> Result<TokenBearer, ApiError>;
}

#[async_trait]
impl TokenVerifier for Gateway {
    async fn verify(&self, token: &str) -> Result<TokenBearer, ApiError> {
        self.bearer(token).await.map_err(|refused| match refused {
            TokenRefused::Auth(AuthError::Unavailable) => ApiError::new(
                ErrorCode::Unavailable,
                "the keys that tokens are verified with can't be fetched; try again in a moment",
            ),
            TokenRefused::Auth(_) => ApiError::unauthorized(),
            TokenRefused::Barred(bar) => ApiError::barred(bar),
            TokenRefused::Gateway(error) => error.into(),
        })
    }
}

/// The keys of the API, and what each may.
pub struct ApiAuth {
    accepted: RwLock<Arc<Accepted>>,
    tokens: Arc<dyn TokenVerifier>,
}

/// What the configuration takes. Replaced as a whole by a reload.
struct Accepted {
    keys: Vec<Key>,
    /// `api.jwt`
    jwt: bool,
}

/// A key is kept as its digest: comparing digests takes the same time whatever the lengths, and what is in memory opens
/// nothing.
struct Key {
    name: String,
    digest: [u8; 32],
    scopes: Vec<Scope>,
}

impl Key {
    fn new(name: &str, digest: [u8; 32], scopes: &[Scope]) -> Self {
        Self {
            name: name.to_owned(),
            digest,
            scopes: scopes.to_vec(),
        }
    }
}

/// Who calls: the name of a key, or an admin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: String,
    scopes: Vec<Scope>,
    has_key: bool,
}

impl Caller {
    /// Who it is, for the log: `key:NAME`, or `jwt:USER` for who came with a token.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the caller has a scope; [`Scope::Admin`] holds all of them.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&Scope::Admin) || self.scopes.contains(&scope)
    }
}

impl ApiAuth {
    /// The configured keys, and what verifies everything that is not one of them, unless `api.jwt` is false.
    pub fn new(config: &config::Api, tokens: Arc<dyn TokenVerifier>) -> Self {
        Self {
            accepted: RwLock::new(Arc::new(Accepted::new(config))),
            tokens,
        }
    }

    /// Takes other keys from here on. Requests that have been let in go on.
    pub fn replace(&self, config: &config::Api) {
        *self.accepted.write() = Arc::new(Accepted::new(config));
    }

    /// Whose credentials a request brings: 401 if it brings none, or bad ones. A key costs no look at the registry, and is let in
    /// at any rate: a key must not be kept out by guesses from the address that it shares. What is no key is looked at as
    /// `guesses` allow, and counts there if it opens nothing.
    pub(super) async fn caller(
        &self,
        headers: &HeaderMap,
        guesses: Guesses<'_>,
    ) -> Result<Caller, ApiError> {
        let presented = bearer(headers).ok_or_else(ApiError::unauthorized)?;
        let accepted = self.accepted.read().clone();
        if let Some(caller) = accepted.holder(presented) {
            return Ok(caller);
        }
        guesses.check()?;
        let caller = self.token_bearer(presented, accepted.jwt).await;
        let opens_nothing = match &caller {
            Ok(caller) => caller.scopes.is_empty(),
            Err(error) => error.code == ErrorCode::Unauthorized,
        };
        if opens_nothing {
            guesses.count();
        }
        caller
    }

    /// Whose token is presented; 401 for any, unless tokens are taken.
    async fn token_bearer(&self, presented: &[u8], taken: bool) -> Result<Caller, ApiError> {
        let token = std::str::from_utf8(presented)
            .ok()
            .filter(|_| taken)
            .ok_or_else(ApiError::unauthorized)?;
        let bearer = self.tokens.verify(token).await?;
        let scopes = if bearer.admin {
            vec![Scope::Admin]
        } else {
            Vec::new()
        };
        Ok(Caller {
            name: format!("jwt:{}", bearer.user_id),
            scopes,
            has_key: false,
        })
    }
}

impl Accepted {
    /// The key of `api.key` is called `default` and has every scope. Keys that have no digest are left out: one without a
    /// character would let everybody in.
    fn new(config: &config::Api) -> Self {
        let first = config
            .key
            .iter()
            .map(|key| ("default", key, [Scope::Admin].as_slice()));
        let named = config
            .keys
            .iter()
            .map(|key| (key.name.as_str(), &key.key, key.scopes.as_slice()));
        let keys = first
            .chain(named)
            .filter_map(|(name, key, scopes)| Some(Key::new(name, key.digest()?, scopes)));
        Self {
            keys: keys.collect(),
            jwt: config.jwt,
        }
    }

    /// Who holds the key that is presented. Compares with every key, also after one has matched: how long it takes says
    /// nothing of which.
    fn holder(&self, presented: &[u8]) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let key = self.keys.iter().fold(None, |found, key| {
            let equal = bool::from(key.digest.ct_eq(&digest));
            found.or(equal.then_some(key))
        })?;
        Some(Caller {
            name: format!("key:{}", key.name),
            scopes: key.scopes.clone(),
            has_key: true,
        })
    }
}

/// The credentials after `Bearer ` (RFC 6750 §2.1; the scheme in any case, RFC 9110 §11.1), to the byte. None if there are
/// none, or several headers that might contradict each other.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    let (scheme, credentials) = value.split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && !credentials.is_empty()).then_some(credentials)
}

/// What a handler asks for.
pub trait Permission: Send + Sync + 'static {
    /// The scope that grants it.
    const SCOPE: Scope;
    /// The scope's name, as in the configuration.
    const NAME: &'static str;
}

/// The permissions that handlers name in their signatures.
pub mod scope {
    use super::Permission;

    macro_rules! permissions {
        ($($(#[$doc:meta])* $permission:ident = $name:literal;)*) => {
            $(
                $(#[$doc])*
                #[derive(Debug)]
                pub enum $permission {}

                impl Permission for $permission {
                    const SCOPE: crate::config::Scope = crate::config::Scope::$permission;
                    const NAME: &'static str = $name;
                }
            )*
        };
    }

    permissions! {
        /// To read users, presence, connections, nodes and stats.
        Read = "read";
        /// To send and to broadcast.
        Send = "send";
        /// To end connections, to ban, and to revoke tokens.
        Disconnect = "disconnect";
        /// To open sessions.
        Admin = "admin";
    }
}

impl ApiState {
    async fn caller(&self, parts: &Parts) -> Result<Caller, ApiError> {
        let guesses = Guesses::of(self.gateway.door(), parts);
        self.auth.caller(&parts.headers, guesses).await
    }
}

/// Who was let in with a scope, and a place among the calls in flight for as long as a clone of it lives.
#[derive(Clone)]
pub(super) struct Admitted {
    caller: Caller,
    scope: Scope,
    _in_flight: Arc<InFlight>,
}

impl Admitted {
    /// Who it is.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl ApiState {
    /// Lets a request in, by its head, before its body is read.
    pub(super) async fn admit<P: Permission>(&self, parts: &Parts) -> Result<Admitted, ApiError> {
        let caller = self.caller(parts).await?;
        if !caller.may(P::SCOPE) {
            // Without a key the caller is any user, and users may not fill the audit.
            if caller.has_key && matches!(P::SCOPE, Scope::Disconnect | Scope::Admin) {
                // Nested routes see the rest of the path only.
                let uri = parts.extensions.get::<OriginalUri>();
                let path = uri.map_or(parts.uri.path(), |uri| uri.path());
                audit::refused(caller.name(), &parts.method, path);
            }
            return Err(ApiError::new(
                ErrorCode::Forbidden,
                format!("this call needs the scope {:?}", P::NAME),
            ));
        }
        let limits = &self.config.now().api;
        let in_flight = self.load.admit(caller.name(), P::SCOPE, limits)?;
        Ok(Admitted {
            caller,
            scope: P::SCOPE,
            _in_flight: Arc::new(in_flight),
        })
    }
}

/// Proof that the caller has a permission, and a place among the calls in flight for as long as it lives.
pub struct Allowed<P> {
    admitted: Admitted,
    permission: PhantomData<P>,
}

impl<P> Allowed<P> {
    /// Who has it.
    pub fn caller(&self) -> &Caller {
        self.admitted.caller()
    }
}

impl<P: Permission> FromRequestParts<ApiState> for Allowed<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        // On the way here it may have been let in already: it is not to count twice.
        let earlier = parts.extensions.remove::<Admitted>();
        let admitted = match earlier.filter(|earlier| earlier.scope == P::SCOPE) {
            Some(admitted) => admitted,
            None => state.admit::<P>(parts).await?,
        };
        Ok(Self {
            admitted,
            permission: PhantomData,
        })
    }
}

/// Proof that the caller has a key, whatever its scopes, or is an administrator.
pub struct AnyKey(Caller);

impl AnyKey {
    /// Who has it.
    pub fn caller(&self) -> &Caller {
        &self.0
    }
}

impl FromRequestParts<ApiState> for AnyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let caller = state.caller(parts).await?;
        if caller.has_key || caller.may(Scope::Admin) {
            Ok(Self(caller))
        } else {
            Err(ApiError::new(
                ErrorCode::Forbidden,
                "this call needs an API key, or an admin's token",
            ))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
