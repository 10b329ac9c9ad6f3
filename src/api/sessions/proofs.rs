//! What has to hold before a route of sessions looks at anything else.

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::api::{
    ApiState,
    error::{ApiError, ErrorCode},
};

/// Proof that this node issues tokens; the routes of those that don't are 404.
pub struct Issuing(());

impl Issuing {
    pub(super) fn known(issues_tokens: bool) -> Result<Self, ApiError> {
        if issues_tokens {
            Ok(Self(()))
        } else {
            Err(ApiError::new(
                ErrorCode::NotFound,
                "this node holds no key to sign tokens with, and keeps no sessions",
            ))
        }
    }
}

impl FromRequestParts<ApiState> for Issuing {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        Self::known(state.gateway.issues_tokens())
    }
}

/// Proof that the browser's cookie was not sent by another site's page. `SameSite` keeps other sites' pages from
/// that; this also keeps those of the same site's other hosts, and what old browsers send.
pub struct TrustedPage(());

impl FromRequestParts<ApiState> for TrustedPage {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        if state.origins.allow(&parts.headers) {
            Ok(Self(()))
        } else {
            Err(ApiError::new(
                ErrorCode::ForbiddenOrigin,
                "pages of this origin may not; cors.allowed_origins says which may",
            ))
        }
    }
}
