//! Who is let into a namespace.

use crate::{
    auth::{AuthConfigError, AuthError, Identity},
    config::{AuthRule, Jwt, Namespace},
};

/// Who is let into a namespace, by configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceRule {
    path: String,
    auth: AuthRule,
    roles: Vec<String>,
    pub(crate) intended: Intended,
}

/// The issuer and the audience that a token must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intended {
    /// What `iss` is to be.
    pub(crate) issuers: Wanted,
    /// What `aud` is to be or to hold.
    pub(crate) audiences: Wanted,
}

impl Intended {
    /// What `auth.jwt` asks of every token.
    pub(crate) fn everywhere(jwt: &Jwt) -> Self {
        Self {
            issuers: jwt.issuer.clone().into(),
            audiences: jwt.audience.clone().into(),
        }
    }
}

/// Values of which a claim has to be one; an empty list asks nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Of `auth.jwt`.
    everywhere: Vec<String>,
    /// Of a namespace.
    here: Option<Vec<String>>,
}

impl Wanted {
    /// The lists that a claim has to satisfy, each of them. A namespace's own list stands in place of that of `auth.jwt`, and
    /// so does the verifying key's; where both have one, both hold.
    pub(crate) fn of_key<'a>(&'a self, key: &'a [String]) -> impl Iterator<Item = &'a [String]> {
        let otherwise = match key {
            [] => self.everywhere.as_slice(),
            _ => &[],
        };
        let here = self.here.as_deref().unwrap_or(otherwise);
        [key, here].into_iter().filter(|list| !list.is_empty())
    }
}

impl From<Vec<String>> for Wanted {
    fn from(everywhere: Vec<String>) -> Self {
        Self {
            everywhere,
            here: None,
        }
    }
}

impl NamespaceRule {
    /// The rule of one `[[namespaces]]` entry, the `index`-th of the list. An issuer or audience of its own replaces
    /// that of `auth.jwt`, not that of a key; an empty one asks nothing.
    pub(crate) fn new(
        index: usize,
        namespace: &Namespace,
        jwt: &Jwt,
    ) -> Result<Self, AuthConfigError> {
        if namespace.auth == AuthRule::None && !namespace.roles.is_empty() {
            return Err(AuthConfigError::new(
                format!("namespaces[{index}].roles"),
                format!(
                    "{} lets everyone in, so it can't ask for a role",
                    namespace.path
                ),
            ));
        }
        let mut intended = Intended::everywhere(jwt);
        intended.issuers.here = namespace.issuer.clone();
        intended.audiences.here = namespace.audience.clone();
        Ok(Self {
            path: namespace.path.clone(),
            auth: namespace.auth,
            roles: namespace.roles.clone(),
            intended,
        })
    }

    /// The namespace's path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether a token, or a session, is asked for.
    pub fn requires_token(&self) -> bool {
        self.auth == AuthRule::Required
    }

    /// Whether a backend decides who is let in, and nobody looks at credentials here.
    pub fn asks_backend(&self) -> bool {
        self.auth == AuthRule::Backend
    }

    /// Whether someone may be here by the roles held; to be asked again before each of `/admin`'s verbs.
    ///
    /// # Errors
    ///
    /// [`AuthError::AdminRequired`] for `/admin`, [`AuthError::AccessDenied`] elsewhere.
    pub fn authorize(&self, identity: &Identity) -> Result<(), AuthError> {
        if self.roles.is_empty() || self.roles.iter().any(|role| identity.has_role(role)) {
            Ok(())
        } else if self.path == "/admin" {
            Err(AuthError::AdminRequired)
        } else {
            Err(AuthError::AccessDenied)
        }
    }
}
