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
};
use crate::{
    config::{self, Scope},
    connection::UserId,
};

/// Whose token it is, and what it makes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBearer {
    /// The user.
    pub user_id: UserId,
    /// Whether the user's role is `admin`.
    pub admin: bool,
}

/// Verifies tokens. The app puts `auth::Authenticator` and the registry behind it; tests put a table.
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

/// The keys of the API, and what each may.
pub struct ApiAuth {
    keys: RwLock<Arc<[Key]>>,
    tokens: Arc<dyn TokenVerifier>,
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
    /// The configured keys, and what verifies everything that is not one of them. The key of `api.key` is called
    /// `default` and has every scope. Keys that have no digest are left out: one without a character would let everybody
    /// in.
    pub fn new(config: &config::Api, tokens: Arc<dyn TokenVerifier>) -> Self {
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
            .filter_map(|(name, key, scopes)| Some(Key::new(name, key.digest()?, scopes)))
            .collect();
        let keys = RwLock::new(keys);
        Self { keys, tokens }
    }

    /// Takes other keys from here on, as [`ApiAuth::new`] would. Requests that have been let in go on.
    pub fn replace(&self, config: &config::Api) {
        let Self { keys, .. } = Self::new(config, self.tokens.clone());
        *self.keys.write() = keys.into_inner();
    }

    /// Whose credentials a request brings: 401 if it brings none, or bad ones. A key costs no look at the registry.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let presented = bearer(headers).ok_or_else(ApiError::unauthorized)?;
        if let Some(caller) = self.holder(presented) {
            return Ok(caller);
        }
        let token = std::str::from_utf8(presented).map_err(|_| ApiError::unauthorized())?;
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

    /// Who holds the key that is presented. Compares with every key, also after one has matched: how long it takes says
    /// nothing of which.
    fn holder(&self, presented: &[u8]) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let keys = self.keys.read().clone();
        let key = keys.iter().fold(None, |found, key| {
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

/// Proof that the caller has a permission. Made from the request's head, before its body is read.
pub struct Allowed<P> {
    caller: Caller,
    permission: PhantomData<P>,
}

impl<P> Allowed<P> {
    /// Who has it.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl<P: Permission> FromRequestParts<ApiState> for Allowed<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let caller = state.auth.caller(&parts.headers).await?;
        if !caller.may(P::SCOPE) {
            if matches!(P::SCOPE, Scope::Disconnect | Scope::Admin) {
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
        Ok(Self {
            caller,
            permission: PhantomData,
        })
    }
}

/// Proof that the caller has a key, whatever its scopes, or is an administrator.
pub struct AnyKey(());

impl FromRequestParts<ApiState> for AnyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let caller = state.auth.caller(&parts.headers).await?;
        if caller.has_key || caller.may(Scope::Admin) {
            Ok(Self(()))
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
