//! The keys that verify, each pinned to the algorithms it is good for (RFC 8725 §3.1).
//!
//! `key` is one of them, `bound` what some are bound to, `configured` reads those of the configuration.

mod bound;
mod configured;
mod key;

use std::sync::Arc;

use futures_util::future::join_all;

use self::{bound::claimed_issuer, configured::Sources};
use crate::{
    auth::{
        AuthConfigError, AuthError,
        json::Object,
        jwt::{Header, Refusal},
        remote::{Cause, RemoteJwks},
    },
    config::Jwt,
};

pub(super) use self::{
    bound::Bound,
    key::{Allowed, Key},
};

/// All keys there are: those of `auth.jwt` itself, and those of each entry of `auth.jwt.keys`.
#[derive(Debug)]
pub(crate) struct KeyRing {
    rings: Vec<Ring>,
}

/// Keys that are bound to the same.
#[derive(Debug)]
struct Ring {
    bound: Bound,
    local: Vec<Key>,
    remote: Option<RemoteJwks>,
}

impl KeyRing {
    /// Collects the configured keys; a JWKS URL is not asked yet.
    pub(crate) fn new(config: &Jwt) -> Result<Self, AuthConfigError> {
        Self::build(config, &[])
    }

    /// Builds a ring that takes over from `before` what it has fetched from JWKS URLs that both have.
    pub(crate) fn renewed(config: &Jwt, before: &Self) -> Result<Self, AuthConfigError> {
        Self::build(config, &before.rings)
    }

    fn build(config: &Jwt, before: &[Ring]) -> Result<Self, AuthConfigError> {
        let rings = Sources::all(config)
            .into_iter()
            .map(|(sources, bound)| Ring::new(&sources, bound, before))
            .collect::<Result<_, _>>()?;
        Ok(Self { rings })
    }

    /// The payload of a token that one of the keys has signed, and what that key is bound to.
    ///
    /// A key that is bound to an issuer is tried for the tokens of that issuer alone, and so is its JWKS URL. Keys at hand come
    /// first, all of them: no token that one of them verifies waits for a JWKS URL that another could be from.
    pub(crate) async fn payload(
        &self,
        token: &str,
        header: &Header,
    ) -> Result<(Object, &Bound), Refusal> {
        let is_bound = |ring: &Ring| !ring.bound.issuers.is_empty();
        let issuer = match self.rings.iter().any(is_bound) {
            true => claimed_issuer(token),
            false => None,
        };
        let candidates = self.rings.iter();
        let candidates = candidates.filter(|ring| ring.bound.is_for(issuer.as_deref()));
        let mut refusal = NO_KEY;
        let mut unknown = Vec::new();
        for ring in candidates {
            match ring.at_hand(token, header).await {
                Some(Ok(payload)) => return Ok((payload, &ring.bound)),
                Some(Err(refused)) => refusal = refused,
                None => unknown.push(ring),
            }
        }
        // All at once: one URL that does not answer holds a token up for as long as all of them.
        let fetched = unknown.iter().map(|ring| ring.fetched(token, header));
        for (ring, verdict) in unknown.iter().zip(join_all(fetched).await) {
            match verdict {
                Ok(payload) => return Ok((payload, &ring.bound)),
                Err(refused) if refused == NO_KEY => {}
                Err(refused) => refusal = refused,
            }
        }
        Err(refusal)
    }

    /// Asks each JWKS URL that has not been asked yet, all at once.
    pub(crate) async fn warm_up(&self) {
        let remotes = self.rings.iter().filter_map(|ring| ring.remote.as_ref());
        join_all(remotes.map(|remote| remote.refresh(Cause::NoneYet))).await;
    }

    /// Asks every JWKS URL, all at once: the key of the configuration that names it, and how many keys it gives, or why none.
    pub(crate) async fn ask_issuers(&self) -> Vec<(String, Result<usize, String>)> {
        let remotes = self.rings.iter().filter_map(|ring| ring.remote.as_ref());
        let asking = remotes.map(async |remote| (remote.name().to_owned(), remote.ask().await));
        join_all(asking).await
    }

    /// Whether a JWKS URL is configured that has given no keys so far.
    pub(crate) fn waits_for_keys(&self) -> bool {
        let mut remotes = self.rings.iter().filter_map(|ring| ring.remote.as_ref());
        remotes.any(|remote| !remote.is_loaded())
    }

    #[cfg(test)]
    pub(crate) fn with_remote(remote: RemoteJwks) -> Self {
        Self {
            rings: vec![Ring {
                bound: Bound::default(),
                local: Vec::new(),
                remote: Some(remote),
            }],
        }
    }

    /// How many keys need no network.
    pub(crate) fn local_len(&self) -> usize {
        self.rings.iter().map(|ring| ring.local.len()).sum()
    }
}

impl Ring {
    fn new(sources: &Sources<'_>, bound: Bound, before: &[Self]) -> Result<Self, AuthConfigError> {
        let allowed = sources.allowed()?;
        let local = configured::keys(sources, &allowed)?;
        let remote = match sources.jwks_url {
            Some(url) => {
                let mut before = before.iter().filter_map(|ring| ring.remote.as_ref());
                Some(match before.find(|before| before.is_of(url, &allowed)) {
                    Some(before) => before.clone(),
                    None => RemoteJwks::new(&sources.name("jwks_url"), url, allowed)?,
                })
            }
            None => None,
        };
        Ok(Self {
            bound,
            local,
            remote,
        })
    }

    /// The JWKS URL, if a key from there could verify the token's algorithm.
    fn remote(&self, header: &Header) -> Option<&RemoteJwks> {
        let remote = self.remote.as_ref();
        remote.filter(|remote| remote.may_have(header.algorithm))
    }

    /// What the keys at hand make of a token; none if no key fits it.
    ///
    /// A `kid` that a JWK set has stands for that key alone. Any other token is tried with each key that its `alg` fits
    /// and that its `kid` does not speak against.
    async fn at_hand(&self, token: &str, header: &Header) -> Option<Result<Object, Refusal>> {
        let known: Arc<[Key]> = match self.remote(header) {
            Some(remote) => remote.keys().await,
            None => [].into(),
        };
        let keys = self.local.iter().chain(known.iter());
        if has_kid(&known, header) || has_kid(&self.local, header) {
            let named = first(keys.filter(|key| key.kid == header.kid), token, header);
            return Some(named.unwrap_or(Err(NO_KEY)));
        }
        first(keys.filter(|key| fits(key, header)), token, header)
    }

    /// What keys that are yet to be fetched make of a token that no key at hand fits. The JWKS URL is asked only for an
    /// algorithm that a key from there could have: not for `HS256`. For as long as that URL has given nothing, nobody can say
    /// whether such a token is good, and its bearer is to try again.
    async fn fetched(&self, token: &str, header: &Header) -> Result<Object, Refusal> {
        let Some(remote) = self.remote(header) else {
            return Err(NO_KEY);
        };
        let cause = match header.kid {
            Some(_) => Cause::UnknownKid,
            None => Cause::NoneYet,
        };
        let verdict = match remote.refresh(cause).await {
            true => {
                let keys = remote.keys().await;
                let named = has_kid(&keys, header);
                let chosen = keys.iter().filter(|key| match named {
                    true => key.kid == header.kid,
                    false => fits(key, header),
                });
                first(chosen, token, header)
            }
            false => None,
        };
        verdict.unwrap_or(Err(if remote.is_loaded() { NO_KEY } else { NO_SET }))
    }
}

const NO_KEY: Refusal = Refusal::invalid("no key verifies it");

const NO_SET: Refusal = Refusal::new(
    AuthError::Unavailable,
    "the JWK set that may have its key could not be fetched",
);

fn has_kid(keys: &[Key], header: &Header) -> bool {
    header.kid.is_some() && keys.iter().any(|key| key.kid == header.kid)
}

fn fits(key: &Key, header: &Header) -> bool {
    header.kid.is_none() || key.kid.is_none()
}

fn first<'a>(
    keys: impl Iterator<Item = &'a Key>,
    token: &str,
    header: &Header,
) -> Option<Result<Object, Refusal>> {
    keys.filter(|key| key.algorithms().contains(&header.algorithm))
        .find_map(|key| key.payload(token))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
