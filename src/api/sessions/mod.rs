//! Sessions that Switchboard keeps for a backend: short-lived tokens, refreshed over HTTP with a cookie.
//!
//! The backend logs a user in and opens the session; from then on the browser fetches tokens by itself, here. There are
//! sessions only where the node holds a key to sign tokens with: elsewhere these routes are 404.
//!
//! `payloads` is what they take and answer, `proofs` what has to hold first.

mod payloads;
mod proofs;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{
    ApiState, audit,
    auth::{Allowed, scope},
    body::{Body, UserPath},
    cookie,
    error::{ApiError, ErrorCode},
    openapi::{BodyProblems, Guarded, LogoutProblems, RefreshProblems, SessionProblems},
};
use crate::{gateway::access::Issued, transport::origin::is_https};

pub use self::{
    payloads::{SessionAnswer, SessionRequest, TokenAnswer},
    proofs::{Issuing, TrustedPage},
};

/// The browser keeps no copy of a token but the one it is meant to, and neither does a proxy (RFC 6749 §5.1).
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Open a session
///
/// For a user that the backend has logged in. The backend hands `cookie` on to the browser as a `Set-Cookie` header, on a
/// host that the browser reaches `/api/refresh-token` on. The cookie is `HttpOnly` and `SameSite=Lax`, and `Secure` if this
/// request has `X-Forwarded-Proto: https`: a backend passes on the one of the browser's request.
#[utoipa::path(
    post,
    path = "/users/{user}/sessions",
    tag = "sessions",
    params(
        ("user" = String, Path, description = "The user's id, percent-encoded"),
        ("X-Forwarded-Proto" = Option<String>, Header, description = "`https` has the cookie be `Secure`"),
    ),
    request_body(content = Option<SessionRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "It has begun. Not to be cached", body = SessionAnswer, example = json!({
            "token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2ln",
            "expiresAt": "2030-01-01T00:15:00Z",
            "refreshToken": "Zk0pXv9Rr2mWqT1nYbLdA",
            "cookie": "refreshToken=Zk0pXv9Rr2mWqT1nYbLdA; Path=/api; HttpOnly; SameSite=Lax; Max-Age=2592000; Secure",
        })),
        Guarded,
        BodyProblems,
        SessionProblems,
    ),
    security(("key" = ["admin"])),
)]
pub async fn open_session(
    allowed: Allowed<scope::Admin>,
    _: Issuing,
    State(state): State<ApiState>,
    UserPath(user): UserPath,
    headers: HeaderMap,
    Body(request): Body<SessionRequest>,
) -> Result<Response, ApiError> {
    let claims = request.claims()?;
    let who = allowed.caller().name();
    let issued = audit::leave(who, "open_session", user.as_str(), async {
        Ok(state.gateway.open_session(&user, &claims).await?)
    })
    .await?;
    Ok(opened(issued, Timestamp::now(), is_https(&headers)))
}

fn opened(issued: Issued, now: Timestamp, https: bool) -> Response {
    let until = issued.refresh_expires_at;
    let answer = SessionAnswer {
        cookie: cookie::keep(&issued.refresh_token, until, now, https),
        token: issued.token,
        expires_at: issued.expires_at,
        refresh_token: issued.refresh_token,
    };
    ([(header::CACHE_CONTROL, NO_STORE)], Json(answer)).into_response()
}

/// Fetch the next token
///
/// For browsers: the credentials are the cookie `refreshToken`, which is good once; the answer sets the next one. A cookie
/// that is used twice ends its session, as one of the two who have it has stolen it.
#[utoipa::path(
    post,
    path = "/api/refresh-token",
    tag = "sessions",
    responses(
        (status = 200, description = "The token, and the next cookie. Not to be cached", body = TokenAnswer,
            headers(("Set-Cookie" = String, description = "The next `refreshToken`")),
            example = json!({
                "token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2ln", "expiresAt": "2030-01-01T00:15:00Z",
            })),
        RefreshProblems,
    ),
    security(("cookie" = [])),
)]
pub async fn refresh_token(
    _: Issuing,
    _: TrustedPage,
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let token = cookie::read(&headers).ok_or_else(|| {
        let detail = format!("no cookie {}: log in", cookie::NAME);
        ApiError::new(ErrorCode::MissingRefreshToken, detail)
    })?;
    let issued = state.gateway.refresh_session(&token).await?;
    refreshed(issued, Timestamp::now(), is_https(&headers))
}

fn refreshed(issued: Option<Issued>, now: Timestamp, https: bool) -> Result<Response, ApiError> {
    let Some(issued) = issued else {
        let refusal = ApiError::new(
            ErrorCode::InvalidRefreshToken,
            "the session is over, or the refresh token was used before: log in",
        );
        return with_cookie(&cookie::forget(https), refusal);
    };
    let cookie = cookie::keep(&issued.refresh_token, issued.refresh_expires_at, now, https);
    let answer = TokenAnswer {
        token: issued.token,
        expires_at: issued.expires_at,
    };
    with_cookie(&cookie, Json(answer))
}

/// Log out
///
/// Ends the session of the cookie `refreshToken` and its connections, with code 4503, and has the browser forget the
/// cookie. Without one, or with one whose session is over already, there is nothing left to do, and that is no error.
#[utoipa::path(
    post,
    path = "/api/logout",
    tag = "sessions",
    responses(
        (status = 204, description = "The user is logged out",
            headers(("Set-Cookie" = String, description = "An empty `refreshToken` that is over"))),
        LogoutProblems,
    ),
    security((), ("cookie" = [])),
)]
pub async fn logout(
    _: Issuing,
    _: TrustedPage,
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(token) = cookie::read(&headers) {
        // Who it was is known to the registry alone. Anybody may show a cookie that is good for nothing.
        if state.gateway.close_session(&token).await? {
            audit::changed("cookie", "close_session", "its own");
        }
    }
    logged_out(is_https(&headers))
}

fn logged_out(https: bool) -> Result<Response, ApiError> {
    with_cookie(&cookie::forget(https), StatusCode::NO_CONTENT)
}

fn with_cookie(cookie: &SecretString, answer: impl IntoResponse) -> Result<Response, ApiError> {
    let mut value = HeaderValue::try_from(cookie.expose_secret()).map_err(|_| {
        tracing::error!("a refresh token is not fit for a cookie");
        ApiError::new(ErrorCode::Internal, "an internal error; the log says more")
    })?;
    value.set_sensitive(true);
    Ok(([(header::SET_COOKIE, value)], answer).into_response())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
