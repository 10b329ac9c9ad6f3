//! The span of each call, below the one that the caller's `traceparent` names.

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use opentelemetry::trace::SpanKind;

use super::method_label;
use crate::telemetry::traces::{Begin, Traces};

/// Answers a call of `/v1` or `/api` within a span. It has the route's template and never the path, which holds users' ids.
pub(super) async fn trace(State(traces): State<Traces>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let Some(route) = route.filter(|route| is_call(route.as_str())) else {
        return next.run(request).await;
    };
    let span = traces.answer(request.headers(), || {
        let (method, route) = (method_label(request.method()), route.as_str().to_owned());
        Begin::new(format!("{method} {route}"), SpanKind::Server)
            .with("http.request.method", method)
            .with("http.route", route)
    });
    let response = span.within(next.run(request)).await;
    let status = response.status();
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(&status);
    }
    response
}

/// Whether a route is a call, and not a page of the document.
fn is_call(route: &str) -> bool {
    (route.starts_with("/v1/") || route.starts_with("/api/")) && !route.starts_with("/v1/docs")
}
