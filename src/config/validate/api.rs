//! What must go together of the HTTP side: a backend's keys, and the origins of pages.

use std::{collections::HashSet, net::SocketAddr};

use reqwest::Url;

use super::Findings;
use crate::config::{Config, KeySecret, print::MASK};

/// The shortest key that opens an API which others than this machine reach. At the 8,400 guesses a second that a node takes
/// (measured), 8 lower-case letters last a year, 16 outlast everything.
const MIN_EXPOSED_KEY: usize = 16;

impl Config {
    pub(super) fn api_keys(&self, findings: &mut Findings) {
        // Where `/v1` is served.
        let address = self.internal_listen.unwrap_or(self.listen);
        let exposed = (!address.ip().is_loopback()).then_some(address);
        if let Some(key) = &self.api.key {
            guessable("api.key", key, exposed, findings);
        }
        let mut names = HashSet::new();
        let mut digests: HashSet<[u8; 32]> =
            self.api.key.iter().filter_map(KeySecret::digest).collect();
        for (index, entry) in self.api.keys.iter().enumerate() {
            let at = |field: &str| format!("api.keys.{index}.{field}");
            guessable(&at("key"), &entry.key, exposed, findings);
            if entry
                .key
                .digest()
                .is_some_and(|digest| !digests.insert(digest))
            {
                findings.add(at("key"), "the same key as another one's");
            }
            if !names.insert(entry.name.as_str()) {
                findings.add(at("name"), "the name of another key");
            }
            if entry.scopes.is_empty() {
                findings.add(
                    at("scopes"),
                    "must name at least one of: read, send, disconnect, admin",
                );
            }
        }
    }

    pub(super) fn origins(&self, findings: &mut Findings) {
        let origins = &self.cors.allowed_origins;
        for (index, origin) in origins.iter().enumerate() {
            let key = format!("cors.allowed_origins.{index}");
            if origin == "*" {
                if origins.len() > 1 {
                    findings.add(key, "\"*\" stands alone: it covers the others");
                }
            } else if let Err(what) = origin_as_sent(origin) {
                findings.add(key, format!("{origin:?} {what}"));
            }
        }
    }
}

/// `exposed` is the address of the API where others than this machine reach it.
fn guessable(key: &str, value: &KeySecret, exposed: Option<SocketAddr>, findings: &mut Findings) {
    let length = value.text().len();
    if let Some(address) = exposed
        && !value.is_hashed()
        && (1..MIN_EXPOSED_KEY).contains(&length)
        && value.text() != MASK
    {
        let what = format!(
            "has fewer than {MIN_EXPOSED_KEY} characters, and the API listens on {address}: it can be guessed over the network. \
             Take 32 random bytes: openssl rand -hex 32"
        );
        findings.add(key, what);
    }
}

/// Whether an origin is written as a browser sends it (RFC 6454 section 6.2), which is what it is compared with.
fn origin_as_sent(origin: &str) -> Result<(), String> {
    const SHAPE: &str = "must be scheme://host or scheme://host:port";
    let url = Url::parse(origin).map_err(|_| SHAPE.to_owned())?;
    let bare = matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    // A URL parser takes a star in a host for a letter; here somebody means a pattern.
    let Some(host) = url.host_str().filter(|host| bare && !host.contains('*')) else {
        return Err(SHAPE.to_owned());
    };
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let sent = format!("{}://{host}{port}", url.scheme());
    if sent == origin {
        Ok(())
    } else {
        Err(format!("must be written as browsers send it: {sent}"))
    }
}
