//! The keys that verify, each pinned to the algorithms it is good for (RFC 8725 §3.1).
//!
//! `key` is one of them, `configured` reads those of the configuration.

mod configured;
mod key;

use crate::{
    auth::{
        AuthConfigError, AuthError,
        json::Object,
        jwt::{Header, Refusal},
        remote::{Cause, RemoteJwks},
    },
    config::Jwt,
};

pub(super) use self::key::{Allowed, Key};

/// All keys there are.
#[derive(Debug)]
pub(crate) struct KeyRing {
    local: Vec<Key>,
    remote: Option<RemoteJwks>,
}

impl KeyRing {
    /// Collects the configured keys; a JWKS URL is not asked yet.
    pub(crate) fn new(config: &Jwt) -> Result<Self, AuthConfigError> {
        Self::build(config, None)
    }

    /// The same, with what the one before has learnt from a JWKS URL that has stayed the same.
    pub(crate) fn renewed(config: &Jwt, before: &Self) -> Result<Self, AuthConfigError> {
        Self::build(config, before.remote.as_ref())
    }

    fn build(config: &Jwt, before: Option<&RemoteJwks>) -> Result<Self, AuthConfigError> {
        let allowed = Allowed::new(&config.algorithms)?;
        let local = configured::keys(config, &allowed)?;
        let remote = match &config.jwks_url {
            Some(url) => {
                let same = before.filter(|before| before.is_of(url, &allowed));
                Some(match same {
                    Some(before) => before.clone(),
                    None => RemoteJwks::new(url, allowed)?,
                })
            }
            None => None,
        };
        Ok(Self { local, remote })
    }

    /// The payload of a token that one of the keys has signed.
    ///
    /// A `kid` that a JWK set has stands for that key alone. Any other token is tried with each key that its `alg` fits
    /// and that its `kid` does not speak against. Only a token that no key at hand fits makes a JWKS URL be asked, and
    /// only for an algorithm that a key from there could have: not for `HS256`. For as long as that URL has given nothing,
    /// nobody can say whether such a token is good, and its bearer is to try again.
    pub(crate) async fn payload(&self, token: &str, header: &Header) -> Result<Object, Refusal> {
        let remote = self.remote.as_ref();
        let remote = remote.filter(|remote| remote.may_have(header.algorithm));
        let known = match remote {
            Some(remote) => remote.keys().await,
            None => [].into(),
        };
        let has_kid =
            |keys: &[Key]| header.kid.is_some() && keys.iter().any(|k| k.kid == header.kid);

        if has_kid(&known) || has_kid(&self.local) {
            let keys = self.local.iter().chain(known.iter());
            return first(keys.filter(|key| key.kid == header.kid), token, header)
                .unwrap_or(Err(NO_KEY));
        }
        let at_hand = self.local.iter().chain(known.iter());
        if let Some(payload) = first(at_hand.filter(|key| fits(key, header)), token, header) {
            return payload;
        }
        let cause = match header.kid {
            Some(_) => Cause::UnknownKid,
            None => Cause::NoneYet,
        };
        if let Some(remote) = remote
            && remote.refresh(cause).await
        {
            let keys = remote.keys().await;
            let named = has_kid(&keys);
            let chosen = keys.iter().filter(|key| match named {
                true => key.kid == header.kid,
                false => fits(key, header),
            });
            return first(chosen, token, header).unwrap_or(Err(if remote.is_loaded() {
                NO_KEY
            } else {
                NO_SET
            }));
        }
        Err(match remote {
            Some(remote) if !remote.is_loaded() => NO_SET,
            _ => NO_KEY,
        })
    }

    /// Asks the JWKS URL, if there is one and it has not been asked yet.
    pub(crate) async fn warm_up(&self) {
        if let Some(remote) = &self.remote {
            remote.refresh(Cause::NoneYet).await;
        }
    }

    /// Whether a JWKS URL is configured that has given no keys so far.
    pub(crate) fn waits_for_keys(&self) -> bool {
        self.remote
            .as_ref()
            .is_some_and(|remote| !remote.is_loaded())
    }

    #[cfg(test)]
    pub(crate) fn with_remote(remote: RemoteJwks) -> Self {
        Self {
            local: Vec::new(),
            remote: Some(remote),
        }
    }

    /// How many keys need no network.
    pub(crate) fn local_len(&self) -> usize {
        self.local.len()
    }
}

const NO_KEY: Refusal = Refusal::invalid("no key verifies it");

const NO_SET: Refusal = Refusal::new(
    AuthError::Unavailable,
    "the JWK set that may have its key could not be fetched",
);

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
