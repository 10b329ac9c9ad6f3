//! Calls that are carried out once, however often they are made: those with an `Idempotency-Key`
//! ([draft-ietf-httpapi-idempotency-key-header](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/)).
//!
//! The registry keeps what each call answered, for every node. What is sent has an id that follows from caller, key and request: so
//! a message whose call is repeated, because nobody can say what became of it, is handed over by no node twice, also where the
//! registry has lost the call.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::openapi::{
    OpenApi, Ref, RefOr,
    path::{ParameterBuilder, ParameterIn},
    schema::{ObjectBuilder, Type},
};

use super::{
    ApiState, REQUEST_TIMEOUT,
    auth::{Admitted, scope},
    body::read,
    error::{ApiError, ErrorCode},
};
use crate::{
    gateway::Message,
    registry::{CLAIM_KEPT, Call, CallEnd, Claim},
    telemetry::traces::carried,
};

/// What the caller names a call with.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that an answer is one that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest key, in characters.
const MAX_KEY: usize = 255;

/// The largest answer that is kept, in bytes: each is in Redis for five minutes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Many events in one call, which has room for a larger body.
const BULK: &str = "/v1/events";

/// The calls that send. All are POST.
const SENDS: [&str; 5] = [
    BULK,
    "/v1/users/{user}/events",
    "/v1/connections/{id}/events",
    "/v1/rooms/{room}/events",
    "/v1/broadcast",
];

/// The calls that end. All are POST.
const ENDS: [&str; 4] = [
    "/v1/users/{user}/disconnect",
    "/v1/rooms/{room}/disconnect",
    "/v1/users/{user}/revoke-tokens",
    "/v1/tokens/revoke",
];

/// The id of what a call sends; none if it came without a key.
#[derive(Clone, Debug, Default)]
pub struct CallId(Option<String>);

impl CallId {
    /// The one message of the call.
    pub(super) fn message(self, message: Message) -> Message {
        Message {
            id: self.0,
            ..message
        }
    }

    /// One of the call's messages, by its place.
    pub(super) fn item(&self, index: usize, message: Message) -> Message {
        let id = self.0.as_ref().map(|id| format!("{id}.{index}"));
        Message { id, ..message }
    }
}

impl<S: Sync> FromRequestParts<S> for CallId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// An answer as the registry keeps it, in MessagePack; nil stands for one that was too large.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(rename = "s")]
    status: u16,
    #[serde(rename = "t")]
    content_type: String,
    #[serde(rename = "b")]
    body: String,
}

/// Carries a call with a key out once, and answers its repetitions.
pub(super) async fn once(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("", MatchedPath::as_str).to_owned();
    let (sends, ends) = (
        SENDS.contains(&route.as_str()),
        ENDS.contains(&route.as_str()),
    );
    let applies = request.method() == Method::POST && (sends || ends);
    if !applies || !request.headers().contains_key(KEY) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let admitted = match ends {
        true => state.admit::<scope::Disconnect>(&parts).await,
        false => state.admit::<scope::Send>(&parts).await,
    };
    let response = async {
        let caller = admitted?;
        let call = call(&state, &route, &caller, &parts, body).await?;
        parts.extensions.insert(caller);
        claimed(&state, call, parts, next).await
    };
    response.await.unwrap_or_else(IntoResponse::into_response)
}

/// A call, and the body that came with it.
async fn call(
    state: &ApiState,
    route: &str,
    admitted: &Admitted,
    parts: &Parts,
    body: Body,
) -> Result<(Call, Bytes), ApiError> {
    let key = key(&parts.headers)?;
    let limits = state.limits();
    let limit = match route {
        BULK => limits.bulk,
        _ => limits.single,
    };
    let body = Bytes::from(read(&parts.headers, body, limit).await?);
    let call = Call {
        key: digest(&[admitted.caller().name().as_bytes(), key.as_bytes()]),
        asked: digest(&[parts.uri.path().as_bytes(), &body]),
        claim: URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()),
    };
    Ok((call, body))
}

/// Carries a call out, unless it has been, or is being.
async fn claimed(
    state: &ApiState,
    (call, body): (Call, Bytes),
    mut parts: Parts,
    next: Next,
) -> Result<Response, ApiError> {
    match state.gateway.claim_call(&call).await? {
        Claim::Taken => {}
        Claim::UnderWay => {
            return Err(ApiError::new(
                ErrorCode::CallUnderWay,
                "the first call with this Idempotency-Key is under way",
            ));
        }
        Claim::Other => {
            return Err(ApiError::new(
                ErrorCode::IdempotencyKeyReused,
                "Idempotency-Key: it stands for a call with another path or body",
            ));
        }
        Claim::Done(kept) => return replayed(&kept),
    }
    let id = digest(&[&call.key, &call.asked]);
    let id = URL_SAFE_NO_PAD.encode(&id[..16]);
    parts.extensions.insert(CallId(Some(id)));
    let request = Request::from_parts(parts, Body::from(body));
    let state = state.clone();
    // A task of its own, as a caller that goes away must not leave the call half done.
    let running = tokio::spawn(carried(async move {
        let response = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request));
        carry_out(&state, &call, response).await
    }));
    running.await.map_err(|error| {
        tracing::error!(%error, "a call with an Idempotency-Key broke off");
        ApiError::new(ErrorCode::Internal, "an internal error; the log says more")
    })
}

/// Waits for the answer of a call, keeps the claim meanwhile, and gives the call its end.
async fn carry_out<E>(
    state: &ApiState,
    call: &Call,
    answer: impl Future<Output = Result<Response, E>>,
) -> Response {
    let mut answer = std::pin::pin!(answer);
    let answered = loop {
        match tokio::time::timeout(CLAIM_KEPT / 3, &mut answer).await {
            Ok(answered) => break answered,
            Err(_) => {
                if let Err(error) = state.gateway.claim_call(call).await {
                    tracing::warn!(%error, "can't prolong the claim of a call");
                }
            }
        }
    };
    let Ok(response) = answered else {
        settle(state, call, CallEnd::Unknown).await;
        return ApiError::outcome_unknown().into_response();
    };
    match response.status() {
        StatusCode::SERVICE_UNAVAILABLE => {
            settle(state, call, CallEnd::Free).await;
            response
        }
        status if status.is_server_error() => {
            settle(state, call, CallEnd::Unknown).await;
            response
        }
        _ => keep(state, call, response).await,
    }
}

/// Keeps an answer, and gives it.
async fn keep(state: &ApiState, call: &Call, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            tracing::error!(%error, "can't read an answer of this node's own");
            settle(state, call, CallEnd::Unknown).await;
            return ApiError::outcome_unknown().into_response();
        }
    };
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let kept = (body.len() <= MAX_ANSWER).then(|| Kept {
        status: parts.status.as_u16(),
        content_type: content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
    });
    match rmp_serde::to_vec_named(&kept) {
        Ok(written) => settle(state, call, CallEnd::Done(&written)).await,
        Err(error) => tracing::error!(%error, "can't write down an answer"),
    }
    Response::from_parts(parts, Body::from(body))
}

/// Gives the call its end. Where that fails, the claim lapses, and a repetition is carried out under the same id.
async fn settle(state: &ApiState, call: &Call, end: CallEnd<'_>) {
    if let Err(error) = state.gateway.settle_call(call, end).await {
        tracing::warn!(%error, "can't write down how a call with an Idempotency-Key ended");
    }
}

/// The answer that was kept.
fn replayed(kept: &[u8]) -> Result<Response, ApiError> {
    let unreadable = || {
        ApiError::new(
            ErrorCode::AnswerNotKept,
            "the call is done; its answer can't be read",
        )
    };
    let kept: Option<Kept> = rmp_serde::from_slice(kept).map_err(|_| unreadable())?;
    let kept = kept.ok_or_else(|| {
        ApiError::new(
            ErrorCode::AnswerNotKept,
            format!(
                "the call is done; its answer had more than the {MAX_ANSWER} bytes that are kept"
            ),
        )
    })?;
    let status = StatusCode::from_u16(kept.status).map_err(|_| unreadable())?;
    let content_type = HeaderValue::from_str(&kept.content_type).map_err(|_| unreadable())?;
    let mut response = (status, kept.body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// The key of a call: 1 to 255 visible characters of ASCII, spaces among them.
fn key(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut values = headers.get_all(KEY).iter();
    let value = values.next().and_then(|value| value.to_str().ok());
    value
        .filter(|key| (1..=MAX_KEY).contains(&key.len()) && values.next().is_none())
        .ok_or_else(|| {
            ApiError::new(
                ErrorCode::InvalidIdempotencyKey,
                format!("Idempotency-Key: one, of 1 to {MAX_KEY} characters of ASCII"),
            )
        })
}

/// One digest of several things, each with its length in front of it.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// Adds to the document what these calls take and answer besides.
pub(super) fn describe(document: &mut OpenApi) {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_KEY));
    let key = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "A name for this call: for 5 minutes, the same call by the same caller is not carried out again, and gets the first \
             answer, with `Idempotent-Replayed: true`",
        ))
        .schema(Some(text))
        .build();
    for route in SENDS.iter().chain(&ENDS) {
        let item = document.paths.paths.get_mut(*route);
        let Some(call) = item.and_then(|item| item.post.as_mut()) else {
            continue;
        };
        call.parameters.get_or_insert_default().push(key.clone());
        let repeated = RefOr::Ref(Ref::from_response_name("Repeated"));
        call.responses.responses.insert("409".to_owned(), repeated);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::document;

    #[test]
    fn every_post_that_sends_or_ends_takes_a_key() {
        let mut found: Vec<_> = document().paths.paths.into_iter().collect();
        found.retain(|(_, item)| {
            let tags = item.post.as_ref().and_then(|call| call.tags.clone());
            let tags = tags.unwrap_or_default();
            let sends_or_ends = |tag: &String| ["send", "disconnect", "access"].contains(&&**tag);
            tags.iter().any(sends_or_ends)
        });
        let found: std::collections::BTreeSet<_> =
            found.into_iter().map(|(path, _)| path).collect();
        let listed = SENDS.iter().chain(&ENDS).map(|path| (*path).to_owned());
        assert_eq!(found, listed.collect());
    }
}
