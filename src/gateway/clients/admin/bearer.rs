//! Tokens outside of a connection: who brings one to the HTTP API has the right to a backend's verbs that it would have in
//! `/admin`.

use super::{AdminVerbs, NAMESPACE};
use crate::{
    auth::AuthError,
    connection::UserId,
    gateway::{GatewayError, connections::local::grant_of},
    registry::{Bar, Entry},
};

/// Whose token it is, and what it opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBearer {
    /// The user.
    pub user_id: UserId,
    /// Whether `/admin` lets the user in with it.
    pub admin: bool,
}

/// Why a token opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefused {
    /// `/admin` does not take it, or there is no `/admin`; or, with [`AuthError::Unavailable`], nobody can say.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// It would open everything but for what is held against it.
    #[error("something is held against the token or its user: {0:?}")]
    Barred(Bar),
    /// The registry can't say what is held against it.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
}

impl AdminVerbs {
    /// Whose token it is, by the rule of `/admin`, and whether it has an administrator's rights now.
    pub(crate) async fn bearer(&self, token: &str) -> Result<TokenBearer, TokenRefused> {
        let rule = self.auth.token_rule(NAMESPACE)?;
        let identity = self.auth.verify_for(token, &rule).await?;
        let admin = self.is_administrator(&identity);
        if admin {
            let entry = Entry {
                user: Some(identity.user_id.clone()),
                // It is no connection, and the registry does not look at the id.
                id: "".into(),
            };
            if let Some(bar) = self.bar(entry, grant_of(&identity)).await? {
                return Err(TokenRefused::Barred(bar));
            }
        }
        Ok(TokenBearer {
            admin,
            user_id: identity.user_id,
        })
    }
}
