//! What orchestrators and Prometheus ask.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::AnyKey,
    error::{ApiError, ErrorCode},
    openapi::Guarded,
};

/// The content type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4";

/// What keeps the node from being ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct Unready {
    ready: bool,
    problems: Vec<&'static str>,
}

/// A node that takes connections, and something that it needs for some of them is away.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Degraded {
    ready: bool,
    degraded: bool,
    /// The shards of the registry that can't be reached, less than half of them: their users are not let in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shards: Vec<String>,
    /// The backends that have not answered calls, or notifications, for a while: such calls are answered `Unavailable`, such
    /// notifications wait.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backends: Vec<String>,
    /// True while the Redis of `auth.session.redis_url` can't be reached: who comes by a session cookie is told to try again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    session_store_away: bool,
}

/// Whether the process lives
///
/// Looks at nothing else: a node whose Redis is away must not be restarted for it.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operations",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain", example = "ok")),
    security(()),
)]
pub async fn healthz() -> &'static str {
    "ok"
}

/// Whether the node takes connections
///
/// It does when it listens, is not draining, and its links to Redis work. In a Redis Cluster some of whose masters are away it does
/// for the users of the others: the answer is then JSON with `degraded` and the shards that are away, as long as most are there. So it is
/// with backends that don't answer, and with a store of sessions on a Redis of its own.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (status = 200, description = "It does; as JSON while shards of the registry, backends or the session store are away", content(
            (String = "text/plain", example = "ready"),
            (Degraded = "application/json", example = json!({"ready": true, "degraded": true, "shards": ["3"]})),
        )),
        (status = 503, description = "It does not, and why", body = Unready,
            example = json!({"ready": false, "problems": ["draining"]})),
    ),
    security(()),
)]
pub async fn readyz(State(state): State<ApiState>) -> Response {
    let gateway = &state.gateway;
    let away = Degraded {
        shards: gateway.shards_away(),
        backends: gateway.backends_down(),
        session_store_away: gateway.lacks_session_store(),
        ..Degraded::default()
    };
    readiness(gateway.unready(), away)
}

fn readiness(problems: Vec<&'static str>, away: Degraded) -> Response {
    if !problems.is_empty() {
        let unready = Unready {
            ready: false,
            problems,
        };
        return (StatusCode::SERVICE_UNAVAILABLE, Json(unready)).into_response();
    }
    if away == Degraded::default() {
        return "ready".into_response();
    }
    let degraded = Degraded {
        ready: true,
        degraded: true,
        ..away
    };
    Json(degraded).into_response()
}

/// The node's metrics
///
/// Prometheus text. On the public listener only with a key, whatever its scopes; on the internal listener without one.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses(
        (status = 200, description = "All series of this node", body = String, content_type = "text/plain"),
        Guarded,
    ),
    security(("key" = [])),
)]
pub async fn metrics(_: AnyKey, State(state): State<ApiState>) -> Result<Response, ApiError> {
    render(&state).await
}

/// The node's metrics on the internal listener, where no key is asked for.
pub async fn metrics_open(State(state): State<ApiState>) -> Result<Response, ApiError> {
    render(&state).await
}

/// On a thread of its own: folding the histograms of a busy node takes milliseconds, in which no socket would be served.
async fn render(state: &ApiState) -> Result<Response, ApiError> {
    let gateway = state.gateway.clone();
    let text = tokio::task::spawn_blocking(move || gateway.render_metrics())
        .await
        .map_err(|error| {
            tracing::error!(%error, "metrics could not be rendered");
            ApiError::new(ErrorCode::Internal, "the metrics could not be rendered")
        })?;
    Ok(([(header::CONTENT_TYPE, PROMETHEUS)], text).into_response())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn shown(problems: Vec<&'static str>, away: Degraded) -> (u16, String) {
        let response = readiness(problems, away);
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn shards(away: &[&str]) -> Degraded {
        Degraded {
            shards: away.iter().map(|shard| (*shard).to_owned()).collect(),
            ..Degraded::default()
        }
    }

    #[tokio::test]
    async fn readiness_says_what_is_wrong() {
        let degraded = |away| shown(Vec::new(), away);
        assert_eq!(degraded(shards(&[])).await, (200, "ready".into()));
        assert_eq!(
            degraded(shards(&["0", "a"])).await,
            (
                200,
                r#"{"ready":true,"degraded":true,"shards":["0","a"]}"#.into()
            )
        );
        let app = Degraded {
            backends: vec!["app".to_owned()],
            ..Degraded::default()
        };
        assert_eq!(
            degraded(app).await,
            (
                200,
                r#"{"ready":true,"degraded":true,"backends":["app"]}"#.into()
            )
        );
        let store = Degraded {
            session_store_away: true,
            ..Degraded::default()
        };
        assert_eq!(
            degraded(store).await,
            (
                200,
                r#"{"ready":true,"degraded":true,"sessionStoreAway":true}"#.into()
            )
        );
        assert_eq!(
            shown(vec!["draining", "bus"], shards(&["0"])).await,
            (
                503,
                r#"{"ready":false,"problems":["draining","bus"]}"#.into()
            )
        );
    }
}
