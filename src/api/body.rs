//! What comes in besides the head: JSON bodies, ids in paths, query strings. Everything that is wrong with their shape is
//! a problem that names the place.

use std::{fmt, str::FromStr};

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::{HeaderMap, header, request::Parts};
use http_body_util::BodyExt;
use serde::{Deserialize, Deserializer, de, de::DeserializeOwned};

use super::{
    ApiState, Limits,
    error::{ApiError, ErrorCode},
};
use crate::{
    connection::{ConnectionId, UserId},
    gateway::requests::{fields::Object, user_id},
};

/// How much of a body that is too large is read and thrown away, in bytes. A server that closes while the client still
/// writes resets the connection, and the client never sees the 413.
const DISCARDED: usize = 16 * 1024 * 1024;

/// A type of JSON body.
pub trait Payload: DeserializeOwned {
    /// The largest body, in bytes.
    fn limit(limits: &Limits) -> usize {
        limits.single
    }

    /// What no body at all stands for, or `null`; none where there has to be one.
    fn when_empty() -> Option<Self> {
        None
    }
}

/// A JSON body.
pub struct Body<T>(pub T);

impl<T: Payload> FromRequest<ApiState> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, T::limit(&state.limits())).await?;
        if matches!(bytes.as_slice(), b"" | b"null")
            && let Some(payload) = T::when_empty()
        {
            return Ok(Self(payload));
        }
        // Content-Type is not looked at: `curl -d` says that it sends a form, `fetch` that a text is one. To insist on
        // application/json is what keeps other sites' pages out of APIs that take cookies. This one takes `Authorization`,
        // which no page can send in a visitor's name.
        parse(&mut serde_json::Deserializer::from_slice(&bytes)).map(Self)
    }
}

/// Reads the body of a request with these headers, of at most `limit` bytes.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: axum::body::Body,
    limit: usize,
) -> Result<Vec<u8>, ApiError> {
    if announced(headers).is_some_and(|length| length > limit + DISCARDED) {
        return Err(too_large(limit));
    }
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| malformed(format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length += data.len();
        if length <= limit {
            bytes.extend_from_slice(&data);
        } else if length > limit + DISCARDED {
            break;
        }
    }
    if length > limit {
        return Err(too_large(limit));
    }
    Ok(bytes)
}

/// The length that a body is said to have, before any of it has come.
fn announced(headers: &HeaderMap) -> Option<usize> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        ErrorCode::PayloadTooLarge,
        format!("the body may have {limit} bytes"),
    )
}

/// Reads one JSON text to its end. An error names the field.
fn parse<'de, T, R>(deserializer: &mut serde_json::Deserializer<R>) -> Result<T, ApiError>
where
    T: Deserialize<'de>,
    R: serde_json::de::Read<'de>,
{
    let Object(value) = serde_path_to_error::deserialize(&mut *deserializer).map_err(at_place)?;
    deserializer
        .end()
        .map_err(|error| malformed(error.to_string()))?;
    Ok(value)
}

/// Reads a part of a body that was read as a JSON value before. An error names the field at fault.
pub fn part<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, ApiError> {
    let Object(value) = serde_path_to_error::deserialize(value).map_err(at_place)?;
    Ok(value)
}

fn at_place(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = error.path().to_string();
    let error = error.into_inner();
    malformed(match path.as_str() {
        "." => error.to_string(),
        path => format!("{path}: {error}"),
    })
}

fn malformed(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Malformed, detail)
}

/// The `{user}` of a path, decoded exactly once: whatever an id holds comes through, a `%2F` as a slash in the id.
pub struct UserPath(pub UserId);

impl FromRequestParts<ApiState> for UserPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        Ok(Self(user_id(path_parts(parts, state).await?)?))
    }
}

/// The `{id}` of a connection's path.
pub struct ConnectionPath(pub ConnectionId);

impl FromRequestParts<ApiState> for ConnectionPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let id: String = path_parts(parts, state).await?;
        Ok(Self(id.into()))
    }
}

/// What a path has in its places: one text, or a pair of them.
pub async fn path_parts<T>(parts: &mut Parts, state: &ApiState) -> Result<T, ApiError>
where
    T: DeserializeOwned + Send,
{
    Path::from_request_parts(parts, state)
        .await
        .map(|Path(given)| given)
        .map_err(|rejection| malformed(rejection.body_text()))
}

/// The query string.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        Query::from_request_parts(parts, state)
            .await
            .map(|Query(params)| Self(params))
            .map_err(|rejection| malformed(rejection.body_text()))
    }
}

/// `?limit=&cursor=` is what a form with nothing filled in sends.
pub fn blank_is_absent<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(de::Error::custom)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::gateway::requests::fields::present;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(default, deserialize_with = "present")]
        data: Option<Value>,
        #[serde(default)]
        list: Vec<u8>,
    }

    fn sample(text: &str) -> Result<Sample, ApiError> {
        parse(&mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn null_is_not_absent() {
        assert_eq!(sample(r#"{"list":[1]}"#).unwrap().list, [1]);
        assert_eq!(sample("{}").unwrap().data, None);
        assert_eq!(sample(r#"{"data":null}"#).unwrap().data, Some(Value::Null));
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (text, culprit) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("{} {}", "trailing"),
            (r#"{"list":[1,"x"]}"#, "list[1]"),
            (r#"{"lost":1}"#, "`lost`"),
            ("7", "expected an object"),
            ("[null,[1]]", "expected an object"),
        ] {
            let error = sample(text).unwrap_err();
            assert_eq!(error.code, ErrorCode::Malformed, "{text}");
            assert!(error.detail.contains(culprit), "{text}: {}", error.detail);
        }
        let deep = format!(r#"{{"data":{}}}"#, "[".repeat(100_000));
        assert!(
            sample(&deep)
                .unwrap_err()
                .detail
                .contains("recursion limit")
        );
    }

    #[tokio::test]
    async fn a_body_may_be_as_large_as_its_limit() {
        let body = |length: usize| axum::body::Body::from(vec![b'x'; length]);
        let none = HeaderMap::new();
        assert_eq!(read(&none, body(10), 10).await.unwrap().len(), 10);
        assert_eq!(
            read(&none, body(11), 10).await.unwrap_err().code,
            ErrorCode::PayloadTooLarge
        );
    }
}
