//! The operators' page: a few files of the binary's own, without a build step and without a request to any other host.
//!
//! Nothing here opens anything. The page asks for an API key and calls `/v1` with it, like any other caller. In development mode the
//! key is one that the node made up, and the page gets it by itself.

mod development;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, uri::Authority};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{api::guesses::pace, config::Development, transport::door::Door};

/// The page.
const INDEX: &str = include_str!("page/index.html");

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($name:literal $kind:expr),* $(,)?) => {
        /// What the page loads: name, content type, content.
        const FILES: &[(&str, &str, &str)] = &[$(($name, $kind, include_str!(concat!("page/", $name)))),*];
    };
}

files! {
    "api.js" SCRIPT,
    "console.css" "text/css; charset=utf-8",
    "curve.js" SCRIPT,
    "dom.js" SCRIPT,
    "icon.svg" "image/svg+xml",
    "main.js" SCRIPT,
    "overview.js" SCRIPT,
    "playground.js" SCRIPT,
    "rooms.js" SCRIPT,
    "send.js" SCRIPT,
    "socket.js" SCRIPT,
    "tail.js" SCRIPT,
    "user.js" SCRIPT,
    "users.js" SCRIPT,
}

/// The headers of all that is served here, beside the policy.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-transform"),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// What the page is served with.
#[derive(Clone)]
pub struct Console {
    /// The key that the page signs itself in with, in development mode.
    pub development: Option<Development>,
    /// `transport.path`, where the playground connects.
    pub path: String,
    /// Where clients connect, if that is not the listener that serves the page.
    pub clients: Option<SocketAddr>,
}

impl Console {
    /// `/console` and what it loads, for the operators' listener; in development mode `/` leads there. An address may ask for it as often
    /// as `door` says.
    pub fn router(self, door: &Arc<Door>) -> Router {
        let mut router = Router::new()
            .route("/console", get(page))
            .route(
                "/console/",
                get(|| async { Redirect::permanent("../console") }),
            )
            .route("/console/settings", get(settings))
            .route("/console/{file}", get(file));
        if self.development.is_some() {
            router = router.route("/", get(|| async { Redirect::temporary("/console") }));
        }
        router
            .with_state(self)
            .layer(middleware::from_fn_with_state(door.clone(), pace))
            .layer(middleware::map_response(async |mut response: Response| {
                response.headers_mut().extend(HEADERS);
                response
            }))
    }

    /// What the page may load and connect to: this origin, and the clients' listener of the same host.
    fn policy(&self, headers: &HeaderMap) -> String {
        let sockets = self
            .clients
            .zip(named_host(headers))
            .map(|(clients, host)| {
                let port = clients.port();
                format!(" ws://{host}:{port} wss://{host}:{port}")
            });
        format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{}; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
            sockets.unwrap_or_default()
        )
    }
}

/// The host that a request names, unless it holds what could end a directive of a policy.
fn named_host(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let host = host.parse::<Authority>().ok()?.host().to_owned();
    let harmless = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    host.chars().all(harmless).then_some(host)
}

async fn page(State(console): State<Console>, headers: HeaderMap) -> Response {
    let mut response =
        ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], INDEX).into_response();
    if let Ok(policy) = HeaderValue::from_str(&console.policy(&headers)) {
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, kind, content)) => ([(header::CONTENT_TYPE, *kind)], *content).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Where the playground connects, and in development mode the key, for the page itself alone.
async fn settings(State(console): State<Console>, request: Request) -> Json<Value> {
    let mut settings = json!({
        "path": console.path,
        "port": console.clients.map(|clients| clients.port()),
    });
    if let Some(made_up) = &console.development
        && development::is_the_page(&request)
    {
        settings["apiKey"] = json!(made_up.api_key.expose_secret());
    }
    Json(settings)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/console/page");
        let mut there: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "index.html")
            .collect();
        there.sort();
        let served: Vec<_> = FILES.iter().map(|(name, ..)| *name).collect();
        assert_eq!(served, there);
    }

    #[test]
    fn a_host_that_is_no_name_gets_into_no_policy() {
        for (host, named) in [
            ("ops.example.com:3001", Some("ops.example.com")),
            ("127.0.0.1:3001", Some("127.0.0.1")),
            ("[::1]:3001", Some("[::1]")),
            ("a;script-src *", None),
            ("a;b", None),
            ("a'b", None),
            ("", None),
        ] {
            let headers = [(header::HOST, HeaderValue::from_str(host).unwrap())];
            let headers = headers.into_iter().collect();
            assert_eq!(named_host(&headers).as_deref(), named, "{host}");
        }
    }
}
