//! From a session cookie to an identity, and whether that still holds.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    Identity, SessionRef, SessionStore, StoreUnavailable, StoredSessionId,
    cookie::{self, CookieKeys},
    session::{Life, Reader, Session},
    session_store::Found,
};
use crate::config;

/// How many sessions the store is asked for at once when connections are looked at again: it serves nobody else meanwhile,
/// and nor does this task while it reads them.
const CHUNK: usize = 256;

/// Lets in by the session cookies of an application.
#[derive(Debug)]
pub(crate) struct Sessions {
    cookie_name: String,
    keys: CookieKeys,
    reader: Reader,
}

impl Sessions {
    /// By `auth.session`; none where that is off.
    pub(crate) fn new(config: &config::Session) -> Option<Self> {
        config.is_on().then(|| Self {
            cookie_name: config.cookie_name.clone(),
            keys: CookieKeys::new(&config.secrets),
            reader: Reader::new(config),
        })
    }

    /// The id in the session cookie; none if there is no such cookie.
    pub(crate) fn id(&self, cookies: &str) -> Option<Result<StoredSessionId, &'static str>> {
        let value = cookie::named(cookies, &self.cookie_name)?;
        Some(self.keys.verify(&value))
    }

    /// The identity of a session's user as of `now`, or why it has none, at a handshake. The identity is as old as the store's
    /// answer: revocations compare with that time, so a handshake that was looked up before a revocation does not pass it.
    /// Asks the store once, and once more for a session that is past its `expires`.
    pub(crate) async fn identity(
        &self,
        store: &dyn SessionStore,
        id: &StoredSessionId,
        now: Timestamp,
    ) -> Result<Result<Identity, &'static str>, StoreUnavailable> {
        let Found { session, since } = store.find(id).await?;
        let mut found = self
            .resolve(store, std::slice::from_ref(id), &[session], now)
            .await?;
        let found = found.pop().unwrap_or(Err("there is no such session"));
        Ok(found.map(|identity| Identity {
            issued_at: Some(just_before(since)),
            ..identity
        }))
    }

    /// Who each session is as of `now`, in order, or why nobody is. Asks the store once for all, and once more for those that
    /// are past their `expires`.
    pub(crate) async fn identities(
        &self,
        store: &dyn SessionStore,
        ids: &[StoredSessionId],
        now: Timestamp,
    ) -> Result<Vec<Result<Identity, &'static str>>, StoreUnavailable> {
        let stored = store.load(ids).await?;
        self.resolve(store, ids, &stored, now).await
    }

    async fn resolve(
        &self,
        store: &dyn SessionStore,
        ids: &[StoredSessionId],
        stored: &[Option<Vec<u8>>],
        now: Timestamp,
    ) -> Result<Vec<Result<Identity, &'static str>>, StoreUnavailable> {
        let read = |stored: Option<&Option<Vec<u8>>>| match stored {
            Some(Some(json)) => self.reader.read(json, now),
            _ => Err("there is no such session"),
        };
        let sessions: Vec<_> = (0..ids.len()).map(|at| read(stored.get(at))).collect();

        let unsure = |at: &usize| {
            let life = sessions[*at].as_ref().map(|session| session.life);
            matches!(life, Ok(Life::PastUnlessTouched(_)))
        };
        let unsure: Vec<_> = (0..ids.len()).filter(unsure).collect();
        let mut left = vec![None; ids.len()];
        if !unsure.is_empty() {
            let asked: Vec<_> = unsure.iter().map(|at| ids[*at].clone()).collect();
            for (at, time) in unsure.into_iter().zip(store.time_left(&asked).await?) {
                left[at] = time;
            }
        }
        let identity = |((session, id), left): ((Result<Session, _>, &StoredSessionId), _)| {
            let session = session?;
            if !session.life.holds(left) {
                return Err("the session is past its expires");
            }
            Ok(Identity {
                session: Some(SessionRef::Cookie(id.clone())),
                ..session.identity
            })
        };
        Ok(sessions
            .into_iter()
            .zip(ids)
            .zip(left)
            .map(identity)
            .collect())
    }

    /// Which of the identities no longer hold: the session is gone, past its end or logged out, or it is another user's now
    /// or has other roles. Indices into `held`, in order.
    pub(crate) async fn over(
        &self,
        store: &dyn SessionStore,
        held: &[(StoredSessionId, &Identity)],
        now: Timestamp,
    ) -> Result<Vec<usize>, StoreUnavailable> {
        // The connections of one browser have one session.
        let mut place = HashMap::new();
        let mut ids = Vec::new();
        for (id, _) in held {
            place.entry(id).or_insert_with(|| {
                ids.push(id.clone());
                ids.len() - 1
            });
        }
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(CHUNK) {
            found.extend(self.identities(store, ids, now).await?);
        }
        let holds = |(id, identity): &(StoredSessionId, &Identity)| {
            let found = place.get(id).and_then(|index| found.get(*index));
            matches!(found, Some(Ok(found)) if same(identity, found))
        };
        Ok((0..held.len())
            .filter(|index| !holds(&held[*index]))
            .collect())
    }
}

/// The millisecond before. A revocation is kept to the millisecond too, and bars what is older: of a look and a revocation in
/// one millisecond nobody can say which was first, so the look counts as the earlier.
fn just_before(time: Timestamp) -> Timestamp {
    time.checked_sub(SignedDuration::from_millis(1))
        .unwrap_or(time)
}

/// Whether it is the same user with the same roles, in whatever order.
fn same(one: &Identity, other: &Identity) -> bool {
    one.user_id == other.user_id
        && one.roles.len() == other.roles.len()
        && one.roles.iter().all(|role| other.has_role(role))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
