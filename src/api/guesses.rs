//! How often an address may fail to prove who it is, and how often it may make a call that needs no proof.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::request::Parts;

use super::error::{ApiError, ErrorCode};
use crate::transport::door::Door;

/// The address that credentials come from, which may fail 50 times at once, and 10 times a second from then on.
#[derive(Clone, Copy)]
pub(super) struct Guesses<'a> {
    door: &'a Door,
    client: Option<IpAddr>,
}

impl<'a> Guesses<'a> {
    /// Those of the client that a request comes from.
    pub(super) fn of(door: &'a Door, parts: &Parts) -> Self {
        Self::new(door, door.client(&parts.extensions, &parts.headers))
    }

    /// Those of a client's address; none is not counted.
    pub(super) fn new(door: &'a Door, client: Option<IpAddr>) -> Self {
        Self { door, client }
    }

    /// Refuses to look at credentials that may be wrong, with 429, as long as the address has failed too often.
    pub(super) fn check(self) -> Result<(), ApiError> {
        match self.client {
            Some(client) if !self.door.may_guess(client) => {
                Err(too_often("failed to authenticate"))
            }
            _ => Ok(()),
        }
    }

    /// Counts credentials that open nothing.
    pub(super) fn count(self) {
        if let Some(client) = self.client {
            self.door.guessed_wrong(client);
        }
    }
}

/// Answers 429 to an address that calls faster than `limits.handshakes_per_second_per_address`, of which each call is one.
pub(crate) async fn pace(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let client = door.client(request.extensions(), request.headers());
    match client {
        Some(client) if !door.may_call(client) => too_often("called").into_response(),
        _ => next.run(request).await,
    }
}

fn too_often(done: &str) -> ApiError {
    let detail = format!("this address has {done} too often; try again in a moment");
    ApiError::new(ErrorCode::RateLimited, detail)
}
