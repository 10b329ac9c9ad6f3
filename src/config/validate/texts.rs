//! What is wrong with the text of a key: `Err` says it. Checks are named in the keys' declarations.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue};
use redis::IntoConnectionInfo;
use reqwest::Url;
use tracing_subscriber::EnvFilter;

use crate::config::{KeySecret, print::MASK, value::MASKED};
use crate::connection::check_room;

/// The names that `auth.jwt.algorithms` takes: RFC 7518 section 3.1 and RFC 8037 section 3.1, without `none`.
const ALGORITHMS: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

/// The first segments of the paths that are the node's own.
const TAKEN: [&str; 6] = ["v1", "api", "metrics", "healthz", "readyz", "console"];

fn expect(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// A name: anything but nothing.
pub(in crate::config) fn named(text: &str) -> Result<(), String> {
    expect(!text.trim().is_empty(), "must not be empty")
}

pub(in crate::config) fn node_id(text: &str) -> Result<(), String> {
    let fits = (1..=128).contains(&text.len())
        && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    expect(
        fits,
        "must be 1 to 128 bytes without spaces or control characters",
    )
}

/// A prefix of keys and channels.
pub(in crate::config) fn prefix(text: &str) -> Result<(), String> {
    // Braces would choose the slot of a Redis Cluster, the others are patterns of PSUBSCRIBE.
    let bad = |c: char| c.is_control() || c.is_whitespace() || "{}*?[]\\".contains(c);
    expect(
        !text.is_empty() && !text.contains(bad),
        "must not be empty or hold spaces, control characters or any of { } * ? [ ] \\",
    )
}

/// A channel of Redis, or what channels begin with.
pub(in crate::config) fn channel(text: &str) -> Result<(), String> {
    let bad = |c: char| c.is_control() || c == '#';
    expect(
        !text.is_empty() && !text.contains(bad),
        "must not be empty or hold control characters or #",
    )
}

/// The path at which clients connect.
pub(in crate::config) fn transport_path(text: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
    let is_segment = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(is_plain);
    let fits = text.strip_prefix('/').is_some_and(|segments| {
        let mut segments = segments.split('/');
        segments.clone().all(is_segment)
            && !segments.next().is_some_and(|first| TAKEN.contains(&first))
    });
    expect(
        fits,
        "must be a path such as /socket.io: segments of letters, digits, '.', '_', '~' and '-', no slash at its end, and none of \
         the node's own",
    )
}

/// A cookie's name, which is a token (RFC 6265 section 4.1.1), and its attributes.
pub(in crate::config) fn transport_cookie(text: &str) -> Result<(), String> {
    let name = text.split(';').next().unwrap_or_default();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let fits =
        !name.is_empty() && name.chars().all(is_token) && HeaderValue::from_str(text).is_ok();
    expect(
        fits,
        "must be a cookie's name, and its attributes behind a semicolon: io; Path=/; HttpOnly",
    )
}

/// A room, or the beginning of rooms that clients may join.
pub(in crate::config) fn room_pattern(text: &str) -> Result<(), String> {
    let begin = text.strip_suffix('*').unwrap_or(text);
    let fits = text == "*" || (check_room(begin).is_ok() && !begin.contains('*'));
    expect(
        fits,
        "must be a room's name of 1 to 200 characters, or the beginning of names with a * behind it; not one that begins with user:, \
         role: or device:",
    )
}

/// A secret that seals: as many bytes as SHA-256 has (RFC 2104 section 3).
pub(in crate::config) fn seal(text: &str) -> Result<(), String> {
    expect(text.len() >= 32, "must have at least 32 bytes")
}

/// A key of the API, in clear or as its digest.
pub(in crate::config) fn api_key(text: &str) -> Result<(), String> {
    expect(
        text.bytes().all(|b| b.is_ascii_graphic()),
        "must be visible ASCII without spaces, as it goes into a header",
    )?;
    let key = KeySecret::from(text);
    expect(
        !key.is_hashed() || key.digest().is_some(),
        "begins with sha256: and must go on with the 64 hexadecimal digits of the key's SHA-256",
    )
}

pub(in crate::config) fn algorithm(name: &str) -> Result<(), String> {
    if ALGORITHMS.contains(&name) {
        return Ok(());
    }
    Err(format!("{name:?} is none of: {}", ALGORITHMS.join(", ")))
}

/// A URL of a JWK set.
pub(in crate::config) fn key_set_url(text: &str) -> Result<(), String> {
    open_url(text, "a JWK set is public")
}

/// The URL of a collector, to which the path of its traces is added.
pub(in crate::config) fn collector_url(text: &str) -> Result<(), String> {
    open_url(text, "see headers")?;
    expect(
        !text.contains(['?', '#']),
        "must not hold a query or a fragment: a path is added to it",
    )
}

/// A header, as `name=value`. Says nothing of what is in it.
pub(in crate::config) fn header(text: &str) -> Result<(), String> {
    let fits = text.split_once('=').is_some_and(|(name, value)| {
        HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
    });
    expect(
        fits,
        "must be a header as name=value, such as x-api-key=KEY",
    )
}

/// A URL of a backend.
pub(in crate::config) fn backend_url(text: &str) -> Result<(), String> {
    // That there is one is looked at where its backend is known.
    if text.is_empty() {
        return Ok(());
    }
    open_url(text, "calls are signed, see secret")
}

/// An HTTP URL without credentials. `why`: it needs none.
fn open_url(text: &str, why: &str) -> Result<(), String> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or("not an http:// or https:// URL")?;
    expect(
        url.username().is_empty() && url.password().is_none(),
        &format!("must not hold a user name or a password: {why}"),
    )
}

/// A secret of Standard Webhooks.
pub(in crate::config) fn webhook_secret(text: &str) -> Result<(), String> {
    let key = text
        .strip_prefix("whsec_")
        .and_then(|key| STANDARD.decode(key).ok());
    expect(
        key.is_some_and(|key| !key.is_empty()),
        "must be whsec_ and the base64 of 24 to 64 bytes: \"whsec_$(openssl rand -base64 32)\"",
    )
}

/// What bcrypt has made of a password, at a cost that a login can wait for: at 15 it takes some two seconds.
pub(in crate::config) fn bcrypt_hash(text: &str) -> Result<(), String> {
    const HIGHEST_COST: u32 = 15;
    let parts: bcrypt::HashParts = text.parse().map_err(|_| {
        "must be a hash of bcrypt's, which begins with $2: that of \"htpasswd -nBC 10 ''\" without its colon"
    })?;
    expect(
        parts.get_cost() <= HIGHEST_COST,
        "has a cost of more than 15: a login would take too long",
    )
}

/// A name of events, or the beginning of names and a star.
pub(in crate::config) fn event_pattern(text: &str) -> Result<(), String> {
    let name = text.strip_suffix('*').unwrap_or(text);
    expect(
        !text.is_empty() && !name.contains('*'),
        "must be an event's name, or its beginning and a star at the end, such as chat:*",
    )
}

/// A name of a header (RFC 9110 section 5.1).
pub(in crate::config) fn header_name(text: &str) -> Result<(), String> {
    expect(
        HeaderName::try_from(text).is_ok(),
        "must be a header's name, such as Accept-Language",
    )
}

/// A URL of a server of Redis.
pub(in crate::config) fn redis_url(text: &str) -> Result<(), String> {
    let parsed = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "redis" | "rediss") && url.has_host())
        .filter(|_| text.into_connection_info().is_ok())
        .ok_or("not a redis://[user:password@]host[:port][/database] or rediss:// URL")?;
    expect(parsed.password() != Some(MASK), MASKED)
}

/// A path of a namespace.
pub(in crate::config) fn path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("{text:?} must begin with a slash"));
    }
    // The comma ends a namespace in a Socket.IO packet, the question mark begins a query, braces are patterns of
    // the router's.
    let bad = |c: char| c.is_control() || c.is_whitespace() || "#,?{}*".contains(c);
    if text.contains(bad) {
        return Err(format!(
            "{text:?} must not hold spaces, control characters or any of # , ? {{ }} *"
        ));
    }
    Ok(())
}

pub(in crate::config) fn cookie_name(text: &str) -> Result<(), String> {
    // A token of RFC 9110 section 5.6.2, as RFC 6265 section 4.1.1 has it.
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    expect(
        !text.is_empty() && text.bytes().all(token),
        "must be a cookie's name: letters, digits and any of ! # $ % & ' * + - . ^ _ ` | ~",
    )
}

/// A prefix of sessions' keys.
pub(in crate::config) fn key_prefix(text: &str) -> Result<(), String> {
    expect(
        !text.contains(char::is_control),
        "must not hold control characters",
    )
}

/// A JSON pointer, RFC 6901 section 3. The empty one is the session as a whole, which is nobody's id, name or role.
pub(in crate::config) fn pointer(text: &str) -> Result<(), String> {
    let mut escapes = text.split('~').skip(1);
    expect(
        text.starts_with('/') && escapes.all(|rest| rest.starts_with(['0', '1'])),
        "must be a JSON pointer such as /user/id",
    )
}

pub(in crate::config) fn log_level(filter: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    EnvFilter::try_new(filter).map_err(|error| format!("{filter:?}: {error}"))?;
    // A bare word is a target to tracing, at its most verbose, so a slip like `inof` would be taken and silence the rest.
    let slip = filter.split(',').map(str::trim).find(|part| {
        !part.contains(['=', '[', ']', '{', '}'])
            && !LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level))
    });
    match slip {
        None => Ok(()),
        Some(part) => Err(format!(
            "{part:?} is neither a level ({}) nor target=level",
            LEVELS.join(", ")
        )),
    }
}
