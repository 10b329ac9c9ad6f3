//! Who is let in: `auth`, `[[namespaces]]`.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Session, section::section, validate::texts};

section! {
    /// Who is let in.
    Auth in "auth." {
        /// How long before a token's `exp` its client is told `tokenExpiring`; `0s`: not at all. Longer where fetching a new one
        /// takes long.
        refresh_lead: Duration = Duration::from_secs(30);
        /// A refresh token's life: so long may a user stay away and still be logged in.
        refresh_ttl: Duration = Duration::from_secs(720 * 3600), positive;
        /// The life of the access tokens that Switchboard gives for a refresh token; in whole seconds.
        token_ttl: Duration = Duration::from_secs(15 * 60), positive;
        /// Tokens.
        jwt: Jwt = Jwt::default();
        /// Session cookies.
        session: Session = Session::default();
    }
}

impl Auth {
    /// Whether anyone can be let in at all: by a token, or by a cookie.
    pub fn lets_in(&self) -> bool {
        self.jwt.has_keys() || self.session.is_on()
    }
}

section! {
    /// Which tokens are believed. Any number of key sources together; without one, and without session cookies, the node starts
    /// in development mode or not at all.
    Jwt in "auth.jwt." {
        /// A shared secret (HS256, HS384, HS512); also signs what `switchboard token` mints. RFC 7518 section 3.2 asks for at
        /// least as many bytes as the hash has: 32 for HS256.
        secret: Option<SecretString> = None, short("SWITCHBOARD_JWT_SECRET"), reload;
        /// Secrets that still verify and no longer sign. While a secret is replaced: the old one, for as long as its tokens live;
        /// refresh tokens that were issued by it and not used since end with it. In a fleet the new one comes in here first, on
        /// every node: until then the others refuse what it signs.
        previous_secrets: Vec<SecretString> = Vec::new(), reload;
        /// A PEM file with a public key (RSA, EC P-256 or P-384, Ed25519).
        public_key_file: Option<PathBuf> = None, reload, readable;
        /// A file with a JWK set (RFC 7517).
        jwks_file: Option<PathBuf> = None, reload, readable;
        /// A URL, `https://` or `http://`, with a JWK set: an identity provider's.
        jwks_url: Option<String> = None, reload, fits(texts::key_set_url);
        /// Further keys, each bound to an issuer. One for each issuer that is not you: a key above verifies what every
        /// configured issuer says, one here what its own does. They verify and never sign.
        keys: Vec<JwtKey> = Vec::new(), reload;
        /// Narrows what the keys allow; names as in RFC 7518 and RFC 8037.
        algorithms: Vec<String> = Vec::new(), shown("all that each key allows"), reload, fits(texts::algorithm);
        /// `iss` must be one of these. Set it whenever the keys are shared with other issuers.
        issuer: Vec<String> = Vec::new(), shown("any"), reload, fits(texts::named);
        /// `aud` must hold one of these. Set it whenever the issuer serves other services too.
        audience: Vec<String> = Vec::new(), shown("any"), reload, fits(texts::named);
        /// The claim with the user's id.
        user_id_claim: Option<String> = None, shown("`sub`, else `id`, else `userId`"), reload, fits(texts::named);
        /// The claim with the rooms that its bearer's connections are in, a name or a list of names.
        rooms_claim: String = "rooms".into(), reload, fits(texts::named);
        /// Tolerance for clocks: how long after `exp` a token is still let in, and before `nbf` already.
        leeway: Duration = Duration::from_secs(5), reload;
    }
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

section! {
    /// Keys of one source, and whose tokens they verify (RFC 8725 section 3.8). Exactly one of `secret`, `public_key_file`,
    /// `jwks_file` and `jwks_url`. What an entry leaves out is as in `auth.jwt`.
    JwtKey in "auth.jwt.keys." {
        /// A shared secret. It verifies and never signs.
        secret: Option<SecretString> = None;
        /// A PEM file with a public key.
        public_key_file: Option<PathBuf> = None, readable;
        /// A file with a JWK set.
        jwks_file: Option<PathBuf> = None, readable;
        /// A URL with a JWK set.
        jwks_url: Option<String> = None, fits(texts::key_set_url);
        /// `iss` must be one of these. Where a namespace has an issuer of its own, both hold.
        issuer: Vec<String> = Vec::new(), shown("`auth.jwt.issuer`"), fits(texts::named);
        /// `aud` must hold one of these. Where a namespace has an audience of its own, both hold.
        audience: Vec<String> = Vec::new(), shown("`auth.jwt.audience`"), fits(texts::named);
        /// Narrows what the keys allow.
        algorithms: Vec<String> = Vec::new(), shown("`auth.jwt.algorithms`"), fits(texts::algorithm);
        /// The roles that its tokens may give; any other role in them counts for nothing. An empty list: none.
        roles: Option<Vec<String>> = None, shown("any"), fits(texts::named);
    }
}

section! {
    /// A namespace and its rule.
    Namespace in "namespaces." {
        /// Its path, with the leading slash.
        path: String = String::new(), shown("required"), fits(texts::path);
        /// Who is let in: `required`: who has a good token or session cookie; `none`: everybody; `backend`: a backend decides, and
        /// says who it is, whatever the credentials.
        auth: AuthRule = AuthRule::Required, shown("`required`");
        /// One of these roles is asked for.
        roles: Vec<String> = Vec::new(), fits(texts::named);
        /// In place of `auth.jwt.issuer`; an empty list takes any issuer. A key's own issuer holds besides.
        issuer: Option<Vec<String>> = None, shown("`auth.jwt.issuer`"), fits(texts::named);
        /// In place of `auth.jwt.audience`; an empty list takes any audience. A key's own audience holds besides.
        audience: Option<Vec<String>> = None, shown("`auth.jwt.audience`"), fits(texts::named);
        /// The rooms that clients may `join` and `leave` themselves: names, of which a `*` at the end stands for any rest. With none
        /// they can't; a handler of the library may take the two events then.
        client_rooms: Vec<String> = Vec::new(), fits(texts::room_pattern);
    }
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
            client_rooms: Vec::new(),
        }
    }

    /// Whether clients may join a room of this name, and leave it.
    pub fn lets_join(&self, room: &str) -> bool {
        self.client_rooms
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(begin) => room.starts_with(begin),
                None => room == pattern,
            })
    }

    /// Those of a node that has none configured.
    pub(super) fn defaults() -> Vec<Self> {
        vec![
            Self::new("/", AuthRule::Required, &[]),
            Self::new("/public", AuthRule::None, &[]),
            Self::new("/admin", AuthRule::Required, &["admin"]),
        ]
    }
}

/// Who is let into a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthRule {
    /// Who has a good token or session cookie.
    #[default]
    Required,
    /// Everybody; a valid token is still recognised.
    None,
    /// Clients that a backend lets in, whatever their credentials.
    Backend,
}
