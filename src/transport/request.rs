//! What is read from a request to `/socket.io/`, and the answers that need no session.

use axum::{body::Body, response::IntoResponse};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tungstenite::handshake::derive_accept_key;

/// The parameters that Engine.IO reads from the query. Nothing else in it is looked at: no token, ever.
pub(super) struct Query<'a> {
    pub(super) version: Option<&'a str>,
    pub(super) transport: Option<&'a str>,
    pub(super) sid: Option<&'a str>,
    /// Whether the client wants attachments as texts.
    pub(super) base64: bool,
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
            base64: find("b64").is_some_and(|value| !value.is_empty()),
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

/// RFC 6455 section 4.2.2: the answer that ends HTTP on the connection. Of the subprotocols that the client offers the first is
/// taken, as the JavaScript server does: a browser fails a WebSocket that takes none of those it offers.
pub(super) fn switching_protocols<B>(accept: &str, request: &Request<B>) -> Response<Body> {
    let mut response = (
        StatusCode::SWITCHING_PROTOCOLS,
        [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ],
    )
        .into_response();
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    let first = offered
        .and_then(|offered| offered.to_str().ok()?.split(',').next())
        .map(str::trim)
        .filter(|first| !first.is_empty())
        .and_then(|first| HeaderValue::from_str(first).ok());
    if let Some(first) = first {
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, first);
    }
    response
}

/// The answer to a poll with a packet that is not the engine's.
pub(super) fn packet(packet: impl Into<Body>) -> Response<Body> {
    let text = (header::CONTENT_TYPE, "text/plain; charset=UTF-8");
    ([text], packet.into()).into_response()
}

/// `response` as one that nothing keeps: it is a part of a session.
pub(super) fn uncached(mut response: Response<Body>) -> Response<Body> {
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

/// A request that can't be served: status 400.
pub(super) fn refused(code: u8, message: &str) -> Response<Body> {
    error(StatusCode::BAD_REQUEST, code, message)
}

/// An error of engineioxide's as the JavaScript server words it: its code is a number, and not a string.
pub(super) fn numbered(response: Response<Bytes>) -> Response<Bytes> {
    if response.status() != StatusCode::BAD_REQUEST {
        return response;
    }
    response.map(|body| match serde_json::from_slice::<EngineError>(&body) {
        Ok(EngineError { code, message }) => match code.parse() {
            Ok(code) => Bytes::from(error_body(code, &message).to_string()),
            Err(_) => body,
        },
        Err(_) => body,
    })
}

/// An error as engineioxide writes it.
#[derive(serde::Deserialize)]
struct EngineError {
    code: String,
    message: String,
}

/// A page that may not: status 403.
pub(super) fn forbidden() -> Response<Body> {
    error(StatusCode::FORBIDDEN, 4, "Forbidden")
}

/// Engine.IO's own errors, as the JavaScript server words them.
fn error(status: StatusCode, code: u8, message: &str) -> Response<Body> {
    (status, axum::Json(error_body(code, message))).into_response()
}

fn error_body(code: u8, message: &str) -> serde_json::Value {
    serde_json::json!({ "code": code, "message": message })
}

/// The longest prefix of at most `max` bytes.
pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_error_is_a_number_and_nothing_else_is_touched() {
        let answer = |status: u16, body: &'static str| {
            let response = Response::builder().status(status).body(Bytes::from(body));
            numbered(response.unwrap()).into_body()
        };
        assert_eq!(
            answer(400, r#"{"code":"1","message":"Session ID unknown"}"#),
            r#"{"code":1,"message":"Session ID unknown"}"#
        );
        for body in [
            "",
            "x",
            r#"{"code":"x","message":""}"#,
            r#"{"code":3,"message":""}"#,
        ] {
            assert_eq!(answer(400, body), body);
        }
        let packet = r#"{"code":"1","message":"a client's own"}"#;
        assert_eq!(answer(200, packet), packet);
    }
}
