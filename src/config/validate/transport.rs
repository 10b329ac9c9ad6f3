//! `transport`.

use http::HeaderValue;

use super::Findings;
use crate::config::Transport;

/// The first segments of the paths that are the node's own.
const TAKEN: [&str; 6] = ["v1", "api", "metrics", "healthz", "readyz", "console"];

impl Transport {
    pub(super) fn validate(&self, findings: &mut Findings) {
        findings.expect(
            is_path(&self.path),
            "transport.path",
            "must be a path such as /socket.io: segments of letters, digits, '.', '_', '~' and '-', no slash at its end, and none of \
             the node's own",
        );
        if let Some(cookie) = &self.cookie {
            findings.expect(
                is_cookie(cookie),
                "transport.cookie",
                "must be a cookie's name, and its attributes behind a semicolon: io; Path=/; HttpOnly",
            );
        }
    }
}

fn is_path(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else {
        return false;
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
    let is_segment = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(is_plain);
    let mut segments = segments.split('/');
    segments.clone().all(is_segment) && !segments.next().is_some_and(|first| TAKEN.contains(&first))
}

/// RFC 6265 section 4.1.1: the name is a token.
fn is_cookie(cookie: &str) -> bool {
    let name = cookie.split(';').next().unwrap_or_default();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !name.is_empty() && name.chars().all(is_token) && HeaderValue::from_str(cookie).is_ok()
}
