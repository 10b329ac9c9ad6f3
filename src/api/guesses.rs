//! How often an address may fail to prove who it is, and how often it may make a call that needs no proof.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

use super::error::{ApiError, ErrorCode};
use crate::transport::door::Door;

/// Answers 429 to an address that has failed to authenticate 50 times, and more than 10 times a second since. Until its next
/// attempt is due nothing of its own is looked at, also not a right key: otherwise guessing would go on at full speed. So there is
/// no such limit on loopback and for trusted proxies, which many share.
pub(super) async fn bound(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let presents = headers.contains_key(header::AUTHORIZATION);
    let client = door.client(request.extensions(), headers);
    let Some(client) = client.filter(|_| presents) else {
        return next.run(request).await;
    };
    if !door.may_guess(client) {
        return too_often("failed to authenticate");
    }
    let answer = next.run(request).await;
    if answer.status() == StatusCode::UNAUTHORIZED {
        door.guessed_wrong(client);
    }
    answer
}

/// Answers 429 to an address that calls faster than `limits.handshakes_per_second_per_address`, of which each call is one.
pub(super) async fn pace(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let client = door.client(request.extensions(), request.headers());
    match client {
        Some(client) if !door.may_call(client) => too_often("called"),
        _ => next.run(request).await,
    }
}

fn too_often(done: &str) -> Response {
    let detail = format!("this address has {done} too often; try again in a moment");
    ApiError::new(ErrorCode::RateLimited, detail).into_response()
}
