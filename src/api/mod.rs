//! HTTP: `/v1`, health, metrics, and the document of all of it.
//!
//! A handler reads as its call does: its first argument is the right it needs ([`auth::Allowed`]), the ones after it are
//! what comes in, its result is what goes out, and the attribute above it is its page in the OpenAPI document. The only
//! domain object it knows is the [`Gateway`]. Every refusal is an [`error::ApiError`].

pub mod audit;
pub mod auth;
pub mod bans;
pub mod body;
pub mod bulk;
pub mod cluster;
pub mod connections;
pub mod cookie;
pub mod error;
pub mod events;
pub(crate) mod guesses;
pub mod health;
mod idempotency;
mod load;
pub mod me;
pub mod openapi;
pub mod presence;
pub mod rooms;
pub mod sessions;
pub mod tail;
pub mod tokens;
mod traced;
pub mod users;

#[cfg(test)]
mod tests;

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{Method, header};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{config, gateway::Gateway, metrics::Metrics, transport::origin::Origins};
use auth::ApiAuth;
use error::{ApiError, ErrorCode};
use load::Load;

/// How long a request may take, its body included: the longest wait for acknowledgements, and what goes before and after.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);

/// The largest body of calls that take many items, in bytes.
const BULK_BODY: usize = 16 * 1024 * 1024;

/// What every body may have on top of its data: names, ids, and the JSON around them.
const ENVELOPE: usize = 64 * 1024;

/// What the handlers share; clones are the same.
#[derive(Clone)]
pub struct ApiState {
    gateway: Gateway,
    auth: Arc<ApiAuth>,
    config: config::RunningConfig,
    load: Arc<Load>,
    origins: Arc<Origins>,
}

/// How much a caller may send, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One message's data, as JSON.
    max_payload: usize,
    /// The body of a call with one message. Twice the data: in a body it may be written with spaces and escapes.
    single: usize,
    /// The body of a call with many items.
    bulk: usize,
}

impl Limits {
    fn new(config: &config::Limits) -> Self {
        let max_payload = usize::try_from(config.max_payload.as_u64()).unwrap_or(usize::MAX / 4);
        let single = max_payload.saturating_mul(2).saturating_add(ENVELOPE);
        Self {
            max_payload,
            single,
            bulk: single.max(BULK_BODY),
        }
    }
}

impl ApiState {
    /// The state of a node's API. Of the configuration it takes `api.rate`, `api.in_flight` and `limits.max_payload`, as they are
    /// at each call, and `cors`. Who
    /// holds on to `auth` can replace the keys while the API runs.
    pub fn new(gateway: Gateway, auth: Arc<ApiAuth>, config: config::RunningConfig) -> Self {
        let origins = Origins::new(&config.now().cors);
        Self {
            gateway,
            auth,
            config,
            load: Arc::new(Load::new()),
            origins: Arc::new(origins),
        }
    }

    /// How much a caller may send now.
    fn limits(&self) -> Limits {
        Limits::new(&self.config.now().limits)
    }
}

/// The router of the public listener, where there is no internal one: `/metrics` asks for a key. It has no fallback outside `/v1`,
/// and not the [`sessions()`], which pages call: the caller merges those in with the CORS of pages.
pub fn public(state: ApiState) -> Router {
    let (router, document) = documented();
    assemble(router, &document, state)
}

/// Everything for the internal listener: `/metrics` is open. The public listener then has none of it.
pub fn internal(state: ApiState) -> Router {
    let (_, document) = documented();
    let (router, _) = unguarded().split_for_parts();
    let router = router
        .route("/metrics", get(health::metrics_open))
        .fallback(unknown_route);
    assemble(router, &document, state)
}

/// What pages call themselves, `/api/refresh-token` and `/api/logout`: for the public listener in either case, behind the
/// CORS that `/socket.io/` has. No answer is cached: most hold a token.
pub fn sessions(state: ApiState) -> Router {
    let (router, _) = pages_own().split_for_parts();
    let router =
        paced(router, &state).layer(middleware::map_response(async |mut response: Response| {
            let headers = response.headers_mut();
            headers.insert(header::CACHE_CONTROL, sessions::NO_STORE);
            response
        }));
    finish(router, state)
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    documented().1
}

fn documented() -> (Router<ApiState>, utoipa::openapi::OpenApi) {
    let (router, mut document) = unguarded()
        .routes(routes!(health::metrics))
        .split_for_parts();
    document.merge(pages_own().into_openapi());
    idempotency::describe(&mut document);
    (router, document)
}

fn pages_own() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .routes(routes!(sessions::refresh_token))
        .routes(routes!(sessions::logout))
}

/// Everything but `/metrics`, which each listener guards in its own way.
fn unguarded() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(openapi::base())
        .nest("/v1", v1())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}

fn v1() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        // what backends send
        .routes(routes!(events::send_to_user))
        .routes(routes!(events::send_to_connection))
        .routes(routes!(bulk::send_bulk))
        .routes(routes!(events::broadcast))
        .routes(routes!(rooms::send_to_room))
        // who is in which room
        .routes(routes!(
            rooms::members::put_user_into_room,
            rooms::members::take_user_out_of_room
        ))
        .routes(routes!(
            rooms::members::put_connection_into_room,
            rooms::members::take_connection_out_of_room
        ))
        .routes(routes!(rooms::members::list_user_rooms))
        .routes(routes!(rooms::list_rooms))
        .routes(routes!(rooms::get_room, rooms::empty_room))
        .routes(routes!(rooms::list_members))
        // who is there
        .routes(routes!(users::get_user))
        .routes(routes!(users::list_users))
        .routes(routes!(presence::get_presence))
        // who has to go
        .routes(routes!(connections::disconnect_user))
        .routes(routes!(rooms::disconnect_room))
        .routes(routes!(
            connections::get_connection,
            connections::disconnect_connection
        ))
        // who may not come back
        .routes(routes!(bans::ban_user, bans::unban_user, bans::get_ban))
        .routes(routes!(tokens::revoke_user_tokens))
        .routes(routes!(tokens::revoke_token))
        .routes(routes!(sessions::open_session))
        // who asks
        .routes(routes!(me::who_calls))
        // the fleet
        .routes(routes!(cluster::list_nodes))
        .routes(routes!(cluster::stats))
        .routes(routes!(tail::tail))
        .fallback(unknown_route)
}

/// Bounds how often an address may call what asks for no key.
fn paced(router: Router<ApiState>, state: &ApiState) -> Router<ApiState> {
    let door = state.gateway.door().clone();
    router.layer(middleware::from_fn_with_state(door, guesses::pace))
}

/// Adds the document's pages: one of their files has 1.4 MB.
fn assemble(
    router: Router<ApiState>,
    document: &utoipa::openapi::OpenApi,
    state: ApiState,
) -> Router {
    let router = router
        .merge(paced(openapi::pages(document), &state))
        // a nested router's fallback does not match its prefix with a slash
        .route("/v1/", any(unknown_route));
    finish(router, state)
}

/// Adds what every request goes through, outermost first. There is no CORS: pages have no business in `/v1`. How large a
/// body may be depends on the call, and is [`body::Payload::limit`]; nothing of a body is read before the caller has proved
/// the right to send it.
fn finish(router: Router<ApiState>, state: ApiState) -> Router {
    let stack = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(
            state.gateway.metrics().clone(),
            measure,
        ))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn_with_state(
            state.clone(),
            idempotency::once,
        ));
    let traces = state.gateway.traces().clone();
    let mut router = router
        .method_not_allowed_fallback(wrong_method)
        .layer(stack);
    if traces.is_on() {
        router = router.layer(middleware::from_fn_with_state(traces, traced::trace));
    }
    router.with_state(state)
}

/// Counts by the route's template, never by the path: that holds users' ids.
async fn measure(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let method = method_label(request.method());
    let start = Instant::now();
    let response = next.run(request).await;
    metrics.api_request(route, method, response.status().as_u16(), start.elapsed());
    response
}

/// Callers may make methods up; labels may not be made up.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(panic = message, "an API handler panicked");
    ApiError::new(ErrorCode::Internal, "an internal error; the log says more").into_response()
}

async fn in_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_TIMEOUT, next.run(request))
        .await
        .unwrap_or_else(|_| {
            let detail = format!(
                "not done in {} s; it may or may not have happened",
                REQUEST_TIMEOUT.as_secs()
            );
            ApiError::new(ErrorCode::OutcomeUnknown, detail).into_response()
        })
}

async fn unknown_route() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "no such route")
}

async fn wrong_method() -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, "the route has no such method")
}
