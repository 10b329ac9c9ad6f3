//! Who is let into a namespace.

use crate::{
    auth::{AuthConfigError, AuthError, Identity},
    config::{AuthRule, Jwt, Namespace},
};

/// Who is let into a namespace, by configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceRule {
    path: String,
    required: bool,
    roles: Vec<String>,
    pub(crate) intended: Intended,
}

/// Whom a token has to come from and be meant for; an empty list asks nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intended {
    /// `iss` is one of these.
    pub(crate) issuers: Vec<String>,
    /// `aud` is or holds one of these.
    pub(crate) audiences: Vec<String>,
}

impl Intended {
    /// What `auth.jwt` asks of every token.
    pub(crate) fn everywhere(jwt: &Jwt) -> Self {
        Self {
            issuers: jwt.issuer.clone(),
            audiences: jwt.audience.clone(),
        }
    }
}

impl NamespaceRule {
    /// The rule of one `[[namespaces]]` entry, the `index`-th of the list. An issuer or audience of its own replaces
    /// that of `auth.jwt`; an empty one switches the check off.
    pub(crate) fn new(
        index: usize,
        namespace: &Namespace,
        jwt: &Jwt,
    ) -> Result<Self, AuthConfigError> {
        let required = namespace.auth == AuthRule::Required;
        if !required && !namespace.roles.is_empty() {
            return Err(AuthConfigError::new(
                format!("namespaces[{index}].roles"),
                format!(
                    "{} lets everyone in, so it can't ask for a role",
                    namespace.path
                ),
            ));
        }
        let everywhere = Intended::everywhere(jwt);
        Ok(Self {
            path: namespace.path.clone(),
            required,
            roles: namespace.roles.clone(),
            intended: Intended {
                issuers: namespace.issuer.clone().unwrap_or(everywhere.issuers),
                audiences: namespace.audience.clone().unwrap_or(everywhere.audiences),
            },
        })
    }

    /// The namespace's path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether a token, or a session, is asked for.
    pub fn requires_token(&self) -> bool {
        self.required
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
