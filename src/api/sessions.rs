//! Sessions that Switchboard keeps for a backend: short-lived tokens, refreshed over HTTP with a cookie.
//!
//! The backend logs a user in and opens the session; from then on the browser fetches tokens by itself, here. There are
//! sessions only where the node holds a key to sign tokens with: elsewhere these routes are 404.

use axum::{
    Json,
    extract::{FromRequestParts, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    ApiState, audit,
    auth::{Allowed, scope},
    body::{Body, Payload, UserPath},
    cookie,
    error::{ApiError, ErrorCode},
    openapi::{BodyProblems, Guarded, LogoutProblems, RefreshProblems, SessionProblems},
};
use crate::gateway::access::{Issued, SessionClaims};

/// The claims of every token that Switchboard sets itself.
const RESERVED: [&str; 5] = ["sub", "iat", "exp", "jti", "sid"];

/// The most that the claims of a session may take as JSON, in bytes: with the longest user id, the token still is one that
/// a handshake takes.
const MAX_CLAIMS_BYTES: usize = 4096;

/// The browser keeps no copy of a token but the one it is meant to, and neither does a proxy (RFC 6749 §5.1).
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Proof that this node issues tokens; the routes of those that don't are 404.
pub struct Issuing(());

impl Issuing {
    fn known(issues_tokens: bool) -> Result<Self, ApiError> {
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

/// Proof that no page of somebody else's has made the browser send its cookie. `SameSite` keeps other sites' pages from
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

/// What the tokens of a session say of its user. Everything is optional, the body as well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"username": "ada", "role": "editor", "claims": {"email": "ada@example.com"}}))]
pub struct SessionRequest {
    /// `username`.
    username: Option<String>,
    /// The role, if it is one.
    role: Option<String>,
    /// The roles, if they are several.
    roles: Option<Vec<String>>,
    /// Further claims. `sub`, `iat`, `exp`, `jti` and `sid` are set by Switchboard and can't be given.
    #[schema(value_type = Option<Object>)]
    claims: Option<Map<String, Value>>,
}

impl Payload for SessionRequest {
    fn when_empty() -> Option<Self> {
        Some(Self::default())
    }
}

impl SessionRequest {
    fn claims(self) -> Result<SessionClaims, ApiError> {
        let invalid = |detail: String| Err(ApiError::new(ErrorCode::InvalidClaims, detail));
        let extra = self.claims.unwrap_or_default();
        if let Some(name) = RESERVED.iter().find(|name| extra.contains_key(**name)) {
            return invalid(format!("claims.{name}: is set by Switchboard"));
        }
        let roles = match (self.role, self.roles) {
            (Some(_), Some(_)) => return invalid("role and roles: one or the other".into()),
            (Some(role), None) => vec![role],
            (None, roles) => roles.unwrap_or_default(),
        };
        if roles.iter().any(String::is_empty) {
            return invalid("a role has at least one character".into());
        }
        let claims = SessionClaims {
            username: self.username,
            roles,
            extra,
        };
        let size = serde_json::to_vec(&claims).map_or(usize::MAX, |json| json.len());
        if size > MAX_CLAIMS_BYTES {
            return Err(ApiError::new(
                ErrorCode::TooLong,
                format!("all claims together: at most {MAX_CLAIMS_BYTES} bytes as JSON"),
            ));
        }
        Ok(claims)
    }
}

/// A session that has begun. For the browser are `token`, to connect with, and `cookie`, as a `Set-Cookie` header.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionAnswer {
    /// The first access token.
    #[schema(value_type = String)]
    #[serde(serialize_with = "exposed")]
    token: SecretString,
    /// Its `exp`.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// The refresh token, good once: for clients that keep their cookies themselves.
    #[schema(value_type = String)]
    #[serde(serialize_with = "exposed")]
    refresh_token: SecretString,
    /// The value of the `Set-Cookie` header that has the browser keep the refresh token.
    #[schema(value_type = String)]
    #[serde(serialize_with = "exposed")]
    cookie: SecretString,
}

/// The next access token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenAnswer {
    /// The token.
    #[schema(value_type = String)]
    #[serde(serialize_with = "exposed")]
    token: SecretString,
    /// Its `exp`.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

/// Open a session
///
/// For a user whom the backend has logged in. The backend hands `cookie` on to the browser as a `Set-Cookie` header, on a
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
    Ok(opened(issued, Timestamp::now(), cookie::is_https(&headers)))
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
    refreshed(issued, Timestamp::now(), cookie::is_https(&headers))
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
        // Who it was is known to the registry alone.
        audit::leave("cookie", "close_session", "its own", async {
            Ok(state.gateway.close_session(&token).await?)
        })
        .await?;
    }
    logged_out(cookie::is_https(&headers))
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
mod tests {
    use axum::body::to_bytes;
    use serde_json::json;

    use super::*;

    fn claims(body: Value) -> Result<SessionClaims, ErrorCode> {
        let request: SessionRequest = serde_json::from_value(body).unwrap();
        request.claims().map_err(|error| error.code)
    }

    fn issued(refresh_token: &str) -> Issued {
        let at = |second| Timestamp::from_second(second).unwrap();
        Issued {
            token: "a.b.c".into(),
            expires_at: at(900),
            refresh_token: refresh_token.into(),
            refresh_expires_at: at(3600),
        }
    }

    async fn body(response: Response) -> Value {
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    const COOKIE: &str =
        "refreshToken=r-1; Path=/api; HttpOnly; SameSite=Lax; Max-Age=3600; Secure";

    #[test]
    fn without_a_signing_key_there_is_no_such_route() {
        assert!(Issuing::known(true).is_ok());
        let error = Issuing::known(false).err().unwrap();
        assert_eq!(error.code, ErrorCode::NotFound);
    }

    #[test]
    fn a_session_says_what_the_backend_says_of_its_user() {
        assert_eq!(claims(json!({})), Ok(SessionClaims::default()));
        let all = claims(json!({"username": "ada", "role": "editor", "claims": {"email": "a@b"}}));
        let all = all.unwrap();
        assert_eq!(all.username.as_deref(), Some("ada"));
        assert_eq!(all.roles, ["editor"]);
        assert_eq!(Value::Object(all.extra), json!({"email": "a@b"}));
        let several = claims(json!({"roles": ["a", "b"]})).unwrap();
        assert_eq!(several.roles, ["a", "b"]);
    }

    #[test]
    fn claims_that_are_not_the_backends_are_refused() {
        for name in RESERVED {
            let given = claims(json!({"claims": {name: 1}}));
            assert_eq!(given, Err(ErrorCode::InvalidClaims), "{name}");
        }
        for body in [
            json!({"role": "a", "roles": ["b"]}),
            json!({"role": ""}),
            json!({"roles": ["a", ""]}),
        ] {
            assert_eq!(
                claims(body.clone()),
                Err(ErrorCode::InvalidClaims),
                "{body}"
            );
        }
        let long = |length: usize| claims(json!({"claims": {"x": "x".repeat(length)}}));
        assert!(long(4000).is_ok());
        assert_eq!(long(4096), Err(ErrorCode::TooLong));
        let name = "x".repeat(4096);
        assert_eq!(claims(json!({"username": name})), Err(ErrorCode::TooLong));
    }

    #[tokio::test]
    async fn a_session_begins_with_a_token_and_a_cookie() {
        let response = opened(issued("r-1"), Timestamp::UNIX_EPOCH, true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        assert!(!response.headers().contains_key(header::SET_COOKIE));
        assert_eq!(
            body(response).await,
            json!({
                "token": "a.b.c", "expiresAt": "1970-01-01T00:15:00Z", "refreshToken": "r-1", "cookie": COOKIE,
            })
        );
    }

    #[tokio::test]
    async fn a_refresh_answers_the_token_and_keeps_the_next_cookie_to_itself() {
        let response = refreshed(Some(issued("r-1")), Timestamp::UNIX_EPOCH, true).unwrap();
        assert_eq!(response.status(), 200);
        let cookie = &response.headers()[header::SET_COOKIE];
        assert_eq!(cookie, COOKIE);
        assert!(cookie.is_sensitive());
        assert_eq!(
            body(response).await,
            json!({"token": "a.b.c", "expiresAt": "1970-01-01T00:15:00Z"})
        );
        let unfit = refreshed(Some(issued("r\n1")), Timestamp::UNIX_EPOCH, true);
        assert_eq!(unfit.unwrap_err().code, ErrorCode::Internal);
    }

    #[tokio::test]
    async fn a_refresh_token_that_is_not_good_is_forgotten_and_so_is_one_that_is_done_with() {
        let forget = "refreshToken=; Path=/api; HttpOnly; SameSite=Lax; Max-Age=0";
        let response = refreshed(None, Timestamp::UNIX_EPOCH, false).unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()[header::SET_COOKIE], forget);
        assert_eq!(body(response).await["code"], "invalid_refresh_token");

        let response = logged_out(false).unwrap();
        assert_eq!(response.status(), 204);
        assert_eq!(response.headers()[header::SET_COOKIE], forget);
    }
}
