//! The cursor of [`super::Registry::users`]: the last user of a page, in a wrapping that callers leave alone.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::RegistryError;
use crate::connection::UserId;

/// What the wrapped text begins with: tells a cursor from any other base64, and one version's from another's.
const MARK: &str = "u1:";

/// Where the page after `last` starts.
pub(super) fn after(last: &UserId) -> String {
    URL_SAFE_NO_PAD.encode(format!("{MARK}{last}"))
}

/// The user that a cursor starts after, or [`RegistryError::BadCursor`].
pub(super) fn read(cursor: &str) -> Result<UserId, RegistryError> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix(MARK).map(UserId::from))
        .ok_or(RegistryError::BadCursor)
}
