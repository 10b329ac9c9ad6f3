//! The client's published bundle, for pages with `<script src="/socket.io/socket.io.js">`.
//!
//! The files are read once, at the start, and served from memory: so a page gets them whatever becomes of the directory, and
//! no request reaches the file system.

use std::{collections::HashMap, io, path::Path, sync::Arc};

use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::config::ConfigError;

/// The key that names the directory.
const KEY: &str = "transport.client_bundle";

/// What the directory `dist` of the npm package `socket.io-client` holds for pages: the names under which the JavaScript server
/// serves it, each with its source map.
const FILES: [&str; 8] = [
    "socket.io.js",
    "socket.io.js.map",
    "socket.io.min.js",
    "socket.io.min.js.map",
    "socket.io.esm.min.js",
    "socket.io.esm.min.js.map",
    "socket.io.msgpack.min.js",
    "socket.io.msgpack.min.js.map",
];

/// What a page is told that asks for the bundle of a node without one.
const MISSING: &str = "This node serves no client: transport.client_bundle is to name the directory \"dist\" of the npm package \
                       socket.io-client.\n";

/// The files of the client's bundle; clones share them.
#[derive(Clone, Default)]
pub struct Bundle(Arc<HashMap<&'static str, File>>);

struct File {
    content: Bytes,
    /// Its digest, in quotes (RFC 9110 section 8.8.3).
    etag: HeaderValue,
}

impl Bundle {
    /// Reads the files of a directory. Without a directory there are none.
    ///
    /// # Errors
    ///
    /// When `socket.io.js` is not in the directory, or a file can't be read.
    pub fn read(directory: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(directory) = directory else {
            return Ok(Self::default());
        };
        let mut files = HashMap::new();
        for name in FILES {
            let path = directory.join(name);
            match std::fs::read(&path) {
                Ok(content) => {
                    files.insert(name, File::new(content));
                }
                // Older versions of the package have fewer.
                Err(error) if error.kind() == io::ErrorKind::NotFound && name != FILES[0] => {}
                Err(error) => {
                    let problem = format!("{}: {error}", path.display());
                    return Err(ConfigError::at(KEY, problem));
                }
            }
        }
        Ok(Self(Arc::new(files)))
    }

    /// Whether a name is that of a file of the bundle, which this node may have or not.
    fn names(name: &str) -> bool {
        FILES.contains(&name)
    }

    /// Answers a request for a file.
    pub fn answer(&self, name: &str, headers: &HeaderMap) -> Response<Body> {
        let Some(file) = self.0.get(name) else {
            let why = if Self::names(name) { MISSING } else { "" };
            return (StatusCode::NOT_FOUND, why).into_response();
        };
        let mut response = match file.is_known_by(headers) {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => Response::new(file.content.clone().into()),
        };
        let kind = match name.ends_with(".map") {
            true => "application/json; charset=utf-8",
            false => "application/javascript; charset=utf-8",
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, file.etag.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        // To be asked for each time: the name stays the same over versions.
        let cache = HeaderValue::from_static("public, max-age=0");
        headers.insert(header::CACHE_CONTROL, cache);
        response
    }
}

impl File {
    fn new(content: Vec<u8>) -> Self {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let digest = URL_SAFE_NO_PAD.encode(&Sha256::digest(&content)[..16]);
        Self {
            content: content.into(),
            etag: HeaderValue::from_str(&format!("\"{digest}\""))
                .unwrap_or(HeaderValue::from_static("\"\"")),
        }
    }

    /// Whether the client has it already: `If-None-Match` names it (RFC 9110 section 13.1.2).
    fn is_known_by(&self, headers: &HeaderMap) -> bool {
        let etag = self.etag.to_str().unwrap_or_default();
        headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == etag || tag == "*")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_the_client_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = Bundle::read(Some(directory.path())).err().unwrap();
        assert_eq!(error.problems()[0].key, KEY);
        std::fs::write(directory.path().join("socket.io.js"), "io").unwrap();
        let bundle = Bundle::read(Some(directory.path())).unwrap();
        let status = |name, headers: &HeaderMap| bundle.answer(name, headers).status().as_u16();
        let mut headers = HeaderMap::new();
        assert_eq!(status("socket.io.js", &headers), 200);
        assert_eq!(status("socket.io.min.js", &headers), 404);
        assert_eq!(status("../Cargo.toml", &headers), 404);
        let etag = bundle.answer("socket.io.js", &headers).headers()[header::ETAG].clone();
        headers.insert(header::IF_NONE_MATCH, etag);
        assert_eq!(status("socket.io.js", &headers), 304);
    }
}
