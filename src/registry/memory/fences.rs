//! What is held against users, in process memory.

use std::{collections::HashMap, hash::Hash, time::Duration};

use jiff::Timestamp;

use crate::{
    connection::UserId,
    registry::{
        Ban, Bar, Fence, Grant, LoginId, REVOCATION_KEPT, SESSION_KEPT, TOKEN_KEPT, TOKEN_MARGIN,
        fence::to_millisecond,
    },
};

/// Values that are forgotten at a time of the clock; none: never.
#[derive(Debug)]
pub(super) struct Expiring<K, V>(HashMap<K, (V, Option<Timestamp>)>);

impl<K, V> Default for Expiring<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq, V> Expiring<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let (value, until) = self.0.get(key)?;
        until.is_none_or(|until| now() < until).then_some(value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<(&mut V, &mut Option<Timestamp>)> {
        let (value, until) = self.0.get_mut(key)?;
        until
            .is_none_or(|until| now() < until)
            .then_some((value, until))
    }

    pub(super) fn insert(&mut self, key: K, value: V, until: Option<Timestamp>) {
        self.0.insert(key, (value, until));
    }

    pub(super) fn remove(&mut self, key: &K) -> bool {
        let was_there = self.get(key).is_some();
        self.0.remove(key);
        was_there
    }

    /// Frees what is over.
    pub(super) fn forget(&mut self) {
        let now = now();
        self.0
            .retain(|_, (_, until)| until.is_none_or(|until| now < until));
    }
}

pub(super) fn now() -> Timestamp {
    to_millisecond(Timestamp::now())
}

fn just_before(time: Timestamp) -> Timestamp {
    time.checked_sub(Duration::from_millis(1)).unwrap_or(time)
}

/// The last of times if it is beyond them.
pub(super) fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// What became of a fence when it was put up.
pub(super) enum FenceOutcome {
    /// It holds. `revoked`: before when a user's grants are, if that is what it is.
    Up { revoked: Option<Timestamp> },
    /// It is over already.
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Fences {
    bans: Expiring<UserId, Ban>,
    revoked: Expiring<UserId, Timestamp>,
    tokens: Expiring<String, ()>,
    over: Expiring<(UserId, LoginId), ()>,
    /// When tokens were first seen whose `iat` was of the future.
    ahead: Expiring<String, Timestamp>,
}

impl Fences {
    pub(super) fn put_up(&mut self, user: &UserId, fence: &Fence) -> FenceOutcome {
        let now = now();
        match fence {
            Fence::Ban(ban) => {
                let until = ban.until.map(to_millisecond);
                if until.is_some_and(|until| until <= now) {
                    self.bans.remove(user);
                    return FenceOutcome::Over;
                }
                let ban = Ban {
                    until,
                    ..ban.clone()
                };
                self.bans.insert(user.clone(), ban, until);
            }
            Fence::RevokeBefore(before) => {
                let before = before.map_or(now, to_millisecond);
                let earlier = self.revoked.get(user).copied();
                let before = before.max(earlier.unwrap_or_default());
                let until = later(now, REVOCATION_KEPT);
                self.revoked.insert(user.clone(), before, Some(until));
                return FenceOutcome::Up {
                    revoked: Some(before),
                };
            }
            Fence::EndSession(session) => self.end_session(user, session),
        }
        FenceOutcome::Up { revoked: None }
    }

    pub(super) fn end_session(&mut self, user: &UserId, session: &LoginId) {
        let until = later(now(), SESSION_KEPT);
        self.over
            .insert((user.clone(), session.clone()), (), Some(until));
    }

    /// A grant, with the time at which its token is first seen in place of one of the future. That is remembered.
    pub(super) fn as_first_seen(&mut self, user: &UserId, grant: &Grant) -> Grant {
        let now = now();
        if let (Some(issued), Some(ahead)) = (grant.issued_at, &grant.ahead)
            && issued > now
            && self.ahead.get(&ahead.digest).is_none()
        {
            // A revocation of the same millisecond came before it if there is one already, and else after it.
            let seen = match self.revoked.get(user) {
                Some(before) if *before == now => now,
                _ => just_before(now),
            };
            self.ahead
                .insert(ahead.digest.clone(), seen, Some(ahead.kept_until()));
        }
        self.as_seen(grant)
    }

    /// Returns the grant with what is remembered of a token whose `iat` was ahead when it was first seen. Remembers nothing.
    pub(super) fn as_seen(&self, grant: &Grant) -> Grant {
        let ahead = grant.ahead.as_ref();
        let seen = ahead
            .and_then(|ahead| self.ahead.get(&ahead.digest))
            .copied();
        Grant {
            issued_at: grant.issued_at.map(|issued| seen.unwrap_or(issued)),
            ..grant.clone()
        }
    }

    pub(super) fn revoke_token(&mut self, token_id: &str, until: Option<Timestamp>) {
        let until = match until {
            Some(until) => later(until, TOKEN_MARGIN),
            None => later(now(), TOKEN_KEPT),
        };
        match self.tokens.get_mut(&token_id.to_owned()) {
            Some((_, kept)) => *kept = (*kept).max(Some(until)),
            None => self.tokens.insert(token_id.into(), (), Some(until)),
        }
    }

    pub(super) fn ban(&self, user: &UserId) -> Option<&Ban> {
        self.bans.get(user)
    }

    pub(super) fn unban(&mut self, user: &UserId) -> bool {
        self.bans.remove(user)
    }

    /// Whether the revocation of a user's grants is held against this one.
    pub(super) fn is_revoked(&self, user: &UserId, grant: &Grant) -> bool {
        self.revoked.get(user).is_some_and(|before| {
            let issued = grant.issued_at.map(to_millisecond);
            issued.is_none_or(|issued| issued < *before)
        })
    }

    /// What is held against a grant; `stays_in`: no revocation of the user's is.
    pub(super) fn barred(&self, user: &UserId, grant: &Grant, stays_in: bool) -> Option<Bar> {
        let token_revoked = || {
            let token = grant.token_id.as_ref();
            token.is_some_and(|token| self.tokens.get(token).is_some())
        };
        let session_over = || {
            let session = grant.session.clone();
            session.is_some_and(|session| self.over.get(&(user.clone(), session)).is_some())
        };
        if self.ban(user).is_some() {
            Some(Bar::Banned)
        } else if !stays_in && self.is_revoked(user, grant) || token_revoked() {
            Some(Bar::Revoked)
        } else {
            session_over().then_some(Bar::SessionEnded)
        }
    }

    /// Frees what is over.
    pub(super) fn forget(&mut self) {
        self.bans.forget();
        self.revoked.forget();
        self.tokens.forget();
        self.over.forget();
        self.ahead.forget();
    }
}
