//! What is read from a request to `/socket.io/`, and the answers that need no session.

use axum::{body::Body, response::IntoResponse};
use base64::Engine as _;
use http::{HeaderName, Method, Request, Response, StatusCode, Uri, header};
use tungstenite::handshake::derive_accept_key;

/// The parameters that Engine.IO reads from the query. Nothing else in it is looked at: no token, ever.
pub(super) struct Query<'a> {
    pub(super) version: Option<&'a str>,
    pub(super) transport: Option<&'a str>,
    pub(super) sid: Option<&'a str>,
}

impl<'a> Query<'a> {
    pub(super) fn of(uri: &'a Uri) -> Self {
        let find = |name: &str| {
            uri.query()
                .unwrap_or_default()
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find_map(|(key, value)| (key == name).then_some(value))
        };
        Self {
            version: find("EIO"),
            transport: find("transport"),
            sid: find("sid"),
        }
    }
}

/// A request that shares nothing with the one it stands for.
pub(super) fn slim_request(uri: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = uri.parse().unwrap_or_default();
    request
}

/// RFC 6455 section 4.2.1: what makes a request one for a WebSocket. Returns `Sec-WebSocket-Accept`.
pub(super) fn websocket_accept<B>(request: &Request<B>) -> Option<String> {
    let headers = request.headers();
    let has = |name: HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let sixteen_bytes = base64::engine::general_purpose::STANDARD
        .decode(key.as_bytes())
        .is_ok_and(|nonce| nonce.len() == 16);
    (request.method() == Method::GET
        && has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13")
        && sixteen_bytes)
        .then(|| derive_accept_key(key.as_bytes()))
}

/// RFC 6455 section 4.2.2: the answer that ends HTTP on the connection.
pub(super) fn switching_protocols(accept: &str) -> Response<Body> {
    (
        StatusCode::SWITCHING_PROTOCOLS,
        [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ],
    )
        .into_response()
}

/// The answer to a poll that is to come back with nothing.
pub(super) fn noop() -> Response<Body> {
    let text = (header::CONTENT_TYPE, "text/plain; charset=UTF-8");
    ([text], "6").into_response()
}

/// A request that can't be served: status 400.
pub(super) fn refused(code: u8, message: &str) -> Response<Body> {
    error(StatusCode::BAD_REQUEST, code, message)
}

/// A page that may not: status 403.
pub(super) fn forbidden() -> Response<Body> {
    error(StatusCode::FORBIDDEN, 4, "Forbidden")
}

/// Engine.IO's own errors, as the JavaScript server words them.
fn error(status: StatusCode, code: u8, message: &str) -> Response<Body> {
    (
        status,
        axum::Json(serde_json::json!({ "code": code, "message": message })),
    )
        .into_response()
}

/// The longest prefix of at most `max` bytes.
pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
