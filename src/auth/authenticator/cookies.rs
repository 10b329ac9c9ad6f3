//! The door for session cookies: who one lets in, and whether they still hold.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;
use secrecy::ExposeSecret;

use super::{Authenticator, Shared};
use crate::auth::{
    AuthError, Credentials, Identity, SessionStore, StoreUnavailable, StoredSessionId,
};

impl Authenticator {
    pub(super) async fn by_cookie(&self, credentials: &Credentials) -> Result<Identity, AuthError> {
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
        sessions
            .identity(&**store, &id, Timestamp::now())
            .await
            .map_err(|error| {
                tracing::warn!(%error, "can't look up a session");
                AuthError::Unavailable
            })?
            .map_err(refused)
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
        held: &[(StoredSessionId, &Identity)],
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

    /// Sets the store that session cookies are looked up in. Without one, a client with a session cookie is told to try again.
    #[must_use]
    pub fn with_sessions(self, store: Arc<dyn SessionStore>) -> Self {
        Self {
            shared: Arc::new(Shared {
                inner: RwLock::new(self.inner()),
                store: Some(store),
            }),
        }
    }
}
