//! What happens on the node that is asked, as it happens.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt, stream};
use http::{HeaderName, HeaderValue};
use serde_json::json;

use super::{
    ApiState,
    auth::{Allowed, scope},
    error::{ApiError, ErrorCode},
    openapi::Guarded,
};
use crate::gateway::tail::{QUEUE, Told};

/// How often something is sent while nothing happens: proxies close what is silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Has nginx pass on what it gets.
const UNBUFFERED: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);

/// Follow what happens on this node
///
/// Server-Sent Events. `hello` comes first: `{nodeId, queue}`. What follows without a name is JSON with `at` and a `type`: `connected`,
/// `refused`, `upgraded`, `disconnected`, `joined`, `left` (a room), `message` (handed to connections of this node) or `event` (of a client's).
/// It has names, ids and sizes, and no payloads. `dropped` says how many were left out here because the caller did not take them in time: `{count}`.
///
/// Of this node alone. A node takes 16 followers at once. A stream ends after five minutes, and when the configuration is reloaded, so that the
/// caller's right is looked at anew.
#[utoipa::path(
    get,
    path = "/tail",
    tag = "cluster",
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream", example =
            "event: hello\ndata: {\"nodeId\":\"gateway-1-x7\",\"queue\":1024}\n\ndata: {\"at\":\"2030-01-01T00:00:00Z\",\"type\":\"disconnected\",\"connection\":\"c5Zk0pXv9Rr2mWqT1nYbLdA\",\"user\":\"42\",\"namespace\":\"/\",\"reason\":\"client_disconnect\",\"seconds\":12}\n\n"),
        Guarded,
    ),
    security(("key" = ["read"])),
)]
pub async fn tail(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
) -> Result<Response, ApiError> {
    let follower = state.gateway.follow_tail().ok_or_else(|| {
        let detail = "this node's tail has as many followers as it may; try again in a moment";
        ApiError::new(ErrorCode::Overloaded, detail)
    })?;
    let hello = json!({ "nodeId": state.gateway.node_id(), "queue": QUEUE });
    let hello = Event::default().event("hello").data(hello.to_string());
    let told = stream::unfold(follower, async |mut follower| {
        let event = match follower.next().await? {
            Told::Happened(text) => Event::default().data(text),
            Told::Dropped(count) => {
                let data = json!({ "count": count }).to_string();
                Event::default().event("dropped").data(data)
            }
        };
        Some((event, follower))
    });
    let events = stream::once(async { hello }).chain(told);
    let events = Sse::new(events.map(Ok::<_, Infallible>));
    let events = events.keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([UNBUFFERED], events).into_response())
}
