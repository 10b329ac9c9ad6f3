//! Who is let in: `auth`, `[[namespaces]]`.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Session, list, print};

/// `auth`: who is let in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// How long before a token's `exp` its client is told `tokenExpiring`; `30s` by default, and `0s` for not at all.
    /// Longer where fetching a new one takes long.
    #[serde(with = "print::duration")]
    pub refresh_lead: Duration,
    /// A refresh token's life, `720h` by default: so long may a user stay away and still be logged in.
    #[serde(with = "print::duration")]
    pub refresh_ttl: Duration,
    /// The life of the access tokens that Switchboard gives for a refresh token, `15m` by default; in whole seconds.
    #[serde(with = "print::duration")]
    pub token_ttl: Duration,
    /// Tokens.
    pub jwt: Jwt,
    /// Session cookies.
    pub session: Session,
}

impl Auth {
    /// Whether anyone can be let in at all: by a token, or by a cookie.
    pub fn lets_in(&self) -> bool {
        self.jwt.has_keys() || self.session.is_on()
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            refresh_lead: Duration::from_secs(30),
            refresh_ttl: Duration::from_secs(720 * 3600),
            token_ttl: Duration::from_secs(15 * 60),
            jwt: Jwt::default(),
            session: Session::default(),
        }
    }
}

/// `auth.jwt`: which tokens are believed. Any number of key sources together; without one, and without session cookies,
/// the node starts in development mode or not at all.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// A shared secret (HS256, HS384, HS512), `SWITCHBOARD_JWT_SECRET`; also signs what `switchboard token` mints. None by
    /// default. RFC 7518 section 3.2 asks for at least as many bytes as the hash has: 32 for HS256.
    #[serde(serialize_with = "print::secret_option")]
    pub secret: Option<SecretString>,
    /// Secrets that still verify and no longer sign. None by default. While a secret is replaced: the old one, for as long
    /// as its tokens live; refresh tokens that were issued by it and not used since end with it. In a fleet the new one comes
    /// in here first, on every node: until then the others refuse what it signs.
    #[serde(
        serialize_with = "print::secrets",
        deserialize_with = "list::one_or_more"
    )]
    pub previous_secrets: Vec<SecretString>,
    /// A PEM file with a public key (RSA, EC P-256 or P-384, Ed25519). None by default.
    pub public_key_file: Option<PathBuf>,
    /// A file with a JWK set (RFC 7517). None by default.
    pub jwks_file: Option<PathBuf>,
    /// A URL, `https://` or `http://`, with a JWK set: an identity provider's. None by default.
    pub jwks_url: Option<String>,
    /// Further keys, each bound to an issuer. None by default. One for each issuer that is not you: a key above verifies what
    /// every configured issuer says, one here what its own does.
    pub keys: Vec<JwtKey>,
    /// Narrows what the keys allow; names as in RFC 7518 and RFC 8037. Empty, the default: all that each key allows.
    #[serde(deserialize_with = "list::one_or_more")]
    pub algorithms: Vec<String>,
    /// `iss` must be one of these. Empty, the default: any. Set it whenever the keys are shared with other issuers.
    #[serde(deserialize_with = "list::one_or_more")]
    pub issuer: Vec<String>,
    /// `aud` must hold one of these. Empty, the default: any. Set it whenever the issuer serves other services too.
    #[serde(deserialize_with = "list::one_or_more")]
    pub audience: Vec<String>,
    /// The claim with the user's id. Default: `sub`, else `id`, else `userId`.
    pub user_id_claim: Option<String>,
    /// Tolerance for clocks, `5s` by default: how long after `exp` a token is still let in, and before `nbf` already.
    #[serde(with = "print::duration")]
    pub leeway: Duration,
}

impl Jwt {
    /// Whether there is any key that a token could be verified with.
    pub fn has_keys(&self) -> bool {
        self.secret.is_some()
            || !self.previous_secrets.is_empty()
            || self.public_key_file.is_some()
            || self.jwks_file.is_some()
            || self.jwks_url.is_some()
            || !self.keys.is_empty()
    }

    /// A warning for each entry of `keys` without an issuer where another has one: who binds one key to its issuer may take the
    /// others for bound.
    pub(super) fn unbound_keys(&self) -> Vec<String> {
        if self.keys.iter().all(|key| key.issuer.is_empty()) {
            return Vec::new();
        }
        let taken = match self.issuer.as_slice() {
            [] => "any issuer, those of the other entries too",
            _ => "the issuers in auth.jwt.issuer",
        };
        let unbound = self.keys.iter().enumerate();
        let unbound = unbound.filter(|(_, key)| key.issuer.is_empty());
        let warning = |(index, _)| {
            format!(
                "auth.jwt.keys.{index} has no issuer of its own, and other entries of auth.jwt.keys have: it verifies tokens \
                 of {taken}. Set auth.jwt.keys.{index}.issuer."
            )
        };
        unbound.map(warning).collect()
    }
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            secret: None,
            previous_secrets: Vec::new(),
            public_key_file: None,
            jwks_file: None,
            jwks_url: None,
            keys: Vec::new(),
            algorithms: Vec::new(),
            issuer: Vec::new(),
            audience: Vec::new(),
            user_id_claim: None,
            leeway: Duration::from_secs(5),
        }
    }
}

/// `[[auth.jwt.keys]]`: keys of one source, and whose tokens they verify (RFC 8725 section 3.8). Exactly one of `secret`,
/// `public_key_file`, `jwks_file` and `jwks_url`. What an entry leaves out is as in `auth.jwt`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtKey {
    /// A shared secret. It verifies and never signs.
    #[serde(serialize_with = "print::secret_option")]
    pub secret: Option<SecretString>,
    /// A PEM file with a public key.
    pub public_key_file: Option<PathBuf>,
    /// A file with a JWK set.
    pub jwks_file: Option<PathBuf>,
    /// A URL with a JWK set.
    pub jwks_url: Option<String>,
    /// `iss` must be one of these; in place of `auth.jwt.issuer`. Where a namespace has an issuer of its own, both hold.
    #[serde(deserialize_with = "list::one_or_more")]
    pub issuer: Vec<String>,
    /// `aud` must hold one of these; in place of `auth.jwt.audience`. Where a namespace has an audience of its own, both hold.
    #[serde(deserialize_with = "list::one_or_more")]
    pub audience: Vec<String>,
    /// Narrows what the keys allow; in place of `auth.jwt.algorithms`.
    #[serde(deserialize_with = "list::one_or_more")]
    pub algorithms: Vec<String>,
    /// The roles that its tokens may give; any other role in them counts for nothing. Default: any. An empty list: none.
    #[serde(deserialize_with = "list::optional")]
    pub roles: Option<Vec<String>>,
}

/// `[[namespaces]]`: a namespace and its rule.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its path, with the leading slash.
    pub path: String,
    /// Whether a token is asked for; `required` by default.
    #[serde(default)]
    pub auth: AuthRule,
    /// One of these roles is asked for. Empty, the default: none.
    #[serde(default, deserialize_with = "list::one_or_more")]
    pub roles: Vec<String>,
    /// In place of `auth.jwt.issuer`; an empty list takes any issuer. A key's own issuer holds besides.
    #[serde(default, deserialize_with = "list::optional")]
    pub issuer: Option<Vec<String>>,
    /// In place of `auth.jwt.audience`; an empty list takes any audience. A key's own audience holds besides.
    #[serde(default, deserialize_with = "list::optional")]
    pub audience: Option<Vec<String>>,
}

impl Namespace {
    /// A namespace with the configured issuer and audience.
    pub fn new(path: &str, auth: AuthRule, roles: &[&str]) -> Self {
        Self {
            path: path.into(),
            auth,
            roles: roles.iter().map(|role| (*role).into()).collect(),
            issuer: None,
            audience: None,
        }
    }
}

/// Whether a namespace asks for a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthRule {
    /// It does.
    #[default]
    Required,
    /// It does not; a valid token is still recognised.
    None,
}
